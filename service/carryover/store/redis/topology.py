"""The interface that every topology implements."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import redis

Command = tuple[Any, ...]


class UnconfirmedError(redis.RedisError):
    """A command was carried out, with this `reply`, but too few replicas have confirmed what it wrote.

    `cause` is the error where the server could not even be asked for that.
    """

    def __init__(self, reply: Any, cause: Exception | None = None) -> None:
        super().__init__("too few replicas have confirmed a write" if cause is None else str(cause))
        self.reply = reply
        self.__cause__ = cause


class Topology(Protocol):
    """What the store needs from the servers it talks to."""

    def watch(self) -> None:
        """From now on, look for changes that no reply tells; for a process that will not fork."""

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Partition keys, by index, into groups that one command may name together."""

    def run(self, commands: Sequence[Command], wait: Command | None = None) -> list[Any]:
        """Run commands in one round trip to each server; the reply to a command that fails is the error.

        `wait` is a `WAIT`, which each server runs after its commands: where fewer replicas confirm them, their replies
        are UnconfirmedError.
        """

    def servers(self) -> Sequence["Topology"]:
        """Return those that accept writes, in an order that stays while they do."""

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match, asking for about `count` at a time."""

    def key_of_each(self, key: Callable[[int], str]) -> list[str]:
        """Return one key for each server that accepts writes, of those that `key` returns for 0, 1, 2 and so on."""
