"""The application as gunicorn serves it: settings from the environment, and the models loaded."""

import sys

import gevent
import torch

from carryover import keys, settings
from carryover.api.application import allow_origins, create_app
from carryover.api.bodies import Bodies
from carryover.api.cors import Origins
from carryover.api.duplex import StreamLimits, Streams
from carryover.engine import Engine, Limits
from carryover.errors import ConfigurationError, StoreUnavailableError
from carryover.runtime.repository import Repository
from carryover.server.embedded_valkey import EmbeddedValkey
from carryover.settings import Settings
from carryover.store import Store, StoreHealth
from carryover.telemetry import traces
from carryover.telemetry.metrics import Gauge
from carryover.telemetry.request_log import LEAST_STATUS, RequestLog

# One thread in the process that the workers are forked from: a thread pool does not survive a fork.
torch.set_num_threads(1)

_CHECK_SECONDS = 5.0
"""How long the start waits for Redis, whatever REDIS_TIMEOUT is."""


def create_store(configured: Settings, redis_url: str, health: StoreHealth | None = None) -> Store:
    """Return the store of the sessions in the Redis at `redis_url`."""
    timeout, keep, prefix = configured.redis_timeout, configured.idempotency_ttl, configured.redis_prefix
    store = Store(redis_url, timeout, keep, prefix, health)
    store.require_replicas(configured.redis_min_replicas, configured.redis_replicas_timeout)
    return store


def create_engine(configured: Settings, repository: Repository, redis_url: str) -> Engine:
    """Return the engine: the models of `repository`, with their sessions in the Redis at `redis_url`."""
    limits = Limits(
        batch=configured.max_batch,
        queue=configured.max_queue,
        ttl=configured.session_ttl,
        state_bytes=configured.max_state_bytes,
        timeout=configured.request_timeout,
        elements=configured.max_elements,
        keyed_elements=configured.max_keyed_elements,
        sessions=configured.max_sessions,
    )
    return Engine(repository, create_store(configured, redis_url), limits)


def read_keys() -> None:
    """Read the file of API keys, if there is one.

    Raises:
        ConfigurationError: it is invalid; the keys stay as they are.

    """
    if configured.api_keys is not None:
        engine.keys = keys.read(configured.api_keys, configured.exempt)
        engine.store.rated = engine.keys.rated


def check_store() -> str | None:
    """Return why sessions cannot be stored now, None where they can; also logged, and known to the workers.

    The connections are not those of the engine's store, which the workers would share after a fork.
    """
    try:
        with gevent.Timeout(_CHECK_SECONDS, TimeoutError(f"no response in {_CHECK_SECONDS:.0f} s")):
            store = create_store(configured, redis_url, engine.store.health)
            store.rated = engine.store.rated
            store.ping()
    except StoreUnavailableError:
        pass
    except TimeoutError as error:
        engine.store.health.lost(error)
    return engine.store.health.reason


try:
    configured = settings.read()
    embedded_valkey = None if configured.redis_url else EmbeddedValkey(configured.data_dir)
    redis_url = embedded_valkey.url if embedded_valkey else str(configured.redis_url)
    engine = create_engine(
        configured, Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2), redis_url
    )
    read_keys()
    engine.request_log = RequestLog(LEAST_STATUS[configured.request_log], json=configured.log_format == "json")
    if configured.otel_exporter_otlp_endpoint is not None:
        traces.require_library()
    engine.metrics.triton = configured.triton_metrics
    if embedded_valkey is not None:
        valkey = embedded_valkey
        engine.store.health.cause = lambda: (
            "the embedded Valkey does not run; the service's log says why" if valkey.down else None
        )
except ConfigurationError as error:
    sys.exit(f"carryover: {error}")


def create_streams(configured: Settings, bodies: Bodies, gauge: Gauge) -> Streams:
    """Return the streams, which are none yet."""
    limits = StreamLimits(
        streams=configured.max_streams,
        idle=configured.max_stream_idle,
        seconds=configured.max_stream_seconds,
        buffer=configured.max_stream_buffer,
        send=configured.send_timeout,
    )
    return Streams(limits, bodies, gauge, Origins(configured.origins))


bodies = Bodies(configured.max_body_bytes, configured.body_timeout, configured.max_inflight_bytes)
app = create_app(engine, bodies, create_streams(configured, bodies, engine.metrics.streams))
if configured.origins:
    allow_origins(app, Origins(configured.origins))
