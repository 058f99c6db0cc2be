"""The service under gunicorn."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar, Self

import psutil

from carryover.settings import Settings
from tests.support.client import Client
from tests.support.connections import Stream
from tests.support.paths import GUNICORN, ROOT
from tests.support.preloaded import Forked, Preloaded
from tests.support.processes import name_of
from tests.support.redis_server import servers_on
from tests.support.waiting import PATIENCE, eventually

Launch = Callable[..., "Service"]

VALKEY = "valkey-server"
"""The name of the embedded server's program."""

_SETTINGS = {name.upper() for name in Settings.model_fields} | {"GUNICORN_CMD_ARGS"}


class Service:
    """Carryover under gunicorn, with its files in `folder`.

    `settings` are environment variables; by default two workers, a free port, and an embedded Valkey. The caller's
    environment does not set any. Where `preloaded` is set, gunicorn is forked from it unless a command is given.
    """

    preloaded: ClassVar[Preloaded | None] = None

    def __init__(
        self,
        folder: Path,
        command: Sequence[str | Path] | None = None,
        checkout: Path = ROOT,
        /,
        **settings: str | int | Path,
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        defaults: dict[str, str | int | Path] = {"WORKERS": 2, "DATA_DIR": folder / "data", "BIND": "127.0.0.1:0"}
        self._settings = defaults | settings
        self._command = command
        self._checkout = checkout
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.end()
            raise

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def data(self) -> Path:
        return Path(str(self._settings["DATA_DIR"]))

    @property
    def process(self) -> psutil.Process:
        """The arbiter."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def pids(self) -> list[int]:
        """All processes: gunicorn's arbiter, its workers, and Valkey where it is embedded."""
        return [self.process.pid, *(child.pid for child in self.process.children(recursive=True))]

    def launch(self) -> subprocess.Popen[bytes] | Forked:
        """Start the program and return at once."""
        environment = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
        environment |= {name: str(value) for name, value in self._settings.items()}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            if self._command is None and self.preloaded is not None:
                self._process = self.preloaded.launch(environment, self._checkout, out, err)
            else:
                command = self._command or (GUNICORN,)
                self._process = subprocess.Popen(command, cwd=self._checkout, env=environment, stdout=out, stderr=err)
        return self._process

    def start(self) -> Self:
        """Start the service and wait until it is ready."""
        self.launch()
        self.listen()
        eventually("readiness", self.ready)
        eventually("all workers", lambda: len(self.workers()) == int(str(self._settings["WORKERS"])))
        return self

    def runs(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def listen(self) -> None:
        """Wait until it prints the URL that it listens on."""
        self.port = eventually("the service's URL on the terminal", self._announced)

    def ready(self) -> bool:
        """Whether the readiness endpoint responds with 200."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            with self.client() as client:
                return client.get("/v2/health/ready").status == HTTPStatus.OK
        except ConnectionError:
            return False

    def _announced(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        _, found, rest = self.out().partition("listens at http://127.0.0.1:")
        return int(rest.split()[0]) if found and "\n" in rest else 0

    def out(self) -> str:
        """What it printed to standard output."""
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def log(self) -> str:
        """Both outputs, one after the other."""
        return self.out() + self.err()

    def client(self) -> Client:
        """A new connection."""
        return Client(self.port)

    @contextmanager
    def clients(self, count: int) -> Iterator[list[Client]]:
        """Several new connections."""
        clients = [self.client() for _ in range(count)]
        try:
            yield clients
        finally:
            for client in clients:
                client.close()

    def stream(self, address: str, length: int | None = None) -> Stream:
        """A stream over a new connection, with the head of its response read."""
        return Stream(self.port, address, length).open()

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return [child for child in self.process.children() if name_of(child) not in ("", VALKEY)]

    def valkey(self) -> psutil.Process | None:
        """The embedded Valkey; None where there is none."""
        return next((child for child in self.process.children() if name_of(child) == VALKEY), None)

    @contextmanager
    def one_client_a_worker(self) -> Iterator[list[Client]]:
        """Connections, each to another worker, together to all of them."""
        found: dict[int, Client] = {}
        spare: list[Client] = []

        def look() -> bool:
            client = self.client()
            spare.append(client)
            client.get("/v2/health/live").expect()
            for worker in self.workers():
                ends = {end.raddr.port for end in worker.net_connections("tcp4") if end.raddr}
                if client.local_port in ends:
                    found.setdefault(worker.pid, client)
            return len(found) == len(self.workers())

        try:
            eventually("a connection to every worker", look)
            yield list(found.values())
        finally:
            for client in spare:
                client.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def end(self) -> None:
        """Leave nothing running, whatever state it is in."""
        family: list[psutil.Process] = []
        if self._process is not None and self.runs():
            # Stopped first: it must not start another worker in place of one that was killed.
            self.process.suspend()
            family = self.process.children(recursive=True)
            self._process.kill()
            self._process.wait()
        for process in family + servers_on(self.data):
            with suppress(psutil.NoSuchProcess):
                process.kill()
