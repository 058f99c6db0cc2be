"""KServe's own client: byte for byte what `kserve.InferenceRESTClient` 0.21.0 sends, which is not installed here.

It brings 450 MB with it (Kubernetes' client, gRPC, pandas) and wants an older psutil than these tests.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.calls import fresh
from tests.support.client import Client, Response, problem
from tests.support.connections import Wire
from tests.support.open_inference import HEADER_LENGTH
from tests.support.service import Service

_HEADERS = (
    b"Host: 127.0.0.1:8000\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"User-Agent: python-httpx/0.28.1\r\n"
)
PAIR = np.array([1, -2], "<f4").tobytes()


@pytest.fixture
def kserve(service: Service) -> Iterator[Wire]:
    """A connection of the client, which keeps it for all that it sends."""
    wire = Wire(service.port)
    yield wire
    wire.close()


def get(kserve: Wire, path: str) -> Response:
    """Ask as `is_server_ready`, `is_server_live` and `is_model_ready` do."""
    kserve.send(b"GET %s HTTP/1.1\r\n%s\r\n" % (path.encode(), _HEADERS))
    return kserve.response()


def infer(kserve: Wire, path: str, body: bytes, length: int | None = None) -> Response:
    """Ask as `infer` does; `length` is that of the JSON, where an input's bytes follow it."""
    said = b"content-type: application/json\r\n"
    if length is not None:
        said = b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n" % length
    kserve.send(
        b"POST %s HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n%s" % (path.encode(), _HEADERS, said, len(body), body)
    )
    return kserve.response()


def test_the_servers_health(kserve: Wire) -> None:
    assert get(kserve, "/v2/health/ready").expect()["ready"] is True
    assert get(kserve, "/v2/health/live").expect()["live"] is True
    # What `is_server_live` asks where it is told to speak the first version of the protocol.
    assert get(kserve, "/").expect()["status"] == "alive"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_models_readiness(kserve: Wire, version: str) -> None:
    rest = "/ready" if version == "v2" else ""
    assert get(kserve, f"/{version}/models/digits-rnn{rest}").expect()["ready"] is True
    problem(get(kserve, f"/{version}/models/nope{rest}"), 404)


def test_the_first_versions_predictions(kserve: Wire) -> None:
    answer = infer(kserve, "/v1/models/pair:predict", b'{"instances":[1.0,-2.0]}')
    assert answer.expect()["predictions"] == [{"x": 2.0, "positive": True}, {"x": -4.0, "positive": False}]


def test_inference_with_bytes_both_ways(kserve: Wire) -> None:
    start = (
        b'{"id":"one","model_name":"pair","inputs":[{"name":"x","shape":[2],"datatype":"FP32",'
        b'"parameters":{"binary_data_size":8}}],"outputs":[{"name":"positive","parameters":{"binary_data":true}}]}'
    )
    assert len(start) == 188
    answer = infer(kserve, "/v2/models/pair/infer", start + PAIR, 188)
    assert answer.status == 200, answer.body
    head, tail = _parts(answer)
    assert (head["id"], head["outputs"][0]["parameters"]) == ("one", {"binary_data_size": 2})
    assert tail == b"\1\0"


def test_inference_with_json_both_ways(kserve: Wire) -> None:
    body = (
        b'{"id":"one","model_name":"pair","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.0,-2.0]}],'
        b'"outputs":[{"name":"positive","parameters":{"binary_data":false}}]}'
    )
    answer = infer(kserve, "/v2/models/pair/infer", body).expect()
    assert answer["id"] == "one"
    assert answer["outputs"] == [{"name": "positive", "datatype": "BOOL", "shape": [2], "data": [True, False]}]


def test_a_sequence(kserve: Wire, client: Client) -> None:
    name = fresh()
    for step, flag in enumerate((b"sequence_start", b"own", b"sequence_end"), 1):
        start = (
            b'{"id":"two","model_name":"sum","inputs":[{"name":"x","shape":[2],"datatype":"FP32",'
            b'"parameters":{"binary_data_size":8}}],'
            b'"parameters":{"sequence_id":"%s","%s":true,"binary_data_output":true}}' % (name.encode(), flag)
        )
        answer = infer(kserve, "/v2/models/sum/infer", start + PAIR, len(start))
        assert answer.status == 200, answer.body
        head, tail = _parts(answer)
        assert head["parameters"] == {"sequence_id": name, "step": step}
        assert np.frombuffer(tail, "<f4").tolist() == [-1.0 * step]
        assert client.get(f"/v1/models/sum/sessions/{name}").status == (410 if step == 3 else 200)
    text = problem(infer(kserve, "/v2/models/sum/infer", start + PAIR, len(start)), 400)
    assert "must specify the START flag" in text


def _parts(answer: Response) -> tuple[Any, bytes]:
    """The JSON of a response, and the bytes after it."""
    length = int(answer.headers[HEADER_LENGTH])
    return json.loads(answer.body[:length]), answer.body[length:]
