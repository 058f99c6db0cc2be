"""The service's own gunicorn configuration, with nothing counted or measured, and one id for all requests."""

from gevent import monkey

monkey.patch_all()

import runpy  # noqa: E402 - patched first
from pathlib import Path  # noqa: E402

from carryover.api import request_ids  # noqa: E402
from carryover.telemetry.counters import Counters  # noqa: E402
from carryover.telemetry.metrics import Counts, Histograms, Metrics  # noqa: E402

_service = runpy.run_path(str(Path(__file__).parent.parent / "gunicorn.conf.py"))
globals().update({name: value for name, value in _service.items() if name[0] != "_"})


def _nothing(*_: object, **__: object) -> None:
    pass


for _kind, _names in (
    (Counters, ("ran", "answered", "retried")),
    (Counts, ("add",)),
    (Histograms, ("observe",)),
    (Metrics, ("stored",)),
):
    for _name in _names:
        setattr(_kind, _name, _nothing)
request_ids.of = lambda given: "00"  # noqa: ARG005 - as that is called
