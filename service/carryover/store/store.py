"""The store: sessions by key, read together and committed together."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from hashlib import sha1
from importlib.resources import files
from secrets import token_hex
from typing import Any, Protocol, TypeVar

import redis
from redis import exceptions

from carryover.errors import CommitUnknownError, ConfigurationError, StoreUnavailableError
from carryover.store import keys as names
from carryover.store.health import StoreHealth, reason, unavailable
from carryover.store.rates import Demand
from carryover.store.record import GRACE, HEADER_BYTES, SESSION, Record, Written, nonce, parse, tombstone
from carryover.store.redis import ERRORS, Command, UnconfirmedError, connect
from carryover.store.responses import LOCK_MILLISECONDS, IdempotencyKey, is_response

T = TypeVar("T")

_PAUSES = (0.02, 0.05, 0.2)
"""Seconds before each new try after a broken connection."""
WATCH_SECONDS = 1.0
"""Between two looks at a store that was lost."""
PROBE_MILLISECONDS = 1000
"""How long a probe lasts at most; it is deleted as soon as it is written."""
_SCANNED = 1000
"""Most keys that a server looks at in one go."""
_SCANS = 100
"""How often it is asked to, for one page."""
_TO_REPEAT = (redis.ConnectionError, exceptions.NoScriptError)


class Outcome(IntEnum):
    """What became of a commit; the numbers are the script's.

    UNKNOWN is not the script's: the connection broke, and another commit has come since, before or after this one.
    """

    UNKNOWN = -2
    GONE = -1
    CONFLICT = 0
    COMMITTED = 1


_OUTCOMES = {int(outcome): outcome for outcome in Outcome}


class Commit(Protocol):
    """One session's write.

    `before` is what was read (None: no such key), `after` the new record (None: the session is deleted). With `live`
    the session must not have expired meanwhile. `responses` are stored with it. Where `after` is the record that was
    read, advanced in place, its `header` still is what was read.
    """

    @property
    def key(self) -> str: ...  # noqa: D102 - as described above

    @property
    def before(self) -> Record | None: ...  # noqa: D102

    @property
    def after(self) -> Record | None: ...  # noqa: D102

    @property
    def live(self) -> bool: ...  # noqa: D102

    @property
    def responses(self) -> Sequence[tuple[IdempotencyKey, bytes]]: ...  # noqa: D102


class _Script:
    """A script beside this file."""

    def __init__(self, name: str) -> None:
        self.source = files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()


class Store:
    """Sessions in Redis.

    Where a connection breaks, every call is tried again for a fraction of a second; then it raises
    StoreUnavailableError. Keys are `<model>/<name>`.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        keep_responses: int,
        prefix: str = "carryover",
        health: StoreHealth | None = None,
    ) -> None:
        """`timeout` is that of one attempt to connect, and of one reply; it and `keep_responses` are in seconds.

        Stores that are used one after another share `health`. Where callers have rates, `rated` is true, and `ping`
        checks them as well.
        """
        self.health = health or StoreHealth()
        self.rated = False
        self._watches = self._watching = False
        self._may_ask = True
        self._markers: dict[str, str] = {}
        self._prefix = prefix
        self._keep = keep_responses * 1000
        self._timeout = timeout
        self._wait: Command | None = None
        self._topology = connect(url, timeout)
        self._scripts = {
            name: _Script(name)
            for name in ("claim", "commit", "elect", "heads", "live", "policy", "rate", "release", "replay", "sweep")
        }
        self._sources = {script.sha: script.source for script in self._scripts.values()}

    def require_replicas(self, count: int, seconds: float) -> None:
        """Have each commit, and each response that is read for a retry, confirmed by `count` replicas within `seconds`.

        Raises:
            ConfigurationError: that is not less than the time that a reply has.

        """
        if count and seconds >= self._timeout:
            raise ConfigurationError(
                f"REDIS_REPLICAS_TIMEOUT={seconds:g}: expected less than REDIS_TIMEOUT, which is {self._timeout:g}"
            )
        self._wait = ("WAIT", count, int(seconds * 1000)) if count else None

    def load(
        self,
        keys: Sequence[str],
        locks: Sequence[tuple[str, IdempotencyKey]] = (),
        expiring: Sequence[int] = (),
        demands: Sequence[Demand] = (),
    ) -> tuple[list[Record | StoreUnavailableError | None], list[bytes | StoreUnavailableError | None]]:
        """Read sessions, and lock idempotency keys, in one round trip.

        `expiring` are positions in `keys` of sessions of which it is also read how long they have left. `demands` are
        settled.

        Returns:
            For each key what it holds, None where there is no such key; for each lock what was there before it. Either
            is an error where its server failed.

        """
        prefix = self._prefix
        places = [names.session(prefix, key) for key in keys]
        groups = self._topology.groups(places)
        commands: list[Command] = [("MGET", *[places[i] for i in group]) for group in groups]
        for key, idempotency_key in locks:
            place = self._response_key(key, idempotency_key)
            commands.append(("SET", place, idempotency_key.lock(), "NX", "GET", "PX", LOCK_MILLISECONDS))
        commands += [("PTTL", places[position]) for position in expiring]
        for demand in demands:
            commands.append(self._take(demand))
        replies, again = self._run(commands)
        failed = [number for number, reply in enumerate(replies) if isinstance(reply, Exception)]
        if failed:
            self._read_unlocked(commands, replies, failed)
        found: list[Record | StoreUnavailableError | None] = [None] * len(keys)
        for group, values in zip(groups, replies, strict=False):
            for number, i in enumerate(group):
                found[i] = values if isinstance(values, StoreUnavailableError) else _parsed(values[number])
        end = len(groups) + len(locks)
        for position, left in zip(expiring, replies[end:], strict=False):
            found[position] = _remaining(found[position], left)
        if demands:
            _settle(demands, replies)
        before: list[bytes | StoreUnavailableError | None] = replies[len(groups) : end]
        if again:
            _drop_own(locks, before, {number - len(groups) for number in again})
        if self._wait is not None:
            self._confirm(locks, before)
        return found, before

    def look(self, key: str) -> Record | None:
        """Read one session, and how long it has left."""
        place = names.session(self._prefix, key)
        value, left = _whole(self._run([("GET", place), ("PTTL", place)])[0])
        return None if value is None else parse(value, left - GRACE)

    def heads(self, keys: Sequence[str]) -> list[Record | StoreUnavailableError | None]:
        """Read sessions without their states, and how long each has left, in one round trip.

        Returns:
            For each key what it holds, None where there is no such key; an error where its server failed.

        """
        sha = self._scripts["heads"].sha
        places = [names.session(self._prefix, key) for key in keys]
        groups = self._topology.groups(places)
        commands = [("EVALSHA", sha, len(group), *(places[i] for i in group), HEADER_BYTES) for group in groups]
        found = _by_key(groups, self._run(commands)[0])
        return [each if isinstance(each, StoreUnavailableError) else _head(*each) for each in found]

    def claim(self, keys: Sequence[str]) -> None:
        """Have those who have read these sessions lose the race for them against whoever reads them next.

        It only helps: where it fails, nothing is lost but that.
        """
        prefix, sha = self._prefix, self._scripts["claim"].sha
        places = [names.session(prefix, key) for key in keys]
        groups = self._topology.groups(places)
        self._run(
            [("EVALSHA", sha, len(group), *(places[i] for i in group), *(nonce() for _ in group)) for group in groups]
        )

    def take(self, demand: Demand) -> None:
        """Settle a demand; where Redis fails, all is allowed, and nobody waits for a Redis that was lost before."""
        lost = self.health.reason
        demand.settle(StoreUnavailableError(lost) if lost else self._run([self._take(demand)])[0][0])

    def commit(
        self, commits: Sequence[Commit], releases: Sequence[tuple[str, IdempotencyKey]] = ()
    ) -> list[Outcome | StoreUnavailableError]:
        """Write the new records of distinct sessions, each by compare-and-set, in one round trip.

        `releases` are locks of requests that failed; where that fails they expire by themselves.

        Returns:
            For each commit what became of it; an error where its server failed, which says if that is not known.

        """
        prefix = self._prefix
        places = [names.session(prefix, commit.key) for commit in commits]
        groups = self._topology.groups(places)
        commands = [self._commit([(places[i], commits[i]) for i in group]) for group in groups]
        release = self._scripts["release"].sha
        commands += [("EVALSHA", release, 1, self._response_key(key, held)) for key, held in releases]
        return self._outcomes(groups, commands, len(commits))

    def read(self, keys: Sequence[str]) -> list[bytes | StoreUnavailableError | None]:
        """Read the records of sessions as they are, in one round trip; an error for those whose server failed."""
        places = [names.session(self._prefix, key) for key in keys]
        groups = self._topology.groups(places)
        return _by_key(groups, self._run([("MGET", *[places[i] for i in group]) for group in groups])[0])

    def write(self, keys: Sequence[str], records: Sequence[Written]) -> list[Outcome | StoreUnavailableError]:
        """Commit the records of sessions that go on from what was read, as `commit` does."""
        places = [names.session(self._prefix, key) for key in keys]
        groups = self._topology.groups(places)
        commands = [self._write([places[i] for i in group], [records[i] for i in group]) for group in groups]
        return self._outcomes(groups, commands, len(keys))

    def _write(self, places: Sequence[str], records: Sequence[Written]) -> Command:
        arguments: list[bytes | int] = [GRACE, self._keep]
        for before, data, expiry in records:
            arguments += (1, before, data, expiry, 0)
        return ("EVALSHA", self._scripts["commit"].sha, len(places), *places, *arguments)

    def _outcomes(
        self, groups: Sequence[Sequence[int]], commands: list[Command], count: int
    ) -> list[Outcome | StoreUnavailableError]:
        """Run the commits of groups of sessions, and say what became of each."""
        replies, again = self._run(commands, self._wait if count else None)
        outcomes: list[Outcome | StoreUnavailableError] = [Outcome.UNKNOWN] * count
        for number, (group, reply) in enumerate(zip(groups, replies, strict=False)):
            unsure = number in again
            if isinstance(reply, UnconfirmedError):
                unconfirmed, values = CommitUnknownError(reason(reply)), reply.reply
            elif isinstance(reply, Exception):
                unsure = unsure or isinstance(reply, (redis.ConnectionError, redis.TimeoutError))
                error = CommitUnknownError(reason(reply)) if unsure else unavailable(reply)
                for i in group:
                    outcomes[i] = error
                continue
            else:
                unconfirmed, values = None, reply
            for i, value in zip(group, values, strict=True):
                # A conflict may be with the commit's own first try.
                outcome = Outcome.UNKNOWN if unsure and value < 1 else _OUTCOMES[value]
                outcomes[i] = unconfirmed if unconfirmed and outcome is Outcome.COMMITTED else outcome
        return outcomes

    def ping(self) -> None:
        """Check on every server that a step could be loaded and committed: run the same, for a key of no session.

        What may lose sessions all the same is then in `health.warnings`.

        Raises:
            StoreUnavailableError: it could not.

        """
        try:
            self._probe()
        except StoreUnavailableError as error:
            self._lost(error.__cause__ or error, probe=True)
            raise
        self.health.restored()

    def _probe(self) -> None:
        token = token_hex(8)
        keys = self._again(lambda: self._topology.key_of_each(lambda tag: names.probe(self._prefix, tag, token)))
        commands: list[Command] = []
        deletions: list[Command] = []
        for key in keys:
            response = f"{key}:response"
            write = (GRACE, PROBE_MILLISECONDS, 0, b"", b"\2" + token.encode(), PROBE_MILLISECONDS, 1, b"\1")
            commands += [
                ("MGET", key),
                ("PTTL", key),
                ("EVALSHA", self._scripts["commit"].sha, 2, key, response, *write),
            ]
            if self.rated:
                commands.append(("EVALSHA", self._scripts["rate"].sha, 1, f"{key}:rate", 1, 1, 1))
            deletions.append(("DEL", key, response))
        _whole(self._run(commands, self._wait)[0])
        _whole(self._run(deletions)[0])
        self._check_policy(keys)
        self._check_markers([names.marker(key) for key in keys], token)

    def _check_policy(self, keys: Sequence[str]) -> None:
        """Ask the servers of these keys whether they keep what they hold when their memory is full."""
        if self._may_ask or self.health.reason is not None:
            sha = self._scripts["policy"].sha
            found = [reply.decode() for reply in _whole(self._run([("EVALSHA", sha, 1, key) for key in keys])[0])]
            # Without the right to ask, every question would be an entry in the server's log of denied commands.
            self._may_ask = all(found)
            self.health.found_policies({policy for policy in found if policy})

    def _check_markers(self, keys: Sequence[str], token: str) -> None:
        """Look for what this process, or another, has left on the servers before: they may have lost everything.

        A server that deletes keys when its memory is full may have lost only that.
        """
        found = _whole(self._run([("SET", key, token, "NX", "GET") for key in keys])[0])
        held = {key: token if value is None else value.decode() for key, value in zip(keys, found, strict=True)}
        if not self.health.warnings and any(self._markers.get(key, now) != now for key, now in held.items()):
            self.health.emptied()
        self._markers |= held

    def watch(self) -> None:
        """From now on, look at a store that was lost until it works again: no request may come that would notice."""
        self._watches = True
        self._topology.watch()
        if self.health.reason is not None:
            self._start_watching()

    def _lost(self, error: BaseException, *, probe: bool = False) -> None:
        self.health.lost(error, probe=probe)
        if self._watches and self.health.reason is not None:
            self._start_watching()

    def _start_watching(self) -> None:
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        try:
            while self.health.reason is not None:
                time.sleep(WATCH_SECONDS)
                with suppress(StoreUnavailableError):
                    self.ping()
        finally:
            self._watching = False

    def elect(self, office: str, seconds: float) -> bool:
        """Return whether this process is the one among all that holds an office for the next seconds."""
        sha, key = self._scripts["elect"].sha, names.office(self._prefix, office)
        command = ("EVALSHA", sha, 1, key, int(seconds * 1000))
        return bool(_whole(self._run([command])[0])[0])

    def pages(self, size: int) -> Iterator[list[bytes]]:
        """Yield the keys of sessions and responses, about `size` at a time."""
        page: list[bytes] = []
        keys = self._topology.scan(names.sessions_pattern(self._prefix), size)
        while (key := self._again(lambda: next(keys, None))) is not None:
            page.append(key)
            if len(page) >= size:
                yield page
                page = []
        if page:
            yield page

    def page(self, start: str, cursor: str, size: int) -> tuple[list[tuple[str, Record, int]], str]:
        """Return about `size` sessions whose keys start with `start`, and the cursor of those that follow.

        A cursor is the number of a server and that server's own cursor; the first and the last are empty. Of each
        session its key is returned, its record without the state, and how many bytes that has.
        """
        pattern = names.sessions_from(self._prefix, start)
        servers = self._again(self._topology.servers)
        number, at = map(int, (cursor or "0.0").split("."))
        places: list[bytes] = []
        count = size
        for _ in range(_SCANS):
            if number >= len(servers) or len(places) >= size:
                break
            (reply,) = _whole(servers[number].run([("SCAN", at, "MATCH", pattern, "COUNT", count)]))
            count = min(2 * count, _SCANNED)
            at = int(reply[0])
            places += reply[1]
            number += at == 0
        following = f"{number}.{at}" if number < len(servers) else ""
        return self._summaries(list(dict.fromkeys(places))), following

    def _summaries(self, places: Sequence[bytes]) -> list[tuple[str, Record, int]]:
        """Return the live sessions at these keys, without their states."""
        commands: list[Command] = []
        for place in places:
            commands += [("GETRANGE", place, 0, HEADER_BYTES - 1), ("STRLEN", place), ("PTTL", place)]
        replies = _whole(self._run(commands)[0]) if commands else []
        found: list[tuple[str, Record, int]] = []
        for place, head, length, left in zip(places, replies[::3], replies[1::3], replies[2::3], strict=True):
            record = _parsed(head or None)
            if isinstance(record, Record) and record.kind == SESSION and left > GRACE:
                record.remaining = left - GRACE
                found.append((names.of_session(self._prefix, place), record, length - len(record.header)))
        return found

    def drop_expired(self, keys: Sequence[bytes]) -> int:
        """Drop the states of those sessions among the keys that have expired; return how many there were."""
        sha = self._scripts["sweep"].sha
        commands = [
            ("EVALSHA", sha, len(group), *(keys[i] for i in group), GRACE) for group in self._topology.groups(keys)
        ]
        return sum(_whole(self._run(commands)[0])) if commands else 0

    def models_of_live(self, keys: Sequence[bytes]) -> list[str]:
        """Return, for each live session among the keys, the name of its model."""
        sha = self._scripts["live"].sha
        groups = self._topology.groups(keys)
        commands = [("EVALSHA", sha, len(group), *(keys[i] for i in group), GRACE) for group in groups]
        flags = _whole(self._run(commands)[0])
        return [
            names.model_of(self._prefix, keys[i])
            for group, found in zip(groups, flags, strict=True)
            for i, live in zip(group, found, strict=True)
            if live
        ]

    def note_counts(self, sessions: Mapping[str, int], seconds: float) -> None:
        """Store how many sessions there are of each model; it is forgotten after some seconds."""
        key = names.office(self._prefix, "counts")
        _whole(self._run([("SET", key, json.dumps(sessions), "PX", int(seconds * 1000))])[0])

    def counts(self) -> dict[str, int] | None:
        """Return how many sessions of each model were counted last; None where Redis does not say."""
        if self.health.reason is not None:
            return None
        found = self._run([("GET", names.office(self._prefix, "counts"))])[0][0]
        return json.loads(found) if isinstance(found, bytes) else None

    def hold(self, office: str, seconds: float) -> None:
        """Hold an office that this process has for so long from now on."""
        _whole(self._run([("SET", names.office(self._prefix, office), 1, "XX", "PX", int(seconds * 1000))])[0])

    def _take(self, demand: Demand) -> Command:
        key = names.rate(self._prefix, demand.name)
        return ("EVALSHA", self._scripts["rate"].sha, 1, key, demand.interval, demand.burst, demand.count)

    def _commit(self, commits: Sequence[tuple[str, Commit]]) -> Command:
        keys: list[str] = []
        arguments: list[bytes | int] = [GRACE, self._keep]
        for place, commit in commits:
            keys.append(place)
            before, after, responses = commit.before, commit.after, commit.responses
            if after is None:
                data, expiry = tombstone(), GRACE
            else:
                data, expiry = after.data(), after.ttl * 1000 + GRACE
            arguments += [int(commit.live), b"" if before is None else before.header, data, expiry, len(responses)]
            for idempotency_key, response in responses:
                keys.append(self._response_key(commit.key, idempotency_key))
                arguments.append(idempotency_key.stored(response))
        return ("EVALSHA", self._scripts["commit"].sha, len(keys), *keys, *arguments)

    def _read_unlocked(self, commands: list[Command], replies: list[Any], failed: list[int]) -> None:
        """Put errors for the client among the replies, and read under the keys that a full server cannot lock.

        A lock only saves work. Without it, what frees memory is carried out: a session with a key can be deleted.
        """
        unlocked = [
            i for i in failed if commands[i][0] == "SET" and isinstance(replies[i], exceptions.OutOfMemoryError)
        ]
        read = self._run([("GET", commands[i][1]) for i in unlocked])[0] if unlocked else ()
        for i, reply in zip(unlocked, read, strict=True):
            replies[i] = reply
        for i in failed:
            if isinstance(replies[i], Exception):
                replies[i] = unavailable(replies[i])

    def _confirm(
        self, locks: Sequence[tuple[str, IdempotencyKey]], found: list[bytes | StoreUnavailableError | None]
    ) -> None:
        """Have the responses among what was found confirmed by replicas: a replay acknowledges its step."""
        stored = [i for i, value in enumerate(found) if isinstance(value, bytes) and is_response(value)]
        if stored:
            sha = self._scripts["replay"].sha
            commands = [("EVALSHA", sha, 1, self._response_key(*locks[i])) for i in stored]
            for i, reply in zip(stored, self._run(commands, self._wait)[0], strict=True):
                found[i] = CommitUnknownError(reason(reply)) if isinstance(reply, Exception) else reply

    def _response_key(self, key: str, idempotency_key: IdempotencyKey) -> str:
        return names.response(self._prefix, key, idempotency_key.name)

    def _again(self, call: Callable[[], T]) -> T:
        """Call what may be called again, where the connection breaks; a reply that is late is not waited for twice."""
        for pause in _PAUSES:
            try:
                return call()
            except redis.ConnectionError:
                time.sleep(pause)
            except ERRORS as error:
                self._lost(error)
                raise unavailable(error) from error
        try:
            return call()
        except ERRORS as error:
            self._lost(error)
            raise unavailable(error) from error

    def _run(self, commands: list[Command], wait: Command | None = None) -> tuple[list[Any], set[int]]:
        """Run commands; those whose connection broke, again, which the scripts allow.

        Each server runs `wait` after them: where fewer replicas confirm them, their replies are UnconfirmedError.

        Returns:
            The replies, and which of the commands may have been carried out before.

        """
        replies = self._topology.run(commands, wait)
        again: set[int] = set()
        for pause in _PAUSES:
            errors = [i for i, reply in enumerate(replies) if isinstance(reply, Exception)]
            if not errors:
                return replies, again
            failed = [i for i in errors if isinstance(replies[i], _TO_REPEAT)]
            if not failed:
                break
            if broken := [i for i in failed if isinstance(replies[i], redis.ConnectionError)]:
                again.update(broken)
                time.sleep(pause)
            repeated = self._topology.run([self._in_full(commands[i], replies[i]) for i in failed], wait)
            for i, reply in zip(failed, repeated, strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                self._lost(reply)
        return replies, again

    def _in_full(self, command: Command, reply: Exception) -> Command:
        """The command with its script's source, where the server did not know the script."""
        if isinstance(reply, exceptions.NoScriptError):
            return ("EVAL", self._sources[command[1]], *command[2:])
        return command


def _parsed(value: bytes | None) -> Record | StoreUnavailableError | None:
    try:
        return None if value is None else parse(value)
    except StoreUnavailableError as error:
        return error


def _by_key(groups: Sequence[Sequence[int]], replies: Sequence[Any]) -> list[Any]:
    """Return what the replies for groups of keys hold for each key; the error of its server, where that failed."""
    found: list[Any] = [None] * sum(map(len, groups))
    for group, values in zip(groups, replies, strict=True):
        held = [unavailable(values)] * len(group) if isinstance(values, Exception) else values
        for i, value in zip(group, held, strict=True):
            found[i] = value
    return found


def _head(head: bytes, left: int) -> Record | StoreUnavailableError | None:
    """The record that starts with `head`, which is empty where there is no key, and has `left` milliseconds."""
    found = _remaining(_parsed(head or None), left)
    if isinstance(found, Record):
        found.state = b""  # where the header is shorter, the head has some bytes of it
    return found


def _remaining(
    found: Record | StoreUnavailableError | None, left: int | StoreUnavailableError
) -> Record | StoreUnavailableError | None:
    """What was found, with the time that its key has left in milliseconds."""
    if isinstance(left, StoreUnavailableError):
        return left
    if isinstance(found, Record) and found.kind == SESSION:
        found.remaining = left - GRACE
    return found


def _settle(demands: Sequence[Demand], replies: Sequence[Any]) -> None:
    """Settle demands, whose replies are the last."""
    for demand, reply in zip(demands, replies[-len(demands) :], strict=True):
        demand.settle(reply)


def _drop_own(
    locks: Sequence[tuple[str, IdempotencyKey]], found: list[bytes | StoreUnavailableError | None], again: set[int]
) -> None:
    """Drop what commands that ran `again` have found of their own first try; where it is not, no harm is done."""
    for number, (_, key) in enumerate(locks):
        if number in again and found[number] == key.lock():
            found[number] = None


def _whole(replies: list[Any]) -> list[Any]:
    """The replies; raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise unavailable(reply)
    return replies
