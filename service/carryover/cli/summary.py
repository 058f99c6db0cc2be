"""A tensor in a few words: datatype, shape, size, mean and range."""

from dataclasses import dataclass

import torch
from torch import Tensor

from carryover.runtime.datatypes import Datatype
from carryover.runtime.forward import called

HEADINGS = ("DATATYPE", "SHAPE", "BYTES", "MEAN", "RANGE")
_REDUCED = {datatype.torch for datatype in Datatype} - {torch.bool}
"""What torch can add up and compare; not so float8, and unsigned integers of more than 8 bits."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A tensor in a few words. Mean and range are None where there is nothing to order."""

    datatype: str
    shape: tuple[int, ...]
    nbytes: int
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    finite: bool = True


def summary(tensor: Tensor) -> Summary:
    """Summarize a tensor; the mean of booleans is the share that is true."""
    datatype, shape, nbytes = called(tensor), tuple(tensor.shape), tensor.numel() * tensor.element_size()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if not tensor.numel() or tensor.is_complex() or tensor.is_quantized:
        return Summary(datatype, shape, nbytes)
    if tensor.dtype not in _REDUCED:
        tensor = tensor.to(torch.float64)
    minimum, maximum = (extreme.item() for extreme in tensor.aminmax())
    mean = tensor.sum(dtype=torch.float64).item() / tensor.numel()
    return Summary(datatype, shape, nbytes, mean, minimum, maximum, bool(tensor.isfinite().all()))


def cells(shown: Summary | None) -> list[str]:
    """Return a summary as the cells of a table under `HEADINGS`; None is a buffer that holds nothing yet."""
    if shown is None:
        return ["None", "", "0", "", ""]
    mean = "" if shown.mean is None else f"{shown.mean:.4g}"
    span = "" if shown.minimum is None else f"{shown.minimum:.4g} … {shown.maximum:.4g}"
    return [shown.datatype, str(list(shown.shape)), f"{shown.nbytes:,}", mean, span]


def hint(name: str) -> str:
    """Return what a tensor's name alone suggests; nothing for most."""
    last = name.rpartition(".")[2]
    known = last in ("running_mean", "running_var", "num_batches_tracked")
    return f"named like the {last} of a BatchNorm: a frozen buffer" if known else ""
