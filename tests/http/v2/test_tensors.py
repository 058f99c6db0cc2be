"""What goes in comes out, bit for bit: tensors of every datatype and shape, through identity modules."""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from tests.support.client import Client
from tests.support.open_inference import HEADER_LENGTH, conforms, connected, tensor, wanted
from tests.support.repository import DATATYPES, SHAPES
from tests.support.service import Service

NUMPY: dict[str, "np.dtype[Any]"] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
    "INT16": np.dtype("<i2"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@st.composite
def tensors(draw: DrawFn) -> tuple[str, NDArray[Any]]:
    """A tensor of any bits that are finite, and the identity model that takes it."""
    datatype, index = draw(st.sampled_from(DATATYPES)), draw(st.integers(0, len(SHAPES) - 1))
    shape = [draw(st.integers(1, 4)) if size == -1 else size for size in SHAPES[index]]
    element, count = NUMPY[datatype], math.prod(shape)
    if datatype == "BOOL":
        values = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    else:
        size = count * element.itemsize
        values = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), element)
        if datatype in ("FP64", "FP32", "FP16", "BF16"):
            with np.errstate(invalid="ignore"):
                values = np.where(np.isfinite(values.astype(np.float64)), values, element.type(-0.0))
    return f"identity-{datatype.lower()}-{index}", values.reshape(shape)


def plain(array: NDArray[Any]) -> Any:
    """A tensor as JSON has it."""
    return (array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array).tolist()


def exchange(client: Client, model: str, array: NDArray[Any], *, sent: str, asked_binary: bool) -> NDArray[Any]:
    """Send a tensor as `nested` or `flat` JSON or as `binary`, and return what comes back."""
    datatype = model.split("-")[1].upper()
    one: dict[str, Any] = {"name": "x", "shape": list(array.shape), "datatype": datatype}
    tail = b""
    if sent == "binary":
        tail = array.tobytes()
        one["parameters"] = {"binary_data_size": len(tail)}
    else:
        one["data"] = plain(array if sent == "nested" and array.ndim else array.reshape(-1))
    start = json.dumps({"inputs": [one], "parameters": {"binary_data_output": asked_binary}}).encode()
    answer = client.request("POST", f"/v2/models/{model}/infer", start + tail, {HEADER_LENGTH: str(len(start))})
    assert answer.status == 200, answer.body
    if not asked_binary:
        (output,) = conforms("inference_response", answer.json)["outputs"]
        found = np.array(output["data"], NUMPY[datatype])
    else:
        length = int(answer.headers[HEADER_LENGTH])
        (output,) = json.loads(answer.body[:length])["outputs"]
        found = np.frombuffer(answer.body[length:], NUMPY[datatype])
    assert (output["name"], output["datatype"], output["shape"]) == ("x", datatype, list(array.shape))
    return found


@given(drawn=tensors(), sent=st.sampled_from(["nested", "flat", "binary"]), asked=st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_tensor_comes_back_bit_for_bit(
    identity_service: Service, drawn: tuple[str, NDArray[Any]], sent: str, asked: bool
) -> None:
    model, array = drawn
    with identity_service.client() as client:
        assert exchange(client, model, array, sent=sent, asked_binary=asked).tobytes() == array.tobytes()


@given(
    drawn=tensors(),
    sent=st.booleans(),
    asked=st.booleans(),
    packed=st.sampled_from([None, "gzip", "deflate"]),
    unpacked=st.sampled_from([None, "gzip", "deflate"]),
)
@settings(max_examples=150, deadline=None)
def test_nvidias_client_gets_back_what_it_sends(  # noqa: PLR0913
    identity_service: Service,
    *,
    drawn: tuple[str, NDArray[Any]],
    sent: bool,
    asked: bool,
    packed: str | None,
    unpacked: str | None,
) -> None:
    model, array = drawn
    # The client itself sends BF16 as bytes only.
    sent = sent or array.dtype == ml_dtypes.bfloat16
    with connected(identity_service) as client:
        result = client.infer(
            model,
            [tensor(array, binary=sent)],
            outputs=[wanted("x", binary=asked)],
            request_compression_algorithm=packed,
            response_compression_algorithm=unpacked,
        )
    found = result.as_numpy("x")
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
