"""Which inputs forward takes: guesses are run one after another, and what speaks for each is compared."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from carryover.errors import ConfigurationError, GrowingStateError, ModelFailedError
from carryover.runtime import start_guesses
from carryover.runtime.axes import Experiment
from carryover.runtime.discovery import dry_run
from carryover.runtime.forward import Forward, zeros
from carryover.runtime.input_guesses import Guess, choices, floating, likely
from carryover.runtime.manifest import StateSpec, TensorSpec
from carryover.runtime.state_guesses import likely as likely_state
from carryover.runtime.state_guesses import optional_parameters, restored, started
from carryover.runtime.state_sources import entries

Given = Mapping[str, TensorSpec]
_Start = tuple[str, Sequence[start_guesses.Form]]

_EXAMPLES = {"int": 1, "float": 0.5}
_TRIED: Mapping[tuple[str, ...], float] = {(): 13.0, ("int", "float"): 6.0}
"""Kinds of inputs that are tried with these, as forward need not take 0, and how long that may take, in seconds."""
_TIME_AFTER_THE_FIRST = 3.0
"""How long others are tried once one was found that forward takes, in seconds."""
_TIME_OF_FORMS = 5.0
"""How long forms of a state are tried, in seconds."""
_ENOUGH = 12
"""Inputs that forward takes and that are compared before the best of them is chosen."""


def search(forward: Forward, given: Given) -> Experiment:
    """Return the experiment with the inputs that most speaks for; `given` are those that need no guessing, by name.

    Raises:
        ConfigurationError: no inputs were found that forward takes; the sentence says what to pass.

    """
    failure, tried, found = "", 0, list[_Attempt]()
    for kinds, seconds, start in _ways(forward, given):
        if any(one.passes_on for one in found) or (found and kinds):
            break
        best, first, tries = _best(forward, given, kinds, _TIME_AFTER_THE_FIRST if found else seconds, start)
        if start is None:
            failure, tried = failure or first, tried + tries
        if best is not None:
            found.append(best)
    if found:
        best = max(found, key=lambda one: one.passes_on).with_zeros().in_floats()
        best.check_sizes()
        return best.found
    open_ = " ".join(f"--input {name}:FP32:-1,8" for name in forward.inputs if name not in given)
    raise ConfigurationError(
        f"no input was found for {', '.join(forward.inputs)} that forward takes, in {tried} tries; the first failed "
        f"with: {failure}; say what it takes, as in {open_}{_of_state(forward, given)}"
        if open_
        else f"forward does not take zeros of the shapes given with --input: {failure}"
    )


def _ways(forward: Forward, given: Given) -> Iterator[tuple[Collection[str], float, "_Start | None"]]:
    """Yield how to try, the likeliest first: kinds of inputs, for how many seconds, and what a state starts from."""
    names = _states(forward, given)
    name = names[0] if len(names) == 1 else None
    if name is not None and (forms := start_guesses.used(forward, name)):
        yield (), _TIME_OF_FORMS, (name, forms)
    for kinds, seconds in _TRIED.items():
        yield kinds, seconds, None
        if name is not None and not kinds:
            yield (), _TIME_OF_FORMS, (name, start_guesses.usual(forward.module))


def _states(forward: Forward, given: Given) -> list[str]:
    """The inputs that are likely to be state, if there are others."""
    names = [name for name in forward.inputs if likely_state(name) and name not in given]
    return names if len(forward.inputs) > len(names) else []


def _of_state(forward: Forward, given: Given) -> str:
    """What to do about an input that is likely to be state, and may be more than one tensor."""
    if not (names := _states(forward, given)):
        return ""
    return (
        f"; or, if {names[0]!r} is state of several shapes, the manifest says what it starts from, as in "
        f'[state.{names[0]}] input = "{names[0]}", output = 1, initial = "zeros", shape = [[1, 8], [1, 4]]; '
        "and if it is an object, or a list that forward changes, a method of the class returns it, "
        "def init_state(self, batch_size), which is found by its name"
    )


def _best(
    forward: Forward, given: Given, kinds: Collection[str], seconds: float, start: "_Start | None" = None
) -> tuple["_Attempt | None", str, int]:
    """Return the best attempt, the first failure, and how many inputs were tried; `kinds` are as in `_Attempt`.

    With `start`, this input is no input but starts from zeros in one of these forms.
    """
    best: _Attempt | None = None
    seen, failure, tried, end = set[object](), "", 0, time.monotonic() + seconds
    for choice in choices(forward.module, forward.inputs, given, _states(forward, given)):
        enough = best is not None and (best.perfect or (best.passes_on and len(seen) >= _ENOUGH))
        if enough or time.monotonic() > end:
            break
        family = tuple(one.family for one in choice.values())
        if family in seen:
            continue
        tried += 1
        try:
            attempt = (
                _Attempt(forward, choice, given, kinds) if start is None else _starting(forward, choice, given, *start)
            )
        except GrowingStateError as error:
            raise ConfigurationError(str(error)) from error
        except ModelFailedError as error:
            failure = failure or str(error)
            continue
        if any(guess.joined for guess in choice.values()) and not attempt.returns_state:
            continue
        if not seen:
            end = min(end, time.monotonic() + _TIME_AFTER_THE_FIRST)
        seen.add(family)
        best = attempt if best is None else max(best, attempt, key=lambda one: one.score)
    return best, failure, tried


def _starting(
    forward: Forward, choice: Mapping[str, Guess], given: Given, name: str, forms: Sequence[start_guesses.Form]
) -> "_Attempt":
    """Return the attempt in which a state starts from zeros in the first form that forward takes and returns.

    Raises:
        ModelFailedError: it takes none.

    """
    forward = forward.taking([other for other in forward.inputs if other != name])
    specs = [given.get(other) or choice[other].spec(other) for other in forward.inputs]
    part = choice[name]
    for form in forms:
        shape = start_guesses.filled(form, part.shape)
        spec = StateSpec(input=name, output="", initial="zeros", shape=shape, datatype=part.datatype)
        with suppress(ModelFailedError):
            if found := started(forward, specs, spec):
                forward.entries = entries(found, forward.module, forward.method)
                return _Attempt(forward, {one: choice[one] for one in forward.inputs}, given, (), found)
    raise ModelFailedError(f"forward takes {name!r} in no form that was tried")


class _Attempt:
    """Inputs that forward takes, and what was `found` with them; `known` is state that need not be.

    Those of some `kinds` are tried with other numbers than 0.

    Raises:
        ModelFailedError: it does not take them.

    """

    def __init__(
        self,
        forward: Forward,
        choice: Mapping[str, Guess],
        given: Given,
        kinds: Collection[str],
        known: Mapping[str, StateSpec] | None = None,
    ) -> None:
        self._forward, self._choice, self._given, self._kinds, self._known = forward, choice, given, kinds, known
        with restored(forward):  # an attempt that fails may have left something in attributes
            self.found = Experiment(forward, [self._spec(name, guess) for name, guess in choice.items()], given, known)

    def _spec(self, name: str, guess: Guess) -> TensorSpec:
        spec = self._given.get(name) or guess.spec(name)
        kind = spec.datatype.kind
        return spec.changed(example=_EXAMPLES[kind]) if kind in self._kinds and spec.example is None else spec

    @property
    def score(self) -> tuple[int, ...]:
        """What speaks for these inputs, the weightiest first: the more, the better."""
        found, axes = self.found, set(self.found.batch.values())
        fitting = [guess.datatype.kind == "float" or likely(name) for name, guess in self._choice.items()]
        steps = bool(found.time) or not found.state
        return (
            not found.broadcast,
            self.passes_on,
            self.remembers,
            found.keeps_shape(),
            sum(map(bool, fitting)),
            steps,
            bool(axes),
            len(axes) == 1,
        )

    @property
    def returns_state(self) -> bool:
        """Whether forward cannot do without its state, and returns it: as its only result only if it comes last.

        What takes a state first and returns one number, or as many, is a critic, or predicts what a client decides on.
        """
        first = next(iter(self._choice))
        sizes = [
            (entry.spec, sum(leaf.registered.numel() for leaf in entry.leaves if leaf.registered is not None))
            for entry in self.found.forward.entries
        ]
        return any(
            spec.initial == "zeros" and (spec.output != "" or (spec.input != first and size > 1))
            for spec, size in sizes
        )

    @property
    def passes_on(self) -> bool:
        """Whether no input is left that is likely to be state, to judge by its name and by that there are others."""
        return len(self._choice) == 1 or not any(map(likely_state, self.found.forward.inputs))

    @property
    def remembers(self) -> bool:
        """Whether there is state, or no optional parameter that is likely to be: some take it with other axes only."""
        return bool(self.found.state) or not any(map(likely_state, optional_parameters(self.found.forward)))

    @property
    def perfect(self) -> bool:
        """Whether nothing could score higher."""
        return self.score == (True, True, True, True, len(self._choice), True, True, True)

    def with_zeros(self) -> "_Attempt":
        """Return the same with zeros for floating inputs, if it is for others that forward does not take them."""
        if "float" in self._kinds:
            with suppress(ModelFailedError):
                return _Attempt(self._forward, self._choice, self._given, set(self._kinds) - {"float"}, self._known)
        return self

    def in_floats(self) -> "_Attempt":
        """Return the same, with floating inputs where whole numbers are not called for."""
        best, forward = self, self._forward
        for name, guess in self._choice.items():
            if name not in self._given and guess.datatype.kind != "float" and likely(name) is None:
                other = {**best._choice, name: replace(guess, datatype=floating(forward.module))}
                with suppress(ModelFailedError):
                    attempt = _Attempt(forward, other, self._given, self._kinds, self._known)
                    best = max(attempt, best, key=lambda one: one.score)
        return best

    def check_sizes(self) -> None:
        """Do not choose a size where forward takes several, but not 1.

        Raises:
            ConfigurationError: with the axis.

        """
        for name, guess in self._choice.items():
            for axis, larger in guess.larger():
                other = {**self._choice, name: larger}
                try:
                    dry_run(self._forward, zeros([self._spec(key, one) for key, one in other.items()]))
                except ModelFailedError:
                    continue
                batch = -1 if self.found.state else self.found.batch.get(name, -1)
                sizes = ["-1" if at == batch else str(size) for at, size in enumerate(guess.shape)]
                shape = ",".join("SIZE" if at in guess.sizes else size for at, size in enumerate(sizes))
                raise ConfigurationError(
                    f"forward takes more than one size along axis {axis} of {name!r} ({guess.shape[axis]} and "
                    f"{larger.shape[axis]}), but not 1: say which, as in --input {name}:{guess.datatype.name}:{shape}"
                )
