"""One service for all tests that leave it as it was; a fresh one for those that break it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.harness import Client, RedisServer, Service
from tests.support.repository import write_few, write_zoo

Launch = Callable[..., Service]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models that come with the service, and many small ones."""
    folder = tmp_path_factory.mktemp("zoo") / "models"
    write_zoo(folder)
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[Service]:
    """The service that most tests share. It serves the zoo, with two workers and its own Valkey."""
    running = Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=zoo)
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker, of models that are slow or tell what they do, and with a low limit for bodies."""
    models = tmp_path_factory.mktemp("few") / "models"
    write_few(models)
    running = Service(tmp_path_factory.mktemp("single"), MODEL_REPOSITORY=models, WORKERS=1, MAX_BODY_BYTES=20_000)
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The models of `single`, for a service of another kind."""
    write_few(tmp_path / "few")
    return tmp_path / "few"


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A connection to the shared service."""
    with service.client() as connection:
        yield connection


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts services that end with the test; each has its files in `tmp_path`, under its number."""
    services: list[Service] = []

    def start(**settings: str | int | Path) -> Service:
        services.append(Service(tmp_path / str(len(services)), **settings))
        return services[-1].start()

    yield start
    for running in services:
        running.end()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis server that a test may kill."""
    server = RedisServer().start()
    yield server
    server.end()
