"""One service for all tests that leave it as it was; a new one for those that break it."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.client import Client
from tests.support.preloaded import Preloaded
from tests.support.redis_server import RedisServer
from tests.support.repository import write_batching, write_common, write_identities
from tests.support.service import Launch, Service

# The operations are tiny, and the machine's CPUs are busy with what the tests start.
torch.set_num_threads(1)

# A run tries the same examples every time, so that what fails belongs to the change; `--hypothesis-profile=default`
# tries others.
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

LONGEST = ("topologies", "faults", "client", "cli", "http", "models", "runtime", "unit")
"""Folders of tests, those first whose files take longest: else some would still run when there are no others left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[None]:
    """Let services start without each importing torch again."""
    Service.preloaded = Preloaded()
    yield
    Service.preloaded.end()
    Service.preloaded = None


@pytest.fixture(scope="session")
def common_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models that come with the service, and the small ones that many tests use."""
    folder = tmp_path_factory.mktemp("common") / "models"
    write_common(folder)
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, common_models: Path) -> Iterator[Service]:
    """The service that most tests share, of two workers and an embedded Valkey."""
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=common_models) as running:
        yield running


@pytest.fixture(scope="session")
def identity_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of an identity model of every datatype and shape."""
    models = tmp_path_factory.mktemp("identities") / "models"
    write_identities(models)
    with Service(tmp_path_factory.mktemp("identity-service"), MODEL_REPOSITORY=models) as running:
        yield running


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker, of models that are slow or print what they do, and with a low limit for bodies."""
    models = tmp_path_factory.mktemp("batching") / "models"
    write_batching(models)
    with Service(
        tmp_path_factory.mktemp("single"), MODEL_REPOSITORY=models, WORKERS=1, MAX_BODY_BYTES=20_000
    ) as running:
        yield running


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The models of `single`, for a service of another kind."""
    write_batching(tmp_path / "few")
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
