"""The figures of a tensor that a person looks at: datatype, shape, size, mean and range."""

from dataclasses import dataclass

import torch
from torch import Tensor

from carryover.runtime.datatypes import Datatype, of_tensor


@dataclass(frozen=True, slots=True)
class Figures:
    """A tensor in a few words; `nbytes` in bytes. Mean and range are None where there is nothing to order."""

    datatype: str
    shape: tuple[int, ...]
    nbytes: int
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    finite: bool = True


def figures(tensor: Tensor) -> Figures:
    """Return a tensor's figures; the mean of booleans is the share that is true."""
    datatype, shape, nbytes = name(tensor), tuple(tensor.shape), tensor.numel() * tensor.element_size()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if not tensor.numel() or tensor.is_complex() or tensor.is_quantized:
        return Figures(datatype, shape, nbytes)
    if tensor.dtype not in _REDUCED:
        tensor = tensor.to(torch.float64)
    minimum, maximum = tensor.aminmax()
    return Figures(
        datatype,
        shape,
        nbytes,
        mean=tensor.sum(dtype=torch.float64).item() / tensor.numel(),
        minimum=minimum.item(),
        maximum=maximum.item(),
        finite=bool(tensor.isfinite().all()),
    )


_REDUCED = {datatype.torch for datatype in Datatype} - {torch.bool}
"""What torch can add up and compare; not so float8, and unsigned integers of more than 8 bits."""


def name(tensor: Tensor) -> str:
    """Return the Open Inference Protocol's name of a tensor's datatype, or torch's where that has none."""
    try:
        return of_tensor(tensor).name
    except KeyError:
        return str(tensor.dtype).removeprefix("torch.")


def cells(shown: Figures | None) -> list[str]:
    """Return datatype, shape, size, mean and range as a table's cells; None is a buffer that holds nothing yet."""
    if shown is None:
        return ["None", "", "0", "", ""]
    mean = "" if shown.mean is None else f"{shown.mean:.4g}"
    span = "" if shown.minimum is None else f"{shown.minimum:.4g} … {shown.maximum:.4g}"
    return [shown.datatype, str(list(shown.shape)), f"{shown.nbytes:,}", mean, span]


HEADINGS = ("DATATYPE", "SHAPE", "BYTES", "MEAN", "RANGE")
"""Of `cells`."""
