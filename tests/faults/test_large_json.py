"""A large body holds up nobody else of its worker, whatever JSON it is."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from json import JSONDecodeError
from pathlib import Path

import pytest

from tests.support.calls import put_state
from tests.support.client import Client, problem
from tests.support.service import Service

SIZE = 8_000_000
INTERVAL = 0.005


def many(item: bytes) -> bytes:
    return b",".join([item] * (SIZE // (len(item) + 1)))


def instances(item: bytes) -> bytes:
    return b'{"instances":[%b]}' % many(item)


def infer(rest: bytes) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP32",%b}' % rest


NUMBERED = b",".join(b'"%d":1' % number for number in range(SIZE // 11))
PREDICT, MANY = "/v1/models/rnn:predict", "/v1/models/rnn/sessions:predict"
SESSION = "/v1/models/rnn/sessions/large"
INFER = "/v2/models/rnn/infer"
BODIES = {
    "numbers": ("/v1/models/identity-fp32-0:predict", instances(b"1.5")),
    "ragged rows": (PREDICT, b'{"instances":[[1],%b]}' % many(b"[1,2,3]")),
    "objects": (PREDICT, instances(b'{"x":[1,2,3]}')),
    "objects with longer lists": (PREDICT, instances(b'{"x":[' + b"1," * 500 + b"1]}")),
    "empty objects": (PREDICT, instances(b"{}")),
    "nested deeply": (PREDICT, instances(b"[" * 150 + b"]" * 150)),
    "cut short": (PREDICT, instances(b"[1,2,3]")[:-2]),
    "null at the end": (PREDICT, b'{"instances":[%b,null]}' % many(b"[1,2,3]")),
    "fields": (PREDICT, b"{%b}" % NUMBERED),
    "a step of objects": (f"{SESSION}:predict", instances(b'{"x":[1,2,3]}')),
    "sessions": (MANY, b'{"sessions":{%b}}' % NUMBERED),
    "a session of objects": (MANY, b'{"sessions":{"large":[%b]}}' % many(b'{"x":[1,2,3]}')),
    "values": ("/v1/accumulators/large", b'{"values":[%b]}' % many(b"[1,[2,3]]")),
    "rows of a tensor": (INFER, infer(b'"shape":[1,1,3],"data":[%b]}]}' % many(b"[[1,2,3]]"))),
    "inputs": (INFER, b'{"inputs":[%b]}' % many(b'{"name":"x","datatype":"FP32","shape":[1],"data":[1]}')),
    "outputs": (INFER, infer(b'"shape":[1],"data":[1]}],"outputs":[%b]}' % many(b'{"name":"x"}'))),
    "a shape": (INFER, infer(b'"shape":[%b],"data":[1]}]}' % many(b"1"))),
    "other fields": (INFER, infer(b'"shape":[1],"data":[1]}],"parameters":{%b}}' % NUMBERED)),
    "a session to create": ("/v1/models/rnn/sessions", b'{"session":[%b]}' % many(b"{}")),
    "a session to fork": (f"{SESSION}:fork", b'{"session":[%b]}' % many(b"{}")),
    "a session to reset": (f"{SESSION}:reset", b'{"session":[%b]}' % many(b"{}")),
    "an index": ("/v2/repository/index", b'{"ready":[%b]}' % many(b"{}")),
    "a model to load": ("/v2/repository/models/rnn/load", b'{"parameters":{%b}}' % NUMBERED),
}

TRIES = 3


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory, common_models: Path) -> Iterator[Service]:
    """A service of one worker, with a session."""
    with Service(tmp_path_factory.mktemp("lone"), MODEL_REPOSITORY=common_models, WORKERS=1) as running:
        with running.client() as client:
            client.create("rnn", "large")
        yield running


@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES)
def test_others_wait_for_a_worker_less_than_half_as_long_as_a_parser_takes(
    lone: Service, path: str, body: bytes
) -> None:
    with lone.clients(2) as (one, other):
        assert wait_less(other, lambda: one.post(path, body), body)


def test_the_header_of_a_state_is_bounded(lone: Service) -> None:
    header = b'{"h":{"dtype":"F32","shape":[%b],"data_offsets":[0,0]}}' % many(b"1")
    file = len(header).to_bytes(8, "little") + header
    with lone.clients(2) as (one, other):
        assert wait_less(other, lambda: put_state(one, SESSION, file), header)
        assert "fields and sizes" in problem(put_state(one, SESSION, file), 400)


def wait_less(client: Client, work: Callable[[], object], text: bytes) -> bool:
    """Whether a client waits for less than half as long as a parser takes for the text, in one of some tries.

    In the others, something else may have kept the CPUs busy.
    """
    return any(longest_response(client, work) < seconds_of_parser(text) / 2 for _ in range(TRIES))


def longest_response(client: Client, work: Callable[[], object]) -> float:
    """Return the seconds that the slowest request for the health took while something else was done."""
    longest = 0.0
    doing = threading.Thread(target=work)
    doing.start()
    while doing.is_alive():
        before = time.perf_counter()
        client.get("/v2/health/live").expect()
        longest = max(longest, time.perf_counter() - before)
        doing.join(INTERVAL)
    return longest


def seconds_of_parser(body: bytes) -> float:
    before = time.perf_counter()
    with suppress(JSONDecodeError):
        json.loads(body)
    return time.perf_counter() - before
