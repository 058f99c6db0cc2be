"""Clients that close their connections, noticed while nothing is read from them.

Source: epoll(7), EPOLLRDHUP.
"""

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import monkey
from gevent.hub import get_hub

_KNOWN = hasattr(select, "EPOLLRDHUP")
_READ = 1


class Hangups:
    """The sockets of a worker's connections that are watched.

    Data that arrives is left where it is, and wakes nobody. Where there is no epoll, as on macOS, nothing is noticed
    here: a client that has closed its connection then fails the second write to it.
    """

    def __init__(self) -> None:
        self._notify: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None
        self._watcher: Any = None

    def watch(self, descriptor: int, notify: Callable[[], None]) -> None:
        """Call `notify` once when the client has closed its side of a socket: in the hub, where it must not wait."""
        if not _KNOWN:
            return
        if not self._notify:
            self._open()
        self._notify[descriptor] = notify
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def forget(self, descriptor: int) -> None:
        """Watch a socket no longer, before it is closed."""
        if self._notify.pop(descriptor, None) is None:
            return
        with suppress(OSError):  # one that is closed already has left by itself
            self._epoll.unregister(descriptor)
        if not self._notify:
            self._close()

    def _open(self) -> None:
        self._epoll = monkey.get_original("select", "epoll")()
        self._watcher = get_hub().loop.io(self._epoll.fileno(), _READ)
        self._watcher.start(self._look)

    def _close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()

    def _look(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            self._notify[descriptor]()
