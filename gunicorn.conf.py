"""gunicorn's configuration in a checkout: that of the package, which need not be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "service"))

from carryover.server.lifecycle import *  # noqa: F403
