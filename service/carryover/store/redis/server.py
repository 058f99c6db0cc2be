"""A single Redis server, over connections of this process.

redis-py connects: credentials, TLS, Sentinel. Commands are packed and replies are parsed by hiredis, on the same
socket and with the reader that redis-py made for it, with one `send` for all commands of a round trip. Why a reply is
always that of its command:

- A link belongs to whoever has sent, until `receive` has read as many replies as there were commands.
- A link on which anything fails is disconnected before it is returned, with whatever was still to come.
- A link that was long unused carries a command only after it has responded to a PING.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from gevent.lock import Semaphore
from hiredis import PushNotification, pack_command
from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.driver_info import DriverInfo

from carryover.store.redis import tls
from carryover.store.redis.topology import Command, UnconfirmedError

ERRORS = (redis.RedisError, exceptions.RedisClusterException, OSError)
"""Every way in which a server can fail."""
_DRIVER = DriverInfo()
"""Made once: redis-py reads its version from a file for each, which fails when there is no free file descriptor."""
LONG_IDLE = 1.0
"""Seconds after which an unused connection is probed before it carries a command."""
MOST = 256
"""Connections of one process to one server; further commands wait for one of them."""
_PIECE = 64 * 1024
SPARE = 10.0
"""Seconds after which an unused connection is closed, if there are others."""


class Server:
    """A single server."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # Idle connections, the last used on top; a broken one reconnects when it is next used. The client's own path
        # to a command (the checks, retries and metrics of its pool) takes twice the CPU of the command itself.
        self._idle: list[_Link] = []
        self._free = Semaphore(MOST)
        self._patience = client.connection_pool.connection_kwargs.get("socket_timeout")

    def watch(self) -> None:
        """Do nothing: the server stays the same."""

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Put all keys in one group."""
        return [list(range(len(keys)))] if keys else []

    def run(self, commands: Sequence[Command], wait: Command | None = None) -> list[Any]:
        """Run commands over one connection."""
        return self.receive(self.send(commands, wait), len(commands), wait)

    def ping_idle(self) -> None:
        """Start to probe the connection that is used next, if it was long unused: `send` waits for the response."""
        if self._idle and not self._idle[-1].pinged and time.monotonic() - self._idle[-1].used > LONG_IDLE:
            link = self._idle.pop()
            try:
                link.connection.send_command("PING", check_health=False)
                link.pinged = True
            except ERRORS:
                self._disconnect(link)
            self._idle.append(link)

    def send(self, commands: Sequence[Command], wait: Command | None = None) -> "_Link":
        """Send commands over one connection, whose replies `receive` reads; until then nobody else uses it."""
        if wait is not None:
            commands = (*commands, wait)
        if not self._free.acquire(blocking=False) and not self._free.acquire(timeout=self._patience):
            return _Link(None, error=redis.TimeoutError(f"all {MOST} connections wait for replies"))
        link = self._idle.pop() if self._idle else _Link(self._connection())
        try:
            if time.monotonic() - link.used > LONG_IDLE:
                self._probe(link)
            connection = link.connection
            if connection._sock is None:  # noqa: SLF001 - it has no public name
                connection.connect()  # with Sentinel, this asks for the master
            data = b"".join(map(pack_command, commands))
            if (sent := connection._sock.send(data)) < len(data):  # noqa: SLF001
                connection._sock.sendall(data[sent:])  # noqa: SLF001
        except ERRORS as error:
            link.error = _of_redis(error)
        except BaseException:
            self.give_up(link)
            raise
        return link

    def give_up(self, link: "_Link") -> None:
        """Take a link back whose replies nobody will read."""
        if link.connection is not None:
            self._disconnect(link)
            self._return(link)

    def receive(self, link: "_Link", count: int, wait: Command | None = None) -> list[Any]:
        """Read the replies to as many commands; where sending or reading fails, the rest of them are the error."""
        if wait is not None:
            *found, replicas = self.receive(link, count + 1)
            return _confirmed(found, replicas, wait[1])
        connection, error, link.error = link.connection, link.error, None
        if connection is None:
            return [error] * count
        replies: list[Any] = []
        try:
            if error is not None:
                raise error
            self._read(connection, replies, count)
        except BaseException as error:
            error = _of_redis(error)
            # If one connection broke, the others are probably broken too, or lead to a former master.
            self._disconnect(link)
            if not isinstance(error, ERRORS):
                raise
            replies += [error] * (count - len(replies))
        else:
            link.used = time.monotonic()
        finally:
            self._return(link)
        return replies

    def _read(self, connection: Any, replies: list[Any], count: int) -> None:
        """Append replies until there are `count`; an error that the server sends is one, and others may follow it."""
        parser, sock = connection._parser, connection._sock  # noqa: SLF001 - no public names for them
        reader = parser._reader  # noqa: SLF001
        while len(replies) < count:
            reply = reader.gets()
            if reply is NOT_ENOUGH_DATA:
                if not (data := sock.recv(_PIECE)):
                    raise redis.ConnectionError("the server has closed the connection")
                reader.feed(data)
            elif isinstance(reply, PushNotification):
                parser.handle_push_response(reply)
            else:
                if isinstance(reply, Exception):
                    self._check(reply)
                replies.append(reply)

    def _check(self, reply: Exception) -> None:
        """Raise what says that the connection cannot be used any more, if an error that the server has sent does."""
        if isinstance(reply, redis.ConnectionError):
            raise reply

    def _return(self, link: "_Link") -> None:
        """Take a link back; the one that was unused for longest is closed if that was for long."""
        idle = self._idle
        idle.append(link)
        if len(idle) > 1 and link.used - idle[0].used > SPARE:
            idle.pop(0).connection.disconnect()
        self._free.release()

    def _probe(self, link: "_Link") -> None:
        """Disconnect if the other end does not respond to a PING.

        A server that disappeared together with its machine or its IP address has closed no connection. Waiting for its
        reply would use up the time in which another connection could be tried.
        """
        connection = link.connection
        try:
            if not link.pinged:
                connection.send_command("PING", check_health=False)
            responds = connection.can_read(connection.socket_timeout / 2)
        except ERRORS:
            responds = False
        link.pinged = False
        replies: list[Any] = []
        if responds:
            self._read(connection, replies, 1)
        if replies != [b"PONG"]:
            self._disconnect(link)

    def _disconnect(self, link: "_Link") -> None:
        for each in (link, *self._idle):
            each.connection.disconnect()
            each.used, each.pinged = math.inf, False
        self._idle.clear()

    def _connection(self) -> Any:
        # Not taken from the pool, which counts every connection ever made and stops at a hundred.
        pool = self._client.connection_pool
        return pool.connection_class(**{"driver_info": _DRIVER} | pool.connection_kwargs)

    def servers(self) -> Sequence["Server"]:
        """Return this one."""
        return (self,)

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def key_of_each(self, key: Callable[[int], str]) -> list[str]:
        """Return the first key."""
        return [key(0)]


@dataclass(slots=True)
class _Link:
    """A connection and when it was last `used`, in seconds of `time.monotonic`; infinity while it is not connected.

    `pinged` says that the response to a PING is awaited, `error` why sending failed: without a connection, because all
    of them were in use.
    """

    connection: Any
    used: float = math.inf
    pinged: bool = False
    error: Exception | None = None


def connect_one(client: Any, kind: type[Server] = Server) -> Server:
    """Return the server behind a redis-py client.

    Raises:
        TypeError: redis-py has no such option; it would fail only when it connects.
        ValueError: an option has an invalid value, or a file for TLS is missing.

    """
    pool = client.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)
    except redis.RedisError as error:
        raise ValueError(str(error)) from None
    tls.check(pool.connection_kwargs)
    return kind(client)


def _confirmed(replies: list[Any], replicas: Any, needed: int) -> list[Any]:
    """Return the replies to commands that were followed by a `WAIT`, whose reply is how many `replicas` have them."""
    if isinstance(replicas, int) and replicas >= needed:
        return replies
    if isinstance(replicas, (redis.ConnectionError, redis.TimeoutError, OSError)):
        return [reply if isinstance(reply, Exception) else replicas for reply in replies]
    cause = replicas if isinstance(replicas, Exception) else None
    return [reply if isinstance(reply, Exception) else UnconfirmedError(reply, cause) for reply in replies]


def _of_redis(error: BaseException) -> Any:
    """Return an error of the socket as redis-py's own."""
    if isinstance(error, TimeoutError):
        return redis.TimeoutError("the server does not reply in time")
    return redis.ConnectionError(str(error)) if isinstance(error, OSError) else error
