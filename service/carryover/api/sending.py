"""Sending to clients that may not read."""

import errno
import fcntl
import logging
import socket
import struct
import termios
from contextlib import suppress
from ssl import SSLWantWriteError
from typing import Any, NoReturn

from gevent.socket import wait_write

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing discards what has not been sent

log = logging.getLogger(__name__)


def send(sock: Any, data: bytes, seconds: float) -> None:
    """Send all of `data` over a gevent socket; the client takes some of it every `seconds`.

    Raises:
        ConnectionResetError: it does not; closing the socket then discards what is left.

    """
    try:
        sent: int = sock.send(data, 0, 0.0)
    except (BlockingIOError, SSLWantWriteError):
        sent = 0
    if sent < len(data):
        _send_rest(sock, memoryview(data)[sent:], seconds)


def _send_rest(sock: Any, rest: memoryview, seconds: float) -> None:
    while rest:
        queued = _queued(sock)
        try:
            wait_write(sock.fileno(), seconds)
        except TimeoutError:
            # The kernel reports a socket as writable only when a good part of its buffer is free.
            if _queued(sock) >= queued:
                _abort(sock, seconds)
        else:
            with suppress(BlockingIOError, SSLWantWriteError):
                rest = rest[sock.send(rest, 0, 0.0) :]


def _queued(sock: Any) -> int:
    """The bytes that the kernel holds of what was sent: the client has not confirmed them."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def _abort(sock: Any, seconds: float) -> NoReturn:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    log.warning("closed a connection whose client has read nothing of a response for %g s (SEND_TIMEOUT)", seconds)
    raise ConnectionResetError(errno.ECONNRESET, "the client does not read the response")
