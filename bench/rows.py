"""The rows of the table: what is asked of which server, over and over."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

# Digit 0 of scikit-learn's bundled scans (`load_digits().images[0]`), 8 rows of 8 pixels.
SCAN = (
    (0, 0, 5, 13, 9, 1, 0, 0),
    (0, 0, 13, 15, 10, 15, 5, 0),
    (0, 3, 15, 2, 0, 11, 8, 0),
    (0, 4, 12, 0, 0, 8, 8, 0),
    (0, 5, 8, 0, 0, 9, 8, 0),
    (0, 4, 11, 0, 1, 12, 7, 0),
    (0, 2, 14, 5, 10, 12, 0, 0),
    (0, 0, 6, 13, 10, 0, 0, 0),
)
PIXELS = [pixel for row in SCAN for pixel in row]
ROW = list(SCAN[1])

RNN = "digits-rnn"
LARGER = "larger-rnn"
"""The same with a million parameters."""
CLASSIFIER = "digits-batchnorm"
MANY = 64
"""Sessions of one `sessions:predict`."""
LARGE = 4096
"""Instances of 64 FP32 values that are 1 MiB."""

Body = Callable[[Sequence[str]], bytes]
"""From the sessions that a request steps to its body."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to measure.

    A request steps `sessions` sessions; where it is one, `{session}` in `path` is its name. With `own` a connection
    steps one session again and again, as a client's does; else it goes round many. With `lines` a connection
    is one request to `path`, and what is counted as requests are its lines, at most `ahead` of them unfinished; with
    `messages` as well they are those of a WebSocket. With `keyed` each request has an `Idempotency-Key` of its own,
    and goes to another service, as the responses that are stored for them make Redis slower. `beside` names another row
    that it is held against, `triton` the one that asks Triton the same. Sessions are of `model`.
    """

    name: str
    title: str
    path: str
    body: Body
    server: Literal["baseline", "service", "keyed", "triton"] = "service"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    sessions: int = 0
    own: bool = False
    lines: bool = False
    messages: bool = False
    ahead: int = 1
    connections: tuple[int, ...] = (1, 32, 128)
    keyed: bool = False
    beside: str = ""
    triton: str = ""
    model: str = RNN


def fixed(document: Any) -> Body:
    """Return the body that is the same for all sessions."""
    data = json.dumps(document).encode()
    return lambda _: data


def _infer(name: str, title: str, instances: int, *, binary: bool, beside: Row) -> Row:
    """Return the row of an Open Inference Protocol request that asks the same as `beside`."""
    pixels = PIXELS * instances
    data = struct.pack(f"<{len(pixels)}f", *pixels) if binary else b""
    values = {"parameters": {"binary_data_size": len(data)}} if binary else {"data": pixels}
    tensor = {"name": "pixels", "shape": [instances, len(PIXELS)], "datatype": "FP32", **values}
    start = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
    kind = ("Content-Type", "application/octet-stream" if binary else "application/json")
    length = (("Inference-Header-Content-Length", str(len(start))),) if binary else ()
    return Row(
        name=name,
        title=title,
        path=f"/v2/models/{CLASSIFIER}/infer",
        body=lambda _: start + data,
        headers=(kind, *length),
        connections=beside.connections,
        beside=beside.name,
    )


def sequence(session: str, *, start: bool = False) -> bytes:
    """Return the body of an Open Inference Protocol request for one step of a sequence."""
    parameters = {"sequence_id": session, "sequence_start": start, "sequence_end": False}
    tensor = {"name": "rows", "shape": [1, 1, len(ROW)], "datatype": "FP32", "data": ROW}
    return json.dumps({"parameters": parameters, "inputs": [tensor]}).encode()


def _many(sessions: Sequence[str]) -> bytes:
    return json.dumps({"sessions": {session: [ROW] for session in sessions}}).encode()


_STREAM = Row(
    name="stream",
    title="session :stream",
    path=f"/v1/models/{RNN}/sessions/{{session}}:stream",
    body=fixed({"instances": [ROW]}),
    headers=(("Content-Type", "application/x-ndjson"),),
    sessions=1,
    lines=True,
    connections=(1,),
)

_PIPELINED = replace(_STREAM, name="pipelined", title="session :stream, 64 lines ahead", ahead=64)


def _socket(row: Row, name: str, title: str) -> Row:
    """Return the row of the same lines as messages of a WebSocket."""
    headers = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    return replace(row, name=name, title=title, messages=True, headers=headers, beside=row.name)


BASELINE = Row("baseline", "empty Flask route", "/", fixed({"instances": [PIXELS]}), server="baseline")

SESSION = Row(
    name="session",
    title="session :predict",
    path=f"/v1/models/{RNN}/sessions/{{session}}:predict",
    body=fixed({"instances": [ROW]}),
    sessions=1,
    triton="triton-sequence",
)

_OWN = replace(SESSION, name="own", title="session :predict, one session a connection", own=True, triton="triton-own")

_LARGER = replace(
    SESSION,
    name="larger",
    title="session :predict, a million parameters",
    path=SESSION.path.replace(RNN, LARGER),
    triton="triton-larger",
    model=LARGER,
)

_SEQUENCE = Row(
    name="sequence",
    title="infer, in a sequence",
    path=f"/v2/models/{RNN}/infer",
    body=lambda sessions: sequence(sessions[0]),
    sessions=1,
    triton="triton-sequence",
)

_PREDICT = Row(
    name="predict",
    title=":predict",
    path=f"/v1/models/{CLASSIFIER}:predict",
    body=fixed({"instances": [PIXELS]}),
    triton="triton",
)

_LARGE_PREDICT = Row(
    name="predict-1mb",
    title=":predict, 1 MB",
    path=_PREDICT.path,
    body=fixed({"instances": [PIXELS] * LARGE}),
    connections=(1, 32),
)

_INFER = replace(_infer("infer-json", "infer, JSON", 1, binary=False, beside=_PREDICT), triton="triton")

TRITON = replace(_INFER, name="triton", title="Triton: infer, JSON", server="triton", beside="", triton="")
TRITON_SEQUENCE = replace(
    _SEQUENCE, name="triton-sequence", title="Triton: infer, in a sequence", server="triton", triton=""
)
_TRITON_OWN = replace(
    TRITON_SEQUENCE, name="triton-own", title="Triton: infer, in a sequence, one a connection", own=True
)
_TRITON_LARGER = replace(
    TRITON_SEQUENCE,
    name="triton-larger",
    title="Triton: infer, in a sequence, a million parameters",
    path=f"/v2/models/{LARGER}/infer",
    model=LARGER,
)

ROWS = (
    BASELINE,
    _PREDICT,
    _INFER,
    _infer("infer-binary", "infer, binary", 1, binary=True, beside=_PREDICT),
    _LARGE_PREDICT,
    _infer("infer-json-1mb", "infer, JSON, 1 MB", LARGE, binary=False, beside=_LARGE_PREDICT),
    _infer("infer-binary-1mb", "infer, binary, 1 MB", LARGE, binary=True, beside=_LARGE_PREDICT),
    SESSION,
    _OWN,
    _SEQUENCE,
    replace(
        SESSION,
        name="keyed",
        title="session :predict, with a key",
        server="keyed",
        keyed=True,
        beside=SESSION.name,
        triton="",
    ),
    _LARGER,
    _STREAM,
    _socket(_STREAM, "socket", "session :stream, a WebSocket"),
    _PIPELINED,
    _socket(_PIPELINED, "socket-pipelined", "session :stream, a WebSocket, 64 messages ahead"),
    Row("many", f"sessions:predict, {MANY} sessions", f"/v1/models/{RNN}/sessions:predict", _many, sessions=MANY),
    Row("accumulator", "accumulator", "/v1/accumulators/{session}", fixed({"values": [0.5]}), sessions=1),
)

TRITON_ROWS = (TRITON, TRITON_SEQUENCE, _TRITON_OWN, _TRITON_LARGER)
