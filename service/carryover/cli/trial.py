"""Trying a module out: its forward on any inputs from any state, with its buffers left as they were."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from carryover.errors import ModelFailedError
from carryover.runtime.buffers import Change, discover, slots
from carryover.runtime.datatypes import Datatype, of_tensor
from carryover.runtime.guard import mark, marks
from carryover.runtime.version import keywords

State = Mapping[str, Tensor | None]
_TOLERANCE = {torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Relative and absolute, as in `carryover.runtime.selfcheck`; 1e-4 for all other datatypes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one forward did.

    `returned` is what it returned, `state` every buffer as it left it, `changes` those buffers that it changed (not to
    be relied on where the forward began from a state of its own).
    """

    returned: Any
    state: dict[str, Tensor | None]
    changes: dict[str, Change]


class Trial:
    """A module in eval mode, run as the service would run it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)
        self.slots = slots(module)

    def run(self, inputs: Mapping[str, Tensor], state: State | None = None) -> Outcome:
        """Run `forward` from the registered buffers, or from a state.

        Raises:
            ModelFailedError: it raised; the sentence is the first line of what it said.

        """
        returned: Any = None
        after: dict[str, Tensor | None] = {}

        def forward() -> None:
            nonlocal returned
            self.slots = slots(self.module)  # what were names of one buffer may have become buffers of their own
            for slot in self.slots:
                if state is not None and slot.name in state:
                    held = state[slot.name]
                    slot.put(None if held is None else held.clone())
            copies = {name: given.clone() for name, given in inputs.items()}  # forward may write to its inputs
            named = keywords(self.module.forward, list(copies))
            in_order = [given for name, given in copies.items() if name not in named]
            returned = self.module(*in_order, **{name: copies[name] for name in named})
            after.update({slot.name: slot.get() for slot in self.slots})

        with torch.no_grad():
            try:
                changes = discover(self.module, forward)
            except Exception as error:
                raise ModelFailedError(first_line(error)) from error
            finally:
                self.slots = slots(self.module)
        return Outcome(returned, after, changes)

    def initial(self) -> dict[str, Tensor | None]:
        """Return every buffer as it is registered."""
        return {slot.name: slot.registered for slot in self.slots}

    def attributes(self) -> dict[str, object]:
        """Return what the module holds outside its buffers that `forward` might change, in a comparable form."""
        parameters = {name: mark(parameter) for name, parameter in self.module.named_parameters()}
        return marks(self.module, [slot.name for slot in self.slots]) | parameters


def required_inputs(module: nn.Module) -> list[str] | None:
    """Return the names of the parameters that `forward` cannot do without; None where its signature does not say."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]


def example(datatype: Datatype, shape: Sequence[int], random: torch.Generator | None = None) -> Tensor:
    """Return an example input: zeros, or random numbers, whole ones from 0 and 1."""
    if random is None:
        return torch.zeros(tuple(shape), dtype=datatype.torch)
    if datatype.kind == "float":
        return torch.randn(tuple(shape), generator=random).to(datatype.torch)
    return torch.randint(0, 2, tuple(shape), generator=random).to(datatype.torch)


def outputs(returned: Any) -> dict[str, Tensor]:
    """Return the tensors that a forward returned and a manifest can name, by the names they have or get."""
    named: Iterable[tuple[Any, Any]] = ()
    if isinstance(returned, Tensor):
        named = [("output", returned)]
    elif isinstance(returned, Mapping):
        named = returned.items()
    elif isinstance(returned, tuple) and hasattr(returned, "_fields"):
        named = zip(returned._fields, returned, strict=True)
    elif isinstance(returned, (tuple, list)):
        # A manifest names what a tuple begins with: (output, (h, c)) has one output.
        leading = list(takewhile(_is_output, returned))
        named = [("output" if len(leading) == 1 else f"output_{i}", value) for i, value in enumerate(leading)]
    return {key: value for key, value in named if isinstance(key, str) and _is_output(value)}


def close(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are the same but for rounding."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = _TOLERANCE.get(a.dtype, 1e-4)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_output(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    try:
        of_tensor(value)
    except KeyError:
        return False
    return True
