"""`new` finds the state of recurrent modules wherever it is, and sessions go where a plain loop goes."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn

from carryover import create_app
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call
from tests.support.sources import recurrent

SOURCE = Path(recurrent.__file__)
STEPS = 12
Loop = Callable[[Any], Callable[..., Any]]
FOUR, FIVE = (1, 4), (1, 5)


def new(folder: Path, name: str, *given: str) -> Result:
    torch.manual_seed(0)
    given = ("--input", "x:FP32:1,3") if name.endswith("Required") else given
    command = ["new", str(folder), "--from", f"{SOURCE}:{name}", *given]
    return create_app().test_cli_runner().invoke(args=command)


def itself(module: nn.Module) -> Callable[..., Any]:
    """A loop over a module that remembers by itself."""
    return module


def passed(*start: Any, order: tuple[int, ...] = (1,), name: str | None = None) -> Loop:
    """A loop that passes on some results, by position or by name; at first what it starts from."""

    def loop(module: Any) -> Callable[..., Any]:
        held = start

        def step(x: torch.Tensor) -> Any:
            nonlocal held
            results = module(x, *held) if name is None else module(x, **dict(zip([name], held, strict=False)))
            held = tuple(None if place < 0 else results[place] for place in order)
            return results[0]

        return step

    return loop


def inside(module: Any) -> Callable[..., Any]:
    """A loop that passes on what lies in one result, the other way round."""
    held = list[torch.Tensor]()

    def step(x: torch.Tensor) -> Any:
        nonlocal held
        y, states = module(x, *held)
        held = [*reversed(states)]
        return y

    return step


def whole(*start: torch.Tensor) -> Loop:
    """A loop that passes on all results, together, and gives the first of them."""

    def loop(module: Any) -> Callable[..., Any]:
        held = start

        def step(x: torch.Tensor) -> Any:
            nonlocal held
            held = module(x, held)
            return held[0]

        return step

    return loop


def separate(*start: torch.Tensor) -> Loop:
    """The same, one by one."""
    return lambda module: whole(*start)(lambda x, held: module(x, *held))


def alone(*start: torch.Tensor) -> Loop:
    """A loop that passes on the only result."""

    def loop(module: Any) -> Callable[..., Any]:
        (held,) = start

        def step(x: torch.Tensor) -> Any:
            nonlocal held
            held = module(x, held)
            return held

        return step

    return loop


def zeros(shape: object, name: str = "state", output: object = 1) -> str:
    return f"{name} = {{ input = {name!r}, output = {output!r}, initial = 'zeros', shape = {shape}, batch_dim = 0 }}"


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(shape), torch.zeros(shape)


def stacked(first: str, second: str, outputs: tuple[object, object] = (2, 1), start: str = "") -> str:
    return "\n".join(
        f"{name} = {{ input = {name!r}, output = {output!r}, {start}batch_dim = 0 }}"
        for name, output in zip((first, second), outputs, strict=True)
    )


def assert_follows(folder: Path, name: str, loop: Loop) -> None:
    """A session of the written model goes where the loop over the same module goes."""
    version = load_model(folder).default
    assert version.stateful
    torch.manual_seed(0)
    module = getattr(recurrent, name)().eval()
    step, state = loop(module), version.initial_state
    (spec,) = version.inputs
    random = np.random.default_rng(0)
    for number in range(STEPS):
        x = (random.standard_normal(spec.example_shape) * (1 + number)).astype(np.float32)
        result = version.run([Call({spec.name: x}, state)])[0]
        state = result.state
        with torch.no_grad():
            expected = step(torch.from_numpy(x))
        np.testing.assert_allclose(result.outputs[version.outputs[0].name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "loop", "state"),
    [
        ("Tokens", passed(), 'h = { input = "h", output = 1, batch_dim = 0 }'),
        ("Spikes", passed(), 'mem = { input = "mem", output = 1, batch_dim = 0 }'),
        ("Placed", passed(None, None, order=(-1, 1)), 'h = { input = "h", output = 1, batch_dim = 0 }'),
        (
            "PlacedRequired",
            passed(torch.zeros(FIVE)),
            'h = { input = "h", output = 1, initial = "zeros", shape = [1, 5], batch_dim = 0 }',
        ),
        ("Keywords", passed(name="state"), 'state = { input = "state", output = 1, batch_dim = 0 }'),
        ("PassesThrough", passed(name="hx"), 'hx = { input = "hx", output = 1, batch_dim = 1 }'),
        ("Stacked", passed(order=(2, 1)), stacked("a", "b")),
        ("StackedInside", inside, stacked("a", "b", ("1.1", "1.0"))),
        (
            "StackedRequired",
            passed(torch.zeros(FOUR), torch.zeros(FOUR), order=(2, 1)),
            stacked("h_a", "h_b", start='initial = "zeros", shape = [1, 4], '),
        ),
        ("Long", passed(order=(2, 1)), stacked("h", "c")),
        (
            "Begun",
            passed((torch.ones(FIVE), torch.zeros(FIVE))),
            'hidden = { input = "hidden", output = 1, initial = "init_hidden", batch_dim = 0 }',
        ),
        (
            "BegunDict",
            passed({"h": torch.ones(FIVE), "c": torch.zeros(FIVE)}),
            'state = { input = "state", output = 1, initial = "initial_state", batch_dim = 0 }',
        ),
        (
            "KeyedInside",
            passed(dict(zip("hc", pair(*FIVE), strict=True))),
            zeros("{ h = [1, 5], c = [1, 5] }", "carry"),
        ),
        ("Unpacked", passed(pair(*FOUR)), zeros([[*FOUR]] * 2, "hc")),
        ("Images", passed(pair(1, 4, 1, 1)), zeros([[1, 4, 1, 1]] * 2)),
        ("ImagesAlone", whole(*pair(1, 4, 1, 1)), zeros([[1, 4, 1, 1]] * 2, output="")),
        (
            "Oscillates",
            separate(*pair(1, 6)),
            "\n".join(zeros([1, 6], name, at) for at, name in enumerate(("hy", "hz"))),
        ),
        (
            "Diagonal",
            passed(torch.zeros(1, 3, 4, dtype=torch.cfloat)),
            'state = { input = "state", output = 1, initial = "default_state", batch_dim = 0 }',
        ),
        ("Expanded", passed(), 'state = { input = "state", output = 1, batch_dim = 0 }'),
        ("Scratch", alone(torch.zeros(FOUR)), zeros([*FOUR], "h_prev", "")),
        ("Layers", passed([torch.zeros(FOUR)] * 3), zeros([[*FOUR]] * 3, "states")),
        ("Pairs", passed([pair(*FOUR)] * 2), zeros([[[*FOUR]] * 2] * 2, "states")),
        ("Held", itself, 'level = { attribute = "level", batch_dim = 0 }'),
        ("Warms", itself, 'steps = { attribute = "steps", shared = true }'),
        ("Window", itself, 'past = { attribute = "past", batch_dim = 0 }'),
    ],
)
def test_state_is_found_and_served(tmp_path: Path, name: str, loop: Loop, state: str) -> None:
    done = new(tmp_path / "model", name)
    assert done.exit_code == 0, done.output
    assert done.output.endswith("It loads and runs.\n")
    assert tomllib.loads((tmp_path / "model/model.toml").read_text())["state"] == tomllib.loads(state)
    assert_follows(tmp_path / "model", name, loop)


def test_inputs_that_let_forward_remember_are_preferred(tmp_path: Path) -> None:
    assert new(tmp_path / "model", "Parallel").output.endswith("It loads and runs.\n")
    found = tomllib.loads((tmp_path / "model/model.toml").read_text())
    assert found["inputs"][0]["shape"] == [1, -1, 8]
    assert found["call"] == {"return_next_prev_hidden": True}
    assert found["state"]["prev_hidden"]["output"] == 1


def test_a_mask_is_one_number_for_each_session(tmp_path: Path) -> None:
    assert new(tmp_path / "model", "Masked").output.endswith("It loads and runs.\n")
    found = tomllib.loads((tmp_path / "model/model.toml").read_text())
    assert [one["shape"] for one in found["inputs"]] == [[1, 3], [1, 1]]
    assert found["state"] == tomllib.loads(zeros([1, 6], "rnn_hxs"))


def test_what_a_client_did_last_is_an_input(tmp_path: Path) -> None:
    given = ("--input", "prev_action:FP32:-1,2", "embed:FP32:-1,3")
    assert new(tmp_path / "model", "Believes", *given).output.endswith("It loads and runs.\n")
    found = tomllib.loads((tmp_path / "model/model.toml").read_text())
    assert [one["name"] for one in found["inputs"]] == ["prev_action", "embed"]
    assert found["state"] == {"prev_state": {"input": "prev_state", "output": 0, "initial": "initial", "batch_dim": 0}}


def test_a_state_that_does_not_fit_says_why(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Believes", "--input", "prev_action:FP32:-1,9", "embed:FP32:-1,3").output
    assert "input has inconsistent input_size: got 13 expected 6" in shown


def test_sessions_that_start_from_drawn_numbers_are_batched(tmp_path: Path) -> None:
    assert "It loads and runs" in new(tmp_path / "model", "Drawn").output
    version = load_model(tmp_path / "model").default
    assert version.stateful
    assert version.batched


@pytest.mark.parametrize("name", ["Attends", "AttendsOptional"])
def test_what_is_attended_to_is_no_state(tmp_path: Path, name: str) -> None:
    assert "It loads and runs" in new(tmp_path / "model", name).output
    assert not load_model(tmp_path / "model").default.stateful


def test_state_that_each_request_sends_is_reported(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Remembered", "--input", "x:FP32:-1,3", "past:FP32:4,1,5").output
    assert "each request sends 'past', and no session keeps it; if that is state, it is no input" in shown
    assert '[state.past] input = "past", output = …, initial = "zeros", shape = [4, 1, 5]' in shown


def test_what_a_constructor_draws_is_reported(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Projects").output
    assert "the constructor draws 'projection'" in shown
    assert "the checkpoint holds no such value: each worker has another" in shown


def test_inputs_that_forward_can_do_without_are_asked_for(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Optional").output
    assert "forward can do without 'x', 'h': pass what requests send, as in --input x:FP32:-1,8" in shown
    assert new(tmp_path / "model", "Optional", "--input", "x:FP32:-1,3").output.endswith("It loads and runs.\n")


def test_what_no_later_call_depends_on_is_no_state(tmp_path: Path) -> None:
    assert new(tmp_path / "model", "Looks").exit_code == 0
    assert not load_model(tmp_path / "model").default.stateful


def test_state_among_arguments_without_names_is_reported(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Variable").output
    assert (
        "forward takes *rest and returns '0', '1', of which none is passed to the next call; if some are state" in shown
    )
    assert "def forward(self, x, state=()): y, *state = self.net(x, *state); return y, state" in shown


def test_results_that_may_be_exchanged_are_reported(tmp_path: Path) -> None:
    sentence = "forward takes 'h', 'c' and returns as many results of one shape: nothing tells which of them is passed"
    assert sentence in new(tmp_path / "model", "LongUnnamed").output


def test_a_state_that_nothing_makes_is_asked_for(tmp_path: Path) -> None:
    done = new(tmp_path / "model", "NotBegunRequired")
    assert done.exit_code == 1
    assert (
        "if 'state' is state of several shapes, the manifest says what it starts from, as in [state.state]"
        in done.output
    )
    assert "and if it is an object, or a list that forward changes, a method of the class returns it" in done.output


def test_the_sizes_of_images_are_those_of_their_state(tmp_path: Path) -> None:
    command = ["new", str(tmp_path / "model"), "--from", f"{SOURCE}:Images", "--input", "x:FP32:1,3,6,8"]
    assert create_app().test_cli_runner().invoke(args=command).output.endswith("It loads and runs.\n")
    found = tomllib.loads((tmp_path / "model/model.toml").read_text())
    assert found["state"] == tomllib.loads(zeros([[1, 4, 6, 8]] * 2))
    assert found["inputs"][0]["shape"] == [1, 3, 6, 8]


def test_a_session_that_ends_is_reported(tmp_path: Path) -> None:
    shown = new(tmp_path / "model", "Numbered").output
    assert (
        "a session ends after 24 steps, as forward fails on its state then: the forward of model 'model' raised"
        in shown
    )
    assert "fails on random numbers" not in shown
