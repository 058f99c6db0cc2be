"""Forwards that differentiate, draw random numbers, or keep a part of themselves in training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError
from carryover.runtime.forward import Forward
from carryover.runtime.repository import load_model
from carryover.runtime.state_guesses import draws_numbers
from carryover.runtime.version import Call, ModelVersion
from tests.support.sources import cli_models, modes

BATCHED = "shape = [-1, 4], batch_dim = 0"


def load(tmp_path: Path, module: nn.Module, extra: str = "", rows: str = BATCHED) -> ModelVersion:
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    shutil.copy(str(modes.__file__), folder)
    (folder / "model.toml").write_text(
        f'class = "modes.py:{type(module).__name__}"\n{extra}\n'
        f'inputs = [{{ name = "x", datatype = "FP32", {rows} }}]\n'
        f'outputs = [{{ name = "y", datatype = "FP32", {rows} }}]\n'
    )
    torch.save(module.state_dict(), folder / "1" / "weights.pt")
    return load_model(folder).default


def steps(version: ModelVersion, *rows: Tensor) -> list[Tensor]:
    state, found = version.initial_state, []
    for x in rows:
        (result,) = version.run([Call({"x": x.numpy()}, state)])
        found.append(torch.from_numpy(result.outputs["y"]))
        state = result.state
    return found


@pytest.mark.parametrize("kind", [modes.Forces, modes.BareForces])
def test_a_forward_may_differentiate(tmp_path: Path, kind: type[nn.Module]) -> None:
    module = kind()
    version = load(tmp_path, module)
    x = torch.randn(3, 4)
    torch.testing.assert_close(steps(version, x)[0], module.eval()(x))
    together = version.run([Call({"x": x[:1].numpy()}, b""), Call({"x": x[1:].numpy()}, b"")])
    torch.testing.assert_close(torch.from_numpy(together[1].outputs["y"]), module(x)[1:])


def test_state_may_follow_a_gradient_and_gradients_are_no_state(tmp_path: Path) -> None:
    module = modes.Descent()
    version = load(tmp_path, module, "state = { at = { batch_dim = 0 } }", rows="shape = [1, 4]")
    rows = [torch.randn(1, 4) for _ in range(4)]
    expected = []
    for x in rows:
        module.zero_grad()
        expected.append(module(x).detach())
    for _ in range(2):
        for got, want in zip(steps(version, *rows), expected, strict=True):
            torch.testing.assert_close(got, want)
    assert all(p.grad is None and not p.requires_grad for p in version.forward.module.parameters())


def test_a_plain_module_runs_in_inference_mode(tmp_path: Path) -> None:
    module = nn.Linear(4, 4)
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    (folder / "model.toml").write_text(
        'class = "torch.nn:Linear"\narguments = { in_features = 4, out_features = 4 }\n'
        f'inputs = [{{ name = "input", datatype = "FP32", {BATCHED} }}]\n'
        f'outputs = [{{ name = "y", datatype = "FP32", {BATCHED} }}]\n'
    )
    torch.save(module.state_dict(), folder / "1" / "weights.pt")
    assert load_model(folder).default.forward.context is torch.inference_mode


def test_dropout_that_stays_on_is_batched(tmp_path: Path) -> None:
    version = load(tmp_path, modes.Dropped(), "state = { h = { batch_dim = 0 } }", "shape = [1, 4], batch_dim = 0")
    assert version.batched
    call = Call({"x": np.ones((1, 4), np.float32)}, version.initial_state)
    states = {bytes(one.state) for one in version.run([call] * 32)}
    assert len(states) > 1, "each draws its own"


def test_dropout_is_noticed_though_it_leaves_the_same_numbers_twice() -> None:
    forward = Forward(cli_models.Drops(), ["x"], dict)
    for seed in range(30):
        torch.manual_seed(seed)
        assert draws_numbers(forward, {"x": torch.ones(1, 1, 4)})


def test_random_numbers_do_not_hide_that_sessions_mix(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="batch_dim: sessions in one batch give another 'y' than each alone"):
        load(tmp_path, modes.Mixed(), "state = { h = { batch_dim = 0 } }", "shape = [1, 4], batch_dim = 0")


def test_random_numbers_that_cannot_be_replaced_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="batch_dim: the same call gives other results each time"):
        load(tmp_path, modes.Python())
    shutil.rmtree(tmp_path / "model")
    assert not load(tmp_path, modes.Python(), rows="shape = [-1, 4]").batched


def test_a_part_stays_in_training(tmp_path: Path) -> None:
    module = modes.Normalised()
    version = load(tmp_path, module, 'train = ["normaliser"]', rows="shape = [-1, 4]")
    module.eval().normaliser.train()
    rows = [torch.randn(5, 4) for _ in range(3)]
    expected = [module(x).detach() for x in rows]
    for _ in range(2):
        for got, want in zip(steps(version, *rows), expected, strict=True):
            torch.testing.assert_close(got, want)
    names = {info.name for info in version.state_buffers()}
    assert {"normaliser.running_mean", "normaliser.running_var"} <= names


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="train: Normalised has no part 'norm'; its parts are 'normaliser', 'out'"
    ):
        load(tmp_path, modes.Normalised(), 'train = ["norm"]')
