"""What a session's step costs in calls, objects and layers, which is exact where times are noisy."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("way", "calls", "objects", "changes"), [((), 385, 9, 14), (("short",), 265, 9, 19)], ids=["flask", "short"]
)
def test_a_step_makes_few_calls_few_objects_and_crosses_few_packages(
    way: tuple[str, ...], calls: int, objects: int, changes: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    command = [sys.executable, "-m", "bench.calls", *way]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert counts["calls"] <= calls
    assert counts["objects"] <= objects
    assert counts["package_changes"] <= changes
