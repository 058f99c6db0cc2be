"""Finding out which buffers are state: a dry run of the forward, which leaves the module as it was."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from carryover.errors import GrowingStateError, ModelFailedError
from carryover.runtime import buffers, process
from carryover.runtime.buffers import Change, Slot
from carryover.runtime.forward import Forward, match_outputs, output_faults, with_default, zeros
from carryover.runtime.manifest import Manifest, TensorSpec, by_example_length
from carryover.runtime.report import first_line

T = TypeVar("T")
_MOST_STEPS = 40
"""After so many, state that is not in buffers may have no new structure."""
_LONGEST = 300
"""As many, where there are deques, which are full in the end."""
_PATIENCE = 8
"""Steps without a new structure after which no other is expected."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one forward did.

    `returned` is what it returned, `state` every buffer and leaf as it left them, `changes` the buffers that it
    changed; where the forward started from a given state, `changes` says nothing.
    """

    returned: Any
    state: dict[str, Tensor | None]
    changes: dict[str, Change]


def dry_run(
    forward: Forward, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor | None] | None = None
) -> Outcome:
    """Run a forward from the registered buffers, or from a state, on copies of everything.

    Raises:
        ModelFailedError: it raised; the message is the first line of what it said.

    """
    try:
        return _dry_run(forward, inputs, state)
    except ModelFailedError as error:
        before = forward.context
        if before is torch.enable_grad or "grad" not in str(error):
            raise
        forward.context = torch.enable_grad  # it may differentiate without enabling gradients
        try:
            return _dry_run(forward, inputs, state)
        except ModelFailedError:
            forward.context = before
            raise error from None


def _dry_run(forward: Forward, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor | None] | None) -> Outcome:
    returned: Any = None
    after: dict[str, Tensor | None] = {}

    def run(slots: Sequence[Slot]) -> None:
        nonlocal returned
        for slot in slots:
            if state is not None and slot.name in state:
                held = state[slot.name]
                slot.put(None if held is None else held.clone())
        for leaf in forward.leaves():
            held = leaf.registered if state is None else state.get(leaf.name)
            leaf.put(None if held is None else held.clone())
        # Copies, as forward may write to its inputs.
        arguments = [given if (given := inputs.get(name)) is None else given.clone() for name in forward.inputs]
        returned = forward(arguments)
        after.update({slot.name: slot.get() for slot in slots})
        after.update({leaf.name: leaf.get() for leaf in forward.leaves()})
        for name, value in after.items():
            after[name] = value.detach() if value is not None and value.requires_grad else value

    settings = process.default_dtype(), process.initial_seed()
    with _context(forward):
        try:
            changes = buffers.discover(forward.module, run)
        except (Exception, SystemExit) as error:
            raise ModelFailedError(first_line(error)) from error
        finally:
            process.restore(settings)
            if forward.attributes is not None:
                forward.attributes.put_back()
    return Outcome(returned, after, changes)


def _context(forward: Forward) -> AbstractContextManager[object]:
    """What a dry run runs in: never inference mode, in which writing to a tensor leaves no trace."""
    return torch.no_grad() if forward.context is torch.inference_mode else forward.context()


def dry_loop(forward: Forward, inputs: Sequence[Mapping[str, Tensor]], read: Callable[[Any], T]) -> list[T]:
    """Run a forward several times, one after the other, and return what `read` makes of each result.

    The buffers are put back in the end, and nothing else is.

    Raises:
        ModelFailedError: it raised.

    """
    found: list[T] = []

    def run(_: object) -> None:
        found.clear()
        for leaf in forward.leaves():
            leaf.put(leaf.registered)
        found.extend(read(forward([value.clone() for value in given.values()])) for given in inputs)

    settings = process.default_dtype(), process.initial_seed()
    with _context(forward):
        try:
            buffers.discover(forward.module, run)
        except (Exception, SystemExit) as error:
            raise ModelFailedError(first_line(error)) from error
        finally:
            process.restore(settings)
    return found


def discover(forward: Forward, specs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, ...], Outcome]:
    """Run a forward on zeros, and return what it did, and the inputs with the example length that it takes.

    Whole numbers for which the manifest gives no example may be ones, where forward takes no zeros: lengths, ids.

    Raises:
        ModelFailedError: it takes zeros of no length, or writes to memory that two buffers share.

    """
    failure: ModelFailedError | None = None
    for sized in chain(by_example_length(specs), by_example_length(_with_ones(specs))):
        try:
            outcome = dry_run(forward, zeros(sized))
        except ModelFailedError as error:  # it may be that this is too short
            failure = failure or error
            continue
        # A program writes to all that share memory by itself.
        if forward.program is None and (pair := buffers.overlap(forward.module, outcome.changes)) is not None:
            raise ModelFailedError(
                f"forward writes to the buffer {pair[0]!r}, and the buffer {pair[1]!r} is a view of the same memory; "
                "register one of them, and take the other from it in forward"
            )
        return sized, outcome
    shapes = ", ".join(f"{spec.name} {list(spec.example_shape)}" for spec in specs)
    raise ModelFailedError(f"forward failed on zeros of {shapes}: {failure}")


def _with_ones(specs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The inputs with 1 as the example of whole numbers; none where that changes nothing."""
    found = [s.changed(example=1) if s.datatype.kind == "int" and s.example is None else s for s in specs]
    return found if found != list(specs) else ()


def optional_inputs(forward: Forward, manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return the inputs, `optional` where the manifest does not say whether they are and forward does without them.

    It does if it has a default for each, runs without it, and without all of them, and gives the same outputs then.
    """
    defaults, specs = with_default(forward), manifest.inputs
    open_ = [spec.name for spec in specs if spec.optional is None and spec.name in defaults]
    if len(open_) + sum(bool(spec.optional) for spec in specs) == len(specs):
        open_ = open_[1:]  # a request has at least one
    given, forward = zeros(specs), forward.with_defaults()

    def does_without(names: Collection[str]) -> bool:
        with suppress(ModelFailedError):
            inputs = {name: tensor for name, tensor in given.items() if name not in names}
            returned = dry_run(forward, inputs).returned
            return not output_faults(manifest.outputs, match_outputs(manifest.outputs, returned), sizes=True)
        return False

    found = [name for name in open_ if does_without([name])]
    if len(found) > 1 and not does_without(found):
        found = []
    return tuple(spec.model_copy(update={"optional": True}) if spec.name in found else spec for spec in specs)


def changes_on_random(forward: Forward, specs: Sequence[TensorSpec]) -> dict[str, Change]:
    """Return what a forward changes on random numbers; nothing where it does not take them."""
    with suppress(ModelFailedError):
        inputs = {
            name: torch.randn_like(given) if given.is_floating_point() else given
            for name, given in zeros(specs).items()
        }
        return dry_run(forward, inputs).changes
    return {}


def learn_structures(forward: Forward, specs: Sequence[TensorSpec]) -> None:
    """Run a forward for as many steps as it takes until its state, where it is not in buffers, has no new structure.

    Raises:
        ModelFailedError: it always has, or a step from its own state fails.

    """
    if not forward.entries:
        return
    state: Mapping[str, Tensor | None] | None = None
    settled, step, most = 0, 0, _MOST_STEPS
    while settled < _PATIENCE:
        if step == 1:
            most = min(_MOST_STEPS + sum(entry.capacity for entry in forward.entries), _LONGEST)
        if step == most:
            raise GrowingStateError(
                f"state.{forward.entries[0].name}: its structure is another after each of {most} steps; what "
                "grows is to grow within a tensor"
            )
        forms = [entry.forms for entry in forward.entries]
        try:
            state = dry_run(forward, zeros(specs), state).state
        except ModelFailedError as error:
            name = forward.entries[0].name
            raise ModelFailedError(f"state.{name}: a step from what forward left fails: {error}") from error
        if step == 0:
            state = {**state, **_zeroed(forward)}
        step += 1
        settled = settled + 1 if forms == [entry.forms for entry in forward.entries] else 0
    for fill in (torch.ones_like, torch.randn_like):
        with suppress(ModelFailedError, RuntimeError):  # forward need not take them, nor are they for whole numbers
            dry_run(forward, {name: fill(given) for name, given in zeros(specs).items()}, state)
    for entry in forward.entries:
        entry.settle()


def _zeroed(forward: Forward) -> dict[str, Tensor | None]:
    """Let entries that start from zeros do so, now that it is known what they hold."""
    for entry in forward.entries:
        if entry.spec.initial == "zeros" and entry.spec.shape is None:
            entry.start_from(entry.zeros())
    return {leaf.name: leaf.value for leaf in forward.leaves()}
