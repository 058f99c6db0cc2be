"""A scrape of many series holds up nobody: its text is written in a native thread."""

import threading
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest

from carryover.api import metrics
from carryover.telemetry import prometheus
from tests.support.waiting import PATIENCE


def test_others_run_while_a_scrape_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = threading.Event()
    for name in ("_of_requests", "_of_models", "_of_store", "_of_process"):
        monkeypatch.setattr(metrics, name, lambda _: ())
    monkeypatch.setattr(prometheus, "text", lambda _: b"%d" % ran.wait(PATIENCE))
    gevent.spawn(ran.set)
    engine = SimpleNamespace(sample=lambda: None, metrics=None)
    assert metrics.show(cast("Any", engine), cast("Any", None)).body == b"1"
