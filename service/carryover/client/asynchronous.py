"""The client for asyncio."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from carryover.client.errors import ProblemError
from carryover.client.results import Predictions, SessionInfo, Step, Totals
from carryover.client.retries import Retries
from carryover.client.streams import AsyncStream
from carryover.client.transport import SAFETENSORS, Transport, encode, new_key, path_of

URL = "http://127.0.0.1:8000"
TIMEOUT = 100.0


class AsyncClient:
    """A client of one service. `timeout` is in seconds, for one attempt; `headers` are sent with every request.

    Every call that changes something carries an idempotency key, so that it is committed at most once however often it
    is retried: after a lost connection, 429, 502, 503, 504, and 409 while the first attempt is in progress.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._transport = Transport(url, headers or {}, timeout, retries or Retries())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        found: list[dict[str, Any]] = (await self._transport.send("GET", "/v1/models")).json["models"]
        return found

    async def model(self, model: str, *, version: str | None = None) -> dict[str, Any]:
        """Describe a model: versions, inputs, outputs, buffers."""
        found: dict[str, Any] = (await self._transport.send("GET", _model(model, version))).json
        return found

    async def predict(self, model: str, instances: Any, *, version: str | None = None) -> Predictions:
        """Predict without a session."""
        body = encode({"instances": instances})
        reply = await self._transport.send("POST", f"{_model(model, version)}:predict", body)
        return Predictions(reply.json["predictions"])

    async def create(
        self, model: str, session: str | None = None, *, ttl: int | None = None, version: str | None = None
    ) -> "AsyncSession":
        """Create a session; without a name it gets one. `ttl` is in seconds."""
        path = f"{_model(model, version)}/sessions"
        reply = await self._transport.send("POST", path, _creation(session, ttl), _headers())
        return self.session(model, reply.json["session"], version=version)

    def session(self, model: str, session: str, *, version: str | None = None) -> "AsyncSession":
        """Return a session by its name, without a request."""
        return AsyncSession(self._transport, f"{_model(model, version)}/sessions", session)

    async def step_many(
        self, model: str, instances: Mapping[str, Any], *, key: str | None = None, version: str | None = None
    ) -> dict[str, Step | ProblemError]:
        """Run one step of each of many sessions, given the instances of each; return its step or its problem."""
        path, body = f"{_model(model, version)}/sessions:predict", encode({"sessions": instances})
        headers, attempts = _headers(key), self._transport.attempts()
        while True:
            reply = await self._transport.send("POST", path, body, headers)
            found = {session: _outcome(entry) for session, entry in reply.json["sessions"].items()}
            failed = [one for one in found.values() if isinstance(one, ProblemError) and one.temporary]
            if not failed:
                return found
            try:
                # The key makes it a replay for those that have been committed.
                await attempts.wait(failed[0])
            except ProblemError:
                return found

    def accumulator(self, name: str) -> "AsyncAccumulator":
        """Return an accumulator, without a request; it is created by the first `add`."""
        return AsyncAccumulator(self._transport, name)


class AsyncSession:
    """A session of a model."""

    def __init__(self, transport: Transport, sessions: str, name: str) -> None:
        self.name = name
        self._transport = transport
        self._sessions = sessions
        self._path = sessions + path_of(name)

    async def step(
        self,
        instances: Any,
        *,
        key: str | None = None,
        if_step: int | None = None,
        migrate: bool = False,
        create: bool = False,
    ) -> Step:
        """Run one step; the instances are consecutive time steps.

        `key` is the idempotency key, by default a new one. With `if_step` it runs only if the session is at that step.
        `migrate` moves a session of a version that is not served any more to the current one, `create` creates one
        that does not exist.
        """
        path = f"{self._path}:predict{_query(migrate=migrate, create=create)}"
        body = encode({"instances": instances})
        return Step.of((await self._transport.send("POST", path, body, _headers(key, if_step))).json)

    def stream(self, *, migrate: bool = False, create: bool = False) -> AsyncStream:
        """Return a stream, to be opened by `async with`."""
        return AsyncStream(self._transport, f"{self._path}:stream{_query(migrate=migrate, create=create)}")

    async def describe(self) -> SessionInfo:
        """Return the session's metadata; this does not extend its TTL."""
        found: SessionInfo = (await self._transport.send("GET", self._path)).json
        return found

    async def fork(self, session: str | None = None, *, ttl: int | None = None) -> "AsyncSession":
        """Create a session with this one's state."""
        reply = await self._transport.send("POST", f"{self._path}:fork", _creation(session, ttl), _headers())
        return AsyncSession(self._transport, self._sessions, reply.json["session"])

    async def reset(self, *, if_step: int | None = None) -> SessionInfo:
        """Return to the initial state and step 0."""
        headers = _headers(None, if_step)
        found: SessionInfo = (await self._transport.send("POST", f"{self._path}:reset", b"{}", headers)).json
        return found

    async def delete(self, *, if_step: int | None = None) -> None:
        """Delete the session."""
        await self._transport.send("DELETE", self._path, headers=_headers(None, if_step))

    async def get_state(self) -> bytes:
        """Return the state as a safetensors file: `safetensors.numpy.load(state)` has its arrays.

        The file also holds the fingerprint and the step, by which `put_state` checks that it fits.
        """
        return (await self._transport.send("GET", f"{self._path}/state")).body

    async def put_state(self, state: bytes, *, if_step: int | None = None, migrate: bool = False) -> SessionInfo:
        """Replace the state by a safetensors file; a session that does not exist is created."""
        headers = _headers(None, if_step) | {"Content-Type": SAFETENSORS}
        path = f"{self._path}/state{_query(migrate=migrate)}"
        found: SessionInfo = (await self._transport.send("PUT", path, state, headers)).json
        return found


class AsyncAccumulator:
    """Running totals under a name."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = transport
        self._path = path_of("v1", "accumulators", name)

    async def add(self, values: Any, *, key: str | None = None, if_step: int | None = None) -> Totals:
        """Add values, nested in any way; return the totals after it."""
        body = encode({"values": values})
        found: Totals = (await self._transport.send("POST", self._path, body, _headers(key, if_step))).json
        return found

    async def totals(self) -> Totals:
        """Return the totals."""
        found: Totals = (await self._transport.send("GET", self._path)).json
        return found

    async def delete(self, *, if_step: int | None = None) -> None:
        """Delete the accumulator."""
        await self._transport.send("DELETE", self._path, headers=_headers(None, if_step))


def _model(model: str, version: str | None) -> str:
    return path_of("v1", "models", model) + ("" if version is None else path_of("versions", version))


def _headers(key: str | None = None, if_step: int | None = None) -> dict[str, str]:
    found = {"Idempotency-Key": key or new_key()}
    return found if if_step is None else found | {"If-Match": f'"{if_step}"'}


def _query(**flags: bool) -> str:
    given = "&".join(f"{name}=true" for name, is_set in flags.items() if is_set)
    return f"?{given}" if given else ""


def _creation(session: str | None, ttl: int | None) -> bytes:
    given = {"session": session, "ttl": ttl}
    return encode({name: value for name, value in given.items() if value is not None})


def _outcome(entry: dict[str, Any]) -> Step | ProblemError:
    return ProblemError(entry["status"], entry) if "status" in entry else Step.of(entry)
