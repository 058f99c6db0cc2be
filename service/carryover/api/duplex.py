"""Streams: requests whose body is read while the response is sent, in bounded time and memory."""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import gevent
from gevent.event import Event

from carryover.api.bodies import PROGRESS, Bodies
from carryover.api.cors import Origins
from carryover.api.hangups import Hangups
from carryover.api.transport import draining, pieces, until_drained
from carryover.errors import StreamEndedError, UnavailableError
from carryover.telemetry.metrics import Gauge

AHEAD = 64 * 1024
"""Bytes that are read ahead of whoever takes them, before one more piece; a piece has at most 1 MiB."""
PIECE = 64 * 1024
"""Most bytes of the responses that are sent at a time."""
_INTERVAL = 0.5
"""Seconds between two looks at the time limits."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """`streams` is the most streams of a worker at a time.

    Each may last `seconds`, of which it may be idle for `idle`. It keeps up to `buffer` bytes of responses that the
    client has not read; the client must read some of them every `send` seconds.
    """

    streams: int
    idle: float
    seconds: float
    buffer: int
    send: float


class Open(Protocol):
    """A stream that is open."""

    def __init__(self, streams: "Streams", environ: dict[str, Any]) -> None: ...

    def check(self, now: float) -> None:
        """End it if it is over one of its time limits."""


Kind = TypeVar("Kind", bound=Open)


class Streams:
    """The streams of a worker, whose number `gauge` shows; what they hold is counted with the bodies in flight.

    `origins` are those whose pages may open a WebSocket.
    """

    def __init__(self, limits: StreamLimits, bodies: Bodies, gauge: Gauge, origins: Origins) -> None:
        self.limits = limits
        self.bodies = bodies
        self.origins = origins
        self.hangups = Hangups()
        self._gauge = gauge
        self._opened: set[Open] = set()
        self._watching = False

    def open(self, environ: dict[str, Any], kind: type[Kind]) -> Kind:
        """Return the stream of a request, to be closed.

        Raises:
            UnavailableError: there are as many as there may be.

        """
        if len(self._opened) >= self.limits.streams:
            environ["wsgi.input"].failed = True  # nobody reads the body: gunicorn closes the connection
            raise UnavailableError(f"this worker has {self.limits.streams} streams (MAX_STREAMS); retry")
        stream = kind(self, environ)
        self._opened.add(stream)
        self._gauge.set(len(self._opened))
        if not self._watching:
            self._watching = True
            gevent.spawn(self._watch)
        return stream

    def close(self, stream: Open) -> None:
        """Count a stream no longer."""
        self._opened.discard(stream)
        self._gauge.set(len(self._opened))

    def _watch(self) -> None:
        while self._opened:
            gevent.sleep(_INTERVAL)
            now = time.monotonic()
            for stream in list(self._opened):
                try:
                    stream.check(now)
                except Exception:
                    log.exception("checking the time limits of a stream failed")
        self._watching = False


class Duplex:
    """One stream.

    One greenlet receives the body, another one runs the lines, and the request's own sends the responses, as gunicorn
    iterates over this. So lines are run while a client does not read, up to the limits; then the stream ends, and what
    else the client sends is discarded: a client that reads only after it has sent everything then reads why.
    """

    wake: Callable[[], None] | None = None

    def __init__(self, streams: Streams, environ: dict[str, Any]) -> None:
        self._streams = streams
        self._body = environ["wsgi.input"]
        self._arrived, self._unsent = bytearray(), bytearray()
        self._line = 0  # bytes of the line that is arriving
        self._line_before = (0.0, 0)  # when they were last looked at, and how many there were
        self._received: BaseException | None = None  # how the body ended
        self._ended: StreamEndedError | None = None
        self._finished = self._closed = False
        self._failure: BaseException | None = None
        self._arrival, self._room, self._output, self._sent = Event(), Event(), Event(), Event()
        self._opened = self._active = time.monotonic()
        self._sending: float | None = None
        self._speaking = False  # whether a response is among what is sent
        self._reader: gevent.Greenlet[..., None] | None = None
        self._responses: Generator[bytes]
        self._size = 0
        self._report: Callable[[int], None] | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives: at each turn all that has come since the last one, waiting for something.

        Raises:
            CutShortError: the connection ends before the body does, or its chunks are malformed.
            StreamEndedError: the stream ends before the body does.

        """
        while True:
            while not (self._arrived or self._received or self._ended):
                self._arrival.clear()
                self._arrival.wait()
            if self._ended is not None:
                raise self._ended
            if self._arrived:
                data = bytes(self._arrived)
                self._arrived.clear()
                self._room.set()
                yield data
            elif isinstance(self._received, EOFError):
                return
            else:
                assert self._received is not None  # noqa: S101 - nothing else ends the wait
                raise self._received

    def respond(self, responses: Generator[bytes], ended: Callable[[int], None]) -> Self:
        """Send what `responses` yields, which takes the lines from `chunks`; `ended` is told how many bytes were."""
        self._responses, self._report = responses, ended
        return self

    def __iter__(self) -> Self:
        """Return it: it is an iterator."""
        return self

    def __next__(self) -> bytes:
        """Return what is to be sent next; at first nothing, so that the head is sent before any line arrives."""
        if self._reader is None:
            self._reader = gevent.spawn(self._receive)
            gevent.spawn(self._run)
            return b""
        if self._sending is not None:
            self._sending = None
            if self._speaking:
                self._active = time.monotonic()
            self._speaking = self._speaking and bool(self._unsent)
        while not (self._unsent or self._finished):
            self._output.clear()
            self._output.wait()
        if not self._unsent:
            if self._failure is not None:
                raise self._failure
            raise StopIteration
        piece = bytes(self._unsent[:PIECE])
        del self._unsent[:PIECE]
        self._streams.bodies.held -= len(piece)
        self._size += len(piece)
        self._sent.set()
        self._sending = time.monotonic()
        return piece

    def close(self) -> None:
        """End it, when everything is sent or the connection is lost."""
        if self._closed:
            return
        self._closed = True
        self._streams.close(self)
        if self._report is not None:
            self._report(self._size)
        self._streams.bodies.held -= len(self._unsent) + self._line
        self._line = 0
        self._unsent.clear()
        if self._reader is not None and self._received is None:
            self._body.failed = True
            self._reader.kill()  # whoever closes the connection reads it to its end
        # The lines' greenlet is not killed: it may be running a batch with the requests of others.
        self._end("the connection is closed")

    def check(self, now: float) -> None:
        """End it if it is over one of its time limits."""
        limits = self._streams.limits
        stalled = 0.0 if self._sending is None else now - self._sending
        if now - self._opened > limits.seconds:
            self._end(f"it has lasted {limits.seconds:g} s (MAX_STREAM_SECONDS)")
        elif stalled > limits.send:
            self._end(f"the client has not read its responses for {limits.send:g} s (SEND_TIMEOUT)")
        elif stalled > _INTERVAL and draining():
            self._end("the service is stopping")
        elif self._line > PIECE and now - self._line_before[0] > self._streams.bodies.timeout:
            self._check_line(now)
        elif now - self._active > limits.idle:
            self._end(f"it was idle for {limits.idle:g} s (MAX_STREAM_IDLE)")

    def _check_line(self, now: float) -> None:
        """End it if a long line arrives too slowly: it is limited as a body is."""
        if self._line - self._line_before[1] < PROGRESS:
            seconds = self._streams.bodies.timeout
            self._end(
                f"a line arrives too slowly; expected its end or {PROGRESS} bytes in {seconds:g} s (BODY_TIMEOUT)"
            )
        self._line_before = (now, self._line)

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = StreamEndedError(reason)
            self._arrived.clear()
            for event in (self._arrival, self._room, self._sent):
                event.set()

    def _receive(self) -> None:
        try:
            for piece in self._pieces():
                if self._ended is not None:
                    continue  # discarded
                self._active = time.monotonic()
                self._arrived += piece
                self._count_line(piece)
                self._arrival.set()
                while len(self._arrived) > AHEAD:
                    self._room.clear()
                    self._room.wait()
        except Exception as error:  # noqa: BLE001 - it is raised where the body is taken
            self._received = error
        else:
            self._received = EOFError()
        self._arrival.set()

    def _pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        return until_drained(self._body, pieces(self._body))

    def _unfinished(self, piece: bytes) -> int:
        """How many bytes have arrived of a line of which not all has, with this piece."""
        rest = len(piece) - piece.rfind(b"\n") - 1
        return rest if rest < len(piece) else self._line + rest

    def _count_line(self, piece: bytes) -> None:
        before = self._line
        if before == 0 or b"\n" in piece:
            self._line_before = (self._active, 0)
        self._line = min(self._unfinished(piece), self._streams.bodies.limit)
        self._hold(self._line - before, self._line)

    def _hold(self, size: int, total: int) -> None:
        """Count `size` bytes more; the stream ends if there is no room, unless it has very little itself."""
        bodies = self._streams.bodies
        bodies.held += size
        if bodies.held > bodies.budget and total > PIECE:
            self._end(f"this worker holds {bodies.budget} bytes of bodies and streams (MAX_INFLIGHT_BYTES)")

    def _run(self) -> None:
        responses = self._responses
        try:
            while True:
                self._put(next(responses) if self._ended is None else responses.throw(self._ended))
        except (StopIteration, StreamEndedError):
            pass
        except Exception as error:  # noqa: BLE001 - it is raised in the request's own greenlet
            self._failure = error
        self._add(self._farewell())
        self._finished = True
        self._output.set()

    def _framed(self, lines: bytes) -> bytes:
        """Whole lines as they are sent."""
        return lines

    def _farewell(self) -> bytes:
        """What is sent after the last line."""
        return b""

    def _add(self, data: bytes) -> None:
        """Have some bytes sent."""
        if data and not self._closed:
            self._unsent += data
            self._hold(len(data), len(self._unsent))
            self._output.set()

    def _put(self, lines: bytes) -> None:
        self._add(self._framed(lines))
        self._speaking = True
        while len(self._unsent) > self._streams.limits.buffer and self._ended is None:
            self._sent.clear()
            self._sent.wait()
