"""The binary tensor data extension, and bodies that are compressed."""

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.client import Client, Response, problem
from tests.support.open_inference import HEADER_LENGTH, described
from tests.support.service import Service

FOUR = np.arange(4, dtype="<f4").tobytes()


def send(client: Client, model: str, header: Any, tail: bytes = b"", length: str | None = None) -> Response:
    """Send a request with bytes after its JSON, and the JSON's length or what is said to be that."""
    start = json.dumps(header).encode()
    headers = {HEADER_LENGTH: str(len(start)) if length is None else length}
    return client.request("POST", f"/v2/models/{model}/infer", start + tail, headers)


def binary(size: int, shape: list[int], datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    """An input whose bytes follow."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def parts(answer: Response) -> tuple[Any, bytes]:
    """The JSON of a response, and the bytes after it."""
    assert answer.status == 200, answer.body
    assert answer.headers.get_content_type() == "application/octet-stream"
    length = int(answer.headers[HEADER_LENGTH])
    return json.loads(answer.body[:length]), answer.body[length:]


def test_bytes_in_json_out(client: Client) -> None:
    answer = send(client, "identity-fp32-0", {"inputs": [binary(16, [4])]}, FOUR)
    assert answer.expect()["outputs"] == [{"name": "x", "datatype": "FP32", "shape": [4], "data": [0, 1, 2, 3]}]
    assert HEADER_LENGTH not in answer.headers


def test_json_in_bytes_out(client: Client) -> None:
    body = {"inputs": [described([0, 1, 2, 3])], "parameters": {"binary_data_output": True}}
    header, tail = parts(client.post("/v2/models/identity-fp32-0/infer", body))
    assert header["outputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}}
    ]
    assert tail == FOUR


def test_bytes_and_json_mixed_both_ways(client: Client) -> None:
    index = np.array([1, 0], "<i8").tobytes()
    x = np.array([[1, 2], [3, 4]], "<f4").tobytes()
    inputs = [
        binary(16, [2], "INT64", "index"),
        described([True, False], datatype="BOOL", name="flag"),
        binary(16, [2, 2]),
    ]
    outputs = [{"name": "kept", "parameters": {"binary_data": True}}, {"name": "chosen"}]
    header, tail = parts(send(client, "mixed", {"inputs": inputs, "outputs": outputs}, index + x))
    kept, chosen = header["outputs"]
    assert kept == {"name": "kept", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}}
    assert chosen["data"] == [2.0, 3.0]
    assert tail == np.array([1, -1], "<i8").tobytes()


def test_an_output_overrides_what_is_said_of_all(client: Client) -> None:
    outputs = [{"name": "positive"}, {"name": "x", "parameters": {"binary_data": False}}]
    body = {"inputs": [described([3.0])], "outputs": outputs, "parameters": {"binary_data_output": True}}
    header, tail = parts(client.post("/v2/models/pair/infer", body))
    assert [output.get("data") for output in header["outputs"]] == [None, [6.0]]
    assert tail == b"\1"


def test_a_body_that_is_one_tensor_and_nothing_else(client: Client) -> None:
    path = "/v2/models/identity-fp32-1/infer"
    data = np.arange(6, dtype="<f4").tobytes()
    header, tail = parts(client.request("POST", path, data, {HEADER_LENGTH: "0"}))
    assert header["outputs"][0]["shape"] == [2, 3]
    assert tail == data
    for body in (b"", data[:-1], data[:8]):
        text = problem(client.request("POST", path, body, {HEADER_LENGTH: "0"}), 400)
        assert "input byte size mismatch for input 'x'" in text
    for model, word in (("mixed", "must only have 1 input"), ("identity-fp32-5", "can not be deduced")):
        text = problem(client.request("POST", f"/v2/models/{model}/infer", data, {HEADER_LENGTH: "0"}), 400)
        assert word in text


@pytest.mark.parametrize(
    ("inputs", "tail", "sentence"),
    [
        ([binary(12, [4])], FOUR, "for input 'x' for model 'identity-fp32-0'. Expected 16, got 12"),
        ([binary(20, [4])], FOUR, "Expected 16, got 20"),
        ([binary(16, [4])], FOUR[:-1], "unexpected size for input 'x', expecting 1 additional bytes"),
        ([binary(16, [4])], b"", "unexpected size for input 'x', expecting 16 additional bytes"),
        ([binary(16, [4])], FOUR + b"\0", "unexpected additional input data for model 'identity-fp32-0'"),
        ([described([1.0])], FOUR, "unexpected additional input data for model 'identity-fp32-0'"),
        ([binary(-16, [4])], FOUR, "binary_data_size"),
        ([binary(2**62 * 4, [2**62])], FOUR, "unexpected size for input 'x'"),
        ([binary(16, [2**62])], FOUR, "input byte size mismatch"),
        ([binary(16, [4], "INT32")], FOUR, "data-type is 'INT32'"),
        ([binary(16, [2, 2])], FOUR, "unexpected shape for input 'x'"),
    ],
)  # fmt: skip
def test_sizes_that_lie_are_rejected(client: Client, inputs: list[Any], tail: bytes, sentence: str) -> None:
    assert sentence in problem(send(client, "identity-fp32-0", {"inputs": inputs}, tail), 400)


@pytest.mark.parametrize("length", ["-1", "1e2", "", "x", "9" * 30, "0" * 5000, "100000"])
def test_header_lengths_that_lie_are_rejected(client: Client, length: str) -> None:
    body = {"inputs": [described([1.0])]}
    answer = send(client, "identity-fp32-0", body, length=length)
    assert "eader" in problem(answer, 400)


def test_a_header_length_that_cuts_the_json_is_rejected(client: Client) -> None:
    body = {"inputs": [described([1.0])]}
    assert "not JSON" in problem(send(client, "identity-fp32-0", body, length="10"), 400)


def test_a_byte_that_is_no_boolean_becomes_one(client: Client) -> None:
    header = {"inputs": [binary(4, [4], "BOOL")], "parameters": {"binary_data_output": True}}
    assert parts(send(client, "identity-bool-0", header, b"\0\1\2\xff"))[1] == b"\0\1\1\1"


def test_bytes_need_not_begin_at_a_multiple_of_their_size(client: Client) -> None:
    data = np.arange(5, dtype="<f8").tobytes()
    for padding in range(8):
        header = {"id": "x" * padding, "inputs": [binary(40, [5], "FP64")], "parameters": {"binary_data_output": True}}
        assert parts(send(client, "identity-fp64-0", header, data))[1] == data


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
BODY = json.dumps({"inputs": [described(list(range(1000)))]}).encode()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_both_ways(client: Client, encoding: str) -> None:
    headers = {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    path = "/v2/models/identity-fp32-0/infer"
    answer = client.request("POST", path, PACK[encoding](BODY), headers)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Encoding"] == encoding
    assert "Accept-Encoding" in answer.headers["Vary"]
    plain = gzip.decompress(answer.body) if encoding == "gzip" else zlib.decompress(answer.body)
    assert json.loads(plain)["outputs"][0]["data"] == list(range(1000))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_binary_body_is_compressed_as_a_whole(client: Client, encoding: str) -> None:
    data = np.arange(1000, dtype="<f4").tobytes()
    start = json.dumps({"inputs": [binary(4000, [1000])], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Encoding": encoding, "Accept-Encoding": encoding, HEADER_LENGTH: str(len(start))}
    answer = client.request("POST", "/v2/models/identity-fp32-0/infer", PACK[encoding](start + data), headers)
    plain = gzip.decompress(answer.body) if encoding == "gzip" else zlib.decompress(answer.body)
    assert plain[int(answer.headers[HEADER_LENGTH]) :] == data


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("identity", None),
        ("identity, gzip;q=0.1", None),
        ("", None),
    ],
)
def test_the_response_is_compressed_as_its_client_accepts(client: Client, accepted: str, encoding: str | None) -> None:
    answer = client.request("POST", "/v2/models/identity-fp32-0/infer", BODY, {"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == encoding


def test_small_responses_and_errors_are_not_compressed(client: Client) -> None:
    small = json.dumps({"inputs": [described([1.0])]}).encode()
    for body, status in ((small, 200), (b"{}", 400)):
        answer = client.request("POST", "/v2/models/identity-fp32-0/infer", body, {"Accept-Encoding": "gzip"})
        assert answer.status == status
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_a_body_may_expand_to_is_bounded(client: Client, encoding: str) -> None:
    bomb = PACK[encoding](bytes(64 * 2**20))
    assert len(bomb) < 2**17
    headers = {"Content-Encoding": encoding}
    text = problem(client.request("POST", "/v2/models/identity-fp32-0/infer", bomb, headers), 413)
    assert "MAX_BODY_BYTES" in text


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_and_cut_bodies_are_rejected(client: Client, encoding: str) -> None:
    path, headers = "/v2/models/identity-fp32-0/infer", {"Content-Encoding": encoding}
    whole = PACK[encoding](BODY)
    for body in (BODY, b"", whole[:-1], whole[: len(whole) // 2], whole + b"rest", whole[:-4] + bytes(4)):
        problem(client.request("POST", path, body, headers), 400)


def test_a_body_is_compressed_in_one_piece(client: Client) -> None:
    body = gzip.compress(BODY[:50]) + gzip.compress(BODY[50:])
    path = "/v2/models/identity-fp32-0/infer"
    problem(client.request("POST", path, body, {"Content-Encoding": "gzip"}), 400)
    many = gzip.compress(b"") * 500_000
    problem(client.request("POST", path, many, {"Content-Encoding": "gzip"}), 400)


def test_other_compressions_are_said_to_be_unsupported(client: Client) -> None:
    path = "/v2/models/identity-fp32-0/infer"
    assert "br" in problem(client.request("POST", path, BODY, {"Content-Encoding": "br"}), 415)
    assert client.request("POST", path, BODY, {"Content-Encoding": "identity"}).status == 200


def test_strings_have_their_lengths_before_them(client: Client) -> None:
    outputs = [{"name": "x", "parameters": {"classification": 2, "binary_data": True}}]
    body = {"inputs": [described([[1.0, 5.0, 10.0]])], "outputs": outputs}
    header, tail = parts(client.post("/v2/models/identity-fp32-1/infer", body))
    assert header["outputs"][0] == {
        "name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(tail)},
    }  # fmt: skip
    assert tail == struct.pack("<I6sI5s", 6, b"10.0:2", 5, b"5.0:1")


def test_a_long_body_that_is_damaged_is_no_error_of_the_service(service: Service, client: Client) -> None:
    before = len(service.err())
    for encoding in PACK:
        body = client.request("POST", "/v2/models/sum/infer", b"x" * 1000, {"Content-Encoding": encoding})
        assert encoding in problem(body, 400)
    assert "Traceback" not in service.err()[before:]
