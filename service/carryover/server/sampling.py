"""Looking at a worker from time to time: how late its event loop is, what it is busy with, and what it has to log."""

import time

import gevent

from carryover.engine import Engine

INTERVAL = 0.1
"""Seconds between two looks."""


def sample_forever(engine: Engine) -> None:
    """Look, every `INTERVAL` seconds; never returns."""
    lag = engine.metrics.lag
    while True:
        due = time.perf_counter_ns() + int(INTERVAL * 1e9)
        gevent.sleep(INTERVAL)
        lag.observe("loop", max(0, time.perf_counter_ns() - due))
        engine.sample()
        engine.request_log.flush()
