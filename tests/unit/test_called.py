"""Modules that are made by functions or of objects, called by another method, or with inputs that may be left out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call, ModelVersion
from tests.support.sources import called

ROW = 'datatype = "FP32", shape = [-1, 4], batch_dim = 0'
ONE = f'inputs = [{{ name = "x", {ROW} }}]\noutputs = [{{ name = "y", {ROW.replace("4", "6")} }}]\n'


def load(tmp_path: Path, name: str, manifest: str, module: nn.Module) -> ModelVersion:
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    shutil.copy(str(called.__file__), folder)
    (folder / "model.toml").write_text(f'class = "called.py:{name}"\n{manifest}')
    torch.save(module.state_dict(), folder / "1" / "weights.pt")
    return load_model(folder).default


def run(version: ModelVersion, state: bytes | None = None, **inputs: Any) -> tuple[dict[str, Any], bytes]:
    arrays = {
        spec.name: np.asarray(inputs[spec.name], spec.datatype.numpy) for spec in version.inputs if spec.name in inputs
    }
    result = version.run([Call(arrays, version.initial_state if state is None else state)])[0]
    return dict(result.outputs), result.state


def test_arguments_may_be_objects(tmp_path: Path) -> None:
    module = called.Configured(called.Config(dtype=torch.float32), [nn.Tanh(), nn.Linear(6, 6)], None)
    arguments = (
        'arguments = { name = { none = true }, config = { class = "called.py:Config", hidden = 6, '
        'dtype = { class = "torch:float32" } }, '
        'layers = [{ class = "torch.nn:Tanh" }, { class = "torch.nn:Linear", in_features = 6, out_features = 6 }] }\n'
    )
    version = load(tmp_path, "Configured", arguments + ONE, module)
    x = torch.randn(2, 4)
    np.testing.assert_allclose(run(version, x=x)[0]["y"], module(x).detach(), atol=1e-6)


def test_a_function_may_make_the_module(tmp_path: Path) -> None:
    module = called.configured(6)
    version = load(tmp_path, "configured", "arguments = { hidden = 6 }\n" + ONE, module)
    x = torch.randn(2, 4)
    np.testing.assert_allclose(run(version, x=x)[0]["y"], module(x).detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("nothing", "", "class: nothing returned a dict, which is no nn.Module"),
        ("Config", "", "class: Config of called.py is no nn.Module; expected one, such as a wrapper that holds it"),
        ("Configured", 'arguments = { config = { class = "called.py:Conf" } }\n', "arguments: called.py has no Conf"),
        ("Configured", 'arguments = { config = { class = "nowhere:C" } }\n', "arguments: nowhere cannot be imported"),
        ("Configured", 'arguments = { config = { class = "called.py:Config", size = 1 } }\n', "Config rejected them"),
    ],
)
def test_what_cannot_be_made_is_named(tmp_path: Path, name: str, arguments: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load(tmp_path, name, arguments + ONE, nn.Linear(1, 1))


@pytest.mark.parametrize("said", [", optional = true", ""])
def test_an_optional_input_may_be_left_out(tmp_path: Path, said: str) -> None:
    manifest = (
        f'inputs = [{{ name = "x", {ROW} }}, {{ name = "mask", {ROW}{said} }}]\n'
        f'outputs = [{{ name = "y", {ROW} }}]\nstate.total.batch_dim = 0\n'
    )
    version = load(tmp_path, "Masked", manifest, called.Masked())
    x, mask = np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 0, 1, 0]])
    bare, state = run(version, x=x)
    assert bare["y"].tolist() == [[2, 4, 6, 8]]
    masked, _ = run(version, state, x=x, mask=mask)
    assert masked["y"].tolist() == [[4, 4, 12, 8]]
    with_it, without = (
        Call({k: v.astype(np.float32) for k, v in given.items()}, version.initial_state)
        for given in ({"x": x, "mask": mask}, {"x": x})
    )
    assert version.group(with_it) != version.group(without)
    assert [r.outputs["y"].tolist() for r in version.run([without, without])] == [[[2, 4, 6, 8]]] * 2


@pytest.mark.parametrize(
    ("name", "said", "optional"),
    [
        ("Masked", ", optional = false", [None, False]),
        ("Blends", "", [None, True]),
        ("Needs", "", [None, None]),
        ("Reshapes", "", [None, None]),
    ],
)
def test_an_input_is_optional_by_itself_if_forward_gives_the_same_outputs_without_it(
    tmp_path: Path, name: str, said: str, optional: list[bool | None]
) -> None:
    manifest = (
        f'inputs = [{{ name = "x", {ROW} }}, {{ name = "mask", {ROW}{said} }}]\noutputs = [{{ name = "y", {ROW} }}]\n'
    )
    manifest += "state.total.batch_dim = 0\n" if name == "Masked" else ""
    version = load(tmp_path, name, manifest, getattr(called, name)())
    assert [spec.optional for spec in version.inputs] == optional


def test_an_input_that_forward_needs_is_not_optional(tmp_path: Path) -> None:
    manifest = (
        'inputs = [{ name = "x", datatype = "FP32", shape = [1, -1, 4] }, '
        '{ name = "lengths", datatype = "INT64", shape = [1], example = 1, optional = true }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, 6] }]\n'
    )
    with pytest.raises(ConfigurationError, match="optional: without the optional inputs forward fails"):
        load(tmp_path, "Packed", manifest, called.Packed())


def test_an_example_stands_for_zeros(tmp_path: Path) -> None:
    manifest = (
        'inputs = [{ name = "x", datatype = "FP32", shape = [-1, -1, 4], batch_dim = 0 }, '
        '{ name = "lengths", datatype = "INT64", shape = [-1], batch_dim = 0EXAMPLE }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [-1, 6], batch_dim = 0 }]\n'
    )
    module = called.Packed()
    for name, example in (("said", ", example = 1"), ("found", "")):
        version = load(tmp_path / name, "Packed", manifest.replace("EXAMPLE", example), module)
        x = torch.randn(2, 3, 4)
        expected = module(x, torch.tensor([3, 2])).detach()
        np.testing.assert_allclose(run(version, x=x, lengths=[3, 2])[0]["y"], expected, atol=1e-6)
    with pytest.raises(ConfigurationError, match="forward failed on zeros"):
        load(tmp_path / "zeros", "Packed", manifest.replace("EXAMPLE", ", example = 0"), module)
    with pytest.raises(ConfigurationError, match=r"inputs.1: example = 'one' is not made of INT64"):
        load(tmp_path / "wrong", "Packed", manifest.replace("EXAMPLE", ', example = "one"'), module)


def test_another_method_with_constant_arguments_and_nested_results(tmp_path: Path) -> None:
    row = 'datatype = "FP32", shape = [1, 4]'
    manifest = (
        f'method = "infer"\ncall = {{ stream = true }}\ninputs = [{{ name = "x", {row} }}]\n'
        f'outputs = [{{ name = "z", {row}, result = "scores.z" }}, {{ name = "y", {row}, result = "scores.y" }}]\n'
    )
    module = called.Streams()
    version = load(tmp_path, "Streams", manifest, module)
    assert [buffer.name for buffer in version.layout.buffers] == ["last"]
    x = torch.randn(1, 4)
    first, state = run(version, x=x)
    second, _ = run(version, state, x=x)
    linear = module.linear(x).detach()
    np.testing.assert_allclose(first["y"], linear, atol=1e-6)
    np.testing.assert_allclose(second["z"], 2 * (linear + x), atol=1e-6)


def test_a_result_that_is_not_there_is_named(tmp_path: Path) -> None:
    row = 'datatype = "FP32", shape = [1, 4]'
    manifest = (
        f'method = "infer"\ninputs = [{{ name = "x", {row} }}]\n'
        f'outputs = [{{ name = "y", {row}, result = "scores.a" }}]\n'
    )
    with pytest.raises(ConfigurationError, match=r"result = 'scores.a': forward returned no such result: a dict has"):
        load(tmp_path, "Streams", manifest, called.Streams())
