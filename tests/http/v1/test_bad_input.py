"""What is wrong with a request is said in one sentence, with the right status, and changes nothing."""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from tests.support.client import JSON, NDJSON, Client, Response, problem, sentence
from tests.support.connections import Stream, Wire
from tests.support.service import Service

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
MEGABYTE = 2**20


def text_of(instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def number(digits: str) -> bytes:
    return b'{"instances":[[1,2,3,4,5,6,7,' + digits.encode() + b"]]}"


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "JSON"),
    "not-json": (b"instances: 1", "JSON"),
    "cut-off": (b'{"instances":[[1,2,3,4', "JSON"),
    "two-values": (text_of([ROW]) + text_of([ROW]), "JSON"),
    "single-quotes": (b"{'instances':[]}", "JSON"),
    "trailing-comma": (b'{"instances":[[1,2,3,4,5,6,7,8],]}', "JSON"),
    "comment": (b'{"instances":[]} // none', "JSON"),
    "invalid-utf-8": (b'{"instances":["\xff\xfe"]}', "JSON"),
    "utf-16": (text_of([ROW]).decode().encode("utf-16"), "JSON"),
    "lone-surrogate": (b'{"instances":["\\ud800"]}', ""),
    "deep": (b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
    "rather-deep": (b'{"instances":' + b"[" * 150 + b"1" + b"]" * 150 + b"}", "shape"),
    "deep-objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, ""),
    "list": (b"[[1,2,3,4,5,6,7,8]]", "object"),
    "string": (b'"instances"', "object"),
    "number": (b"1", "object"),
    "null": (b"null", "object"),
    "no-field": (b"{}", "'instances'"),
    "unknown-field": (b'{"instances":[[1,2,3,4,5,6,7,8]],"signature":"x"}', "'signature'"),
    "misspelt-field": (b'{"instance":[[1,2,3,4,5,6,7,8]]}', "instance"),
    "instances-object": (b'{"instances":{"rows":[1]}}', "list"),
    "instances-number": (b'{"instances":1}', "list"),
    "instances-null": (b'{"instances":null}', "list"),
    "instances-string": (b'{"instances":"[[1,2,3,4,5,6,7,8]]"}', "list"),
    "no-instances": (text_of([]), "empty"),
    "scalar-instance": (text_of([1]), "shape"),
    "empty-instance": (text_of([[]]), "shape"),
    "empty-row": (text_of([[[]]]), "shape"),
    "too-few-features": (text_of([ROW[:7]]), "[8]"),
    "too-many-features": (text_of([[*ROW, 9]]), "[8]"),
    "too-many-dimensions": (text_of([[[ROW]]]), "[8]"),
    "other-arrangement": (text_of([[[value] for value in ROW]]), "[8]"),
    "two-rows-in-one": (text_of([[ROW, ROW]]), "[8]"),
    "ragged": (text_of([ROW, ROW[:7]]), "instances[1]"),
    "ragged-inside": (text_of([[ROW], [ROW[:5]]]), "instances[1]"),
    "ragged-depth": (text_of([ROW, [ROW]]), ""),
    "ragged-leaf": (text_of([[1, 2, 3, 4, 5, 6, 7, [8]]]), "instances[0][7]"),
    "mixed": (text_of([ROW, 1]), "instances["),
    "string-leaf": (text_of([[1, 2, 3, 4, 5, 6, 7, "8"]]), "instances[0][7]"),
    "null-leaf": (text_of([[1, 2, 3, 4, 5, 6, 7, None]]), "instances[0][7]"),
    "boolean-leaf": (text_of([[1, 2, 3, 4, 5, 6, 7, True]]), "instances[0][7]"),
    "object-leaf": (text_of([ROW, [1, 2, 3, 4, 5, 6, 7, {"a": 1}]]), "instances[1][7]"),
    "object-instance": (text_of([{"pixels": ROW}]), "instances[0]"),
    "object-with-more": (text_of([{"rows": ROW, "columns": ROW}]), "instances[0]"),
    "nan": (number("NaN"), ""),
    "infinity": (number("Infinity"), ""),
    "minus-infinity": (number("-Infinity"), ""),
    "1e999": (number("1e999"), "finite"),
    "-1e999": (number("-1e999"), "finite"),
    "beyond-fp32": (number("1e39"), "FP32"),
    "10**400": (number("1" + "0" * 400), ""),
    "-10**400": (number("-1" + "0" * 400), ""),
    "10**4400": (number("1" + "0" * 4400), ""),
    "10**100000": (number("1" + "0" * 100_000), ""),
    "hexadecimal": (number("0x10"), "JSON"),
    "leading-zero": (number("010"), "JSON"),
    "leading-plus": (number("+1"), "JSON"),
}
bodies = pytest.mark.parametrize(("body", "word"), BODIES.values(), ids=BODIES.keys())
INSTANCES = {
    name: (body.removeprefix(b'{"instances":').removesuffix(b"}"), word)
    for name, (body, word) in BODIES.items()
    if body.startswith(b'{"instances":') and name not in ("unknown-field", "two-values", "cut-off", "comment")
}
LINES = {name: (body, word) for name, (body, word) in BODIES.items() if body and b"\n" not in body}


@bodies
def test_a_bad_body_is_400_for_a_prediction(client: Client, body: bytes, word: str) -> None:
    assert word in problem(client.post("/v1/models/digits-rnn:predict", body), 400)


@bodies
def test_a_bad_body_is_400_for_a_step_and_leaves_no_trace(client: Client, session: str, body: bytes, word: str) -> None:
    assert word in problem(client.post(f"{session}:predict", body), 400)
    assert client.step_of(session) == 1


@pytest.mark.parametrize(("body", "word"), LINES.values(), ids=LINES.keys())
def test_a_bad_line_is_400_in_a_stream_and_leaves_no_trace(
    service: Service, client: Client, session: str, body: bytes, word: str
) -> None:
    stream = service.stream(session)
    stream.send(body + b"\n")
    assert word in sentence(stream.line(), 400)
    stream.close()
    assert client.step_of(session) == 1


@pytest.mark.parametrize(("instances", "word"), INSTANCES.values(), ids=INSTANCES.keys())
def test_bad_instances_are_400_among_many_sessions(client: Client, session: str, instances: bytes, word: str) -> None:
    name, good = session.rpartition("/")[2], client.create("digits-rnn").rpartition("/")[2]
    asked = b'{"sessions":{"%s":%s,"%s":%s}}' % (name.encode(), instances, good.encode(), json.dumps([ROW]).encode())
    answer = client.post("/v1/models/digits-rnn/sessions:predict", asked)
    if answer.status == 200:
        entries = answer.json["sessions"]
        said = sentence(entries[name], 400)
        assert word in said or word == "list"
        assert entries[good]["step"] == 1
    else:
        problem(answer, 400)
    assert client.step_of(session) == 1


@pytest.fixture
def session(client: Client) -> Iterator[str]:
    """A session that is at step 1."""
    address = client.create("digits-rnn")
    client.step(address, [ROW])
    yield address
    # After whatever was refused, it goes on from where it stood.
    assert client.step(address, [ROW])["step"] == 2


DATATYPES: list[tuple[str, str]] = [
    ("fp64", "1e999"),
    ("fp64", "1" + "0" * 400),
    ("fp64", '"1"'),
    ("fp64", "true"),
    ("fp16", "65520"),
    ("fp16", "-1e10"),
    ("bf16", "3.4e38"),
    ("bf16", "1e39"),
    ("int64", "9223372036854775808"),
    ("int64", "-9223372036854775809"),
    ("int64", "1e300"),
    ("int64", "1e999"),
    ("int64", "1.5"),
    ("int64", "NaN"),
    ("int64", "true"),
    ("int64", '"1"'),
    ("int64", "1" + "0" * 400),
    ("int32", "2147483648"),
    ("int16", "-32769"),
    ("int8", "128"),
    ("int8", "1e-3"),
    ("uint8", "-1"),
    ("uint8", "256"),
    ("uint8", "-0.5"),
    ("bool", "1"),
    ("bool", "0"),
    ("bool", '"true"'),
    ("bool", "null"),
]


@pytest.mark.parametrize(("datatype", "value"), DATATYPES, ids=[f"{d}-{v[:12]}" for d, v in DATATYPES])
def test_a_value_that_its_datatype_cannot_hold_is_rejected(client: Client, datatype: str, value: str) -> None:
    body = f'{{"instances":[{"false" if datatype == "bool" else "1"},{value}]}}'.encode()
    assert "instances[1]" in problem(client.post(f"/v1/models/identity-{datatype}-0:predict", body), 400)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("fp64", [1.7976931348623157e308, -5e-324, 0.1, 2**53 + 2]),
        ("fp32", [3.4028234663852886e38, 16777216]),
        ("fp16", [65504, -65504, 0.5]),
        ("bf16", [3.3895313892515355e38, 256]),
        ("int64", [9223372036854775807, -9223372036854775808, 9007199254740993]),
        ("int32", [2147483647, -2147483648]),
        ("int16", [32767, -32768]),
        ("int8", [127, -128]),
        ("uint8", [255, 0]),
        ("bool", [True, False]),
    ],
)
def test_a_datatypes_extreme_values_pass_unchanged(client: Client, datatype: str, values: list[Any]) -> None:
    # JSON has the shortest decimal that names the value.
    numbers = np.array(client.predict(f"identity-{datatype}-0", values))
    kind = np.float32 if datatype in ("fp32", "bf16") else numbers.dtype
    assert (numbers.astype(kind) == np.array(values, kind)).all()


def test_a_whole_number_may_be_written_as_a_float(client: Client) -> None:
    body = b'{"instances":[1.0,2e2,-3E0]}'
    assert client.post("/v1/models/identity-int64-0:predict", body).expect()["predictions"] == [1, 200, -3]


def test_a_key_given_twice_does_not_break_anything(client: Client, session: str) -> None:
    twice = b'{"instances":[[1,2]],"instances":[[1,2,3,4,5,6,7,8]]}'
    answer = client.post("/v1/models/digits-rnn:predict", twice)
    if answer.status == 200:
        assert answer.json["predictions"] == client.predict("digits-rnn", [ROW])
    else:
        problem(answer, 400)
    name = session.rpartition("/")[2]
    body = f'{{"sessions":{{"{name}":[[1]],"{name}":[["x"]]}}}}'.encode()
    entries = client.post("/v1/models/digits-rnn/sessions:predict", body)
    if entries.status == 200:
        sentence(entries.json["sessions"][name], 400)
    else:
        problem(entries, 400)


OBJECTS = [
    ([{"x": [1, 2], "index": 1}], "instances[0]"),
    ([{"x": [1, 2], "index": 1, "flag": True, "more": 1}], "instances[0]"),
    ([{"x": [1, 2], "index": 1, "flag": True}, {"x": [1, 2], "index": 1}], "instances[1]"),
    ([{"x": [1, 2], "index": 1, "flag": True}, [1, 2]], "instances[1]"),
    ([[1, 2]], "instances[0]"),
    ([{"x": [1, 2], "index": 1, "flag": 1}], "instances[0].flag"),
    ([{"x": [1, 2], "index": 1.5, "flag": True}], "instances[0].index"),
    ([{"x": [1, "2"], "index": 1, "flag": True}], "instances[0].x[1]"),
    ([{"x": [1, 2, 3], "index": 1, "flag": True}], "'x'"),
    ([{"x": [1, 2], "index": [1, 0], "flag": True}], "'index'"),
]


@pytest.mark.parametrize(("instances", "word"), OBJECTS, ids=range(len(OBJECTS)))
def test_an_error_names_the_one_of_several_inputs_that_is_invalid(client: Client, instances: object, word: str) -> None:
    assert word in problem(client.post("/v1/models/mixed:predict", {"instances": instances}), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/nothing",
        "/v1/models/nothing:predict",
        "/v1/models/nothing/sessions",
        "/v1/models/nothing/sessions/a",
        "/v1/models/nothing/sessions/a:predict",
        "/v1/models/nothing/sessions:predict",
    ],
)
def test_an_unknown_model_is_404_and_the_sentence_names_those_there_are(client: Client, path: str) -> None:
    get = path.endswith(("nothing", "/a"))
    body = {"sessions": {"a": [ROW]}} if path.endswith("sessions:predict") else {"instances": [ROW]}
    answer = client.get(path) if get else client.post(path, {} if path.endswith("sessions") else body)
    text = problem(answer, 404)
    assert "'nothing'" in text
    assert "'digits-rnn'" in text


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/health",
        "/v1/models/",
        "/v1/models/sum/",
        "/v1/models/sum/x",
        "/v1//models",
        "/v1/models//sum",
    ],
)
def test_an_unknown_path_is_404(client: Client, path: str) -> None:
    answer = client.get(path)
    if answer.status != 200:
        problem(answer, 404)


BAD_NAMES = ["a b", "ü", "a:b", "x" * 129, "a\n", "a\0", "a,b", "{a}", "*", "%", "\U0001f600"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_bad_session_name_is_rejected(client: Client, name: str) -> None:
    text = problem(client.post("/v1/models/sum/sessions", {"session": name}), 400)
    assert "1 to 128" in text
    place = f"/v1/models/sum/sessions/{quote(name)}"
    for answer in (client.get(place), client.delete(place), client.post(f"{place}:predict", {"instances": [1]})):
        problem(answer, 400)
    entries = client.post("/v1/models/sum/sessions:predict", {"sessions": {name: [1]}}).expect()["sessions"]
    sentence(entries[name], 400)


@pytest.mark.parametrize("name", ["", "a/b", "/", "../a"])
def test_a_session_name_with_a_slash_or_none_is_rejected(client: Client, name: str) -> None:
    if name:
        problem(client.post("/v1/models/sum/sessions", {"session": name}), 400)
    place = f"/v1/models/sum/sessions/{quote(name, safe='')}"
    for answer in (client.get(place), client.delete(place), client.post(f"{place}:predict", {"instances": [1]})):
        assert answer.status in (400, 404, 405)
        problem(answer, answer.status)


@pytest.mark.parametrize(
    "path", ["//v1/models", "///v1/models", "/v1//models", "/v1/models/", "//metrics", "/%2fmetrics"]
)
def test_a_path_with_a_slash_too_many_does_not_exist(client: Client, path: str) -> None:
    assert client.get(path).status == 404
    assert client.request("OPTIONS", path).status == 404


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "%2e%2e", "a%00b", "%ff%fe", "sum%20", "-sum", "x" * 3000])
def test_a_bad_model_name_is_404(client: Client, name: str) -> None:
    problem(client.post(f"/v1/models/{name}:predict", {"instances": [1]}), 404)
    problem(client.get(f"/v1/models/{name}"), 404)


CREATE: list[tuple[object, str]] = [
    ({"ttl": 0}, "ttl"),
    ({"ttl": -1}, "ttl"),
    ({"ttl": 1.5}, "ttl"),
    ({"ttl": "60"}, "ttl"),
    ({"ttl": "x"}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"ttl": []}, "ttl"),
    ({"ttl": 10**10}, "ttl"),
    ({"ttl": 2**63}, "ttl"),
    ({"ttl": 10**400}, "ttl"),
    (b'{"ttl":NaN}', ""),
    (b'{"ttl":1e999}', ""),
    ({"session": 1}, "session"),
    ({"session": ["a"]}, "session"),
    ({"session": ""}, "session"),
    (b'{"session":"\\ud800"}', ""),
    ({"name": "a"}, "'name'"),
    ({"session": "a", "ttl": 60, "model": "x"}, "'model'"),
    ([], "object"),
    (b"null", "object"),
    (b"{", "JSON"),
    (b" ", "JSON"),
]


@pytest.mark.parametrize(("body", "word"), CREATE, ids=[str(body)[:20] for body, _ in CREATE])
def test_a_bad_creation_is_rejected(client: Client, body: object, word: str) -> None:
    assert word in problem(client.post("/v1/models/sum/sessions", body), 400)


def test_a_session_may_live_as_long_as_the_sentence_says(client: Client) -> None:
    longest = 10 * 365 * 24 * 3600
    assert client.post("/v1/models/sum/sessions", {"ttl": longest}).expect(201)["ttl"] == longest
    assert str(longest) in problem(client.post("/v1/models/sum/sessions", {"ttl": longest + 1}), 400)


MANY: list[tuple[object, str]] = [
    ({}, "'sessions'"),
    ({"sessions": {}}, "empty"),
    ({"sessions": []}, "object"),
    ({"sessions": None}, "object"),
    ({"sessions": {"a": [1]}, "model": 1}, "'model'"),
    ({"instances": [1]}, "sessions"),
    (b'{"sessions":{"\\ud800":[1]}}', ""),
]


@pytest.mark.parametrize(("body", "word"), MANY, ids=[str(body)[:30] for body, _ in MANY])
def test_a_bad_call_of_many_sessions_is_rejected(client: Client, body: object, word: str) -> None:
    assert word in problem(client.post("/v1/models/sum/sessions:predict", body), 400)


METHODS = [
    ("GET", "/v1/models/sum:predict", "POST"),
    ("PUT", "/v1/models/sum:predict", "POST"),
    ("DELETE", "/v1/models/sum:predict", "POST"),
    ("POST", "/v1/models", "GET"),
    ("POST", "/v1/models/sum", "GET"),
    ("DELETE", "/v1/models/sum", "GET"),
    ("PUT", "/v1/models/sum/sessions", "GET"),
    ("PATCH", "/v1/models/sum/sessions", "POST"),
    ("POST", "/v1/models/sum/sessions/a", "GET"),
    ("PATCH", "/v1/models/sum/sessions/a", "DELETE"),
    ("GET", "/v1/models/sum/sessions/a:predict", "POST"),
    ("DELETE", "/v1/models/sum/sessions/a:predict", "POST"),
    ("DELETE", "/v1/models/sum/sessions/a:stream", "POST"),
    ("GET", "/v1/models/sum/sessions:predict", "POST"),
    ("PUT", "/v1/accumulators/a", "POST"),
    ("PATCH", "/v1/accumulators/a", "DELETE"),
    ("POST", "/v2/health/live", "GET"),
    ("DELETE", "/v2/health/ready", "GET"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_a_wrong_method_is_405_with_those_allowed(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert allowed in problem(answer, 405)
    assert allowed in answer.headers["Allow"].split(", ")
    assert method not in answer.headers["Allow"].split(", ")


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "x"],
)
def test_a_wrong_media_type_is_415(client: Client, session: str, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    for path in ("/v1/models/digits-rnn:predict", f"{session}:predict", "/v1/models/digits-rnn/sessions:predict"):
        assert JSON in problem(client.request("POST", path, text_of([ROW]), headers), 415)
    assert JSON in problem(client.request("POST", "/v1/accumulators/media", b'{"values":[1]}', headers), 415)
    assert JSON in problem(client.request("POST", "/v1/models/digits-rnn/sessions", b'{"ttl":1}', headers), 415)
    assert client.step_of(session) == 1


@pytest.mark.parametrize(
    "media_type", [None, "application/json", "application/json; charset=utf-8", "Application/JSON", "application/json "]
)
def test_json_may_be_called_so_in_several_ways_or_not_at_all(client: Client, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    client.request("POST", "/v1/models/digits-rnn:predict", text_of([ROW]), headers).expect()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_body_is_415_where_none_is_read(client: Client, session: str, encoding: str) -> None:
    for path, kind, body in (
        ("/v1/models/digits-rnn:predict", JSON, text_of([ROW])),
        (f"{session}:predict", JSON, text_of([ROW])),
        ("/v1/models/digits-rnn/sessions:predict", JSON, b"{}"),
        ("/v1/models/digits-rnn/sessions", JSON, b"{}"),
        ("/v1/accumulators/compressed", JSON, b'{"values":[1]}'),
        (f"{session}:stream", NDJSON, text_of([ROW])),
    ):
        headers = {"Content-Type": kind, "Content-Encoding": encoding}
        assert encoding in problem(client.request("POST", path, gzip.compress(body), headers), 415)
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": encoding}
    problem(client.request("PUT", f"{session}/state", b"", headers), 415)
    assert client.step_of(session) == 1


def test_a_body_may_be_said_not_to_be_compressed(client: Client) -> None:
    headers = {"Content-Type": JSON, "Content-Encoding": "identity"}
    client.request("POST", "/v1/models/digits-rnn:predict", text_of([ROW]), headers).expect()


def chunks(megabytes: int) -> Iterator[bytes]:
    """A body that is right, but for its size: what is too much is its end."""
    yield text_of([ROW])
    for _ in range(megabytes):
        yield b" " * MEGABYTE
    yield b"{"


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
@pytest.mark.parametrize("path", [":predict", "/sessions/a:predict"])
def test_a_body_of_100_megabytes_is_413_to_a_client_that_sends_all_of_it(
    service: Service, framing: str, path: str
) -> None:
    body = chunks(100) if framing == "chunked" else b"".join(chunks(100))
    with service.client() as client:
        answer = client.request("POST", f"/v1/models/digits-rnn{path}", body, {"Content-Type": JSON})
        assert "MAX_BODY_BYTES" in problem(answer, 413)
    with service.client() as client:
        assert len(client.predict("digits-rnn", [ROW])) == 1


def test_a_chunked_body_over_the_limit_is_not_taken_for_its_beginning(client: Client, session: str) -> None:
    answer = client.request("POST", f"{session}:predict", chunks(17), {"Content-Type": JSON})
    assert client.step_of(session) == 1
    problem(answer, 413)


def test_a_body_that_is_announced_too_large_is_413_before_it_comes(service: Service) -> None:
    wire = Wire(service.port)
    head = f"POST /v1/models/digits-rnn:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 * MEGABYTE}\r\n\r\n"
    wire.send(head.encode())
    assert "MAX_BODY_BYTES" in problem(wire.response(), 413)
    wire.close()


def test_a_body_of_exactly_the_limit_is_read(client: Client) -> None:
    body = text_of([ROW])
    limit = 16 * MEGABYTE
    client.post("/v1/models/digits-rnn:predict", body + b" " * (limit - len(body))).expect()
    problem(client.post("/v1/models/digits-rnn:predict", body + b" " * (limit - len(body) + 1)), 413)


def test_a_request_that_is_not_http_does_not_hurt(service: Service, client: Client) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"{}\n\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 9000,
    ):
        wire = Wire(service.port)
        wire.send(garbage)
        wire.close()
    client.get("/v2/health/live").expect()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: much\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/models/sum:predict HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/models/sum:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
    ],
    ids=[
        "version",
        "method",
        "expectation",
        "not-ascii",
        "line",
        "header",
        "length",
        "encoding",
        "long-line",
        "long-header",
    ],
)
def test_a_malformed_request_gets_a_problem_as_any_other(service: Service, head: bytes) -> None:
    wire = Wire(service.port)
    wire.send(head)
    answer: Response = wire.response()
    assert 400 <= answer.status <= 505
    problem(answer, answer.status)
    wire.close()


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
@pytest.mark.parametrize("missing", [0, 1], ids=["end-missing", "byte-missing"])
def test_a_body_that_does_not_come_whole_is_no_request(
    service: Service, client: Client, session: str, framing: str, missing: int
) -> None:
    body = text_of([ROW])
    sent = body[: len(body) - missing]
    if framing == "chunked":
        header, sent = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(sent), sent)
    else:
        header = f"Content-Length: {len(body) + 1}"
    wire = Wire(service.port)
    head = f"POST {session}:predict HTTP/1.1\r\nHost: a\r\nContent-Type: {JSON}\r\n{header}\r\n\r\n"
    wire.send(head.encode() + sent)
    wire.shut()
    assert b" 200 " not in wire.rest()
    wire.close()
    assert client.step_of(session) == 1


BROKEN_CHUNKS = {
    "size": b"zz\r\nhello\r\n0\r\n\r\n",
    "negative-size": b"-5\r\nhello\r\n0\r\n\r\n",
    "no-size": b"\r\n\r\n",
    "longer-than-its-size": b"2\r\nhello\r\n0\r\n\r\n",
    "extension": b"2;\x01\r\n{}\r\n0\r\n\r\n",
    "trailer": b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
@pytest.mark.parametrize("rest", [":predict", ":reset", ":stream"])
def test_a_body_of_broken_chunks_is_no_fault_of_the_service(
    service: Service, client: Client, session: str, rest: str, body: bytes
) -> None:
    before = len(service.err())
    kind = NDJSON if rest == ":stream" else JSON
    wire = Wire(service.port)
    head = f"POST {session}{rest} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head.encode() + body)
    answer = wire.response()
    if rest != ":stream":
        assert "chunk" in problem(answer, 400)
    wire.rest()
    wire.close()
    assert client.step_of(session) == 1
    assert "Traceback" not in service.err()[before:]


def test_a_client_that_goes_in_the_middle_of_a_body_is_no_fault_of_the_service(
    service: Service, client: Client, session: str
) -> None:
    before = len(service.err())
    for framing in ("Content-Length: 50", "Transfer-Encoding: chunked"):
        wire = Wire(service.port)
        head = f"POST {session}:predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
        wire.send(head.encode())
        assert wire.head()[0] == 100
        wire.send(b"1")
        wire.abort()
    for _ in range(4):
        assert client.step_of(session) == 1
    assert "Traceback" not in service.err()[before:]


def test_an_error_is_a_problem_whatever_the_client_accepts(client: Client) -> None:
    for accept in ("text/html", "application/xml", "*/*"):
        answer = client.request("GET", "/v1/models/nothing", headers={"Accept": accept})
        problem(answer, 404)


def test_a_stream_that_was_rejected_leaves_its_connection_usable_or_closed(service: Service) -> None:
    stream = Stream(service.port, "/v1/models/sum/sessions/never-there")
    problem(stream.wire.response(), 404)
    stream.send(b'{"instances":[1]}\n')
    stream.finish()
    stream.wire.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    rest = stream.wire.rest()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 200 ")
    stream.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/digits-rnn/infer", b'{"inputs":[{"name":"%s","datatype":"FP32","shape":[1],"data":[0]}]}'),
        ("/v2/models/digits-rnn/infer", b'{"inputs":[{"name":"rows","datatype":"%s","shape":[1],"data":[0]}]}'),
        ("/v1/models/digits-rnn:predict", b'{"instances": ["%s"]}'),
        ("/v1/models/digits-rnn/sessions", b'{"session": "%s"}'),
    ],
)
def test_a_sentence_is_short_whatever_it_quotes(client: Client, path: str, body: bytes) -> None:
    assert len(client.post(path, body % (b"x" * 100_000)).body) < 4096


def test_shapes_of_any_size_are_rejected_in_a_short_sentence(client: Client) -> None:
    path = "/v2/models/digits-rnn/infer"
    for shape in ([10**4299] * 2, [2**62] * 32, [1] * 100_000):
        given = {"name": "rows", "datatype": "FP32", "shape": shape, "data": [0]}
        response = client.post(path, json.dumps({"inputs": [given]}).encode())
        assert len(problem(response, 400)) < 2000


def test_a_snapshot_with_a_long_fingerprint_is_rejected_in_a_short_sentence(client: Client) -> None:
    header = json.dumps({"__metadata__": {"fingerprint": "ab" * 100_000}}).encode()
    data = len(header).to_bytes(8, "little") + header
    path = "/v1/models/digits-rnn/sessions/long/state"
    response = client.request("PUT", path, data, {"Content-Type": "application/octet-stream"})
    assert len(problem(response, 409)) < 2000


def test_a_header_cannot_say_where_the_service_is_mounted(service: Service) -> None:
    connection = Wire(service.port)
    connection.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /elsewhere\r\n\r\n")
    assert connection.response().status == 200
    connection.close()


@pytest.mark.parametrize("host", [b"a b", b"", b"[::", b"%", b"x" * 5000])
def test_what_a_client_calls_the_host_plays_no_part(service: Service, host: bytes) -> None:
    connection = Wire(service.port)
    connection.send(b"GET /v2/health/live HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert connection.response().status == 200
    connection.close()
