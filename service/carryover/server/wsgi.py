"""The application as gunicorn serves it: settings from the environment, and the models loaded."""

import sys

import torch

from carryover import settings
from carryover.api.application import create_app
from carryover.api.bodies import Bodies
from carryover.api.duplex import StreamLimits, Streams
from carryover.engine import Engine, Limits
from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository
from carryover.server.embedded_valkey import EmbeddedValkey
from carryover.settings import Settings
from carryover.store import Store

# One thread in the process that the workers are forked from: a thread pool does not survive a fork.
torch.set_num_threads(1)


def create_engine(configured: Settings, repository: Repository, redis_url: str) -> Engine:
    """Return the engine: the models of `repository`, with their sessions in the Redis at `redis_url`."""
    limits = Limits(configured.max_batch, configured.max_queue, configured.session_ttl, configured.max_state_bytes)
    return Engine(repository, Store(redis_url, configured.redis_timeout, configured.idempotency_ttl), limits)


try:
    configured = settings.read()
    embedded_valkey = None if configured.redis_url else EmbeddedValkey(configured.data_dir)
    engine = create_engine(
        configured,
        Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2),
        embedded_valkey.url if embedded_valkey else str(configured.redis_url),
    )
except ConfigurationError as error:
    sys.exit(f"carryover: {error}")


def create_streams(configured: Settings, bodies: Bodies) -> Streams:
    """Return the streams, which are none yet."""
    limits = StreamLimits(
        streams=configured.max_streams,
        idle=configured.max_stream_idle,
        seconds=configured.max_stream_seconds,
        buffer=configured.max_stream_buffer,
        send=configured.send_timeout,
    )
    return Streams(limits, bodies)


bodies = Bodies(configured.max_body_bytes, configured.body_timeout, configured.max_inflight_bytes)
app = create_app(engine, bodies, create_streams(configured, bodies))
