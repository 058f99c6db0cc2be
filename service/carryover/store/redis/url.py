"""The URL of the Redis servers.

| URL | description |
|-----|-------------|
| `redis://[user:password@]host:port/db`, `unix://path` | a single server |
| `rediss://…?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…` | the same over TLS |
| `redis+sentinel://[user:password@]host:port,host:port/service[/db]` | the master that Sentinel names |
| `redis+cluster://[user:password@]host:port,host:port` | a cluster, discovered from any of its nodes |

`rediss+sentinel` and `rediss+cluster` are the same over TLS. The query string holds options of redis-py.
"""

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from carryover.errors import ConfigurationError
from carryover.store.redis import cluster, sentinel
from carryover.store.redis.cluster import Cluster
from carryover.store.redis.server import connect_one
from carryover.store.redis.topology import Topology

DEFAULT_PORT = 6379

_parse_url: Any = parse_url  # redis-py has no types for it


def connect(url: str, timeout: float) -> Topology:
    """Return the servers that a URL names. Nothing is sent before the first use.

    `timeout` applies to one attempt to connect and to one reply, in seconds.

    Raises:
        ConfigurationError: the URL has none of the forms above.

    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # What may be retried, and when, is for the store to decide.
        "retry": Retry(NoBackoff(), 0),
        # To name the driver, CLIENT SETINFO, takes a right of its own; the server logs where it is denied.
        "driver_info": None,
    }
    scheme, _, rest = url.partition("://")
    kind, _, form = scheme.partition("+")
    try:
        match form:
            case "":
                return connect_one(redis.Redis.from_url(_with_number(url), **options))
            case "sentinel":
                hosts, given = _parse(kind, rest)
                path = unquote(urlsplit(f"//{rest}").path)
                return connect_one(sentinel.master(hosts, path, given, options), sentinel.Master)
            case "cluster":
                hosts, given = _parse(kind, rest)
                cluster.check_options(given)
                return Cluster(lambda: cluster.client(hosts, options | given))
    except TypeError as error:  # redis-py's, which names the argument last
        raise ConfigurationError(f"REDIS_URL: there is no option {str(error).rpartition(' ')[2]}") from None
    except ValueError as error:
        raise ConfigurationError(f"REDIS_URL: {error}") from None
    raise ConfigurationError(f"REDIS_URL: {scheme}:// is none of redis, rediss, unix, redis+sentinel, redis+cluster")


def _with_number(url: str) -> str:
    """Return the URL, whose database is a number: redis-py reads anything else as 0."""
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError(f"the database {database!r} is not a number")
    return url


def _parse(kind: str, rest: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return the hosts of a URL that names several, and the options that redis-py reads from it."""
    parts = urlsplit(f"//{rest}")
    credentials, at, names = parts.netloc.rpartition("@")
    hosts = [urlsplit(f"//{name}") for name in names.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError(f"{names!r} is not a comma-separated list of host:port")
    given = _parse_url(f"{kind}://{credentials}{at}any?{parts.query}")
    given.pop("host")
    if given.pop("connection_class", None) is not None:
        given["ssl"] = True
    return [(host.hostname or "", host.port or DEFAULT_PORT) for host in hosts], given
