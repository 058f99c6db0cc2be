"""What loading models costs a start."""

import subprocess
import sys

from tests.support.paths import CHECKPOINTS

LOAD = """
import sys
from pathlib import Path
from carryover.runtime.repository import Repository
Repository.load([Path(sys.argv[1])])
print(*(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules))
"""


def test_loading_does_not_import_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, str(CHECKPOINTS)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
