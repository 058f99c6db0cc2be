"""The load: connections that each send their next request as soon as the response is there (a closed loop).

It shares the CPUs with the server that it measures, so it does as little as it can: raw sockets, requests built before
they are needed, of a response only the status, the length and whether it speaks of an error.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psutil

from bench.responses import LoadError, ResponseReader, Responses

_DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Connection:
    """What one connection sends and awaits.

    `opening` is sent once, then the endless `requests`, at most `ahead` of them unfinished, at last `closing`. `port`
    is that of another service than the load's.
    """

    requests: Iterable[bytes]
    responses: type[ResponseReader] = Responses
    ahead: int = 1
    opening: bytes = b""
    closing: bytes = b""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What to send to whom: `seconds` are measured after `warm_up` seconds that are not.

    `pids` are the processes whose CPU time is the server's.
    """

    port: int
    pids: Sequence[int]
    connections: Sequence[Connection]
    warm_up: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured: `rate` in requests a second, `p50` and `p99` in seconds until the response.

    `cpu` is that of all server processes, `own_cpu` that of the load's process, both in seconds a request; `others` is
    how many CPUs the rest of the machine kept busy meanwhile.
    """

    requests: int
    rate: float
    p50: float
    p99: float
    cpu: float
    own_cpu: float
    others: float


def drive(load: Load) -> Sample:
    """Put the load on the server.

    Raises:
        LoadError: a response was an error, did not come, or the connection broke.

    """
    links = {
        link.fileno(): link
        for link in (_Link(connection.port or load.port, connection) for connection in load.connections)
    }
    latencies: list[float] = []
    with select.epoll() as events:
        for number in links:
            events.register(number, select.EPOLLIN)
        for link in links.values():
            link.open()
        _serve(events, links, load.warm_up, [])
        before = _Clocks.read(load.pids)
        _serve(events, links, load.seconds, latencies)
        if not latencies:  # slower than that: the responses that are awaited are the measurement
            _serve(events, links, _DRAIN_SECONDS, latencies, renew=False)
        spent = _Clocks.read(load.pids).since(before)
        _serve(events, links, _DRAIN_SECONDS, [], renew=False)
    for link in links.values():
        link.close()
    count = len(latencies)
    latencies.sort()
    return Sample(
        requests=count,
        rate=count / spent.wall,
        p50=latencies[count // 2],
        p99=latencies[count * 99 // 100],
        cpu=spent.server / count,
        own_cpu=spent.own / count,
        others=max(0.0, spent.machine - spent.server - spent.own) / spent.wall,
    )


def _serve(
    events: select.epoll, links: Mapping[int, "_Link"], seconds: float, latencies: list[float], *, renew: bool = True
) -> None:
    """Take responses for so many seconds, and send a new request for each; without `renew`, until all are complete."""
    clock = time.perf_counter
    now = clock()
    end = now + seconds
    while now < end:
        if not renew and not any(link.sent for link in links.values()):
            return
        for number, _ in events.poll(end - now):
            link = links[number]
            done = link.receive()
            if done:
                now = clock()
                latencies += [now - link.sent.popleft() for _ in range(done)]
                if renew:
                    link.send(done)
        now = clock()
    if not renew:
        raise LoadError(f"requests were left without a response for {seconds} s")


class _Link:
    """A connection that is open, and the times at which its unfinished requests were sent."""

    def __init__(self, port: int, connection: Connection) -> None:
        self.sent: deque[float] = deque()
        self._connection = connection
        self._requests: Iterator[bytes] = iter(connection.requests)
        self._responses = connection.responses()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_DRAIN_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # From here on it is read only when there is something to read, and never holds more than fits its buffers.
        self._socket.settimeout(None)

    def fileno(self) -> int:
        return self._socket.fileno()

    def open(self) -> None:
        self._socket.sendall(self._connection.opening)
        self.send(self._connection.ahead)

    def send(self, count: int) -> None:
        """Send the next `count` requests."""
        data = next(self._requests) if count == 1 else b"".join(next(self._requests) for _ in range(count))
        self.sent.extend([time.perf_counter()] * count)
        self._socket.sendall(data)

    def receive(self) -> int:
        """Take what has arrived, and return how many responses it completes."""
        data = self._socket.recv(1 << 16)
        if not data:
            raise LoadError("the server closed a connection")
        return self._responses.feed(data)

    def close(self) -> None:
        self._socket.sendall(self._connection.closing)
        self._socket.close()


@dataclass(frozen=True, slots=True)
class _Clocks:
    """The time, and the CPU time that the server's processes, this one and the whole machine have used; in seconds."""

    wall: float
    processes: Mapping[int, float]
    own: float
    machine: float

    @classmethod
    def read(cls, pids: Iterable[int]) -> Self:
        processes: dict[int, float] = {}
        for pid in pids:
            with suppress(psutil.NoSuchProcess):  # such as one that has rewritten Valkey's file
                used = psutil.Process(pid).cpu_times()
                processes[pid] = used.user + used.system
        machine = psutil.cpu_times()
        return cls(
            time.perf_counter(),
            processes,
            time.process_time(),
            machine.user + machine.nice + machine.system + machine.steal,
        )

    def since(self, before: Self) -> "_Spent":
        server = sum(seconds - before.processes[pid] for pid, seconds in self.processes.items())
        return _Spent(self.wall - before.wall, server, self.own - before.own, self.machine - before.machine)


@dataclass(frozen=True, slots=True)
class _Spent:
    """What was used between two such times."""

    wall: float
    server: float
    own: float
    machine: float
