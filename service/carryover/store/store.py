"""The store: sessions by key, read together and committed together."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha1
from importlib.resources import files
from typing import Any, TypeVar

import redis
from redis import exceptions

from carryover.errors import CommitUnknownError, StoreUnavailableError
from carryover.store import keys as names
from carryover.store.record import GRACE, Record, Stored, parse, tombstone
from carryover.store.redis import ERRORS, connect
from carryover.store.responses import CLAIM_MILLISECONDS, Once

T = TypeVar("T")
Command = tuple[Any, ...]

_PAUSES = (0.02, 0.05, 0.2)
"""Seconds before each new try after a broken connection."""
_TO_REPEAT = (redis.ConnectionError, exceptions.NoScriptError)


class Outcome(IntEnum):
    """What became of a commit; the numbers are the script's.

    UNKNOWN is not the script's: the connection broke, and another commit has come since, before or after this one.
    """

    UNKNOWN = -2
    GONE = -1
    CONFLICT = 0
    COMMITTED = 1


@dataclass(frozen=True, slots=True)
class Commit:
    """One session's write.

    `before` is what was read (None: nothing), `after` the new record (None: the session ends). `live` says that the
    session must not have expired. `answers` are stored with it.
    """

    key: str
    before: Stored | None
    after: Record | None
    live: bool = True
    answers: tuple[tuple[Once, bytes], ...] = ()


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

    def __init__(self, url: str, timeout: float, keep_answers: int, prefix: str = "carryover") -> None:
        """`timeout` is that of one attempt to connect, and of one answer; it and `keep_answers` are in seconds."""
        self._prefix = prefix
        self._keep = keep_answers * 1000
        self._topology = connect(url, timeout)
        self._scripts = {name: _Script(name) for name in ("commit", "release", "sweep")}
        self._sources = {script.sha: script.source for script in self._scripts.values()}

    def load(
        self, keys: Sequence[str], claims: Sequence[tuple[str, Once]] = ()
    ) -> tuple[list[Stored | StoreUnavailableError | None], list[bytes | StoreUnavailableError | None]]:
        """Read sessions, and claim requests that are to be carried out once, in one round trip.

        Returns:
            For each key what it holds, None where there is no such key; for each claim what was there before it. Either
            is an error where its server failed.

        """
        places = [self._key(key) for key in keys]
        groups = self._topology.groups(places)
        commands: list[Command] = [("MGET", *(places[i] for i in group)) for group in groups]
        for key, once in claims:
            commands.append(
                ("SET", self._answer_key(key, once), once.claim(), "NX", "GET", "PX", CLAIM_MILLISECONDS),
            )
        replies, again = self._run(commands)
        for number, reply in enumerate(replies):
            if isinstance(reply, Exception):
                replies[number] = StoreUnavailableError(_reason(reply))
        found: list[Stored | StoreUnavailableError | None] = [None] * len(keys)
        for group, values in zip(groups, replies, strict=False):
            for number, i in enumerate(group):
                found[i] = values if isinstance(values, StoreUnavailableError) else _parsed(values[number])
        answers: list[bytes | StoreUnavailableError | None] = replies[len(groups) :]
        if again:
            for number, (_, once) in enumerate(claims):
                if len(groups) + number in again and answers[number] == once.claim():
                    answers[number] = None  # its own, of the first try; if not, no harm is done
        return found, answers

    def look(self, key: str, once: Once | None = None) -> tuple[Stored | None, bytes | None]:
        """Read one session with how long it has left, and what lies under a request that is to be carried out once."""
        place = self._key(key)
        commands: list[Command] = [("GET", place), ("PTTL", place)]
        if once is not None:
            commands.append(("GET", self._answer_key(key, once)))
        value, left, *answer = _whole(self._run(commands)[0])
        return None if value is None else parse(value, left - GRACE), answer[0] if answer else None

    def commit(
        self, commits: Sequence[Commit], releases: Sequence[tuple[str, Once]] = ()
    ) -> list[Outcome | StoreUnavailableError]:
        """Write the new records of distinct sessions, each by compare-and-set, in one round trip.

        `releases` are claims to give up, of requests that failed; where that fails they lapse by themselves.

        Returns:
            For each commit what became of it; an error where its server failed, which says if that is not known.

        """
        places = [self._key(commit.key) for commit in commits]
        groups = self._topology.groups(places)
        commands = [self._commit([(places[i], commits[i]) for i in group]) for group in groups]
        release = self._scripts["release"].sha
        commands += [("EVALSHA", release, 1, self._answer_key(key, once)) for key, once in releases]
        replies, again = self._run(commands)
        outcomes: list[Outcome | StoreUnavailableError] = [Outcome.UNKNOWN] * len(commits)
        for number, (group, reply) in enumerate(zip(groups, replies, strict=False)):
            unsure = number in again
            if isinstance(reply, Exception):
                unsure = unsure or isinstance(reply, (redis.ConnectionError, redis.TimeoutError))
                error = (CommitUnknownError if unsure else StoreUnavailableError)(_reason(reply))
                for i in group:
                    outcomes[i] = error
            else:
                for i, value in zip(group, reply, strict=True):
                    # A conflict may be with the commit's own first try.
                    outcomes[i] = Outcome.UNKNOWN if unsure and value < 1 else Outcome(value)
        return outcomes

    def ping(self) -> None:
        """Ask whether Redis answers and takes writes."""
        self._again(self._topology.check)

    def elect(self, office: str, seconds: float) -> bool:
        """Return whether this process is the one among all that holds an office for the next seconds."""
        command = ("SET", f"{self._prefix}:{office}", b"1", "NX", "PX", int(seconds * 1000))
        return bool(_whole(self._run([command])[0])[0])

    def pages(self, size: int) -> Iterator[list[bytes]]:
        """Yield the keys of sessions and answers, about `size` at a time."""
        page: list[bytes] = []
        keys = self._topology.scan(f"{self._prefix}:{{*", size)
        while (key := self._again(lambda: next(keys, None))) is not None:
            page.append(key)
            if len(page) >= size:
                yield page
                page = []
        if page:
            yield page

    def drop_expired(self, keys: Sequence[bytes]) -> int:
        """Drop the states of those sessions among the keys that have expired; return how many there were."""
        sha = self._scripts["sweep"].sha
        commands = [
            ("EVALSHA", sha, len(group), *(keys[i] for i in group), GRACE) for group in self._topology.groups(keys)
        ]
        return sum(_whole(self._run(commands)[0])) if commands else 0

    def _commit(self, commits: Sequence[tuple[str, Commit]]) -> Command:
        keys: list[str] = []
        arguments: list[bytes | int] = [GRACE, self._keep]
        for place, commit in commits:
            keys.append(place)
            if commit.after is None:
                record, expiry = tombstone(), GRACE
            else:
                record, expiry = commit.after.data(), commit.after.ttl * 1000 + GRACE
            expected = b"" if commit.before is None else commit.before.header
            arguments += [int(commit.live), expected, record, expiry, len(commit.answers)]
            for once, answer in commit.answers:
                keys.append(self._answer_key(commit.key, once))
                arguments.append(once.answer(answer))
        return ("EVALSHA", self._scripts["commit"].sha, len(keys), *keys, *arguments)

    def _key(self, key: str) -> str:
        return names.session(self._prefix, key)

    def _answer_key(self, key: str, once: Once) -> str:
        return names.response(self._prefix, key, once.name)

    def _again(self, call: Callable[[], T]) -> T:
        """Call what may be called again, where the connection breaks; a reply that is late is not waited for twice."""
        for pause in _PAUSES:
            try:
                return call()
            except redis.ConnectionError:
                time.sleep(pause)
            except ERRORS as error:
                raise StoreUnavailableError(_reason(error)) from error
        try:
            return call()
        except ERRORS as error:
            raise StoreUnavailableError(_reason(error)) from error

    def _run(self, commands: list[Command]) -> tuple[list[Any], set[int]]:
        """Run commands; those whose connection broke, again, which the scripts allow.

        Returns:
            The replies, and which of the commands may have been carried out before.

        """
        replies = self._topology.run(commands)
        again: set[int] = set()
        for pause in _PAUSES:
            failed = [i for i, reply in enumerate(replies) if isinstance(reply, _TO_REPEAT)]
            if not failed:
                break
            if broken := [i for i in failed if isinstance(replies[i], redis.ConnectionError)]:
                again.update(broken)
                time.sleep(pause)
            repeated = self._topology.run([self._in_full(commands[i], replies[i]) for i in failed])
            for i, reply in zip(failed, repeated, strict=True):
                replies[i] = reply
        return replies, again

    def _in_full(self, command: Command, reply: Exception) -> Command:
        """The command with its script's source, where the server did not know the script."""
        if isinstance(reply, exceptions.NoScriptError):
            return ("EVAL", self._sources[command[1]], *command[2:])
        return command


def _parsed(value: bytes | None) -> Stored | StoreUnavailableError | None:
    try:
        return None if value is None else parse(value)
    except StoreUnavailableError as error:
        return error


def _whole(replies: list[Any]) -> list[Any]:
    """The replies; raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailableError(_reason(reply)) from reply
    return replies


_REASONS: dict[type[Exception], str] = {
    exceptions.AuthenticationError: "Redis refuses the service's credentials; the operator must set REDIS_URL right",
    exceptions.NoPermissionError: "Redis refuses the service's credentials; the operator must set REDIS_URL right",
    exceptions.ReadOnlyError: "Redis is a read-only replica",
    exceptions.OutOfMemoryError: "Redis is full",
    exceptions.BusyLoadingError: "Redis is loading its data",
    exceptions.TimeoutError: "Redis does not answer in time",
    exceptions.ConnectionError: "Redis does not answer",
    OSError: "Redis does not answer",
    exceptions.RedisClusterException: "Redis Cluster does not answer, or not for all slots",
    Exception: "Redis answers with an error",
}


def _reason(error: Exception) -> str:
    return next(_REASONS[cls] for cls in type(error).__mro__ if cls in _REASONS)
