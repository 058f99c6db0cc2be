"""gunicorn's settings, and its hooks at the start and end of the service and of each worker."""

from gevent import monkey

monkey.patch_all()

import gc

gc.disable()  # what is imported stays, and to look for garbage meanwhile takes longer

import itertools
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carryover import settings
from carryover.errors import ConfigurationError
from carryover.server import cpus, memory, ports
from carryover.telemetry import logs, traces

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

memory.limit_arenas()
try:
    _settings = settings.read()
    ports.require_free(_settings.bind)
    from carryover.server import storage
except ConfigurationError as error:
    sys.exit(f"carryover: {error}")

wsgi_app = "carryover.server.wsgi:app"
bind = _settings.bind
workers = _settings.workers or cpus.available()
worker_class = "carryover.server.worker.Worker"
# The models are loaded once, before the workers are forked, which share the memory of torch and of the weights.
preload_app = True
# Idle connections cost a worker little: the number of open files is what limits them.
worker_connections = 10_000
backlog = 2048
# Longer than a reverse proxy keeps its connections, so that the proxy is the one that closes.
keepalive = 75
timeout = 60
graceful_timeout = _settings.graceful_timeout
control_socket_disable = True
# No proxy in front says under which path the service is: SCRIPT_NAME as a header is none that it knows.
forwarder_headers = ""
logger_class = logs.Logger
logconfig_dict = logs.config(_settings.log_format)
log = logging.getLogger(__name__)
_memory = Path("/dev/shm")  # noqa: S108 - gunicorn creates an unnamed file in it
worker_tmp_dir = str(_memory) if _memory.is_dir() else None


_STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def _end_when_told() -> None:
    """Let what stops a new worker end it at once: the arbiter's handlers would only put it in the arbiter's queue."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)  # until gunicorn sets the worker's own
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


# Blocked from before the fork on, so that none is lost in between.
os.register_at_fork(
    before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOPS),
    after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOPS),
    after_in_child=_end_when_told,
)


def on_starting(_: "Arbiter") -> None:
    """Start the embedded Valkey, if there is no REDIS_URL."""
    if storage.embedded_valkey is not None:
        try:
            storage.embedded_valkey.start()
        except ConfigurationError as error:
            sys.exit(f"carryover: {error}")


def when_ready(server: "Arbiter") -> None:
    """Print where the service listens and what it serves."""
    from carryover.server.banner import banner, beyond_loopback, stores
    from carryover.server.wsgi import engine

    addresses = ", ".join(str(listener) for listener in server.LISTENERS)
    stored = stores(_settings.redis_url, storage.embedded_valkey, storage.check_store())
    said = banner(f"{addresses} with {workers} workers", stored, engine.repository)
    if engine.keys is None and (exposed := beyond_loopback(server.LISTENERS)):
        log.warning("listening at %s without API keys (API_KEYS): whoever reaches it may use it", exposed)
    print(logs.json_line(said) if _settings.log_format == "json" else said, flush=True)


def on_reload(_: "Arbiter") -> None:
    """Reload API keys and the model repository, on SIGHUP, and log it; workers forked from now on serve the result."""
    from carryover.server.banner import served
    from carryover.server.wsgi import engine, read_keys

    try:
        read_keys()
    except ConfigurationError as error:
        log.error("%s; the API keys that were read before stay valid", error)  # noqa: TRY400 - it says what is wrong
    engine.serve(engine.repository.reloaded())
    gc.unfreeze()  # `pre_fork` has frozen what was served before, which nothing would free
    gc.collect()
    log.info("the model repository was read again; serving %s", served(engine.repository))


def pre_fork(server: "Arbiter", worker: Any) -> None:
    """Give each worker a slot for its statistics that no other worker uses.

    The objects that exist by now, torch and the models, are permanent. No worker's garbage collector needs to traverse
    them, which would take long and copy the pages that the workers share.
    """
    gc.freeze()
    taken = {other.slot for other in server.WORKERS.values()}
    worker.slot = next(slot for slot in itertools.count() if slot not in taken)


def post_fork(_: "Arbiter", worker: Any) -> None:
    """Divide the CPUs between the workers, and give each its devices and its own random seed."""
    import numpy as np
    import torch

    from carryover.server.worker import limit_sending, reload_all
    from carryover.server.wsgi import engine

    limit_sending(_settings.send_timeout)
    engine.claim(worker.slot)
    engine.reload = partial(reload_all, worker)
    torch.seed()
    np.random.seed()  # noqa: NPY002 - models draw from numpy's global generator; Python's own is seeded at a fork
    torch.set_num_threads(max(1, cpus.available() // workers))
    for model in engine.repository:
        for version in model.versions.values():
            version.move()


def post_worker_init(_: Any) -> None:
    """Look at Redis while it is lost; sweep expired sessions and count the others, each in one elected worker."""
    import gevent

    from carryover.server.sampling import sample_forever
    from carryover.server.wsgi import engine
    from carryover.store.counting import count_forever
    from carryover.store.sweeper import sweep_forever

    if _settings.otel_exporter_otlp_endpoint is not None:
        engine.tracer = traces.Tracer(_settings.otel_exporter_otlp_endpoint)
    engine.store.watch()
    gevent.spawn(sweep_forever, engine.store, partial(engine.metrics.ended.add, "expired"))
    gevent.spawn(count_forever, engine.store)
    gevent.spawn(sample_forever, engine)
    gevent.spawn(memory.trim_forever)


def worker_exit(_: "Arbiter", __: Any) -> None:
    """End a worker at once, which has answered everything.

    Python's own end would wait for native threads that a model has started before the fork and that are not in the
    worker, or for a forward that nobody waits for any more.
    """
    from carryover.server.wsgi import engine

    ending = sys.exc_info()[1]
    engine.request_log.flush()
    if engine.tracer is not None:
        engine.tracer.close()
    code = ending.code if isinstance(ending, SystemExit) else 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def child_exit(_: "Arbiter", worker: Any) -> None:
    """Show nothing more of what a worker was busy with that has ended, however it did."""
    from carryover.server.wsgi import engine

    engine.release(worker.slot)


def on_exit(_: "Arbiter") -> None:
    """Stop the embedded Valkey, after the last worker."""
    if storage.embedded_valkey is not None:
        storage.embedded_valkey.stop()
