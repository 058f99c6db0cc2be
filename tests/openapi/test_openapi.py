"""10,000 requests that Schemathesis makes from the OpenAPI document, alone and in sequences along its links."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.service import Service

REQUESTS = int(os.environ.get("REQUESTS", "10000"))
SEED = os.environ.get("SEED", "1")
OTHERS = 3000
"""About how many requests there are for examples, and for what is at the edges of the schema."""
MINUTES = 18
REACHED = 0.9
"""The share of the operations that succeed at least once."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The models that come with the service."""
    running = Service(tmp_path_factory.mktemp("api"))
    try:
        yield running.start()
    finally:
        running.end()


def test_nothing_fails_and_nothing_is_outside_the_schema(api: Service, tmp_path: Path) -> None:
    with api.client() as client:
        document = client.get("/openapi.json").expect()
    found = [one for item in document["paths"].values() for one in item.values()]
    operations = {one["operationId"] for one in found if not _stays_open(one)}
    command: list[str | Path] = [
        Path(sys.executable).with_name("st"), "--config-file", Path(__file__).with_name("schemathesis.toml"), "run",
        f"http://127.0.0.1:{api.port}/openapi.json", "--seed", SEED, "--workers", "1", "--no-shrink",
        "--max-examples", str(max(1, (REQUESTS - OTHERS) // len(operations))), "--request-timeout", "30", "--no-color",
    ]  # fmt: skip
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.openapi.hooks", "COUNTS": str(tmp_path / "counts"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60 * MINUTES
    )
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]
    counts = {tuple(name.split()): count for name, count in json.loads((tmp_path / "counts").read_text()).items()}
    succeeded = {operation for operation, status in counts if status.startswith("2")} & operations
    print(f"{sum(counts.values())} requests; {len(succeeded)} of {len(operations)} operations succeeded")  # noqa: T201
    assert sum(counts.values()) >= REQUESTS
    assert not [name for name in counts if name[1].startswith("5") and name[1] != "501"]
    assert len(succeeded) >= REACHED * len(operations), sorted(operations - succeeded)
    assert "Traceback" not in api.err()


def _stays_open(operation: dict[str, Any]) -> bool:
    """Whether the response to an operation goes on, so that no plain request succeeds: a WebSocket, or events."""
    responses = operation["responses"]
    return "101" in responses or "text/event-stream" in responses.get("200", {}).get("content", {})
