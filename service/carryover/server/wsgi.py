"""The application as gunicorn serves it: settings from the environment, and the models loaded."""

import gc
import sys

import torch

from carryover import keys
from carryover.api.application import allow_origins, create_app
from carryover.api.bodies import Bodies
from carryover.api.cors import Origins
from carryover.api.duplex import StreamLimits, Streams
from carryover.engine import Engine, Limits
from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository
from carryover.server.storage import configured, embedded_valkey, store
from carryover.settings import Settings
from carryover.telemetry import traces
from carryover.telemetry.metrics import Gauge
from carryover.telemetry.request_log import LEAST_STATUS, RequestLog

# One thread in the process that the workers are forked from: a thread pool does not survive a fork.
torch.set_num_threads(1)
# What is imported stays: the collector, which `lifecycle` turns off meanwhile, need not look at it any more.
gc.freeze()
gc.enable()


def create_engine(configured: Settings, repository: Repository) -> Engine:
    """Return the engine: the models of `repository`, with their sessions in the store of the settings."""
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
    return Engine(repository, store, limits)


def read_keys() -> None:
    """Read the file of API keys, if there is one.

    Raises:
        ConfigurationError: it is invalid; the keys stay as they are.

    """
    if configured.api_keys is not None:
        engine.keys = keys.read(configured.api_keys, configured.exempt)
        engine.store.rated = engine.keys.rated


try:
    engine = create_engine(configured, Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2))
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
