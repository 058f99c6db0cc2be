"""State in arguments, results and attributes: sessions get what a plain loop over the module gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime import spare
from carryover.runtime.repository import load_model
from carryover.runtime.selfcheck import difference
from carryover.runtime.version import Call, ModelVersion
from tests.support.carried_cases import CASES, Carried, passed_on, tensors
from tests.support.sources import carried


def load(case: Carried, tmp_path: Path) -> ModelVersion:
    return load_model(case.write(tmp_path, "model")).default


def inputs_of(version: ModelVersion, size: int, seed: int) -> np.ndarray[Any, Any]:
    (spec,) = version.manifest.inputs
    return np.random.default_rng(seed).standard_normal(spec.sized(1, size)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_sessions_equal_a_plain_loop(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    version = load(case, tmp_path)
    assert tuple(buffer.name for buffer in version.layout.buffers) == case.state
    assert version.batched is case.batched
    sessions = range(3 if case.batched else 1)
    loops = [case.loop(case.module()) for _ in sessions]
    states = [version.initial_state for _ in sessions]
    for number, size in enumerate(case.sizes):
        xs = [inputs_of(version, size, seed=10 * number + session) for session in sessions]
        calls = [Call({version.inputs[0].name: x}, state) for x, state in zip(xs, states, strict=True)]
        assert len({version.group(call) for call in calls}) == 1
        results = version.run(calls)
        states = [result.state for result in results]
        for result, x, loop in zip(results, xs, loops, strict=True):
            with torch.inference_mode():
                expected = loop(torch.from_numpy(x))
            np.testing.assert_allclose(result.outputs["y"], expected, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_step_leaves_nothing_for_others(name: str, tmp_path: Path) -> None:
    version = load(CASES[name], tmp_path)
    x = {version.inputs[0].name: inputs_of(version, 1, seed=1)}
    first = version.run([Call(x, version.initial_state)])[0]
    version.run([Call(x, first.state)])
    again = version.run([Call(x, version.initial_state)])[0]
    assert again.state == first.state
    np.testing.assert_array_equal(again.outputs["y"], first.outputs["y"])


@pytest.mark.parametrize("name", CASES)
def test_a_second_module_gives_the_same(name: str, tmp_path: Path) -> None:
    version = load(CASES[name], tmp_path)
    other = spare.build(version)
    assert other is not None
    x = {version.inputs[0].name: inputs_of(version, 1, seed=1)}
    states = [version.initial_state, other.initial_state]
    for _ in range(3):
        one, two = (v.run([Call(x, state)])[0] for v, state in zip((version, other), states, strict=True))
        assert difference(version, one, two) is None
        states = [two.state, one.state]


def test_sessions_at_different_counts_are_not_batched(tmp_path: Path) -> None:
    version = load(CASES["dataclass"], tmp_path)
    x = {"x": inputs_of(version, 1, seed=1)}
    states = [version.initial_state]
    for _ in range(4):
        states.append(version.run([Call(x, states[-1])])[0].state)
    groups = [version.group(Call(x, state)) for state in states]
    assert len(set(groups)) == len(groups)


def test_the_layout_of_another_size_is_another(tmp_path: Path) -> None:
    case = CASES["gru"]
    wider = Carried(
        nn.GRU, case.manifest.replace("hidden_size = 4", "hidden_size = 6").replace("1, 4]", "1, 6]"), case.loop, ()
    )
    one, other = load(case, tmp_path / "one"), load(wider, tmp_path / "other")
    assert one.layout_fingerprint != other.layout_fingerprint
    assert one.layout_fingerprint == load(case, tmp_path / "again").layout_fingerprint


WRONG = {
    'input = "h0"\noutput = 1': r"state\.hx: forward has no parameter 'h0'; its parameters are 'input', 'hx'",
    'input = "hx"\noutput = 2': r"state\.hx: output = 2: forward returned no such result: a tuple has no '2'",
    'input = "hx"\noutput = "cell"': r"state\.hx: output = 'cell': forward returned no such result",
    'input = "hx"': r"state\.hx: input and output belong together",
    'attribute = "gru.hidden"': r"state\.hx: attribute = 'gru\.hidden': a GRU has no 'gru'",
    'input = "hx"\noutput = 1\nattribute = "hidden"': r"state\.hx: it is in an attribute, or in an input",
    'input = "hx"\noutput = 1\ninitial = "class"': r"state\.hx: initial = \"class\": the class has no value",
    'input = "hx"\noutput = 1\ninitial = "h0"': r"state\.hx: initial = 'h0': expected \"zeros\", \"class\" or an attr",
    'input = "hx"\noutput = 1\nshape = [1, 1, 4]': r"state\.hx: shape is that of initial = \"zeros\"",
    'input = "input"\noutput = 1': r"state: 'input' is an input of the request",
    'input = "hx"\noutput = 1\nbatch_dim = 0': r"batch_dim",
}


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_that_cannot_be_served_is_rejected(entry: str, tmp_path: Path) -> None:
    case = CASES["gru"]
    start = case.manifest.index("[state.hx]")
    wrong = Carried(case.cls, f"{case.manifest[:start]}[state.hx]\n{entry}\n", case.loop, ())
    with pytest.raises(ConfigurationError, match=WRONG[entry]):
        load(wrong, tmp_path)


def started(tmp_path: Path, initial: str, start: Any, file: str = "start.pt", number: str = "") -> ModelVersion:
    """The GRU with this for `initial`, and a file for it beside the manifest, or in the version's folder."""
    case = CASES["gru"]
    manifest = case.manifest.replace('input = "hx"', f'input = "hx"\ninitial = "{initial}"')
    folder = Carried(case.cls, manifest, case.loop, ()).write(tmp_path, "model")
    torch.save(start, folder / number / file) if file.endswith(".pt") else save_file(start, folder / number / file)
    return load_model(folder).default


START = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("initial", "start", "file", "number"),
    [
        ("start.safetensors:h", {"h": START, "other": torch.ones(1)}, "start.safetensors", ""),
        ("start.safetensors", {"h": START}, "start.safetensors", "1"),
        ("start.pt:run.h", {"run": {"h": START}}, "start.pt", "1"),
        ("start.pt", START, "start.pt", ""),
    ],
)
def test_state_starts_from_a_file(tmp_path: Path, initial: str, start: Any, file: str, number: str) -> None:
    version = started(tmp_path, initial, start, file, number)
    x = inputs_of(version, 2, seed=1)
    result = version.run([Call({"input": x}, version.initial_state)])[0]
    with torch.inference_mode():
        y, _ = CASES["gru"].module()(torch.from_numpy(x), START)
    np.testing.assert_allclose(result.outputs["y"], y, atol=1e-6)
    assert spare.build(version) is not None


@pytest.mark.parametrize(
    ("initial", "start", "sentence"),
    [
        ("begin.pt:h", {"h": START}, r'initial = "begin\.pt:h": there is no file begin\.pt beside the manifest'),
        ("start.pt:c", {"h": START}, r"start\.pt:c\": start\.pt: holds nothing under the key = 'c': it holds 'h'"),
        ("start.pt", {"h": START, "c": START}, r"the file holds 'h', 'c'; expected one of them after it"),
        ("start.pt", {"h": "zeros"}, r"forward failed on zeros of input"),
        ("start.pt", {"h": START[..., :3]}, r"forward failed on zeros"),
    ],
)
def test_a_file_that_state_cannot_start_from_is_named(tmp_path: Path, initial: str, start: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        started(tmp_path, initial, start)


def test_a_result_that_forward_does_not_take_is_rejected(tmp_path: Path) -> None:
    case = CASES["cache"]
    wrong = Carried(case.cls, case.manifest.replace('output = "cache"', 'output = "y"'), case.loop, ())
    with pytest.raises(ConfigurationError, match=r"state\.kv: a step from what forward left fails: .+"):
        load(wrong, tmp_path)


def test_a_list_that_grows_is_rejected(tmp_path: Path) -> None:
    manifest = tensors("[-1]") + '[state.past]\ninput = "past"\noutput = 1\n'
    with pytest.raises(ConfigurationError, match=r"state\.past: its structure is another after each of 40 steps"):
        load(Carried(carried.Grows, manifest, passed_on(), ()), tmp_path)


def test_an_argument_that_is_required_needs_an_initial_value(tmp_path: Path) -> None:
    case = CASES["cell"]
    manifest = case.manifest.replace('initial = "zeros"\nshape = [1, 5]\n', "")
    with pytest.raises(ConfigurationError, match=r'state\.c: step cannot do without \'c\'; say initial = "zeros"'):
        load(Carried(case.cls, manifest, case.loop, ()), tmp_path)


def test_as_many_results_as_parameters_are_taken_in_order(tmp_path: Path) -> None:
    version = load(Carried(carried.Pair, tensors("[1, 3]", "[1, 5]"), passed_on(), ()), tmp_path)
    assert {name: spec.output for name, spec in version.manifest.state.items()} == {"h": "0", "c": "1"}


def test_a_method_that_is_not_there_is_named(tmp_path: Path) -> None:
    manifest = 'method = "infer"\n' + CASES["gru"].manifest
    with pytest.raises(ConfigurationError, match="method: GRU has no method 'infer'"):
        load(Carried(nn.GRU, manifest, passed_on(), ()), tmp_path)
