"""A forward of any length leaves its worker able to respond to others."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import call, fresh, post, put_state, state
from tests.support.client import Client, problem
from tests.support.repository import spec, write_model
from tests.support.service import Launch, Service
from tests.support.sources import timed
from tests.support.waiting import eventually

HELD = 1.0
"""Seconds that nothing waits while a forward runs; the machine may be busy."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`timed`, which takes as many seconds as its first number says, and `timed-sum`, which keeps a sum."""
    repository = tmp_path_factory.mktemp("long") / "timed"
    write_model(repository, "timed", timed.Timed(), [spec((-1,))])
    write_model(repository, "timed-sum", timed.TimedSum(), [spec((-1,))])
    write_model(repository, "timed-window", timed.TimedWindow(), [spec((-1,))], [spec((), name="sum")])
    write_model(repository, "random", timed.Random(), [spec((-1,))])
    return repository


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Service]:
    """A service of one worker; each model is new to one test, as what its forwards have taken is known afterwards."""
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=models, WORKERS=1) as running:
        yield running


def worst_wait(service: Service, work: Callable[[], Any]) -> float:
    """The longest that `/v2/health/live` took while work was done."""
    worst = 0.0
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        client.get("/v2/health/live").expect()
        done = pool.submit(work)
        while not done.done():
            start = time.monotonic()
            client.get("/v2/health/live").expect()
            worst = max(worst, time.monotonic() - start)
            time.sleep(0.02)
        done.result()
    return worst


def predict(service: Service, values: list[float]) -> Callable[[], Any]:
    def work() -> Any:
        with service.client() as client:
            return client.predict("timed", values)

    return work


def test_the_first_forward_of_a_size_holds_up_nobody(service: Service) -> None:
    assert worst_wait(service, predict(service, [2.0])) < HELD
    predict(service, [0.0] * 16)()
    assert worst_wait(service, predict(service, [2.0] * 16)) < HELD
    predict(service, [0.0] * 16)()
    assert worst_wait(service, predict(service, [2.0] * 5000)) < HELD


def test_a_forward_longer_than_gunicorns_timeout_completes(launch: Launch, models: Path) -> None:
    service = launch(MODEL_REPOSITORY=models, WORKERS=1, GUNICORN_CMD_ARGS="--timeout 2")
    assert predict(service, [5.0])() == [5.0]
    assert "TIMEOUT" not in service.err()


def test_a_forward_over_the_limit_is_504_and_changes_nothing(launch: Launch, models: Path) -> None:
    service = launch(MODEL_REPOSITORY=models, WORKERS=1, REQUEST_TIMEOUT=1)
    with service.client() as client:
        path = client.create("timed-sum")
        key, too_long = fresh(), {"instances": [4.0]}
        started = time.monotonic()
        response = post(client, f"{path}:predict", too_long, key=key)
        assert 1 <= time.monotonic() - started < 3.5
        assert "REQUEST_TIMEOUT" in problem(response, 504)
        assert int(response.headers["Retry-After"]) > 0
        # Its forward goes on. What comes meanwhile waits no longer than that, and other models are not concerned.
        assert problem(call(client, "POST", f"{path}:predict", {"instances": [0.0]}), 504)
        assert client.predict("timed", [0.0]) == [0.0]
        assert client.step_of(path) == 0
        # The key is not used up: the same request runs again, and is the same failure.
        problem(post(client, f"{path}:predict", too_long, key=key), 504)
        answer = eventually_steps(client, path)
        assert (answer["predictions"], answer["step"]) == ([0.5], 1)
    with service.client() as client:
        assert problem(client.post("/v2/models/timed/infer", infer_body([4.0] * 8)), 504)


def test_abandoned_forwards_leave_threads_for_others_and_a_worker_that_ends(launch: Launch, tmp_path: Path) -> None:
    repository = tmp_path / "many"
    for number in range(12):
        write_model(repository, f"waits-{number}", timed.Waits(), [spec((-1,))])
    service = launch(MODEL_REPOSITORY=repository, WORKERS=1, REQUEST_TIMEOUT=0.2)
    with service.client() as client:
        for number in range(11):
            problem(client.post(f"/v1/models/waits-{number}:predict", {"instances": [600.0]}), 504)
        assert client.predict("waits-11", [0.0]) == [0.0]
    assert service.stop() == 0


def test_a_state_that_is_put_meanwhile_does_not_reach_another_callers_forward(service: Service) -> None:
    with service.client() as client, service.client() as other, ThreadPoolExecutor(1) as pool:
        source, target = (client.create("timed-window") for _ in range(2))
        other.step(source, [0.0, 5.0, 7.0])
        grown = state(other, source)
        long = pool.submit(client.predict, "timed-window", [2.0] + [1.0] * 20)
        while not long.done():
            put_state(other, target, grown).expect()
            time.sleep(0.1)
        assert long.result() == [22.0]
        assert other.step(target, [0.0])["predictions"] == [12.0]


def test_a_long_call_does_not_take_the_turn_of_short_ones(service: Service) -> None:
    """Nor does a long step take it from other sessions; what concerns its own session waits for it."""
    long = [2.0] + [0.0] * 20_000
    with (
        service.client() as client,
        service.client() as other,
        service.client() as third,
        ThreadPoolExecutor(2) as pool,
    ):
        path, held = (client.create("timed-sum") for _ in range(2))
        client.step(path, [0.0])
        predicting, stepping = (
            pool.submit(other.predict, "timed-sum", long),
            pool.submit(post, third, f"{held}:predict", {"instances": long}),
        )
        worst, steps = 0.0, 0
        while not (predicting.done() and stepping.done()):
            start = time.monotonic()
            client.step(path, [0.0, 1.0])
            assert client.predict("timed-sum", [0.0, 1.0]) == [1.0, 2.0]
            worst, steps = max(worst, time.monotonic() - start), steps + 1
        assert worst < HELD
        assert steps > 10
        assert client.step_of(path) == steps + 1
        assert predicting.result()[:2] == [4.0, 2.0]
        assert stepping.result().expect()["predictions"][:2] == [4.0, 2.0]

        # The size is known to be long now.
        again = pool.submit(post, third, f"{held}:predict", {"instances": long})
        answers = [client.step(held, [0.0, 1.0]) for _ in range(3)]
        assert again.result().expect()["step"] + sum(answer["step"] for answer in answers) == 2 + 3 + 4 + 5


def test_a_model_whose_class_makes_another_module_each_time_runs_long_calls_in_their_turn(service: Service) -> None:
    with service.client() as client:
        (small,) = {tuple(client.predict("random", [0.0, 1.0])) for _ in range(3)}
        for _ in range(2):
            large = client.predict("random", [0.2, 1.0] + [0.0] * 20_000)
            assert large[1] == small[1]


def eventually_steps(client: Client, path: str) -> Any:
    """Step a session by 0.25 until its model has ended what was abandoned."""

    def look() -> Any:
        response = client.post(f"{path}:predict", {"instances": [0.25]})
        return response.json if response.status == 200 else problem(response, 504) and None

    return eventually("a step", look)


def infer_body(values: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}]}
