"""Redis Cluster: the keys of one command lie in one slot."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from inspect import signature
from itertools import count
from typing import Any

import redis
from redis import exceptions
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.crc import key_slot

from carryover.store.redis import tls
from carryover.store.redis.server import ERRORS, Server
from carryover.store.redis.topology import Command

_LOST = (redis.ConnectionError, redis.TimeoutError, OSError)
_REDIRECTIONS = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)

_ClusterNode: Any = ClusterNode  # redis-py has no types for it


def client(hosts: list[tuple[str, int]], options: dict[str, Any]) -> Any:
    """Return a client of the cluster that any of these hosts belongs to; looks for its nodes now."""
    return RedisCluster(startup_nodes=[_ClusterNode(*host) for host in hosts], **options)


def check_options(options: dict[str, Any]) -> None:
    """Check the options of a cluster's URL, of which redis-py ignores those that it does not know.

    Raises:
        ValueError: there is no such option, it cannot be used in a cluster, or a file for TLS is missing.

    """
    known = {*REDIS_ALLOWED_KEYS, *signature(RedisCluster).parameters}
    for name in options:
        if name not in known:
            raise ValueError(f"there is no option {name!r}")
    if options.get("db"):
        raise ValueError("a cluster has no numbered databases; expected no option 'db'")
    tls.check(options)


class Cluster:
    """A Redis Cluster."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect` discovers the nodes of the cluster: at the first use, and again until that succeeds."""
        self._connect = connect
        self._servers: dict[str, Server] = {}

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def watch(self) -> None:
        """Do nothing: a former master of a cluster redirects."""

    def groups(self, keys: Sequence[str | bytes]) -> list[list[int]]:
        """Group the keys by slot."""
        groups: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(key_slot(key if isinstance(key, bytes) else key.encode()), []).append(position)
        return list(groups.values())

    def run(self, commands: Sequence[Command], wait: Command | None = None) -> list[Any]:
        """Run commands, those for one node in one round trip, all nodes at once; only redirected ones are sent again.

        redis-py's own pipeline resends whatever broke or was late, one command at a time. But whether a commit may be
        sent twice is for the store to decide, and a node that hangs must not be waited for more than once.
        """
        nodes: dict[str, list[int]] = {}
        try:
            for position, command in enumerate(commands):
                nodes.setdefault(self._client.get_node_from_key(_key_of(command)).name, []).append(position)
        except ERRORS as error:
            return [error] * len(commands)
        replies: list[Any] = [None] * len(commands)
        lost = None
        nodes = dict(sorted(nodes.items()))  # who waits for a connection to one node holds none to a later one
        servers = [self._server(name) for name in nodes]
        if len(servers) > 1:
            for server in servers:
                server.ping_idle()
        links = _send(servers, [[commands[position] for position in positions] for positions in nodes.values()], wait)
        found = _receive(servers, links, [len(positions) for positions in nodes.values()], wait)
        for (name, positions), own in zip(nodes.items(), found, strict=True):
            for position, reply in zip(positions, own, strict=True):
                replies[position] = reply
            if isinstance(own[-1], _LOST):
                lost = name
        self._redirect(commands, replies, wait)
        if lost is not None:
            with suppress(*ERRORS):
                self._client.nodes_manager.initialize(last_failed_node_name=lost)
        return replies

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            host, _, port = name.rpartition(":")
            node = self._client.get_node(node_name=name) or _ClusterNode(host, int(port))
            self._servers[name] = Server(self._client.get_redis_connection(node))
        return self._servers[name]

    def _redirect(self, commands: Sequence[Command], replies: list[Any], wait: Command | None) -> None:
        """Follow the redirections among the replies; if the connection to one target is lost, give up on the rest."""
        lost: Exception | None = None
        for position, reply in enumerate(replies):
            if not isinstance(reply, _REDIRECTIONS):
                continue
            command = commands[position]
            try:
                if lost is None and wait is not None and not isinstance(reply, exceptions.TryAgainError):
                    replies[position] = self._confirmed_at(reply, command, wait)
                else:
                    replies[position] = lost or self._client.execute_command(*command, **_options(command))
            except ERRORS as error:
                replies[position] = error
                lost = error if isinstance(error, _LOST) else None

    def _confirmed_at(self, redirection: Any, command: Command, wait: Command) -> Any:
        """Run a command where it was redirected to; a `WAIT` concerns what its own connection wrote."""
        if isinstance(redirection, exceptions.MovedError):
            self._client.nodes_manager.move_slot(redirection)
        return self._server(f"{redirection.host}:{redirection.port}").run([("ASKING",), command], wait)[1]

    def servers(self) -> Sequence[Server]:
        """Return the masters that have slots, by name."""
        return [
            self._server(name)
            for name in sorted({nodes[0].name for nodes in self._client.nodes_manager.slots_cache.values()})
        ]

    def scan(self, pattern: str, count: int) -> Iterator[bytes]:
        """Yield the keys that match."""
        keys: Iterator[bytes] = self._client.scan_iter(match=pattern, count=count)
        return keys

    def key_of_each(self, key: Callable[[int], str]) -> list[str]:
        """Return keys until every master that has slots has one."""
        masters = {nodes[0].name for nodes in self._client.nodes_manager.slots_cache.values()}
        keys: dict[str, str] = {}
        for number in count():
            if len(keys) == len(masters):
                break
            each = key(number)
            keys.setdefault(self._client.get_node_from_key(each).name, each)
        return list(keys.values())


def _send(servers: Sequence[Server], commands: Sequence[Sequence[Command]], wait: Command | None) -> list[Any]:
    """Send each server its commands, and return where to receive the replies."""
    links: list[Any] = []
    try:
        for server, own in zip(servers, commands, strict=True):
            links.append(server.send(own, wait))
    except BaseException:
        for server, link in zip(servers, links, strict=False):
            server.give_up(link)
        raise
    return links


def _receive(
    servers: Sequence[Server], links: Sequence[Any], counts: Sequence[int], wait: Command | None
) -> list[list[Any]]:
    """Return the replies of each server."""
    found: list[list[Any]] = []
    try:
        for server, link, number in zip(servers, links, counts, strict=True):
            found.append(server.receive(link, number, wait))
    except BaseException:
        for server, link in zip(servers[len(found) + 1 :], links[len(found) + 1 :], strict=True):
            server.give_up(link)
        raise
    return found


def _options(command: Command) -> dict[str, Any]:
    # SET … GET returns a value, where redis-py expects OK.
    return {"get": True} if "GET" in command[1:] else {}


def _key_of(command: Command) -> str | bytes:
    key: str | bytes = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key
