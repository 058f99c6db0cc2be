"""Which inputs a module might take: example shapes and datatypes, the likeliest first, from what its layers are."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from carryover.runtime.datatypes import Datatype, of_tensor
from carryover.runtime.manifest import TensorSpec

_LENGTHS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100, 112, 128),
    *(160, 192, 200, 224, 240, 256, 299, 320, 384, 400, 416, 480, 512, 640, 800, 1000, 1024, 8000, 16000),
)
"""Sizes of the axes that a convolution slides along, tried in this order."""
_LARGEST = {1: 16000, 2: 512, 3: 32}
"""The largest of them for so many such axes."""
Shapes = Sequence[tuple[int, ...]]
_LEADING: Shapes = ((1,), (1, 1), ())
"""The axes before features."""
_GATES = (1, 2, 3, 4)
"""How many gates a recurrent layer may have."""
_FLAG = re.compile(r"(^|_)(masks?|valid|flags?|resets?|dones?|is|has)(_|$)", re.IGNORECASE)
_INDEX = re.compile(r"(^|_)(ids?|tokens?|index|indices|lengths?|positions?|steps?)(_|$)", re.IGNORECASE)
"""Names of inputs that are likely to be BOOL, or INT64."""
_SCALAR = re.compile(r"^(ts?|dt|times?(_?(spans?|steps?))?|delta(_?t)?|elapsed)$", re.IGNORECASE)
"""Names of inputs that are likely to be one number for each session, as flags are."""


@dataclass(frozen=True, slots=True)
class Guess:
    """An example input. `sizes` are those axes whose size was chosen from a list, not taken from the module.

    `joined`: its size is that of a state, or what is left for an input, if a layer takes both together.
    """

    datatype: Datatype
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    joined: bool = False

    @property
    def family(self) -> tuple[Datatype, tuple[int, ...]]:
        """What it has in common with the guesses that differ from it in the chosen sizes only."""
        return self.datatype, self.resized(self.sizes, 0).shape

    def spec(self, name: str) -> TensorSpec:
        """Return it as an input, or output, of a manifest."""
        return TensorSpec(name=name, datatype=self.datatype, shape=self.shape)

    def resized(self, axes: tuple[int, ...], size: int) -> "Guess":
        """Return the guess with another size of some axes."""
        shape = tuple(size if axis in axes else given for axis, given in enumerate(self.shape))
        return Guess(self.datatype, shape, self.sizes)

    def larger(self) -> Iterator[tuple[int, "Guess"]]:
        """Yield it with other sizes, and an axis that has one: each axis alone doubled, then all of them together.

        A size that pooling rounds off fits as well as its neighbours, which says nothing; twice that size does not.
        """
        if not self.sizes or (size := self.shape[self.sizes[0]]) == 1:
            return
        for axis in self.sizes:
            yield axis, self.resized((axis,), 2 * size)
        for length in _LENGTHS:
            if 2 * size <= length <= _LARGEST[len(self.sizes)]:
                yield self.sizes[0], self.resized(self.sizes, length)


def choices(
    module: nn.Module, names: Sequence[str], given: Mapping[str, TensorSpec], states: Sequence[str] = ()
) -> Iterator[dict[str, Guess]]:
    """Yield every combination of guesses for some inputs, the likeliest first; `given` need no guessing.

    `states` are those that are likely to be state, beside others; they mostly are of one shape.
    """
    around = next((spec.example_shape[2:] for spec in given.values() if len(spec.shape) > 2), ())  # noqa: PLR2004

    def tried(name: str) -> list[Guess]:
        if name in given:
            return [Guess(given[name].datatype, given[name].example_shape)]
        joined = _joined(module, around, len(states), state=name in states) if states and not scalar(name) else ()
        return [*joined, *guesses(module, name)]

    lists = {name: tried(name) for name in names}
    if len(states) > 1:
        first, *rest = states
        for way in _combined({name: found for name, found in lists.items() if name not in rest}):
            yield {name: way[first if name in rest else name] for name in names}
    yield from _combined(lists)


def _combined(lists: Mapping[str, Sequence[Guess]]) -> Iterator[dict[str, Guess]]:
    """One guess of each list, the sooner the nearer they all are to the start of theirs."""
    for total in range(sum(map(len, lists.values()))):
        for way in _ways([*lists.values()], total):
            yield dict(zip(lists, way, strict=True))


def _ways(lists: Sequence[Sequence[Guess]], total: int) -> Iterator[tuple[Guess, ...]]:
    """One of each list, their places in the lists adding up to `total`."""
    first, *rest = lists
    if not rest:
        yield from ((guess,) for guess in first[total : total + 1])
        return
    for place in range(min(total + 1, len(first))):
        yield from ((first[place], *others) for others in _ways(rest, total - place))


def guesses(module: nn.Module, name: str) -> list[Guess]:
    """Return what `forward` might take for its parameter of this name."""
    datatypes = dict.fromkeys((floating(module), *_datatypes(module, floating=False), Datatype.INT64, Datatype.BOOL))
    found = [guess for layer in module.modules() for guess in _of_layer(layer)]
    found += _of_sizes(floating(module), [size for buffer in module.buffers() for size in reversed(buffer.shape)])
    found += [Guess(datatype, shape) for datatype in datatypes for shape in ((1,), (1, 1), (), (1, 1, 1))]
    named, single = likely(name), scalar(name)
    return sorted(
        dict.fromkeys(found),
        key=lambda guess: (named not in (None, guess.datatype), single and math.prod(guess.shape) > 1),
    )


def likely(name: str) -> Datatype | None:
    """Return what an input's name alone suggests."""
    return Datatype.BOOL if _FLAG.search(name) else Datatype.INT64 if _INDEX.search(name) else None


def scalar(name: str) -> bool:
    """Whether an input's name alone suggests that it is one number for each session."""
    return bool(_FLAG.search(name) or _SCALAR.search(name))


def floating(module: nn.Module) -> Datatype:
    """Return the datatype of the module's floating-point tensors."""
    return next(_datatypes(module, floating=True), Datatype.FP32)


def _of_layer(layer: nn.Module) -> Iterator[Guess]:
    """Guesses from what a layer is, and from the sizes of its parameters."""
    datatype, sizes, leading = floating(layer), list[int](), _LEADING
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        yield from (Guess(Datatype.INT64, shape) for shape in ((1, 1), (1,), ()))
    if isinstance(layer, nn.RNNBase):
        leading = ((1, 1), (1,), ())
    if isinstance(layer, nn.modules.conv._ConvNd):  # noqa: SLF001 - the base class of all convolutions has no public name
        axes, sizes = len(layer.kernel_size), [layer.in_channels]
        for length in _LENGTHS:
            if length <= _LARGEST[axes]:
                yield Guess(datatype, (1, layer.in_channels, *(length,) * axes), tuple(range(2, 2 + axes)))
    for parameter in layer.parameters(recurse=False):
        sizes += reversed(parameter.shape)
    yield from _of_sizes(datatype, sizes, leading)
    if isinstance(layer, nn.RNNBase):
        yield Guess(datatype, (layer.num_layers * (1 + layer.bidirectional), 1, layer.hidden_size))


def _joined(module: nn.Module, around: Sequence[int], states: int, *, state: bool) -> Iterator[Guess]:
    """Guesses for layers that take an input together with a state, or all states, and give some gates of their size.

    `around` are the sizes of the axes that convolutions slide along, if those are known.
    """
    for layer in module.modules():
        leading, trailing = _LEADING, tuple[int, ...]()
        if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            size = layer.hidden_size if state else layer.input_size
            yield from (Guess(floating(layer), (*first, size), joined=True) for first in leading)
            continue
        if isinstance(layer, nn.Linear):
            taken, given = layer.in_features, layer.out_features
        elif isinstance(layer, nn.modules.conv._ConvNd):  # noqa: SLF001 - as below
            taken, given = layer.in_channels, layer.out_channels
            axes = len(layer.kernel_size)
            leading, trailing = ((1,),), tuple(around) if len(around) == axes else (1,) * axes
        else:
            continue
        for gates in _GATES:
            size, rest = divmod(given, gates)
            for count in dict.fromkeys((1, states)):
                if rest or count * size >= taken:
                    continue
                shape = (size if state else taken - count * size, *trailing)
                yield from (Guess(floating(layer), (*first, *shape), joined=True) for first in leading)


def _of_sizes(datatype: Datatype, sizes: Sequence[int], leading: Shapes = _LEADING) -> Iterator[Guess]:
    """Guesses whose last axis, or the one before it, has one of some sizes."""
    for size in dict.fromkeys(size for size in sizes if size > 1):
        yield from (Guess(datatype, (*axes, size)) for axes in leading)
        yield from (Guess(datatype, (1, size, *(1,) * axes)) for axes in (1, 2))


def _datatypes(module: nn.Module, *, floating: bool) -> Iterator[Datatype]:
    """The datatypes of the module's own tensors."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() is floating:
            with suppress(KeyError):
                yield of_tensor(tensor)
