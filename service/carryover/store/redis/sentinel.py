"""The master that Sentinel names; after a failover, a new connection asks again."""

from typing import Any

from redis.sentinel import Sentinel

_Sentinel: Any = Sentinel  # redis-py has no types for it


def master(hosts: list[tuple[str, int]], path: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return a client of the current master.

    `hosts` are the sentinels, `path` is `service[/db]`, `given` holds the URL's options, `options` the service's.

    Raises:
        ValueError: the path names no service, or the database is not a number.

    """
    service, _, db = path.strip("/").partition("/")
    if not service:
        raise ValueError("redis+sentinel://host:port/service takes the name of the service that the sentinels watch")
    password = given.pop("sentinel_password", None)
    tls = {key: value for key, value in given.items() if key.startswith("ssl")}
    sentinels: Any = _Sentinel(
        hosts, sentinel_kwargs={**options, **tls, "password": password}, db=int(db or 0), **options | given
    )
    return sentinels.master_for(service)
