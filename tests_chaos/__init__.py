"""Everything is killed, cut and stopped while clients step sessions; at the end nothing may be lost or doubled."""

import sys
from pathlib import Path

# The service, Redis and the clients are started as the tests start them.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
