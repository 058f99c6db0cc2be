"""The sessions behind a server: making many of them at once, and asking what one takes.

The store's format is the service's own: one session is created over HTTP, and its record is copied.
"""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import redis

from bench.messages import session_name
from bench.rows import RNN, ROW
from bench.server import ServerError
from carryover.server.embedded_valkey import EmbeddedValkey
from tests.support.service import Service
from tests.support.waiting import eventually

_CHUNK = 1000
_TTL = 24 * 3600
_TIMEOUT = 60.0
_ITEM_BYTES = {"FP32": 4, "FP64": 8}


@dataclass(frozen=True, slots=True)
class Memory:
    """What the store takes for one session, in bytes: all of it, of that the state and the key's name."""

    total: int
    state: int
    name: int

    @property
    def overhead(self) -> int:
        """What is neither state nor name."""
        return self.total - self.state - self.name


def fill(server: Service, count: int, model: str = RNN) -> None:
    """Create `count` sessions of an RNN, and wait until the store is at rest again."""
    first, client = session_name(0), _client(server)
    before = client.dbsize()
    _post(server, f"/v1/models/{model}/sessions", {"session": first, "ttl": _TTL})
    key = _key(client, model, first)
    data, life = client.dump(key), client.pttl(key)
    for start in range(1, count, _CHUNK):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + _CHUNK, count)):
                pipeline.restore(key.replace(first.encode(), session_name(number).encode()), life, data)
            pipeline.execute()
    found = client.dbsize() - before
    if found < count:
        raise ServerError(f"the store holds {found} sessions where there should be {count}")
    _wait_until_at_rest(client)


def memory(server: Service) -> Memory:
    """Return what the store takes for a session that has been stepped."""
    name = "measured"
    session = _post(server, f"/v1/models/{RNN}/sessions", {"session": name})
    _post(server, f"/v1/models/{RNN}/sessions/{name}:predict", {"instances": [ROW]})
    client = _client(server)
    key = _key(client, RNN, name)
    state = sum(math.prod(buffer["shape"]) * _ITEM_BYTES[buffer["datatype"]] for buffer in session["state"])
    return Memory(int(client.memory_usage(key)), state, len(key))


def _key(client: Any, model: str, session: str) -> bytes:
    """Find the one key of a session."""
    keys: list[bytes] = list(client.scan_iter(match=f"*{model}*{session}*"))
    if len(keys) != 1:
        raise ServerError(f"the session {session!r} has the keys {keys} in the store, where one was expected")
    return keys[0]


def _post(server: Service, path: str, document: Any) -> Any:
    with server.client() as client:
        response = client.post(path, document)
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise ServerError(f"POST {path}: {response.status}: {response.body[:500].decode(errors='replace')}")
    return response.json


def _wait_until_at_rest(client: Any) -> None:
    """Wait until Valkey has ended rewriting its append-only file, which takes a CPU."""

    def at_rest() -> bool:
        persistence = client.info("persistence")
        return not persistence["aof_rewrite_in_progress"] and not persistence["aof_rewrite_scheduled"]

    eventually("the end of rewriting the append-only file", at_rest, interval=0.2)


def _client(server: Service) -> Any:
    return redis.Redis.from_url(EmbeddedValkey(server.data).url, socket_timeout=_TIMEOUT)
