"""What one session step is made of: Python calls, objects of the package, changes of its packages.

Run as `python -m bench.calls` for a step through Flask, with `short` for one on the short way. The application runs in
this process, with an embedded Valkey, and `sys.setprofile` counts what one request does after the caches are warm.
These numbers are exact where times are noisy.
"""

from gevent import monkey

monkey.patch_all()

import gc
import io
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.config import Config

from carryover.api.bodies import Bodies
from carryover.engine import Engine
from carryover.server.fast_path import FastPath
from carryover.server.waits import Waits

PACKAGE = "carryover"
_SESSION = "/v1/models/digits-rnn/sessions"
_STEP = b'{"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}'
_WARM = 200
_STEPS = 9


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one step.

    `calls` are Python functions entered, `objects` instances made of classes of the package, `package_changes` calls
    from one of its packages into another.
    """

    calls: int
    objects: int
    package_changes: int


def measure(step: Callable[[], None]) -> Counts:
    """Step a session until the caches are warm, and count what one more step does."""
    for _ in range(_WARM):
        step()
    # A step does ten calls more for each reply of Redis that it waits for, none to two, and now and then it lets others
    # run: the least is what a step itself does.
    counted = [_calls_of(step) for _ in range(_STEPS)]
    calls, changes = map(min, zip(*counted, strict=True))
    return Counts(calls, sum(_objects_of(step).values()), changes)


def through_flask(application: Callable[..., Iterable[bytes]]) -> Callable[[], None]:
    """Return what steps the session through the WSGI application."""
    return lambda: _request(application, f"{_SESSION}/counted:predict", _STEP)


def short_way(engine: Engine, bodies: Bodies) -> Callable[[], None]:
    """Return what steps the session on the short way, over a connection whose client sends nothing more."""
    fast_path = FastPath(_Worker(), engine, bodies, Config(), 1.0)
    near, far = socket.socketpair()
    far.shutdown(socket.SHUT_WR)
    head = f"POST {_SESSION}/counted:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(_STEP)}\r\n\r\n"
    request = head.encode() + _STEP

    def step() -> None:
        fast_path.serve(near, request)
        response = os.read(far.fileno(), 4096)
        if not response.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the short way returned {response!r}")

    return step


class _Worker:
    """A worker that serves for ever."""

    alive = True

    def __init__(self) -> None:
        self.waits = Waits()

    def count(self) -> None:
        """Count nothing."""


def _request(application: Callable[..., Iterable[bytes]], path: str, body: bytes) -> None:
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    b"".join(application(environ, lambda line, _: status.append(line)))
    if not status[0].startswith("20"):
        raise RuntimeError(f"{path} returned {status[0]}")


def _calls_of(work: Callable[[], None]) -> tuple[int, int]:
    calls = changes = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls, changes
        if event != "call":
            return
        calls += 1
        callee = _package(frame)
        caller = _package(frame.f_back) if frame.f_back else ""
        changes += bool(callee and caller and callee != caller)

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls, changes


def _package(frame: FrameType) -> str:
    """The package that a frame's code is of, such as `carryover.engine`; empty for other code."""
    name: str = frame.f_globals.get("__name__", "")
    return ".".join(name.split(".")[:2]) if name.partition(".")[0] == PACKAGE else ""


def _objects_of(work: Callable[[], None]) -> Counter[str]:
    """Count instances by class. The classes stay changed: nothing else is to be done in this process."""
    found: Counter[str] = Counter()
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == PACKAGE]
    classes = {
        held
        for module in modules
        for held in vars(module).values()
        if isinstance(held, type) and held.__module__.partition(".")[0] == PACKAGE
    }
    for cls in classes:
        if not issubclass(cls, (BaseException, Enum, tuple)) and "__new__" not in vars(cls):
            cls.__new__ = _counting(cls, found)  # type: ignore[method-assign]
    work()
    found.clear()
    work()
    return found


def _counting(cls: type, found: Counter[str]) -> Any:
    def __new__(made: type, *_: Any, **__: Any) -> Any:  # noqa: N807 - it becomes one
        if made is cls:
            found[cls.__qualname__] += 1
        return object.__new__(made)

    return staticmethod(__new__)


def main() -> None:
    """Print the counts as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(DATA_DIR=folder, MODEL_REPOSITORY=str(Path(__file__).parents[1] / "checkpoints"))
        os.environ.pop("REDIS_URL", None)
        from carryover.server import storage, wsgi  # noqa: PLC0415 - they read the environment

        gc.freeze()  # as before a worker is forked: else a forward may seem long because a collection fell into it
        valkey = storage.embedded_valkey
        assert valkey is not None  # noqa: S101 - there is no REDIS_URL
        valkey.start()
        try:
            _request(wsgi.app, _SESSION, b'{"session": "counted"}')
            short = sys.argv[1:] == ["short"]
            step = short_way(wsgi.engine, wsgi.bodies) if short else through_flask(wsgi.app)
            print(json.dumps(asdict(measure(step))))
        finally:
            valkey.stop()


if __name__ == "__main__":
    main()
