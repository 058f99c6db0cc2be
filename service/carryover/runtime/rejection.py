"""Whose fault it is that a forward raised: the input's, the state's or the model's.

What it raised does not say that, so examples are run in the place of the call. A model that takes an example and
raises at the call, again and in the same way, rejects the call's input; one that takes the example only from its
initial state rejects the session's state.
"""

import re
from collections.abc import Callable
from traceback import walk_tb

import torch

from carryover.errors import InputRejectedError, ModelFailedError
from carryover.runtime.forward import Forward
from carryover.runtime.report import first_line
from carryover.runtime.version import Call, Invocation, ModelVersion

Run = Callable[[Invocation], object]

_OF_VALUES = (LookupError, ValueError, RuntimeError, AssertionError, ArithmeticError)
"""What Python and torch raise at values and shapes; a TypeError or AttributeError is a mistake in the code."""
_OF_OTHERS = (torch.OutOfMemoryError, NotImplementedError, RecursionError)
_MEMORY = re.compile(r"out of memory|alloca", re.IGNORECASE)
_INSIDES = re.compile(r"[/\\]|::|\b0x|tensor\(|\.(?:py|pt|cpp|cu|h)\b")
"""What may be a path, source code or weights."""


def rejection(
    version: ModelVersion, call: Invocation, failure: ModelFailedError, run: Run
) -> InputRejectedError | None:
    """Return the error of a call whose forward has failed, if its input or its state is to blame.

    `run` runs one call of the version, and discards its result.
    """
    cause = failure.__cause__
    if cause is None or not _speaks_of_values(cause) or type(_raised(run, call)) is not type(cause):
        return None
    same = {spec.name: spec.filled(call.inputs[spec.name].shape) for spec in version.inputs if spec.name in call.inputs}
    examples = (same, version.zeros())
    if any(_raised(run, Call(example, call.state)) is None for example in examples):
        return InputRejectedError(f"the model {version.name!r} does not take this input: forward raised {_said(cause)}")
    if call.state != version.initial_state and _raised(run, Call(examples[1], version.initial_state)) is None:
        return InputRejectedError(
            f"the model {version.name!r} takes no step from this session's state: forward raised {_said(cause)}, and "
            "does so at an example as well, but not from the initial state; reset the session, or create another"
        )
    return None


def _speaks_of_values(cause: BaseException) -> bool:
    """Whether forward itself raised this, and it may be about values or shapes."""
    if not isinstance(cause, _OF_VALUES) or isinstance(cause, _OF_OTHERS) or _MEMORY.search(f"{cause}"):
        return False
    return any(frame.f_code is Forward.__call__.__code__ for frame, _ in walk_tb(cause.__traceback__))


def _raised(run: Run, call: Invocation) -> BaseException | None:
    """Return what the forward of a call raised; the failure where it was no forward that did."""
    try:
        run(call)
    except ModelFailedError as failure:
        return failure.__cause__ or failure
    return None


def _said(cause: BaseException) -> str:
    """Return what a client may read of an error: its class, and its first line unless that may show its insides."""
    line, kind = first_line(cause), type(cause).__name__
    return kind if line == kind or _INSIDES.search(line) else f"{kind}: {line:.200}"
