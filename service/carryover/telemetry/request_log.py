"""A line for each request, as text or JSON, written by hand: a logging library's record costs ten times as much.

Lines are collected and written together, a moment later. They hold nothing of bodies and queries, and of headers only
the request's id. What a client has chosen, such as a session's name, is quoted and bounded.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import orjson

LEAST_STATUS = {"off": 1000, "errors": 400, "all": 0}
"""The least status that is logged, by what `REQUEST_LOG` is."""
_AT_ONCE = 4096
"""Bytes that a pipe takes as one: the lines of two processes do not mix."""
_LONGEST = 128
"""Characters of a value, and lines that are collected."""


@dataclass(slots=True)
class Entry:
    """A request that was answered; `duration` is in nanoseconds, `size` the bytes of the response's body.

    `parameters` are what the route's path names. `path` is the request's, where there is no route. `key` is the
    name of the caller's API key, `trace` the id of its trace. `session` is the one that the path does not name, `batch`
    the number of requests in the forward, 0 where there was none.
    """

    request_id: str
    method: str
    route: str
    status: int
    duration: int
    size: int
    step: int | None = None
    parameters: Mapping[str, str] | None = None
    path: str | None = None
    key: str = ""
    session: str = ""
    batch: int = 0
    trace: str = ""

    def fields(self) -> dict[str, str | int | float]:
        """Return what a line says, in order."""
        fields: dict[str, str | int | float] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "duration": self.duration // 1000 / 1e6,
            "bytes": self.size,
        }
        for name, value in (self.parameters or {}).items():
            plain = len(value) <= _LONGEST and value.isprintable()
            fields[name] = value if plain else _printable(value[:_LONGEST])
        if self.path is not None:
            fields["path"] = _printable(self.path[:_LONGEST])
        if self.session:
            fields["session"] = _printable(self.session[:_LONGEST])
        if self.key:
            fields["key"] = self.key
        if self.step is not None:
            fields["step"] = self.step
        if self.batch:
            fields["batch"] = self.batch
        if self.trace:
            fields["trace"] = self.trace
        return fields


class RequestLog:
    """The request log of a process: requests of at least this status, `json` or text, given to `write` in pieces."""

    def __init__(self, least_status: int, *, json: bool, write: Callable[[bytes], object] | None = None) -> None:
        self.least_status = least_status
        self._head, self._said = (_json_head, _json) if json else (_text_head, _text)
        self._write = write or _to_stderr
        self._lines: list[bytes] = []
        self._time = 0
        self._start = b""

    def add(self, entry: Entry) -> None:
        """Log a request."""
        now = time.time_ns() // 1_000_000
        if now != self._time:
            self._time, self._start = now, self._head(now)
        self._lines.append(self._start + self._said(entry.fields()))
        if len(self._lines) >= _LONGEST:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        lines, self._lines = self._lines, []
        piece = bytearray()
        for line in lines:
            if piece and len(piece) + len(line) > _AT_ONCE:
                self._write(bytes(piece))
                piece.clear()
            piece += line
        if piece:
            self._write(bytes(piece))


def _json_head(now: int) -> bytes:
    before, after = _json_second(now // 1000, os.getpid())
    return f"{before}{now % 1000:03d}{after}".encode()


@lru_cache(1)
def _json_second(second: int, process: int) -> tuple[str, str]:
    """What lines of a second start with, before and after the milliseconds."""
    said = datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
    named = f'"level":"info","logger":"carryover.requests","process":{process},"message":"request"'
    return f'{{"time":"{said}.', f'+00:00",{named},'


def _json(fields: dict[str, str | int | float]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)[1:]


_TEMPLATES: dict[tuple[str, ...], str] = {}
"""Lines as text, by the names of the fields in them."""


def _text_head(now: int) -> bytes:
    return _text_second(now // 1000, os.getpid())


@lru_cache(1)
def _text_second(second: int, process: int) -> bytes:
    return f"[{time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(second))}] [{process}] [INFO] request".encode()


def _text(fields: dict[str, str | int | float]) -> bytes:
    names = tuple(fields)
    template = _TEMPLATES.get(names)
    if template is None:  # there are as many as routes have fields
        template = _TEMPLATES[names] = "".join([f" {name}=%s" for name in names]) + "\n"
    said = template % tuple(fields.values())
    if said.count(" ") != len(names) or '"' in said or "\\" in said:
        said = template % tuple([_quoted(str(value)) for value in fields.values()])
    return said.encode()


def _printable(value: str) -> str:
    """Return what a client has chosen, with escapes for what would break a line or command a terminal."""
    return value if value.isprintable() else value.encode("unicode_escape").decode()


def _bare(value: str) -> bool:
    """Whether text has a printable value without quotes: it has no blanks, quotes and backslashes."""
    return " " not in value and '"' not in value and "\\" not in value


def _quoted(value: str) -> str:
    if value and _bare(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _to_stderr(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(2, rest) :]
