"""Which inputs a module might take: example shapes and datatypes, the likeliest first, from what its layers are."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from carryover.runtime.datatypes import Datatype, of_tensor

_LENGTHS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100, 112, 128),
    *(160, 192, 200, 224, 240, 256, 299, 320, 384, 400, 416, 480, 512, 640, 800, 1000, 1024, 8000, 16000),
)
"""Sizes of the axes that a convolution slides along, tried in this order."""
_LARGEST = {1: 16000, 2: 512, 3: 32}
"""The largest of them for so many such axes."""
_BARE = ((1,), (1, 1), (), (1, 1, 1))
_FLAG = re.compile(r"(^|_)(mask|valid|flag|reset|is|has)(_|$)", re.IGNORECASE)
_INDEX = re.compile(r"(^|_)(ids?|tokens?|index|indices|lengths?|positions?|steps?)(_|$)", re.IGNORECASE)
"""Names of inputs that are likely to be BOOL, or INT64."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An example input. `sizes` are those axes whose size was chosen from a list, not taken from the module."""

    datatype: Datatype
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()

    @property
    def family(self) -> tuple[Datatype, tuple[int, ...]]:
        """What it has in common with the candidates that differ from it in the chosen sizes only."""
        return self.datatype, tuple(0 if axis in self.sizes else size for axis, size in enumerate(self.shape))

    def larger(self) -> Iterator["Candidate"]:
        """Yield it with other sizes: each axis alone doubled, then all of them from twice the size on.

        A size that pooling rounds off fits as well as its neighbours, which says nothing; twice that size does not.
        """
        if not self.sizes or (size := self.shape[self.sizes[0]]) == 1:
            return
        for axes, length in (
            *(((axis,), 2 * size) for axis in self.sizes),
            *((self.sizes, length) for length in _LENGTHS if 2 * size <= length <= _LARGEST[len(self.sizes)]),
        ):
            shape = tuple(length if axis in axes else given for axis, given in enumerate(self.shape))
            yield Candidate(self.datatype, shape, axes)


def candidates(module: nn.Module, name: str) -> list[Candidate]:
    """Return what `forward` might take for its parameter of this name."""
    floating = next(_datatypes(module, floating=True), Datatype.FP32)
    plain = dict.fromkeys((floating, *_datatypes(module, floating=False), Datatype.INT64, Datatype.BOOL))
    found = [candidate for layer in module.modules() for candidate in _of_layer(layer)]
    found += _of_tensors(module)
    found += [Candidate(datatype, shape) for datatype in plain for shape in _BARE]
    named = likely(name)
    return sorted(dict.fromkeys(found), key=lambda candidate: named not in (None, candidate.datatype))


def likely(name: str) -> Datatype | None:
    """Return what an input's name alone suggests."""
    return Datatype.BOOL if _FLAG.search(name) else Datatype.INT64 if _INDEX.search(name) else None


def _of_layer(layer: nn.Module) -> Iterator[Candidate]:  # noqa: C901 - a table of layers
    datatype = next(_datatypes(layer, floating=True), Datatype.FP32)
    match layer:
        case nn.Embedding() | nn.EmbeddingBag():
            yield from (Candidate(Datatype.INT64, shape) for shape in ((1, 1), (1,), ()))
        case nn.RNNBase():
            yield from _features(datatype, layer.input_size, ((1, 1), (1,)))
        case nn.RNNCellBase():
            yield from _features(datatype, layer.input_size, ((1,), ()))
        case nn.MultiheadAttention():
            yield from _features(datatype, layer.embed_dim, ((1, 1), (1,)))
        case nn.Linear() | nn.LazyLinear():
            yield from _features(datatype, layer.in_features, ((1,), (1, 1), ()))
        case nn.Bilinear():
            yield from _features(datatype, layer.in1_features, ((1,),))
            yield from _features(datatype, layer.in2_features, ((1,),))
        case nn.modules.conv._ConvNd():  # noqa: SLF001 - the base class of all convolutions has no public name
            axes = len(layer.kernel_size)
            for length in _LENGTHS:
                if length <= _LARGEST[axes]:
                    shape = (1, layer.in_channels, *(length,) * axes)
                    yield Candidate(datatype, shape, tuple(range(2, 2 + axes)))
            yield from _features(datatype, layer.in_channels, ((1,), (1, 1)))
        case nn.modules.batchnorm._NormBase():  # noqa: SLF001 - likewise, of batch and instance normalisation
            yield from _features(datatype, layer.num_features, ((1,),))
            for axes in (1, 2, 3):
                yield Candidate(datatype, (1, layer.num_features, *(1,) * axes))


def _of_tensors(module: nn.Module) -> Iterator[Candidate]:
    """Shapes whose last axis, or the one before it, has a size that occurs in the module's own tensors."""
    tensors: list[Tensor] = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.ndim]
    datatype = next(_datatypes(module, floating=True), Datatype.FP32)
    for size in dict.fromkeys(size for tensor in tensors for size in reversed(tensor.shape) if size > 1):
        yield from _features(datatype, size, ((1,), (1, 1), ()))
        yield Candidate(datatype, (1, size, 1))


def _features(datatype: Datatype, size: int, leading: tuple[tuple[int, ...], ...]) -> Iterator[Candidate]:
    return (Candidate(datatype, (*axes, size)) for axes in leading)


def _datatypes(module: nn.Module, *, floating: bool) -> Iterator[Datatype]:
    """The datatypes of the module's own tensors."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() is floating:
            with suppress(KeyError):
                yield of_tensor(tensor)
