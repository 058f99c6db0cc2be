"""A proxy in front of Redis that slows, cuts and encrypts connections."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.support.redis_server import free_port
from tests.support.waiting import PATIENCE


class Proxy:
    """A TCP port in front of a server, whose connections can be slowed and cut.

    `latency` is added to each reply, in seconds. `on_request` and `on_reply` see each piece of data, with the number of
    its connection; where they return False, the connection is cut and the piece goes nowhere. With `tls` the proxy ends
    a TLS connection, and speaks plainly to the server behind it.

    After `cut_at(word, before=True)` the connection that next carries a request with `word` is cut before the request
    gets through; with `before=False` the request is carried out, and its reply gets lost.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.latency = 0.0
        self.connections = 0
        self.on_request: Callable[[int, bytes], bool] = lambda _, __: True
        self.on_reply: Callable[[int, bytes], bool] = lambda _, __: True
        self.cuts = 0
        self._target = target
        self._planned: list[tuple[bytes, bool]] = []
        self._deaf: set[int] = set()
        self._tls = tls
        self._stranded = 0
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """The URL of a Redis server behind this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        listening = threading.Event()
        self._loop.call_soon(lambda: self._loop.create_task(self._listen(listening)))
        self._thread.start()
        assert listening.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def cut_at(self, word: bytes, *, before: bool, times: int = 1) -> None:
        """Plan so many cuts, in place of those that were planned; `cuts` counts how many of them have happened."""
        done = threading.Event()

        def plan() -> None:
            self.cuts = 0
            self._planned = [(word, before)] * times
            done.set()

        self._loop.call_soon_threadsafe(plan)
        assert done.wait(PATIENCE)

    def cut(self) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def strand(self) -> None:
        """Let nothing through any more on the connections that there are, which stay open."""
        self._stranded = self.connections

    def _abort_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda _, __: None)  # a failed handshake is expected here
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._shut_down())
            self._loop.close()

    async def _shut_down(self) -> None:
        assert self._server is not None
        self._server.close()
        self._abort_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round

    async def _listen(self, listening: threading.Event) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        listening.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            behind, out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, out}
        self._open |= ends
        try:
            await asyncio.gather(self._requests(number, reader, out), self._replies(number, behind, writer))
        except OSError:
            pass
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _requests(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.on_request(number, data) or self._cut_before(number, data):
                raise ConnectionAbortedError
            if number <= self._stranded:
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError

    def _cut_before(self, number: int, data: bytes) -> bool:
        """Whether a planned cut is due before this request; one that is due after it is noted."""
        if not self._planned or self._planned[0][0] not in data:
            return False
        self.cuts += 1
        _, before = self._planned.pop(0)
        if not before:
            self._deaf.add(number)
        return before

    async def _replies(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.on_reply(number, data) or number in self._deaf:
                raise ConnectionAbortedError
            if self.latency:
                await asyncio.sleep(self.latency)
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError


class Certificates:
    """An authority, a server's certificate that it signed, and a client's, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.client = folder / "client.pem"
        self.client_key = folder / "client.key"
        authority.cert_pem.write_to_path(self.ca)
        client = authority.issue_cert("carryover")
        client.cert_chain_pems[0].write_to_path(self.client)
        client.private_key_pem.write_to_path(self.client_key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.context)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    @property
    def query(self) -> str:
        """What a URL says of them."""
        return f"ssl_ca_certs={self.ca}&ssl_certfile={self.client}&ssl_keyfile={self.client_key}"
