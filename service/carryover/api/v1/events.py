"""`/events`: what is committed to a session, as Server-Sent Events, whoever commits it.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from collections.abc import Generator, Iterator
from typing import Any

from carryover.api import conditions, names, problems
from carryover.api.inbound import Inbound
from carryover.api.json import encode
from carryover.api.response import EVENTS, Response
from carryover.api.v1.models import find
from carryover.engine import Engine
from carryover.engine.followers import Follower, Position
from carryover.errors import EventsEndedError, InvalidInputError, StoreUnavailableError
from carryover.runtime.repository import Model
from carryover.store import Record
from carryover.store.record import TOMBSTONE
from carryover.threads import in_turns

MAX_STATE = 256 * 1024
"""Bytes of the largest state that events hold, as `?state=true` asks for."""
MOST_STEPS = 100_000
"""Steps that are told one by one; a client that is further behind is told where the session is."""
_PART = 500
"""Events that are sent at a time."""
_RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a client connects again, with the id of the last event that it has read."""
_NOTHING = b":\n\n"
"""A comment, which no client sees."""
ID = re.compile(r"([0-9a-f]{1,16})\.([0-9a-f]{1,4})\.([0-9]{1,19})")
_HEADERS = (("X-Accel-Buffering", "no"), ("Cache-Control", "no-store"))


def follow(engine: Engine, inbound: Inbound) -> Response:
    """Follow a session: an event for each step that is committed, and for what else becomes of it.

    With `Last-Event-ID`, the events go on after that one.
    """
    model, session = find(engine, inbound), names.of_path(inbound)
    shown = conditions.flag(inbound.query, "state")
    seen = _position(inbound.headers.get("last-event-id"))
    record = engine.record(model, session, conditions.read(inbound))
    if shown and len(record.state) > MAX_STATE:
        raise InvalidInputError(
            f"state=true is for states of at most {MAX_STATE} bytes; this one has {len(record.state)}: read it with "
            f"GET {inbound.path.removesuffix('/events')}/state"
        )
    record.state = b""  # each event that shows it reads it: the stream holds none
    told = _Told(engine, model, session, seen, shown=shown)
    return Response(_events(told, record, inbound), media_type=EVENTS, headers=_HEADERS)


class _Told:
    """What a client was told of a session, from where it has `seen` it on; with `shown` also of its state."""

    def __init__(self, engine: Engine, model: Model, session: str, seen: Position | None, *, shown: bool) -> None:
        self.engine = engine
        self.model = model
        self.session = session
        self._seen = seen
        self._shown = shown
        self._header = b""

    def until(self, record: Record) -> Iterator[bytes]:
        """Yield the events that lead to `record`."""
        if self._shown:
            record = self._with_state(record)
        at, seen, header = Position.of(record), self._seen, self._header
        self._seen, self._header = at, record.header
        if header == record.header or (not header and seen == at):
            return
        if seen is not None and seen != at and at.follows(seen) and at.step - seen.step <= MOST_STEPS:
            for step in in_turns(range(seen.step + 1, at.step), _PART):
                yield self._event("step", Position(at.created, at.edition, step), record)
            yield self._event("step", at, record, shown=self._shown)
        else:
            yield self._event("state", at, record, shown=self._shown)

    def _event(self, kind: str, at: Position, record: Record, *, shown: bool = False) -> bytes:
        version = self.model.of_fingerprint(record.fingerprint)
        number = version.version if version else str(record.version)
        data: dict[str, Any] = {"session": self.session, "step": at.step, "version": number}
        if shown and version is not None and 0 < len(record.state) <= MAX_STATE:
            data["state"] = version.state_values(record.state)
        return _written(kind, data, f"{at.created:x}.{at.edition:x}.{at.step}")

    def _with_state(self, record: Record) -> Record:
        """The session with its state: as it is by now, or without one where that cannot be read."""
        try:
            found = self.engine.look(self.model, self.session)
        except StoreUnavailableError:
            return record
        return found if found is not None and found.live else record


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


def _position(given: str | None) -> Position | None:
    """Where a client has seen the session, by the id of its last event.

    Raises:
        InvalidInputError: the service has sent no such id.

    """
    if not given:
        return None
    found = ID.fullmatch(given)
    if found is None:
        raise InvalidInputError(f"Last-Event-ID: {given!r:.80} is invalid; expected the id of an event of a session")
    return Position(int(found[1], 16), int(found[2], 16), int(found[3]))
