"""Where sessions are stored, as the settings say; what is wrong with them is found before the models are loaded."""

import gevent

from carryover import settings
from carryover.errors import StoreUnavailableError
from carryover.server.embedded_valkey import EmbeddedValkey
from carryover.settings import Settings
from carryover.store import Store, StoreHealth

_CHECK_SECONDS = 5.0
"""How long the start waits for Redis, whatever REDIS_TIMEOUT is."""


def create_store(configured: Settings, redis_url: str, health: StoreHealth | None = None) -> Store:
    """Return the store of the sessions in the Redis at `redis_url`, without a connection.

    Raises:
        ConfigurationError: the URL, or another setting of the store, is invalid.

    """
    timeout, keep, prefix = configured.redis_timeout, configured.idempotency_ttl, configured.redis_prefix
    store = Store(redis_url, timeout, keep, prefix, health)
    store.require_replicas(configured.redis_min_replicas, configured.redis_replicas_timeout)
    return store


def check_store() -> str | None:
    """Return why sessions cannot be stored now, None where they can; also logged, and known to the workers.

    The connections are not those of `store`, which the workers would share after a fork.
    """
    try:
        with gevent.Timeout(_CHECK_SECONDS, TimeoutError(f"no response in {_CHECK_SECONDS:.0f} s")):
            probing = create_store(configured, redis_url, store.health)
            probing.rated = store.rated
            probing.ping()
    except StoreUnavailableError:
        pass
    except TimeoutError as error:
        store.health.lost(error)
    return store.health.reason


configured = settings.read()
embedded_valkey = None if configured.redis_url else EmbeddedValkey(configured.data_dir)
redis_url = embedded_valkey.url if embedded_valkey else str(configured.redis_url)
store = create_store(configured, redis_url)
