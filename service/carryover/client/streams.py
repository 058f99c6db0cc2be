"""Two-way streams that continue on another connection when theirs is lost."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from carryover.client.errors import STREAM_ENDED, ClientError, NoResponseError, ProblemError, StreamOrderError
from carryover.client.results import Step
from carryover.client.transport import Transport, encode, lost, new_key


@dataclass
class _Line:
    """A line without a response; `resent` if it was on a connection that was lost, and may have run."""

    data: bytes
    resent: bool = False


class AsyncStream:
    """Steps of a session over one request, each line sent with an idempotency key.

    `receive` returns one response for each `send`, in order. When the connection is lost or the service ends the
    stream, the lines that have no response are sent again over a new connection, one after another, as the service may
    still be running them. A line that fails for a time (429, 503, 504) is retried unless others were sent behind it:
    those may have run, so that the caller must decide; it raises ProblemError then, as for any other problem.

    Lines are kept until they have a response: send only as far ahead as memory allows.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path
        self._sent: deque[_Line] = deque()
        self._unsent: deque[_Line] = deque()
        self._connection: _Connection | None = None
        self._last_step = -1

    async def __aenter__(self) -> Self:
        attempts = self._transport.attempts()
        while self._connection is None:
            try:
                self._connection = await self._open()
            except ClientError as error:
                await attempts.wait(error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(at_once=kind is not None or bool(self._sent or self._unsent))

    async def send(self, instances: Any, *, key: str | None = None) -> None:
        """Send one step; `key` is its idempotency key, by default a new one."""
        line = _Line(encode({"instances": instances, "idempotency_key": key or new_key()}) + b"\n")
        recovering = self._unsent or (self._sent and self._sent[0].resent)
        if self._connection is None or recovering:
            self._unsent.append(line)
        else:
            self._write(self._connection, line)

    async def receive(self) -> Step:
        """Wait for the response to the oldest step that has none.

        Raises:
            ProblemError: the step was not committed.
            StreamOrderError: it was sent again, and ran in another order.
            NoResponseError: the service could not be reached again in time.
            ValueError: every step has its response.

        """
        if not self._sent and not self._unsent:
            raise ValueError("every step has its response; send one first")
        attempts = self._transport.attempts()
        while True:
            try:
                outcome = await self._next()
            except ClientError as error:
                await attempts.wait(error)
            else:
                if isinstance(outcome, ClientError):
                    raise outcome
                return outcome

    async def step(self, instances: Any, *, key: str | None = None) -> Step:
        """Send one step and wait for its response, where there is none to wait for before it."""
        if self._sent or self._unsent:
            raise ValueError("earlier steps have no response yet; receive those first")
        await self.send(instances, key=key)
        return await self.receive()

    async def _next(self) -> Step | ClientError:
        """Return the next outcome; raise what the call may be retried after."""
        if self._connection is None:
            self._connection = await self._open()
        if not self._sent:
            self._write_unsent(self._connection)
        try:
            async with asyncio.timeout(self._transport.timeout):
                body = await self._connection.line()
        except (TimeoutError, aiohttp.ClientError, ConnectionError, NoResponseError) as error:
            await self._lose()
            raise lost(error) from error
        if body.get("type") == STREAM_ENDED:
            await self._lose()
            raise ProblemError(body["status"], body)
        line = self._sent.popleft()
        return self._problem(line, body) if "status" in body else self._step(line, body)

    def _step(self, line: _Line, body: dict[str, Any]) -> Step | ClientError:
        step = Step.of(body)
        if line.resent and step.step <= self._last_step:
            return StreamOrderError(f"the step that was sent again ran after step {step.step}, which was sent after it")
        self._last_step = step.step
        return step

    def _problem(self, line: _Line, body: dict[str, Any]) -> ClientError:
        problem = ProblemError(body["status"], body)
        if problem.temporary and not self._sent:
            line.resent = True
            self._unsent.appendleft(line)
            raise problem
        return problem

    def _write_unsent(self, connection: "_Connection") -> None:
        """Send the next line; if it is sent for the first time, all that wait behind it as well."""
        while self._unsent and not (self._sent and self._unsent[0].resent):
            line = self._unsent.popleft()
            self._write(connection, line)
            if line.resent:
                return

    def _write(self, connection: "_Connection", line: _Line) -> None:
        self._sent.append(line)
        connection.write(line.data)

    async def _open(self) -> "_Connection":
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        return _Connection(await self._transport.open(self._path, _content(lines)), lines)

    async def _lose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(at_once=True)
        for line in self._sent:
            line.resent = True
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()


class _Connection:
    """One request: lines out, lines in."""

    def __init__(self, response: aiohttp.ClientResponse, lines: asyncio.Queue[bytes | None]) -> None:
        self._response = response
        self._lines = lines
        self._rest = bytearray()

    def write(self, line: bytes) -> None:
        self._lines.put_nowait(line)

    async def line(self) -> dict[str, Any]:
        """Wait for the next line. Not by aiohttp's `readline`, which limits a line's length."""
        while (end := self._rest.find(b"\n")) < 0:
            piece = await self._response.content.readany()
            if not piece:
                raise NoResponseError("the stream has ended")
            self._rest += piece
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        found: dict[str, Any] = orjson.loads(line)
        return found

    async def close(self, *, at_once: bool) -> None:
        """End the request, and the connection with it if `at_once`."""
        self._lines.put_nowait(None)
        if not at_once:
            with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                await self._response.read()
        self._response.close()


async def _content(lines: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    yield b"\n"  # aiohttp sends the head of a request with the first piece of its body; a blank line is no step
    while (line := await lines.get()) is not None:
        yield line
