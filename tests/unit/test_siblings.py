"""Code as it lies in a research repository: files that import their neighbours, from folders on no path."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository, load_model
from carryover.runtime.version import Call, ModelVersion

NET = """
import torch
{imports}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        {lazy}
        return x * self.scale * factor()
"""
LAYERS = "def factor():\n    return {}\n"
ONE = """
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 1], batch_dim = 0 }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1], batch_dim = 0 }]
"""


def write(folder: Path, target: str, files: dict[str, str]) -> Path:
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(f'class = "{target}"\n{ONE}')
    save_file({"scale": torch.ones(())}, folder / "1" / "weights.safetensors")
    lay(folder, files)
    return folder


def lay(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def net(imports: str = "", lazy: str = "pass") -> str:
    return NET.format(imports=imports, lazy=lazy)


def factor(version: ModelVersion) -> float:
    result = version.run([Call({"x": np.ones((1, 1), np.float32)}, version.initial_state)])[0]
    return float(result.outputs["y"][0, 0])


@pytest.mark.parametrize(
    ("target", "files"),
    {
        "a neighbour": ("net.py:Net", {"net.py": net("from layers import factor"), "layers.py": LAYERS.format(3)}),
        "a neighbour, relatively": (
            "net.py:Net",
            {"net.py": net("from .layers import factor"), "layers.py": LAYERS.format(3)},
        ),
        "all of it": ("net.py:Net", {"net.py": net("from layers import *"), "layers.py": LAYERS.format(3)}),
        "a package": (
            "net.py:Net",
            {
                "net.py": net("import parts.layers as layers\nfrom parts import layers as same\nfactor = same.factor"),
                "parts/__init__.py": "from parts import names",
                "parts/names.py": "",
                "parts/layers.py": LAYERS.format(3),
            },
        ),
        "a folder without __init__": (
            "net.py:Net",
            {"net.py": net("import parts.layers\nfactor = parts.layers.factor"), "parts/layers.py": LAYERS.format(3)},
        ),
        "the name of an installed package": (
            "net.py:Net",
            {"net.py": net("from click import factor"), "click.py": LAYERS.format(3)},
        ),
        "neighbours of neighbours": (
            "net.py:Net",
            {
                "net.py": net("from first import factor"),
                "first.py": "from second import factor",
                "second.py": LAYERS.format(3),
            },
        ),
        "by importlib": (
            "net.py:Net",
            {
                "net.py": net("import importlib\nfactor = importlib.import_module('layers').factor"),
                "layers.py": LAYERS.format(3),
            },
        ),
        "by importlib, in a package": (
            "net.py:Net",
            {
                "net.py": net(
                    "import importlib.util\nfrom importlib import import_module, util\n"
                    "assert util is importlib.util\nassert import_module('json.decoder').JSONDecoder\n"
                    "factor = import_module('parts.layers').factor"
                ),
                "parts/layers.py": "import importlib\nfactor = importlib.import_module('.deep', __package__).factor",
                "parts/deep.py": LAYERS.format(3),
            },
        ),
        "in forward": (
            "net.py:Net",
            {"net.py": net(lazy="from layers import factor"), "layers.py": LAYERS.format(3)},
        ),
        "a file in a folder": (
            "net/model-2.py:Net",
            {"net/model-2.py": net("from layers import factor"), "net/layers.py": LAYERS.format(3)},
        ),
        "a file in a folder, by the folder's name": (
            "net/model.py:Net",
            {"net/model.py": net("from net.layers import factor"), "net/layers.py": LAYERS.format(3)},
        ),
        "a package beside the manifest": (
            "net.model:Net",
            {"net/model.py": net("from net.layers import factor"), "net/layers.py": LAYERS.format(3)},
        ),
        "a package beside the models": (
            "net.model:Net",
            {"../net/model.py": net("from net.layers import factor"), "../net/layers.py": LAYERS.format(3)},
        ),
        "a package beside the repository": (
            "net.model:Net",
            {"../../net/model.py": net("from .layers import factor"), "../../net/layers.py": LAYERS.format(3)},
        ),
    }.values(),
)
def test_neighbours_are_imported(tmp_path: Path, target: str, files: dict[str, str]) -> None:
    path = list(sys.path)
    assert factor(load_model(write(tmp_path / "models" / "m", target, files)).default) == 3
    assert sys.path == path
    assert not {"layers", "parts", "net"} & sys.modules.keys()


@pytest.mark.parametrize(
    "imports",
    [
        ("from layers import factor", "pass"),
        ("", "from layers import factor"),
        ("import importlib", "factor = importlib.import_module('layers').factor"),
    ],
)
def test_two_models_with_neighbours_of_one_name_do_not_mix(tmp_path: Path, imports: tuple[str, str]) -> None:
    for name, size in (("one", 1), ("two", 2)):
        write(tmp_path / name, "net.py:Net", {"net.py": net(*imports), "layers.py": LAYERS.format(size)})
    first = Repository.load([tmp_path])
    assert [factor(first.model(name).default) for name in ("one", "two")] == [1, 2]
    lay(tmp_path, {"one/layers.py": LAYERS.format(31), "two/layers.py": LAYERS.format("oops(")})
    second = first.reloaded()
    assert [factor(second.model(name).default) for name in ("one", "two")] == [31, 2]
    assert [factor(first.model(name).default) for name in ("one", "two")] == [1, 2], "what was served before"


@pytest.mark.parametrize(
    ("imports", "sentence"),
    [
        ("from nowhere import factor", "net/model.py cannot be imported: No module named 'nowhere'"),
        ("from .nowhere import factor", "net/model.py cannot be imported: No module named 'net.nowhere'"),
        ("from layers import nothing", "cannot be imported: cannot import name 'nothing' from 'net.layers'"),
        ("from .. import nothing", "cannot be imported: cannot import name 'nothing' from '.' "),
    ],
)
def test_an_error_names_the_module_as_its_author_does(tmp_path: Path, imports: str, sentence: str) -> None:
    folder = write(tmp_path / "m", "net/model.py:Net", {"net/model.py": net(imports), "net/layers.py": ""})
    with pytest.raises(ConfigurationError) as raised:
        load_model(folder)
    assert sentence in str(raised.value)
    assert "carryover_models" not in str(raised.value)


def test_what_fails_within_a_package_is_not_taken_for_its_absence(tmp_path: Path) -> None:
    folder = write(tmp_path / "models" / "m", "net.model:Net", {"../../net/model.py": net("import absent")})
    with pytest.raises(ConfigurationError, match=r"net\.model cannot be imported: No module named 'absent'"):
        load_model(folder)
