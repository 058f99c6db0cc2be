"""A forward of any length leaves its worker able to respond to others."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import spec, write_model
from tests.support.service import Launch, Service
from tests.support.sources import timed

HELD = 1.0
"""Seconds that nothing waits while a forward runs; the machine may be busy."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`timed`, which takes as many seconds as its first number says, and `timed-sum`, which keeps a sum."""
    repository = tmp_path / "timed"
    write_model(repository, "timed", timed.Timed(), [spec((-1,))])
    write_model(repository, "timed-sum", timed.TimedSum(), [spec((-1,))])
    return repository


def worst_wait(service: Service, work: Callable[[], Any]) -> float:
    """The longest that `/v2/health/live` took while work was done."""
    worst = 0.0
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        client.get("/v2/health/live").expect()
        done = pool.submit(work)
        while not done.done():
            start = time.monotonic()
            client.get("/v2/health/live").expect()
            worst = max(worst, time.monotonic() - start)
            time.sleep(0.02)
        done.result()
    return worst


def predict(service: Service, values: list[float]) -> Callable[[], Any]:
    def call() -> Any:
        with service.client() as client:
            return client.predict("timed", values)

    return call


def test_the_first_forward_of_a_size_holds_up_nobody(launch: Launch, models: Path) -> None:
    service = launch(MODEL_REPOSITORY=models, WORKERS=1)
    assert worst_wait(service, predict(service, [3.0])) < HELD
    predict(service, [0.0] * 16)()
    assert worst_wait(service, predict(service, [3.0] * 16)) < HELD
    predict(service, [0.0] * 16)()
    assert worst_wait(service, predict(service, [2.0] * 5000)) < HELD
