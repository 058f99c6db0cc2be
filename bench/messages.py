"""From a row to the bytes that its connections send."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from secrets import token_hex

from websockets.frames import CLOSE, TEXT, Frame

from bench.load import Connection
from bench.responses import Lines, Messages
from bench.rows import Row

POOL = 1024
"""Sessions that a row goes round where a request steps one."""

_KEY = "an-idempotency-key"


def session_name(number: int) -> str:
    """Return the name of a session that the benchmark made; all are equally long."""
    return f"s{number:08d}"


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same requests in turn, without end."""

    requests: Sequence[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return cycle(self.requests)


@dataclass(frozen=True, slots=True)
class Keyed:
    """The same requests in turn, without end, but for an idempotency key that nothing ever had before."""

    requests: Sequence[bytes]

    def __iter__(self) -> Iterator[bytes]:
        run = token_hex(8).encode()
        around = [request.split(_KEY.encode()) for request in self.requests]
        for number, (before, after) in enumerate(cycle(around)):
            yield b"%s%s-%08d%s" % (before, run, number, after)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests for sessions of certain numbers, drawn at random, without end; `request` is the one for session 0."""

    request: bytes
    numbers: range

    def __iter__(self) -> Iterator[bytes]:
        before, after = self.request.split(session_name(0).encode())
        choose = Random(0).choice
        while True:
            yield b"%ss%08d%s" % (before, choose(self.numbers), after)


def sessions_needed(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many sessions of each model the rows step."""
    needed: dict[str, int] = {}
    for row in rows:
        most = max(_pool(row, count) for count in row.connections)
        needed[row.model] = max(most, needed.get(row.model, 0))
    return needed


def connections(row: Row, count: int) -> list[Connection]:
    """Return so many connections, each with sessions of its own: requests that run at once never race for one."""
    if row.lines:
        return [_stream(row, session_name(number)) for number in range(count)]
    if row.sessions > 1:
        blocks = [range(first, first + row.sessions) for first in range(0, _pool(row, count), row.sessions)]
        return [Connection(Repeated([request(row, block)])) for block in blocks]
    numbers = [range(index, _pool(row, count), count) for index in range(count)] if row.sessions else [range(1)] * count
    turns = Keyed if row.keyed else Repeated
    return [Connection(turns([request(row, [number]) for number in own])) for own in numbers]


def _stream(row: Row, session: str) -> Connection:
    if row.messages:
        message = Frame(TEXT, row.body([])).serialize(mask=True)
        head = _head(row, session, method="GET")
        return Connection(Repeated([message]), Messages, row.ahead, head, Frame(CLOSE, b"").serialize(mask=True))
    line = row.body([]) + b"\n"
    chunk = b"%x\r\n%s\r\n" % (len(line), line)
    head = _head(row, session, ("Transfer-Encoding", "chunked"))
    return Connection(Repeated([chunk]), Lines, row.ahead, head, b"0\r\n\r\n")


def drawn_connections(row: Row, count: int, sessions: int) -> list[Connection]:
    """Return so many connections that draw from `sessions` sessions, each from a share of its own."""
    first = request(row, [0])
    return [Connection(Drawn(first, range(index, sessions, count))) for index in range(count)]


def _pool(row: Row, count: int) -> int:
    return count * row.sessions if row.own or row.sessions > 1 else POOL * row.sessions


def request(row: Row, numbers: Sequence[int]) -> bytes:
    """Return a request that steps the sessions of these numbers."""
    names = [session_name(number) for number in numbers]
    body = row.body(names)
    return _head(row, names[0], ("Content-Length", str(len(body)))) + body


def _head(row: Row, session: str, *framing: tuple[str, str], method: str = "POST") -> bytes:
    key = (("Idempotency-Key", _KEY),) if row.keyed else ()
    headers = (("Host", "127.0.0.1"), *row.headers, *key, *framing)
    lines = [f"{method} {row.path.format(session=session)} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()
