"""Published modules, unchanged: sessions over two workers get what a plain loop over the package's class gives."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.client import Client
from tests.support.service import Service
from tests.support.waiting import together
from tests.zoo.cases import CASES, Array, Published

SESSIONS, STEPS = 6, 5


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("zoo") / "models"
    for name, case in CASES.items():
        case.write(repository, name)
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository) as running:
        yield running


@pytest.fixture
def workers(service: Service) -> Iterator[list[Client]]:
    with service.one_client_a_worker() as clients:
        yield clients


class Session:
    """A session, and the loop that it must equal."""

    def __init__(self, case: Published, number: int) -> None:
        self.name = f"s{number}"
        self._case = case
        self._random = np.random.default_rng(number)
        self._steps = 0
        self._loop = case.loop(case.module())

    def next(self) -> tuple[Any, Array]:
        """The next step's instances, and the numbers that it gives."""
        x = self._case.draw(self._random, self._steps)
        self._steps += 1
        with torch.inference_mode():
            y = self._case.rows("outputs", self._loop(x)).numpy().ravel()
        return self._case.rows("inputs", x).tolist(), y


def numbers(predictions: Any) -> Array:
    return np.asarray(predictions, np.float64).ravel()


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_has_at_most_12_lines(name: str) -> None:
    assert len(CASES[name].manifest.splitlines()) <= 12


@pytest.mark.parametrize("name", CASES)
def test_sessions_equal_a_plain_loop(name: str, service: Service) -> None:
    base = f"/v1/models/{name}/sessions"

    def visit(session: Session) -> float:
        worst = 0.0
        with service.one_client_a_worker() as clients:
            clients[0].post(base, {"session": session.name}).expect(201)
            for client in (clients * STEPS)[:STEPS]:
                instances, expected = session.next()
                found = numbers(client.step(f"{base}/{session.name}", instances)["predictions"])
                worst = max(worst, float(np.abs(found - expected).max()))
        return worst

    assert max(together(visit, [Session(CASES[name], number) for number in range(SESSIONS)])) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_sessions_of_one_call_share_forwards_where_the_module_can(name: str, workers: list[Client]) -> None:
    sessions = {f"b{number}": Session(CASES[name], number) for number in range(SESSIONS)}
    base, client = f"/v1/models/{name}/sessions", workers[0]
    for session in sessions:
        client.post(base, {"session": session}).expect(201)
    before = executions(client, name)
    for _ in range(STEPS):
        steps = {session: one.next() for session, one in sessions.items()}
        asked = {"sessions": {session: x for session, (x, _) in steps.items()}}
        entries = client.post(f"{base}:predict", asked).expect()["sessions"]
        for session, (_, expected) in steps.items():
            np.testing.assert_allclose(numbers(entries[session]["predictions"]), expected, atol=1e-4)
    if CASES[name].batched:
        assert executions(client, name) - before == STEPS


def executions(client: Client, name: str) -> int:
    (statistics,) = client.get(f"/v2/models/{name}/stats").expect()["model_stats"]
    count: int = statistics["execution_count"]
    return count
