"""Comparing forwards that draw random numbers: with torch's replaced by the mean of what would be drawn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from carryover.runtime.dispatch import DispatchMode


class MeanRandom(DispatchMode):  # type: ignore[no-untyped-call]
    """Where numbers are drawn from a distribution, gives its mean: dropout then changes nothing.

    What has no mean, as a permutation, is drawn as ever.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation of torch."""
        mean = _MEANS.get(str(func.overloadpacket))
        drawn = func(*args, **(kwargs or {}))
        if mean is None:
            return drawn
        held = drawn[0] if isinstance(drawn, tuple) else drawn
        mean(held, func, args)
        return drawn


@contextmanager
def mean_random() -> Iterator[None]:
    """Run without gradients, and without inference mode, in which dropout draws its numbers unseen."""
    with torch.no_grad(), MeanRandom():  # type: ignore[no-untyped-call]
        yield


def _bernoulli(drawn: Tensor, func: Any, args: tuple[Any, ...]) -> None:
    given = args[1] if len(args) > 1 else 0.5 if "bernoulli_" in str(func) else args[0]
    drawn.copy_(given) if isinstance(given, Tensor) else drawn.fill_(given)


def _dropout(drawn: Tensor, _: Any, args: tuple[Any, ...]) -> None:
    drawn.copy_(args[0])


def _between(first: int, default: tuple[float, float]) -> Callable[[Tensor, Any, tuple[Any, ...]], None]:
    def mean(drawn: Tensor, _: Any, args: tuple[Any, ...]) -> None:
        given = list(args[first : first + 2])
        low, high = given + list(default[len(given) :])
        drawn.fill_((low + high) / 2)

    return mean


def _filled(value: float) -> Callable[[Tensor, Any, tuple[Any, ...]], None]:
    def mean(drawn: Tensor, _: Any, __: tuple[Any, ...]) -> None:
        drawn.fill_(value)

    return mean


def _normal(drawn: Tensor, _: Any, args: tuple[Any, ...]) -> None:
    mean = args[1] if len(args) > 1 else 0.0
    drawn.copy_(mean) if isinstance(mean, Tensor) else drawn.fill_(mean)


_MEANS: dict[str, Callable[[Tensor, Any, tuple[Any, ...]], None]] = {
    "aten.bernoulli": _bernoulli,
    "aten.bernoulli_": _bernoulli,
    "aten.native_dropout": _dropout,
    "aten.uniform_": _between(1, (0.0, 1.0)),
    "aten.normal_": _normal,
    "aten.rand": _filled(0.5),
    "aten.rand_like": _filled(0.5),
    "aten.randn": _filled(0.0),
    "aten.randn_like": _filled(0.0),
    "aten.randint": _filled(0),
    "aten.randint_like": _filled(0),
    "aten.multinomial": _filled(0),
    "aten.exponential_": _filled(1.0),
}
