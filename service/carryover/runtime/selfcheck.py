"""Checks at load that a model can be served: that it takes its own state back, isolates callers, and batches."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from enum import Enum
from itertools import product

import numpy as np
import torch
from torch import nn

from carryover.errors import ModelFailedError
from carryover.runtime import guard, stacked
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.randomness import MeanRandom
from carryover.runtime.structure import pick
from carryover.runtime.version import Call, ModelVersion, Result

_STEPS = (2, 3, 1)
_SESSIONS = len(_STEPS)
_LENGTH = 3
_STACKED_LENGTHS = (1, 2, 7, 40)
_SLOW = 0.02
"""Seconds for a forward, above which it does not matter whether it is stacked."""
_TOLERANCE = {Datatype.FP16: 3e-2, Datatype.BF16: 1e-1}
"""Relative and absolute; matrix kernels round differently for other batch sizes. 1e-4 for all other datatypes."""


Numbers = Callable[[np.random.Generator, str, tuple[int, ...]], Array]
# What a model may take: any numbers; none that are negative; zeros, as in the dry run. Integers may be indices.
NUMBERS: tuple[Numbers, ...] = (
    lambda random, kind, shape: random.standard_normal(shape) if kind == "float" else random.integers(0, 2, shape),
    lambda random, kind, shape: random.random(shape) if kind == "float" else random.integers(0, 2, shape),
    lambda _, __, shape: np.zeros(shape),
)
_WIDE: Numbers = lambda random, kind, shape: (  # noqa: E731 - as those above
    random.standard_normal(shape) if kind == "float" else random.integers(0, 10, shape)
)
"""More different integers, which a forward need not take."""
_REPEATS = 3
_NO_STATE = (str, bytes, Enum, set, frozenset)
"""What an attribute may hold that no entry of `[state]` stores."""


def settle_gradients(version: ModelVersion) -> None:
    """Have the forward run without inference mode, if it works only so: it may differentiate something itself."""
    if version.forward.context is not torch.inference_mode:
        return
    shapes = [spec.example_shape for spec in version.inputs]
    for numbers in (NUMBERS[0], NUMBERS[-1]):
        inputs = example_inputs(version.inputs, shapes, np.random.default_rng(0), numbers)
        call = Call(inputs, version.initial_state)
        with suppress(ModelFailedError):
            version.run([call])
            continue
        version.forward.context = torch.no_grad
        with suppress(ModelFailedError):
            version.run([call])
            return
        version.forward.context = torch.inference_mode


def prove(version: ModelVersion) -> None:
    """Prove that the version can be served, but for what its manifest claims with `batch_dim`.

    Raises:
        ModelFailedError: with what the forward did.

    """
    _prove_steps(version)
    _prove_defaults(version)
    _prove_isolation(version)
    version.check()


def _prove_steps(version: ModelVersion) -> None:
    """Run two steps on the dry run's input, each from the state that the one before left.

    Numbers that are drawn after each show which generators forward seeds: after other seeds they are the same.
    """
    state, drawn = version.initial_state, []
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - models draw from numpy's global generator
    try:
        for seed in range(2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            state = version.run([Call(version.zeros(), state)])[0].state
            drawn.append((random.random(), np.random.random()))  # noqa: NPY002, S311 - no secrets
    except ModelFailedError as error:
        raise ModelFailedError(f"a step on zeros fails: {reason(error)}") from error
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
    reseeds: tuple[Callable[[], None], ...] = (random.seed, np.random.seed)
    version.reseeds = [reseed for reseed, one, other in zip(reseeds, *drawn, strict=True) if one == other]


def _prove_defaults(version: ModelVersion) -> None:
    """Run without the inputs that are optional."""
    needed = _needed(version, version.zeros())
    if len(needed) < len(version.inputs):
        try:
            version.run([Call(needed, version.initial_state)])
        except ModelFailedError as error:
            raise ModelFailedError(f"optional: without the optional inputs forward fails: {reason(error)}") from error


def _needed(version: ModelVersion, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {spec.name: inputs[spec.name] for spec in version.inputs if not spec.optional}


def _prove_isolation(version: ModelVersion) -> None:
    """Run a call alone, and after others: what a caller gets must not depend on what others sent.

    It starts from the module as it was constructed, if it can. A difference does not count where the module, or the
    file of its class, holds a generator of random numbers.
    """
    for rewind, numbers in product((True, False), (_WIDE, *NUMBERS)):
        call, *others = _sessions(version, (0,) * _SESSIONS, 1, numbers)
        try:
            (alone, first, left), *found = [
                _after(version, before, call, rewind=rewind) for before in ((), (call,) * _REPEATS, others)
            ]
        except ModelFailedError:
            continue  # a forward need not take every number; one that always fails is rejected elsewhere
        for result, _, after in found:
            if (name := difference(version, alone, result)) is not None:
                # What the first call alone changes, such as a flag, differs from what was there before it.
                _reject(version, name, _changed(left, after) or _changed(first, after))
        return


def _after(
    version: ModelVersion, before: Sequence[Call], call: Call, *, rewind: bool
) -> tuple[Result, dict[str, object], dict[str, object]]:
    """What a call gives after others, and what tells whether the attributes have changed: before them, and after it."""
    attributes = version.forward.attributes
    with attributes.rewound() if rewind and attributes is not None else nullcontext():
        first = version.attributes()
        for one in before:
            _seeded(version, one)
        return _seeded(version, call), first, version.attributes()


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [name for name in after if before.get(name) != after[name]]


def _reject(version: ModelVersion, output: str, changed: Sequence[str]) -> None:
    """Raise, as an output differs after other calls; not if random numbers may be why."""
    module = version.forward.module
    if changed:
        kept = ", ".join(map(repr, changed))
        buffer = "what is to be remembered belongs in a buffer, registered in __init__"
        raise ModelFailedError(
            f"forward keeps {kept} where all sessions share it: the same call gave another {output!r} after "
            f"others; {remedy(module, changed[0], buffer)}"
        )
    if script := next((name for name, part in module.named_modules() if guard.scripted(part)), None):
        raise ModelFailedError(
            f"forward keeps state in the TorchScript module {script!r}, where all sessions share it: the same "
            f"call gave another {output!r} after others; call a part of it that takes the state and returns it"
        )
    version.check()  # what was written without a trace may be why
    if not guard.holds_generator(module):
        raise ModelFailedError(_outside(version, output))


def _outside(version: ModelVersion, output: str) -> str:
    """Say that forward remembers something where it can be neither stored nor put back."""
    places = guard.iterators(version.forward.module)
    kept = ", ".join(f"the attribute {name!r}, a {kind}" for name, kind in places.items())
    return (
        f"forward keeps something where all sessions share it: the same call gave another {output!r} after others, and "
        f"no attribute has changed; it may be in {kept or 'a global variable, a class or a closure'}; what is to be "
        "remembered belongs in a buffer, a number or tensor of the module, or an argument"
    )


def remedy(module: nn.Module, attribute: str, buffer: str) -> str:
    """Say what makes an attribute state: `buffer`, or an entry of the manifest. Text and sets cannot be state."""
    with suppress(LookupError):
        if isinstance(held := pick(module, attribute.split(".")), _NO_STATE):
            return (
                f"{attribute!r} is a {type(held).__name__}, which cannot be state; keep a number or a tensor that "
                "stands for it, in an attribute or in a buffer"
            )
    return f'{buffer}, or under [state.{attribute.rpartition(".")[2]}] attribute = "{attribute}" in the manifest'


def settle_attributes(version: ModelVersion) -> None:
    """Have the attributes of the module put back after each forward from now on.

    Raises:
        ModelFailedError: forward works only on attributes that it has changed.

    """
    if version.forward.attributes is None:
        return
    # After a few steps, and of several instances: what depends on the input need not show on one.
    for steps, length, numbers in product((2, 0), (_LENGTH, 1), NUMBERS):
        with suppress(ModelFailedError):
            (call,) = _sessions(version, (steps,), length, numbers)
            _seeded(version, call)
            break
    else:
        call = Call(version.zeros(), version.initial_state)
    version.forward.attributes.settle(lambda: _seeded(version, call))


def _seeded(version: ModelVersion, call: Call) -> Result:
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - models draw from numpy's global generator
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            return version.run([call])[0]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def prove_batching(version: ModelVersion) -> None:
    """Run a few sessions alone and as one batch, and compare outputs and states.

    Raises:
        ModelFailedError: they differ, or only one of the two ways works.

    """
    if not version.batched:
        return
    try:
        _prove_batching(version)
    except ModelFailedError:
        if not _random(version):
            raise
        context = version.forward.context
        if context is torch.inference_mode:  # in it, dropout is one operation, and draws its numbers unseen
            version.forward.context = torch.no_grad
        try:
            with MeanRandom():  # type: ignore[no-untyped-call]
                if _random(version):
                    raise ModelFailedError(
                        "batch_dim: the same call gives other results each time, as forward draws random numbers, so "
                        "that it cannot be tried; leave batch_dim out, and sessions run one at a time"
                    ) from None
                _prove_batching(version)
        finally:
            version.forward.context = context


def _random(version: ModelVersion) -> bool:
    """Whether the same call gives another result each time; it may be the first of a session alone that does."""
    with suppress(ModelFailedError):
        for call in (*_calls(version)[0], *_calls(version, ((0,) * _SESSIONS,))[0]):
            one, other = version.run([call])[0], version.run([call])[0]
            if difference(version, one, other) is not None:
                return True
    return False


def _prove_batching(version: ModelVersion) -> None:
    calls, alone = _calls(version)
    _compare(version, calls, alone)
    if any(spec.optional for spec in version.inputs):
        calls = [Call(_needed(version, call.inputs), call.state) for call in calls]
        _compare(version, calls, [version.run([call])[0] for call in calls])
    if version.forward.entries:  # at step 0 it may have another structure
        _compare(version, *_calls(version, ((0,) * _SESSIONS,)))


def _compare(version: ModelVersion, calls: list[Call], alone: list[Result]) -> None:
    """Run calls as one batch, and compare what each gets with what it gets alone."""
    try:
        together = version.run(calls)
    except ModelFailedError as error:
        raise ModelFailedError(
            f"batch_dim: a forward of one session works, a batch of {_SESSIONS} does not: {reason(error)}"
        ) from error
    for one, other in zip(alone, together, strict=True):
        if (name := difference(version, one, other)) is not None:
            raise ModelFailedError(
                f"batch_dim: sessions in one batch give another {name!r} than each alone; "
                "leave batch_dim out, and they run one at a time"
            )


def try_stacking(version: ModelVersion) -> None:
    """Have calls of a version without `batch_dim` stacked, if that gives bit for bit what each gives alone.

    It is not tried where a forward takes so long that others are no matter.
    """
    forward = version.forward
    plain = version.on_cpu and forward.program is None and not forward.entries
    plain = plain and forward.context is torch.inference_mode
    if version.batched or not plain or not stacked.fits(version.layout):
        return
    same = []
    for length in _STACKED_LENGTHS:
        if (tried := _alone(version, length)) is None:
            break
        version.stacked = True
        with suppress(ModelFailedError):
            same.append(_same_stacked(version, *tried))
            version.stacked = False
            if same[-1]:
                continue
        version.stacked = False
        return
    version.stacked = any(same)


def _alone(version: ModelVersion, length: int) -> tuple[list[Call], list[Result]] | None:
    """Calls of sessions that have come different ways, and what each gives alone; None if they cannot be run soon."""
    for numbers in NUMBERS:
        with suppress(ModelFailedError):
            started = time.thread_time()
            version.run(_sessions(version, (0,), length, numbers))
            if time.thread_time() - started > _SLOW:
                return None
            calls = _sessions(version, tuple(step % 3 for step in range(stacked.FEW + 1)), length, numbers)
            return calls, [version.run([call])[0] for call in calls]
    return None


def _same_stacked(version: ModelVersion, calls: Sequence[Call], alone: Sequence[Result]) -> bool:
    if len({version.group(call) for call in calls}) != 1:
        return False
    together = version.run(calls)
    return all(
        one.state == other.state and all(_same(one.outputs[name], other.outputs[name]) for name in one.outputs)
        for one, other in zip(alone, together, strict=True)
    )


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _calls(
    version: ModelVersion, ways: Sequence[Sequence[int]] = (_STEPS, _STEPS[:1] * _SESSIONS)
) -> tuple[list[Call], list[Result]]:
    """Calls of sessions that have come different ways, and what each gives alone.

    At best the sessions have taken different numbers of steps, and the calls hold several instances; a model whose
    state grows, or that takes one instance, gets less.
    """
    failure: ModelFailedError | None = None
    for length in (_LENGTH, 1):
        for numbers in NUMBERS:
            try:
                for steps in ways:
                    calls = _sessions(version, steps, length, numbers)
                    if len({version.group(call) for call in calls}) == 1:
                        return calls, [version.run([call])[0] for call in calls]
            except ModelFailedError as error:
                failure = error
    why = reason(failure) if failure else "their states have different shapes after equal steps"
    raise ModelFailedError(f"batch_dim: cannot be tried on examples: {why}")


def _sessions(version: ModelVersion, steps: Sequence[int], length: int, numbers: Numbers) -> list[Call]:
    generator = np.random.default_rng(0)

    def inputs(length: int) -> dict[str, Array]:
        shapes = [spec.sized(length, spec.example_length + length - 1) for spec in version.inputs]
        return example_inputs(version.inputs, shapes, generator, numbers)

    calls = []
    for count in steps:
        state = version.initial_state
        for _ in range(count):
            state = version.run([Call(inputs(1), state)])[0].state
        calls.append(Call(inputs(length), state))
    return calls


def example_inputs(
    specs: Sequence[TensorSpec],
    shapes: Iterable[Sequence[int]],
    random: np.random.Generator,
    numbers: Numbers = NUMBERS[0],
) -> dict[str, Array]:
    """Return inputs of the given shapes: random numbers, integers from 0 and 1; near examples where there are any."""
    found: dict[str, Array] = {}
    for spec, shape in zip(specs, shapes, strict=True):
        kind, size = spec.datatype.kind, tuple(shape)
        drawn = numbers(random, kind, size) if spec.example is None else spec.filled(size)
        if spec.example is not None and kind == "float":
            drawn = drawn * (1 + abs(numbers(random, kind, size)) / 4)
        found[spec.name] = drawn.astype(spec.datatype.numpy)
    return found


def reason(error: ModelFailedError) -> str:
    """Return an error and its cause, which clients do not see."""
    return f"{error}: {error.__cause__}" if error.__cause__ else str(error)


def difference(version: ModelVersion, one: Result, other: Result) -> str | None:
    """Return the name of the first output or state buffer in which two results differ by more than rounding."""
    for spec in version.outputs:
        if not close(one.outputs[spec.name], other.outputs[spec.name], spec.datatype):
            return spec.name
    return state_difference(version, one.state, other.state)


def state_difference(version: ModelVersion, one: bytes, other: bytes) -> str | None:
    """Return the name of the first buffer in which two states differ; "state" where their shapes do."""
    contents = version.layout.contents(one)
    if contents != version.layout.contents(other):
        return "state"
    pairs = zip(version.layout.join([one]), version.layout.join([other]), strict=True)
    for buffer, held, (a, b) in zip(version.layout.buffers, contents, pairs, strict=True):
        if (
            held
            and a is not None
            and b is not None
            and not close(a.double().numpy(), b.double().numpy(), held.datatype)
        ):
            return buffer.name
    return None


def close(a: Array, b: Array, datatype: Datatype) -> bool:
    """Return whether two arrays of a datatype are equal but for rounding."""
    if a.shape != b.shape:
        return False
    tolerance = _TOLERANCE.get(datatype, 1e-4) if datatype.kind == "float" else 0.0
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
