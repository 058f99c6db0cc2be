"""The service's own gunicorn configuration, with the empty application in its place and without models or Valkey."""

from gevent import monkey

monkey.patch_all()

import runpy  # noqa: E402 - patched first
from pathlib import Path  # noqa: E402

_service = runpy.run_path(str(Path(__file__).parent.parent / "gunicorn.conf.py"))
# Every setting, but none of the hooks: they are about the models and Valkey.
globals().update({name: value for name, value in _service.items() if name[0] != "_" and not callable(value)})

wsgi_app = "bench.baseline:app"
