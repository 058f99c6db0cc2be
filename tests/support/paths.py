"""Where things are in a checkout."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
GUNICORN = Path(sys.executable).with_name("gunicorn")
