"""A gunicorn of the repository's own configuration, on a free port and with data of its own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from carryover.server import cpus
from carryover.settings import Settings

ROOT = Path(__file__).parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class ServerError(Exception):
    """The server does not start."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: `port` on the loopback address, the process that gunicorn began with, its data's folder."""

    port: int
    process: psutil.Process
    data: Path

    def pids(self) -> list[int]:
        """Return all of the server's processes: gunicorn's master, its workers, and Valkey where there is one."""
        return [self.process.pid, *(child.pid for child in self.process.children(recursive=True))]


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """Run gunicorn with the repository's configuration, and `options` on its command line, until the block ends.

    Raises:
        ServerError: it ended, or did not answer in time; with the end of its log.

    """
    with TemporaryDirectory(prefix="bench-") as folder:
        data, log, port = Path(folder, "data"), Path(folder, "log"), _free_port()
        command = [sys.executable, "-m", "gunicorn", *options]
        with log.open("wb") as output:
            popen = subprocess.Popen(command, cwd=ROOT, env=_environment(port, data), stdout=output, stderr=output)
        try:
            server = Server(port, psutil.Process(popen.pid), data)
            _wait_until_ready(server, popen, log)
            yield server
        finally:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def _environment(port: int, data: Path) -> dict[str, str]:
    """The caller's environment, but for the service's settings: those are their defaults."""
    settings = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name not in settings}
    return kept | {
        "BIND": f"127.0.0.1:{port}",
        "DATA_DIR": str(data),
        "WORKERS": str(cpus.available()),
    }


def _wait_until_ready(server: Server, popen: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and popen.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            # The floor has no such route: that it says so is enough.
            if connection.getresponse().status in (200, 404):
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    end = "\n".join(log.read_text().splitlines()[-20:])
    raise ServerError(f"the server at port {server.port} does not get ready; its log ends:\n{end}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
