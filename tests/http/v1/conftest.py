"""Redis, for the modules of tests that look into it."""

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis server of one module of tests."""
    running = RedisServer().start()
    yield running
    running.end()
