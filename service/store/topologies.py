"""One server, Sentinel or Cluster behind one small interface, chosen by the URL's scheme.

| URL | what |
|-----|------|
| `redis://[user:password@]host:port/db`, `unix://path` | a server |
| `rediss://…?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…` | the same over TLS |
| `redis+sentinel://[user:password@]host:port,host:port/service[/db]` | the master that the sentinels name |
| `redis+cluster://[user:password@]host:port,host:port` | a cluster, found from any of its nodes |

`rediss+sentinel` and `rediss+cluster` are the same over TLS. What stands behind `?` are options of redis-py.
"""

from collections.abc import Callable, Iterator, Sequence
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

from service.errors import ConfigurationError

DEFAULT_PORT = 6379
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
        """Run commands in one round trip to each server; return their replies, or raise the first error among them."""

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match, asking for about `count` at a time."""

    def load_script(self, script: bytes) -> None:
        """Make a script known."""

    def check(self) -> None:
        """Raise unless the servers answer and take writes."""


class OneServer:
    """A single server, or the master that sentinels name."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # Connections that wait for work, the last used on top. The client's own way to a command (its pool's checks,
        # retries, metrics) takes twice the CPU of the command itself.
        self._idle: list[Any] = []

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Put all keys in one group."""
        return [list(range(len(keys)))] if keys else []

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands over one connection."""
        connection = self._idle.pop() if self._idle else self._client.connection_pool.make_connection()
        try:
            connection.connect()  # does nothing where it is connected; sentinels are asked here
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies = [_reply(connection) for _ in commands]
        except BaseException:
            # Where one connection broke, the others likely did, or lead to a master that is none any more.
            for broken in (connection, *self._idle):
                broken.disconnect()
            self._idle.clear()
            raise
        self._idle.append(connection)
        return _without_errors(replies)

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def load_script(self, script: bytes) -> None:
        """Make a script known to the server."""
        self._client.script_load(script)

    def check(self) -> None:
        """Ask the server for its role: a replica does not take writes."""
        if self._client.info("replication").get("role") != "master":
            raise redis.ReadOnlyError


class Cluster:
    """A Redis Cluster: one command's keys lie in one slot."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect` looks for the cluster's nodes: not before the first use, and again until it has found them."""
        self._connect = connect

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
        for position, command in enumerate(commands):
            nodes.setdefault(self._client.get_node_from_key(_key_of(command)).name, []).append(position)
        replies: list[Any] = [None] * len(commands)
        for name, positions in nodes.items():
            pipeline = self._client.get_redis_connection(self._client.get_node(node_name=name)).pipeline(False)
            try:
                found = _pipelined(pipeline, [commands[position] for position in positions])
            except (redis.ConnectionError, redis.TimeoutError):
                self._client.nodes_manager.initialize(last_failed_node_name=name)
                raise
            for position, reply in zip(positions, found, strict=True):
                command = commands[position]
                moved = isinstance(reply, _REDIRECTIONS)
                replies[position] = self._client.execute_command(*command, **_options(command)) if moved else reply
        return _without_errors(replies)

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def load_script(self, script: bytes) -> None:
        """Make a script known to every master."""
        self._client.script_load(script)

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
                return OneServer(redis.Redis.from_url(url, **options))
            case "sentinel":
                return OneServer(_sentinel(kind, rest, options))
            case "cluster":
                hosts = _parse(kind, rest)
                return Cluster(lambda: _cluster(hosts, options))
    except ValueError as error:
        raise ConfigurationError(f"REDIS_URL: {error}") from None
    raise ConfigurationError(f"REDIS_URL: {scheme}:// is none of redis, rediss, unix, redis+sentinel, redis+cluster")


def _pipelined(pipeline: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    with pipeline:
        for command in commands:
            pipeline.execute_command(*command, **_options(command))
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    return replies


def _options(command: tuple[Any, ...]) -> dict[str, Any]:
    # SET … GET gives a value back, where redis-py expects OK.
    return {"get": True} if "GET" in command[1:] else {}


def _key_of(command: tuple[Any, ...]) -> str | bytes:
    key: str | bytes = command[3] if command[0] == "EVALSHA" else command[1]
    return key


def _reply(connection: Any) -> Any:
    """The next reply; an error that the server gives is one too, and others may follow it."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _without_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _sentinel(kind: str, rest: str, options: dict[str, Any]) -> Any:
    hosts, given = _parse(kind, rest)
    service, _, db = unquote(urlsplit(f"//{rest}").path).strip("/").partition("/")
    if not service:
        raise ValueError("redis+sentinel://host:port/service takes the name of the service that the sentinels watch")
    password = given.pop("sentinel_password", None)
    tls = {key: value for key, value in given.items() if key.startswith("ssl")}
    sentinels: Any = _Sentinel(
        hosts, sentinel_kwargs={**options, **tls, "password": password}, db=int(db or 0), **options, **given
    )
    return sentinels.master_for(service)


def _cluster(parsed: tuple[list[tuple[str, int]], dict[str, Any]], options: dict[str, Any]) -> Any:
    hosts, given = parsed
    return RedisCluster(startup_nodes=[_ClusterNode(*host) for host in hosts], **options, **given)


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
