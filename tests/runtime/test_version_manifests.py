"""A version whose manifest is its own: another width or class under the name of the model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository, load_model
from carryover.runtime.version import Call

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, size), nn.Linear(size, 1)

    def forward(self, x, h=None):
        y, h = self.rnn(x, h)
        return {sign}self.out(y), h
"""
MANIFEST = """class = "net.py:Net"
arguments = {{ size = {size} }}
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 1, 2], batch_dim = 1 }}]
outputs = [{{ name = "y", result = 0, datatype = "FP32", shape = [-1, 1, {width}], batch_dim = 1 }}]
[state.h]
input = "h"
output = 1
batch_dim = 1
"""


def write(folder: Path, number: str, size: int, sign: str = "") -> nn.Module:
    torch.manual_seed(size)
    space: dict[str, type[nn.Module]] = {}
    exec(NET.format(sign=sign), space)  # noqa: S102 - as written above
    module = space["Net"](size)
    (folder / number).mkdir(parents=True)
    save_file(module.state_dict(), folder / number / "weights.safetensors")
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "m"
    write(folder, "1", 3)
    (folder / "net.py").write_text(NET.format(sign=""))
    (folder / "model.toml").write_text(MANIFEST.format(size=3, width=1))
    return folder


def test_a_version_may_have_another_width_and_code_of_its_own(folder: Path) -> None:
    modules = {"1": write(folder.parent / "again", "1", 3), "2": write(folder, "2", 5), "3": write(folder, "3", 4, "-")}
    (folder / "2" / "model.toml").write_text(MANIFEST.format(size=5, width=1))
    (folder / "3" / "model.toml").write_text(MANIFEST.format(size=4, width=1))
    (folder / "3" / "net.py").write_text(NET.format(sign="-"))
    model = load_model(folder)
    assert not model.mixed
    x = torch.randn(2, 1, 2)
    for number, module in modules.items():
        version, h = model.versions[number], None
        assert (version.name, model.of_fingerprint(version.fingerprint)) == ("m", version)
        state = version.initial_state
        for _ in range(2):
            (result,) = version.run([Call({"x": x.numpy()}, state)])
            state = result.state
            y, h = module(x, h)
            np.testing.assert_allclose(result.outputs["y"], y.detach(), atol=1e-6)
    assert len({version.layout_fingerprint for version in model.versions.values()}) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MANIFEST.format(size=3, width=2), "2/model.toml (version 2): outputs: the output 'y' has another shape"),
        ('version = "2"\n' + MANIFEST.format(size=3, width=1), "2/model.toml: version: which version serves is said"),
        ("class = 1\n", "2/model.toml: class: Input should be a valid string"),
        ("class = ", "2/model.toml: not TOML"),
    ],
)
def test_what_a_versions_manifest_cannot_say_is_named(folder: Path, text: str, sentence: str) -> None:
    served = Repository.load([folder.parent])
    write(folder, "2", 3)
    (folder / "2" / "model.toml").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_model(folder)
    assert sentence in str(raised.value)
    assert list(served.reloaded().model("m").versions) == ["1"], "the others are served"
