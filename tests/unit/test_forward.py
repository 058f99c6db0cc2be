"""What a version's forward is given, and what becomes of its results."""

from pathlib import Path

import torch

from carryover.api.v1.instances import instances
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call
from tests.support.own_cases import CASES, Case, as_state_dict, same_axes
from tests.support.sources import own_models


def test_a_lazy_layer_gets_its_size_from_the_checkpoint(tmp_path: Path) -> None:
    module = own_models.Lazy().eval()
    x = torch.randn(3, 5)
    expected = module(x).detach()
    shapes = [f'datatype = "FP32", shape = [-1, {size}]' for size in (5, 2)]
    manifest = f'inputs = [{{ name = "x", {shapes[0]} }}]\noutputs = [{{ name = "y", {shapes[1]} }}]\n'
    case = Case(own_models.Lazy, manifest, lambda _, folder: as_state_dict(module, folder))
    version = load_model(case.write(tmp_path, "lazy")).default
    found = version.run([Call({"x": x.numpy()}, b"")])[0].outputs["y"]
    torch.testing.assert_close(torch.tensor(found), expected)


def test_an_output_outlives_the_tensor_it_was_written_to(tmp_path: Path) -> None:
    version = load_model(CASES["scratch"].write(tmp_path, "scratch")).default
    one, other = (version.run([Call({"x": torch.full((3,), x).numpy()}, version.initial_state)])[0] for x in (1.0, 5.0))
    assert (one.outputs["y"].tolist(), other.outputs["y"].tolist()) == ([2.0] * 3, [10.0] * 3)


def test_a_module_may_resize_what_it_returned(tmp_path: Path) -> None:
    version = load_model(Case(own_models.Resized, same_axes("[-1]")).write(tmp_path, "resized")).default
    for length in (3, 1000, 2, 5000):
        x = torch.ones(length).numpy()
        assert version.run([Call({"x": x}, b"")])[0].outputs["y"].tolist() == [2.0] * length


def test_bfloat16_reaches_forward_in_order(tmp_path: Path) -> None:
    manifest = same_axes("[1, 2, -1]", 0).replace("FP32", "BF16")
    version = load_model(Case(own_models.Views, manifest).write(tmp_path, "views")).default
    given = instances(version.inputs, [[1, 2], [3, 4], [5, 6]])
    outputs = version.run([Call(given, version.initial_state)])[0].outputs
    assert outputs["y"].tolist() == [[[1, 4, 9], [11, 15, 21]]]
