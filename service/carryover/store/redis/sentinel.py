"""The master that Sentinel names.

A new connection asks the sentinels which server it is. Those that exist are closed when the sentinels name another one:
a former master that still runs, and takes writes, is made a replica only ten seconds later, and then loses them.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import redis
from redis import exceptions
from redis.sentinel import Sentinel

from carryover.store.redis.server import ERRORS, Server

INTERVAL = 1.0
"""Seconds after which the sentinels are asked again."""

_Sentinel: Any = Sentinel  # redis-py has no types for it


class Master(Server):
    """The master that Sentinel names."""

    def watch(self) -> None:
        """From now on, ask the sentinels which server it is, every second."""
        threading.Thread(target=self._follow, daemon=True).start()

    def _check(self, reply: Exception) -> None:
        """One that writes nothing any more is a replica now, and a new connection asks which server the master is."""
        if isinstance(reply, exceptions.ReadOnlyError):
            raise redis.ConnectionError(str(reply))
        super()._check(reply)

    def _follow(self) -> None:
        while True:
            time.sleep(INTERVAL)
            with suppress(*ERRORS):
                self._leave_others(self._client.connection_pool.get_master_address())

    def _leave_others(self, address: tuple[str, int]) -> None:
        """Close unused connections to other servers than that at `address`; those in use now are for the next time."""
        for link in tuple(self._idle):
            connection = link.connection
            if (connection.host, connection.port) != address and link in self._idle:
                self._idle.remove(link)
                connection.disconnect()


def master(hosts: list[tuple[str, int]], path: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return a client of the current master.

    `hosts` are the sentinels, `path` is `service[/db]`, `given` holds the URL's options, `options` the service's.

    Raises:
        ValueError: the path names no service, or the database is not a number.

    """
    service, _, db = path.strip("/").partition("/")
    if not service:
        raise ValueError("redis+sentinel://host:port/service takes the name of the service that the sentinels watch")
    own = {key: given.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    tls = {key: value for key, value in given.items() if key.startswith("ssl")}
    sentinels: Any = _Sentinel(hosts, sentinel_kwargs={**options, **tls, **own}, db=int(db or 0), **options | given)
    return sentinels.master_for(service)
