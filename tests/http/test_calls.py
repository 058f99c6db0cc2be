"""What a session's step costs in calls, objects and layers, which is exact where times are noisy."""

import json
import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_a_step_makes_few_calls_few_objects_and_crosses_few_packages() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    command = [sys.executable, "-m", "bench.calls"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert counts["calls"] <= 410
    assert counts["objects"] <= 9
    assert counts["package_changes"] <= 14
