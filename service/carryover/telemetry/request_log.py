"""A line for each request, as text or JSON, written by hand: a logging library's record costs ten times as much.

Lines are collected and written together, a moment later. They hold nothing of bodies and queries, and of headers only
the request's id. What a client has chosen, such as a session's name, is quoted and bounded.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

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
            fields[name] = _printable(value[:_LONGEST])
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
        self._time = 0.0
        self._start = b""

    def add(self, entry: Entry) -> None:
        """Log a request."""
        now = round(time.time(), 3)
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


def _json_head(now: float) -> bytes:
    said = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    return (
        f'{{"time":"{said}","level":"info","logger":"carryover.requests","process":{os.getpid()},"message":"request",'
    ).encode()


def _json(fields: dict[str, str | int | float]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)[1:]


def _text_head(now: float) -> bytes:
    return f"[{time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(now))}] [{os.getpid()}] [INFO] request".encode()


def _text(fields: dict[str, str | int | float]) -> bytes:
    said = [f"{name}={value}" for name, value in fields.items()]
    if not _bare("".join(said)):
        said = [f"{name}={_quoted(str(value))}" for name, value in fields.items()]
    return f" {' '.join(said)}\n".encode()


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
