"""The datatypes of the Open Inference Protocol and what they are in torch and numpy.

Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types".
"""

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import (
    Tensor,
    bfloat16,
    dtype,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from torch import (
    bool as torch_bool,
)

Array = NDArray[Any]


class Datatype(Enum):
    """A datatype by its protocol name, with `.torch`, `.numpy` and `.carrier`.

    `.numpy` is the type of the arrays that carry values to and from the model. numpy has no bfloat16: BF16 travels
    as float32, which holds every one of its values; to the model it may also go as bit patterns in uint16. `.carrier`
    has the bytes of a tensor as they are stored: BF16 as its 16 bits.

    States are stored with a datatype's place in this list: a new one goes to the end.
    """

    FP64 = (float64, np.dtype("<f8"))
    FP32 = (float32, np.dtype("<f4"))
    FP16 = (float16, np.dtype("<f2"))
    BF16 = (bfloat16, np.dtype("float32"))
    INT64 = (int64, np.dtype("<i8"))
    INT32 = (int32, np.dtype("<i4"))
    INT16 = (int16, np.dtype("<i2"))
    INT8 = (int8, np.dtype("i1"))
    UINT8 = (uint8, np.dtype("u1"))
    BOOL = (torch_bool, np.dtype("?"))
    UINT16 = (uint16, np.dtype("<u2"))
    UINT32 = (uint32, np.dtype("<u4"))
    UINT64 = (uint64, np.dtype("<u8"))

    torch: dtype
    numpy: np.dtype[np.generic]
    carrier: np.dtype[np.generic]
    kind: str

    def __init__(self, torch_dtype: dtype, numpy_dtype: np.dtype[np.generic]) -> None:
        self.torch = torch_dtype
        self.numpy = numpy_dtype
        self.carrier = np.dtype("<i2") if torch_dtype is bfloat16 else numpy_dtype
        self.kind = "float" if torch_dtype.is_floating_point else {"b": "bool"}.get(numpy_dtype.kind, "int")


_BY_TORCH = {datatype.torch: datatype for datatype in Datatype}


def of_tensor(tensor: Tensor) -> Datatype:
    """Return the protocol's name for a tensor's dtype; KeyError where it has none (complex, quantized)."""
    return _BY_TORCH[tensor.dtype]
