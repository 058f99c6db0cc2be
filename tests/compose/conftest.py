"""One deployment for all tests, taken down whatever happens, and what was seen of it on the terminal at the end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.compose.deployment import Deployment, missing_engine
from tests.compose.terminal import lines, say

REPLICAS = 3
PASSWORD = "correct-horse-battery-staple"  # noqa: S105 - the test's own


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    if reason := missing_engine():
        pytest.exit(
            f"these tests need a container engine and `docker compose`, and cannot use one: {reason}", returncode=1
        )
    # Whatever ends the tests, the deployment is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("the deployment")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three replicas behind the proxy, from a copy of the checkout, with a password for Redis from a file."""
    folder = tmp_path_factory.mktemp("deployment")
    secret = _secret(folder)
    found = Deployment(
        folder, f"carryover-test-{os.getpid()}", REDIS_PASSWORD_FILE=str(secret), BUILDKIT_PROGRESS="plain",
        ANSWER_TIMEOUT="10s",
    )  # fmt: skip
    try:
        start = time.monotonic()
        found.build()
        say(f"built in {time.monotonic() - start:.0f} s")
        start = time.monotonic()
        found.up(REPLICAS)
        say(f"up and healthy with {REPLICAS} replicas in {time.monotonic() - start:.0f} s")
        yield found
    finally:
        if request.session.testsfailed:
            say(found.compose("logs", "--no-color", "--tail", "40"))
        found.remove()


def _secret(folder: Path) -> Path:
    """A file that the containers' users can read, in a folder that others cannot."""
    secret = folder / "redis-password"
    secret.write_text(PASSWORD)
    secret.chmod(0o444)
    return secret
