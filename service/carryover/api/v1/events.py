"""`/events`: what is committed to a session, as Server-Sent Events, whoever commits it.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from carryover.api import conditions, names, problems
from carryover.api.inbound import Inbound
from carryover.api.json import encode
from carryover.api.response import EVENTS, Response
from carryover.api.v1.models import find
from carryover.engine import Engine
from carryover.engine.followers import Follower, Position
from carryover.engine.lookup import served_version
from carryover.errors import (
    DamagedRecordError,
    EventsEndedError,
    ForeignStateError,
    InvalidInputError,
    StoreUnavailableError,
)
from carryover.runtime.repository import Model
from carryover.store import Record
from carryover.store.record import TOMBSTONE
from carryover.threads import SingleFlight, in_turns

MAX_STATE = 256 * 1024
"""Bytes of the largest state that events hold, as `?state=true` asks for."""
MOST_STEPS = 100_000
"""Steps between two looks that are told one by one; where there are more, only where the session is."""
MOST_MISSED = 1000
"""The same for those since a client's `Last-Event-ID`."""
_PART = 500
"""Events that are sent at a time."""
_RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a client connects again, with the id of the last event that it has read."""
_NOTHING = b":\n\n"
"""A comment, which no client sees."""
ID = re.compile(r"([0-9a-f]{1,16})\.([0-9a-f]{1,4})\.([0-9]{1,19})(?:-([0-9]{1,64}))?")
"""When the session was created, its edition and its step, and the number of its version, where that is known."""
_HEADERS = (("X-Accel-Buffering", "no"), ("Cache-Control", "no-store"))
_looks: "SingleFlight[_Seen | None]" = SingleFlight()
"""The followers of a session in one worker read and encode its state together."""


def follow(engine: Engine, inbound: Inbound) -> Response:
    """Follow a session: an event for each step that is committed, and for what else becomes of it.

    With `Last-Event-ID`, the events go on after that one.
    """
    model, session = find(engine, inbound), names.of_path(inbound)
    shown = conditions.flag(inbound.query, "state")
    seen = _last_seen(inbound.headers.get("last-event-id"))
    record = engine.record(model, session, conditions.read(inbound))
    if shown and len(record.state) > MAX_STATE:
        raise InvalidInputError(
            f"state=true is for states of at most {MAX_STATE} bytes; this one has {len(record.state)}: read it with "
            f"GET {inbound.path.removesuffix('/events')}/state"
        )
    record.state = b""  # each event that shows it reads it: the stream holds none
    told = _Told(engine, model, session, seen, shown=shown)
    return Response(_events(told, record, inbound), media_type=EVENTS, headers=_HEADERS)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What events say of a session: where it is, the number of its version, and its state as JSON, where shown.

    What the id of an event says has no `header`, and not always a version.
    """

    at: Position
    header: bytes
    version: str | None
    state: orjson.Fragment | None = None


class _Told:
    """What a client was told of a session, after what it has `seen`; with `shown` also of its state."""

    def __init__(self, engine: Engine, model: Model, session: str, seen: _Seen | None, *, shown: bool) -> None:
        self.engine = engine
        self.model = model
        self.session = session
        self._last = seen
        self._shown = shown

    def until(self, record: Record) -> Iterator[bytes]:
        """Yield the events that lead to `record`."""
        now = self._with_state(record) if self._shown else self._seen(record)
        at, last = now.at, self._last
        self._last = replace(now, state=None)  # which would stay for as long as nothing happens
        if last is not None and (last.header == now.header if last.header else last.at == at):
            return
        shown = {} if now.state is None else {"state": now.state}
        steps = at.step - last.at.step if last is not None and at.follows(last.at) else 0
        if last is None or not 0 < steps <= (MOST_STEPS if last.header else MOST_MISSED):
            skipped = {"skipped": steps - 1} if steps else {}
            yield self._event("state", at, now.version, skipped | shown)
            return
        same = now.version if last.version == now.version else None  # which step has brought another is not known
        for step in in_turns(range(at.step - steps + 1, at.step), _PART):
            yield self._event("step", replace(at, step=step), same)
        yield self._event("step", at, now.version, shown)

    def _event(self, kind: str, at: Position, version: str | None, more: dict[str, Any] | None = None) -> bytes:
        identity, data = f"{at.created:x}.{at.edition:x}.{at.step}", {"session": self.session, "step": at.step}
        if version is None:
            return _written(kind, data, identity)
        return _written(kind, data | {"version": version} | (more or {}), f"{identity}-{version}")

    def _seen(self, record: Record, state: orjson.Fragment | None = None) -> _Seen:
        version = self.model.of_fingerprint(record.fingerprint)
        number = version.version if version else str(record.version)
        return _Seen(Position.of(record), record.header, number, state)

    def _with_state(self, record: Record) -> _Seen:
        """The session with its state: as it is by now, or without one where that cannot be read."""
        try:
            found = _looks.run((self.engine.key, self.model, self.session, record.header), self._look)
        except StoreUnavailableError:
            found = None
        return found or self._seen(record)

    def _look(self) -> _Seen | None:
        found = self.engine.look(self.model, self.session)
        return self._seen(found, self._encoded(found)) if found is not None and found.live else None

    def _encoded(self, record: Record) -> orjson.Fragment | None:
        if not 0 < len(record.state) <= MAX_STATE:
            return None
        try:
            version = served_version(self.model, self.session, record)
        except (ForeignStateError, DamagedRecordError):
            return None
        return orjson.Fragment(encode(version.state_values(record.state)))


def _events(told: _Told, record: Record, inbound: Inbound) -> Generator[bytes]:
    """Yield the events as they happen, with comments where nothing does, until the session or the stream ends."""
    assert inbound.wake is not None  # noqa: S101 - the route is that of a stream
    follower = Follower(record, inbound.wake)
    with told.engine.following(told.model, told.session, follower):
        yield _RETRY
        try:
            for _ in inbound.chunks or ():
                found = follower.take()
                if found is None:
                    yield _NOTHING
                elif found.live:
                    yield from _together(told.until(found))
                else:
                    kind = "deleted" if found.kind == TOMBSTONE else "expired"
                    yield _written(kind, {"session": told.session})
                    return
        except EventsEndedError as error:
            yield _written("ended", problems.problem(error, inbound.request_id))


def _together(events: Iterator[bytes]) -> Iterator[bytes]:
    """Join events, some at a time."""
    part = bytearray()
    for number, event in enumerate(events, 1):
        part += event
        if number % _PART == 0:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def _written(kind: str, data: Any, identity: str = "") -> bytes:
    named = f"id: {identity}\n" if identity else ""
    return f"{named}event: {kind}\ndata: ".encode() + encode(data) + b"\n\n"


def _last_seen(given: str | None) -> _Seen | None:
    """What a client has seen of the session last, by the id of that event.

    Raises:
        InvalidInputError: the service has sent no such id.

    """
    if not given:
        return None
    found = ID.fullmatch(given)
    if found is None:
        raise InvalidInputError(f"Last-Event-ID: {given!r:.80} is invalid; expected the id of an event of a session")
    return _Seen(Position(int(found[1], 16), int(found[2], 16), int(found[3])), b"", found[4])
