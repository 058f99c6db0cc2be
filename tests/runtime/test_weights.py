"""Checkpoints as people have them: nested, wrapped, renamed, older than the class, and with more than weights."""

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call, ModelVersion

SOURCE = """
import torch
from torch import nn


class Inner(nn.Module):
    _version = 2

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.loaded_version = -1

    def _load_from_state_dict(self, state_dict, prefix, metadata, *rest):
        self.loaded_version = metadata.get("version", 0)
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    def forward(self, x):
        return self.linear(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.inner = Inner()
        self.scale = 1.0
        self.register_buffer("seen", torch.zeros(()))

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def forward(self, x):
        self.seen = self.seen + 1
        return self.inner(self.norm(x)) * self.scale + self.seen
"""
MANIFEST = """
class = "net.py:Net"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 3] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 3] }]
"""


def trained() -> nn.Module:
    space: dict[str, Any] = {}
    exec(SOURCE, space)  # noqa: S102
    torch.manual_seed(3)
    net: nn.Module = space["Net"]()
    net.train()
    for _ in range(5):
        net(torch.randn(8, 3) * 2 + 1)
    net.scale = 3.0  # type: ignore[assignment]
    net.seen = torch.zeros(())
    return net.eval()


def load(tmp_path: Path, checkpoint: Any, manifest: str = "", source: str = SOURCE) -> ModelVersion:
    folder = tmp_path / "net"
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(source)
    (folder / "model.toml").write_text(MANIFEST + manifest)
    torch.save(checkpoint, folder / "1" / "weights.pt")
    return load_model(folder).default


def renamed(held: Mapping[str, Any], **names: str) -> dict[str, Any]:
    return {_new(name, names): value for name, value in held.items()}


def _new(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in trained().state_dict().items()}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in trained().state_dict().items() if name not in names}


def assert_serves(version: ModelVersion) -> None:
    x = torch.randn(4, 3)
    with torch.inference_mode():
        expected = trained()(x)
    result = version.run([Call({"x": x.numpy()}, version.initial_state)])[0]
    np.testing.assert_allclose(result.outputs["y"], expected, atol=1e-5)


WRAPPED = OrderedDict(prefixed("model."), **{"criterion.weight": torch.tensor(3.0)})
CHECKPOINTS: dict[str, tuple[Any, str]] = {
    "as it is": (trained().state_dict(), ""),
    "without the counter of an old BatchNorm": (without("norm.num_batches_tracked"), ""),
    "without a state buffer": (without("seen"), ""),
    "under several keys": ({"run": {"model.net": trained().state_dict()}}, 'weights.key = "run.model.net"'),
    "with the loss beside it": ({"state_dict": WRAPPED}, 'weights = { key = "state_dict", prefix = "model." }'),
    "with what a training script saves": (
        {
            "net": trained().state_dict(),
            "best": np.float64(0.93),
            "epoch": np.int64(3),
            "options": argparse.Namespace(lr=1e-3),
            "folder": Path("/tmp/run"),  # noqa: S108
        },
        'weights.key = "net"',
    ),
    "of DataParallel": (prefixed("module."), ""),
    "of a compiled part": (renamed(trained().state_dict(), **{"inner.": "inner._orig_mod."}), ""),
    "of a compiled part of DataParallel": (
        renamed(prefixed("module."), **{"module.inner.": "module._orig_mod.inner."}),
        "",
    ),
    "in parts": (
        {
            "a": {k.removeprefix("norm."): v for k, v in trained().state_dict().items() if k.startswith("norm.")},
            "b": {"c": {k.removeprefix("inner."): v for k, v in trained().state_dict().items() if "inner." in k}},
            "rest": {"_extra_state": {"scale": 3.0}},
        },
        'weights.key = { norm = "a", inner = "b.c", "" = "rest" }',
    ),
    "renamed": (
        renamed(trained().state_dict(), **{"inner.": "body.", "norm.weight": "gamma"}),
        'weights.rename = { body = "inner", gamma = "norm.weight" }',
    ),
    "with more than the class has": (
        trained().state_dict() | {"teacher.weight": torch.ones(3), "step": torch.ones(1)},
        'weights.ignore = ["teacher", "step"]',
    ),
    "with state of training": (
        trained().state_dict() | {"seen": torch.full((32,), 7.0)},
        'state.seen.initial = "class"',
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_served_as_the_module_that_it_is_of(name: str, tmp_path: Path) -> None:
    checkpoint, manifest = CHECKPOINTS[name]
    version = load(tmp_path, checkpoint, manifest)
    assert_serves(version)


@pytest.mark.parametrize(("initial", "seen"), [("zeros", 0.0), ("start.pt:seen", 5.0), ("class", 0.0), (None, 9.0)])
def test_a_state_buffer_starts_from_what_the_manifest_says(initial: str | None, seen: float, tmp_path: Path) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    torch.save({"seen": torch.tensor(5.0)}, tmp_path / "net" / "start.pt")
    manifest = f'state.seen.initial = "{initial}"' if initial else ""
    version = load(tmp_path, trained().state_dict() | {"seen": torch.tensor(9.0)}, manifest)
    assert [float(x) for x in version.layout.join([version.initial_state]) if x is not None] == [seen]


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (torch.ones(2), r"the buffer is another tensor; expected float32 \[\], got float32 \[2\]"),
        (torch.ones((), dtype=torch.int64), r"expected float32 \[\], got int64 \[\]"),
        ([torch.ones(())], "expected a tensor, got a list"),
    ],
)
def test_what_a_buffer_cannot_start_from_is_named(start: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    torch.save(start, tmp_path / "net" / "start.pt")
    with pytest.raises(ConfigurationError, match=sentence):
        load(tmp_path, trained().state_dict(), 'state.seen.initial = "start.pt"')


@pytest.mark.parametrize(
    ("checkpoint", "manifest"),
    [
        (trained().state_dict(), ""),
        (CHECKPOINTS["of a compiled part"][0], ""),
        ({"net": trained().state_dict()}, 'weights.key = "net"'),
    ],
)
def test_the_versions_that_torch_saves_reach_the_modules(checkpoint: Any, manifest: str, tmp_path: Path) -> None:
    version = load(tmp_path, checkpoint, manifest)
    inner = version.forward.module.get_submodule("inner")
    assert inner.loaded_version == (2 if hasattr(checkpoint.get("net", checkpoint), "_metadata") else 0)


WRONG = {
    "a parameter is missing": (without("inner.linear.bias"), "", "does not fit Net: missing inner.linear.bias"),
    "a frozen buffer is missing": (without("norm.running_var"), "", "does not fit Net: missing norm.running_var"),
    "a tensor too many": (
        trained().state_dict() | {"teacher": torch.ones(3)},
        "",
        "does not fit Net: unexpected teacher",
    ),
    "no such prefix": (
        trained().state_dict(),
        'weights.prefix = "net."',
        r"weights.prefix = 'net\.', but the tensors are 'seen'",
    ),
    "nothing to rename": (
        trained().state_dict(),
        'weights.rename = { body = "inner" }',
        "weights.rename names 'body', and there is no such tensor",
    ),
    "nothing to ignore": (
        trained().state_dict(),
        'weights.ignore = ["teacher"]',
        "weights.ignore names 'teacher', and there is no such tensor",
    ),
    "no such key": ({"net": trained().state_dict()}, 'weights.key = "net.body"', "holds nothing under weights.key"),
    "state of another shape": (
        trained().state_dict() | {"seen": torch.ones(32)},
        "",
        r"seen has shape \[32\] where the class has \[\]; if it is state, \[state.seen\] initial = \"class\"",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    checkpoint, manifest, sentence = WRONG[name]
    with pytest.raises(ConfigurationError, match=sentence):
        load(tmp_path, checkpoint, manifest)


HEAD = {"head.0.weight": torch.ones(2, 3), "head.0.bias": torch.ones(2)}
ADVICE = {
    "under a key": ({"run": {"net": trained().state_dict()}, "epoch": 3}, 'weights = { key = "run.net" }'),
    "under a key, wrapped": (
        {"state_dict": prefixed("policy.net."), "epoch": 3},
        'weights = { key = "state_dict", prefix = "policy.net." }',
    ),
    "with a loss": (
        {"state_dict": WRAPPED, "epoch": 3},
        'weights = { key = "state_dict", prefix = "model." }',
    ),
    "in parts": (
        {
            "a": {k.removeprefix("norm."): v for k, v in without("seen").items() if k.startswith("norm.")},
            "b": {"c": {k.removeprefix("inner."): v for k, v in without("seen").items() if "inner." in k}},
            "epoch": 3,
        },
        'weights = { key = { norm = "a", inner = "b.c" } }',
    ),
    "renamed": (
        renamed(trained().state_dict(), **{"inner.linear": "body.fc"}),
        'weights = { rename = { "body.fc" = "inner.linear" } }',
    ),
    "with more": (trained().state_dict() | HEAD, 'weights = { ignore = ["head"] }'),
    "renamed, with more, under a key": (
        {"model": renamed(trained().state_dict(), **{"inner.": "body."}) | HEAD, "epoch": 3},
        'weights = { key = "model", rename = { body = "inner" }, ignore = ["head"] }',
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_an_error_says_what_the_manifest_is_to_say(name: str, tmp_path: Path) -> None:
    checkpoint, line = ADVICE[name]
    source = SOURCE.replace("extra_state", "other_state") if name == "in parts" else SOURCE
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path / "without", checkpoint, "", source)
    assert str(raised.value).endswith(f"; it fits if the manifest says {line}")
    version = load(tmp_path / "with", checkpoint, line, source)
    expected = trained().state_dict()
    for key, tensor in version.forward.module.state_dict().items():
        assert key == "_extra_state" or torch.equal(tensor, expected[key])


@pytest.mark.parametrize(
    "checkpoint",
    [
        without("inner.linear.bias"),
        renamed(trained().state_dict(), **{"inner.linear.bias": "bias", "norm.bias": "inner.bias"}),
        {"a": trained().state_dict()["norm.bias"], "b": torch.ones(9)},
    ],
)
def test_nothing_is_advised_that_is_not_certain(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, checkpoint)
    assert "the manifest says" not in str(raised.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    held = {"net": trained().state_dict(), "optimiser": torch.optim.Adam}
    sentence = "holds an object of torch.optim.adam.Adam, which only running it would restore"
    with pytest.raises(ConfigurationError, match=sentence):
        load(tmp_path, held, 'weights.key = "net"')


def test_a_tensor_beside_the_checkpoint_is_no_state_dict(tmp_path: Path) -> None:
    held: dict[str, Tensor | int] = {"weight": torch.ones(1), "epoch": 3}
    with pytest.raises(ConfigurationError, match="is not a state dict"):
        load(tmp_path, held)
