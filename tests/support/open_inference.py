"""The Open Inference Protocol from outside: NVIDIA's client, unmodified, and the protocol's own description."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import yaml
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from tritonclient.utils import np_to_triton_dtype

from tests.support.client import Client, Response
from tests.support.service import Service

HEADER_LENGTH = "Inference-Header-Content-Length"
_DOCUMENT = yaml.safe_load((Path(__file__).parent / "open_inference_rest.yaml").read_text())
_REGISTRY: Registry[Any] = Registry().with_resource("urn:protocol", DRAFT202012.create_resource(_DOCUMENT))


def conforms(kind: str, value: Any) -> Any:
    """Return a value that the protocol's OpenAPI document describes under this name."""
    schema = {"$ref": f"urn:protocol#/components/schemas/{kind}"}
    Draft202012Validator(schema, registry=_REGISTRY).validate(value)
    return value


@contextmanager
def connected(service: Service, concurrency: int = 1) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client, connected to a service."""
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}", concurrency=concurrency)
    try:
        yield client
    finally:
        client.close()


def tensor(array: NDArray[Any], name: str = "x", *, binary: bool = True) -> Any:
    """An input of NVIDIA's client."""
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return given.set_data_from_numpy(array, binary_data=binary)


def wanted(name: str, *, binary: bool = True, classes: int = 0) -> Any:
    """An output that NVIDIA's client asks for."""
    return triton.InferRequestedOutput(name, binary_data=binary, class_count=classes)


def described(
    data: Any, shape: list[Any] | None = None, datatype: str = "FP32", name: str = "x", **more: Any
) -> dict[str, Any]:
    """An input as JSON; its shape is that of `data`, where none is given."""
    return {
        "name": name,
        "shape": list(np.shape(data)) if shape is None else shape,
        "datatype": datatype,
        "data": data,
    } | more


def infer(client: Client, model: str, *inputs: dict[str, Any], **more: Any) -> Response:
    """Send an inference request as JSON."""
    return client.post(f"/v2/models/{model}/infer", {"inputs": list(inputs), **more})
