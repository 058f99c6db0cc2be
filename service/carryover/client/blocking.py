"""The client without asyncio: the asynchronous one, in an event loop on a thread of its own.

So retries and streams exist once, and a stream is received from while it is sent to, which no maintained blocking HTTP
library does.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from carryover.client.asynchronous import TIMEOUT, URL, AsyncAccumulator, AsyncClient, AsyncSession
from carryover.client.errors import ProblemError
from carryover.client.results import Predictions, SessionInfo, Step, Totals
from carryover.client.retries import Retries
from carryover.client.streams import AsyncStream

T = TypeVar("T")


_PATIENCE = 1.0
"""Seconds in which connections that nobody uses are closed."""


class _Loop:
    """An event loop on a thread, for a client, which it closes when nobody uses either, or the program ends."""

    def __init__(self, client: AsyncClient) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="carryover-client", daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, client, self._loop, self._thread, self._process)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; from any thread.

        Raises:
            RuntimeError: the loop was stopped, or its thread is another process's.

        """
        if self.stopped or self._process != os.getpid():
            work.close()
            raise RuntimeError(
                "the client is closed" if self.stopped else "the client was made in another process; make one in each"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # such as Ctrl-C: what nobody waits for must not go on
            future.cancel()
            raise

    @property
    def stopped(self) -> bool:
        """Whether it is."""
        return self._loop.is_closed()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    """Close a client that was not closed, and stop its loop; in no other process, where its thread is not."""
    if loop.is_closed() or process != os.getpid():
        return
    closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
    closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if threading.current_thread() is not thread:
        thread.join(_PATIENCE)


class Client:
    """A client of one service, for any number of threads of one process; see `AsyncClient`, whose calls it has."""

    def __init__(
        self,
        url: str = URL,
        *,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client = AsyncClient(url, timeout=timeout, retries=retries, headers=headers)
        self._loop = _Loop(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the client cannot be used afterwards."""
        if not self._loop.stopped:
            self._loop.run(self._client.close())
            self._loop.stop()

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        return self._loop.run(self._client.models())

    def model(self, model: str, *, version: str | None = None) -> dict[str, Any]:
        """Describe a model: versions, inputs, outputs, buffers."""
        return self._loop.run(self._client.model(model, version=version))

    def predict(self, model: str, instances: Any, *, version: str | None = None) -> Predictions:
        """Predict without a session."""
        return self._loop.run(self._client.predict(model, instances, version=version))

    def create(
        self, model: str, session: str | None = None, *, ttl: int | None = None, version: str | None = None
    ) -> "Session":
        """Create a session; without a name it gets one. `ttl` is in seconds."""
        return Session(self._loop, self._loop.run(self._client.create(model, session, ttl=ttl, version=version)))

    def session(self, model: str, session: str, *, version: str | None = None) -> "Session":
        """Return a session by its name, without a request."""
        return Session(self._loop, self._client.session(model, session, version=version))

    def step_many(
        self, model: str, instances: Mapping[str, Any], *, key: str | None = None, version: str | None = None
    ) -> dict[str, Step | ProblemError]:
        """Run one step of each of many sessions, given the instances of each; return its step or its problem."""
        return self._loop.run(self._client.step_many(model, instances, key=key, version=version))

    def accumulator(self, name: str) -> "Accumulator":
        """Return an accumulator, without a request; it is created by the first `add`."""
        return Accumulator(self._loop, self._client.accumulator(name))


class Session:
    """A session of a model; see `AsyncSession`."""

    def __init__(self, loop: _Loop, session: AsyncSession) -> None:
        self.name = session.name
        self._loop = loop
        self._session = session

    def step(
        self,
        instances: Any,
        *,
        key: str | None = None,
        if_step: int | None = None,
        migrate: bool = False,
        create: bool = False,
    ) -> Step:
        """Run one step; the instances are consecutive time steps."""
        return self._loop.run(self._session.step(instances, key=key, if_step=if_step, migrate=migrate, create=create))

    def stream(self, *, migrate: bool = False, create: bool = False) -> "Stream":
        """Return a stream, to be opened by `with`."""
        return Stream(self._loop, self._session.stream(migrate=migrate, create=create))

    def describe(self) -> SessionInfo:
        """Return the session's metadata; this does not extend its TTL."""
        return self._loop.run(self._session.describe())

    def fork(self, session: str | None = None, *, ttl: int | None = None) -> "Session":
        """Create a session with this one's state."""
        return Session(self._loop, self._loop.run(self._session.fork(session, ttl=ttl)))

    def reset(self, *, if_step: int | None = None) -> SessionInfo:
        """Return to the initial state and step 0."""
        return self._loop.run(self._session.reset(if_step=if_step))

    def delete(self, *, if_step: int | None = None) -> None:
        """Delete the session."""
        self._loop.run(self._session.delete(if_step=if_step))

    def get_state(self) -> bytes:
        """Return the state as a safetensors file: `safetensors.numpy.load(state)` has its arrays."""
        return self._loop.run(self._session.get_state())

    def put_state(self, state: bytes, *, if_step: int | None = None, migrate: bool = False) -> SessionInfo:
        """Replace the state by a safetensors file; a session that does not exist is created."""
        return self._loop.run(self._session.put_state(state, if_step=if_step, migrate=migrate))


class Stream:
    """Steps of a session over one request; see `AsyncStream`."""

    def __init__(self, loop: _Loop, stream: AsyncStream) -> None:
        self._loop = loop
        self._stream = stream

    def __enter__(self) -> Self:
        self._loop.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._stream.__aexit__(kind, value, traceback))

    def send(self, instances: Any, *, key: str | None = None) -> None:
        """Send one step."""
        self._loop.run(self._stream.send(instances, key=key))

    def receive(self) -> Step:
        """Wait for the response to the oldest step that has none."""
        return self._loop.run(self._stream.receive())

    def step(self, instances: Any, *, key: str | None = None) -> Step:
        """Send one step and wait for its response."""
        return self._loop.run(self._stream.step(instances, key=key))


class Accumulator:
    """Running totals under a name; see `AsyncAccumulator`."""

    def __init__(self, loop: _Loop, accumulator: AsyncAccumulator) -> None:
        self.name = accumulator.name
        self._loop = loop
        self._accumulator = accumulator

    def add(self, values: Any, *, key: str | None = None, if_step: int | None = None) -> Totals:
        """Add values, nested in any way; return the totals after it."""
        return self._loop.run(self._accumulator.add(values, key=key, if_step=if_step))

    def totals(self) -> Totals:
        """Return the totals."""
        return self._loop.run(self._accumulator.totals())

    def delete(self, *, if_step: int | None = None) -> None:
        """Delete the accumulator."""
        self._loop.run(self._accumulator.delete(if_step=if_step))
