"""One server, Sentinel or Cluster behind one small interface, chosen by the URL's scheme.

| URL | what |
|-----|------|
| `redis://[user:password@]host:port/db`, `unix://path` | a server |
| `rediss://…?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…` | the same over TLS |
| `redis+sentinel://[user:password@]host:port,host:port/service[/db]` | the master that the sentinels name |
| `redis+cluster://[user:password@]host:port,host:port` | a cluster, found from any of its nodes |

`rediss+sentinel` and `rediss+cluster` are the same over TLS. What stands behind `?` are options of redis-py.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from carryover.errors import ConfigurationError

DEFAULT_PORT = 6379
ERRORS = (redis.RedisError, exceptions.RedisClusterException, OSError)
"""All that goes wrong with a server."""
LONG_IDLE = 1.0
"""Seconds after which a connection that was not used is asked whether it still leads anywhere."""
_LOST = (redis.ConnectionError, redis.TimeoutError, OSError)
_REDIRECTIONS = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)

# redis-py has no types for these.
_Sentinel: Any = Sentinel
_ClusterNode: Any = ClusterNode
_parse_url: Any = parse_url


class Topology(Protocol):
    """What the store asks of the servers it talks to."""

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Part keys, by their positions, into groups that one command may name together."""

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip to each server; the reply of one that fails is the error."""

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match, asking for about `count` at a time."""

    def check(self) -> None:
        """Raise unless the servers answer and take writes."""


class OneServer:
    """A single server, or the master that sentinels name."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # Connections that wait for work, the last used on top; those that broke connect anew. The client's own way to a
        # command (its pool's checks, retries, metrics) takes twice the CPU of the command itself.
        self._idle: list[_Link] = []

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Put all keys in one group."""
        return [list(range(len(keys)))] if keys else []

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands over one connection."""
        link = self._idle.pop() if self._idle else _Link(self._connection())
        connection = link.connection
        replies: list[Any] = []
        try:
            if time.monotonic() - link.used > LONG_IDLE:
                self._prove(link)
            connection.connect()  # does nothing where it is connected; sentinels are asked here
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies.extend(_reply(connection) for _ in commands)  # keeps those that came before an error
        except BaseException as error:
            # Where one connection broke, the others likely did, or lead to a master that is none any more.
            self._disconnect(link)
            if not isinstance(error, ERRORS):
                raise
            replies += [error] * (len(commands) - len(replies))
        else:
            link.used = time.monotonic()
        finally:
            self._idle.append(link)
        return replies

    def _prove(self, link: "_Link") -> None:
        """Disconnect, if nobody answers at the other end.

        A server that went away together with its machine or its address has closed no connection. What is sent there
        is waited for in vain, until it is too late to try another.
        """
        connection = link.connection
        try:
            connection.send_command("PING", check_health=False)
            answers = connection.can_read(connection.socket_timeout / 2)
        except ERRORS:
            answers = False
        if answers:
            _reply(connection)
        else:
            self._disconnect(link)

    def _disconnect(self, link: "_Link") -> None:
        for each in (link, *self._idle):
            each.connection.disconnect()
            each.used = math.inf

    def _connection(self) -> Any:
        # Not one of the pool's, which counts those it has made and at a hundred makes no more.
        pool = self._client.connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def check(self) -> None:
        """Ask the server for its role: a replica does not take writes."""
        if self._client.info("replication").get("role") != "master":
            raise redis.ReadOnlyError


@dataclass(slots=True)
class _Link:
    """A connection, and when it was last `used`, in seconds of `time.monotonic`: in infinity where it is not made."""

    connection: Any
    used: float = math.inf


class Cluster:
    """A Redis Cluster: one command's keys lie in one slot."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect` looks for the cluster's nodes: not before the first use, and again until it has found them."""
        self._connect = connect
        self._servers: dict[str, OneServer] = {}

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Put keys of one slot in one group."""
        groups: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(key_slot(key if isinstance(key, bytes) else key.encode()), []).append(position)
        return list(groups.values())

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands, those for one node in one round trip; only those that a node sends elsewhere go out again.

        redis-py's own pipeline sends again whatever broke or was late, one command at a time. But whether a commit was
        sent twice is for the store to know, and a node that hangs must not be waited for more than once.
        """
        nodes: dict[str, list[int]] = {}
        try:
            for position, command in enumerate(commands):
                nodes.setdefault(self._client.get_node_from_key(_key_of(command)).name, []).append(position)
        except ERRORS as error:
            return [error] * len(commands)
        replies: list[Any] = [None] * len(commands)
        lost = None
        for name, positions in nodes.items():
            found = self._server(name).run([commands[position] for position in positions])
            for position, reply in zip(positions, found, strict=True):
                replies[position] = reply
            if isinstance(found[-1], _LOST):
                lost = name
        self._redirect(commands, replies)
        if lost is not None:
            with suppress(*ERRORS):
                self._client.nodes_manager.initialize(last_failed_node_name=lost)
        return replies

    def _server(self, name: str) -> OneServer:
        if name not in self._servers:
            self._servers[name] = OneServer(self._client.get_redis_connection(self._client.get_node(node_name=name)))
        return self._servers[name]

    def _redirect(self, commands: Sequence[tuple[Any, ...]], replies: list[Any]) -> None:
        """Run those commands elsewhere that were sent there; where one is lost there, so are the others."""
        lost: Exception | None = None
        for position, reply in enumerate(replies):
            if not isinstance(reply, _REDIRECTIONS):
                continue
            command = commands[position]
            try:
                replies[position] = lost or self._client.execute_command(*command, **_options(command))
            except ERRORS as error:
                replies[position] = error
                lost = error if isinstance(error, _LOST) else None

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def check(self) -> None:
        """Ask every master."""
        self._client.ping(target_nodes=RedisCluster.PRIMARIES)


def connect(url: str, timeout: float) -> Topology:
    """Return the servers that a URL names. Nothing is sent yet, but to find a cluster's nodes at the first use.

    `timeout` is that of one attempt to connect, and of one reply, in seconds.

    Raises:
        ConfigurationError: the URL is not of a form above.

    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # What may be repeated, and when, is for the store to know.
        "retry": Retry(NoBackoff(), 0),
    }
    scheme, _, rest = url.partition("://")
    kind, _, form = scheme.partition("+")
    try:
        match form:
            case "":
                return _server(redis.Redis.from_url(_with_number(url), **options))
            case "sentinel":
                return _server(_sentinel(kind, rest, options))
            case "cluster":
                hosts = _parse(kind, rest)
                return Cluster(lambda: _cluster(hosts, options))
    except ValueError as error:
        raise ConfigurationError(f"REDIS_URL: {error}") from None
    raise ConfigurationError(f"REDIS_URL: {scheme}:// is none of redis, rediss, unix, redis+sentinel, redis+cluster")


def _server(client: Any) -> OneServer:
    pool = client.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        # redis-py reads any option, and fails over it when it connects.
        raise ValueError(f"there is no option {str(error).rpartition(' ')[2]}") from None
    return OneServer(client)


def _with_number(url: str) -> str:
    """The URL, whose database is a number: redis-py takes any other for 0."""
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError(f"the database {database!r} is not a number")
    return url


def _options(command: tuple[Any, ...]) -> dict[str, Any]:
    # SET … GET gives a value back, where redis-py expects OK.
    return {"get": True} if "GET" in command[1:] else {}


def _key_of(command: tuple[Any, ...]) -> str | bytes:
    key: str | bytes = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key


def _reply(connection: Any) -> Any:
    """The next reply; an error that the server gives is one too, and others may follow it."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _sentinel(kind: str, rest: str, options: dict[str, Any]) -> Any:
    hosts, given = _parse(kind, rest)
    service, _, db = unquote(urlsplit(f"//{rest}").path).strip("/").partition("/")
    if not service:
        raise ValueError("redis+sentinel://host:port/service takes the name of the service that the sentinels watch")
    password = given.pop("sentinel_password", None)
    tls = {key: value for key, value in given.items() if key.startswith("ssl")}
    sentinels: Any = _Sentinel(
        hosts, sentinel_kwargs={**options, **tls, "password": password}, db=int(db or 0), **options | given
    )
    return sentinels.master_for(service)


def _cluster(parsed: tuple[list[tuple[str, int]], dict[str, Any]], options: dict[str, Any]) -> Any:
    hosts, given = parsed
    return RedisCluster(startup_nodes=[_ClusterNode(*host) for host in hosts], **options | given)


def _parse(kind: str, rest: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The hosts of a URL that names several, and the options that redis-py reads from it."""
    parts = urlsplit(f"//{rest}")
    credentials, at, names = parts.netloc.rpartition("@")
    hosts = [urlsplit(f"//{name}") for name in names.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError(f"{names!r} is not a list of host:port with commas between")
    given = _parse_url(f"{kind}://{credentials}{at}any?{parts.query}")
    given.pop("host")
    if given.pop("connection_class", None) is not None:
        given["ssl"] = True
    return [(host.hostname or "", host.port or DEFAULT_PORT) for host in hosts], given
