"""A session that keeps coming to one worker is stepped from what that has kept, and from Redis whenever it has changed.

What is compared with is a twin: a session that gets the same requests, each with an idempotency key, and so is always
read.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from carryover.engine.record_cache import DOUBTS, STEADY
from carryover.store.record import GRACE
from tests.support.calls import call, fresh, held, post, put_state, state
from tests.support.client import Client, Response, problem
from tests.support.metrics import ROUND_TRIPS, Scrape, risen
from tests.support.redis_server import RedisServer, key_of
from tests.support.repository import rnn, spec, write_model, write_recurrent
from tests.support.service import Launch, Service
from tests.support.sources import rejecting, timed
from tests.support.waiting import eventually, together

ROW = [0.5, -1.0, 2.0]
SESSIONS = "/v1/models/rnn/sessions"
ENOUGH = DOUBTS + STEADY + 1
"""Steps after which a session is not read, whatever was before."""


@dataclass(frozen=True)
class Workers:
    """A connection to the worker that steps a session again and again, and one to another worker."""

    home: Client
    other: Client
    service: Service

    def steady(self, model: str = "rnn", instance: Any = ROW) -> str:
        """Return the address of a session that its worker does not read any more."""
        address = self.home.create(model, fresh())
        for _ in range(ENOUGH):
            self.home.step(address, [instance])
        with self.unread():
            self.home.step(address, [instance])
        return address

    def twin(self, address: str) -> str:
        """Return the address of another session, in the same state."""
        name = fresh()
        self.other.post(f"{address}:fork", {"session": name}).expect(201)
        return f"{SESSIONS}/{name}"

    def unread(self) -> "Unread":
        return Unread(self.other)


class Unread:
    """Within it, no session is read in order to be stepped."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._before = Scrape(self._client)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            after = Scrape(self._client)
            assert risen(self._before, after, ROUND_TRIPS, operation="load") == 0
            assert risen(self._before, after, ROUND_TRIPS, operation="commit") > 0


@pytest.fixture(scope="module")
def workers(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    models: Path = write_recurrent(tmp_path_factory.mktemp("few") / "models")
    write_model(models, "choosy", rejecting.Choosy(), [spec((-1,))])
    folder = tmp_path_factory.mktemp("service")
    with (
        Service(folder, MODEL_REPOSITORY=models, REDIS_URL=server.url) as service,
        service.one_client_a_worker() as (home, other),
    ):
        yield Workers(home, other, service)


def told(response: Response) -> tuple[int, Any]:
    """What a response says, but for the session's name and times."""
    found = response.json
    return response.status, {name: found.get(name) for name in ("step", "predictions", "title")}


def test_it_is_not_read_again_and_steps_as_a_loop_does(workers: Workers) -> None:
    address = workers.steady()
    done = workers.other.step_of(address)
    rows = [[number / 10, -1.0, 2.0] for number in range(20)]
    with workers.unread():
        found = [workers.home.step(address, [row]) for row in rows]
    with torch.inference_mode():
        expected = rnn()(torch.tensor([[ROW]] * done + [[row] for row in rows]))[done:, 0]
    assert [each["step"] for each in found] == list(range(done + 1, done + 21))
    torch.testing.assert_close(torch.tensor([each["predictions"][0] for each in found]), expected)


def test_a_session_that_two_workers_step_in_turn_is_read_by_both(workers: Workers) -> None:
    address = workers.home.create("rnn", fresh())
    before = Scrape(workers.home)
    for _ in range(2 * STEADY):
        workers.home.step(address, [ROW])
        workers.other.step(address, [ROW])
    after = Scrape(workers.home)
    assert risen(before, after, ROUND_TRIPS, operation="load") == 4 * STEADY
    assert risen(before, after, "carryover_step_conflicts_total") == 0


def test_when_sessions_have_moved_to_another_worker_one_conflict_is_enough_to_see_it(workers: Workers) -> None:
    addresses = [workers.steady() for _ in range(10)]
    for address in addresses:
        workers.other.step(address, [ROW])
    before = Scrape(workers.home)
    for address in addresses:
        workers.home.step(address, [ROW])
    assert risen(before, Scrape(workers.home), "carryover_step_conflicts_total") == 1


def _step(client: Client, address: str) -> None:
    client.step(address, [[-1.0, 0.0, 1.0]])


def _steps(client: Client, address: str) -> None:
    for _ in range(2 * STEADY):
        client.step(address, [[0.25, 0.0, 1.0]])


def _many(client: Client, address: str) -> None:
    name = address.rpartition("/")[2]
    client.post(f"{SESSIONS}:predict", {"sessions": {name: [[0.0, 3.0, 0.0]]}}).expect()


def _put(client: Client, address: str) -> None:
    donor = client.create("rnn", fresh())
    _step(client, donor)
    put_state(client, address, state(client, donor)).expect()


def _reset(client: Client, address: str) -> None:
    client.post(f"{address}:reset", {}).expect()


def _delete(client: Client, address: str) -> None:
    assert client.delete(address).status == 204


def _create_again(client: Client, address: str) -> None:
    _delete(client, address)
    client.create("rnn", address.rpartition("/")[2])


CHANGES: list[Callable[[Client, str], None]] = [_step, _steps, _many, _put, _reset, _delete, _create_again]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["home", "other"])
def test_whoever_has_changed_it_the_next_step_goes_on_from_there(
    workers: Workers, change: Callable[[Client, str], None], where: str
) -> None:
    address = workers.steady()
    twin = workers.twin(address)
    change(getattr(workers, where), address)
    change(workers.other, twin)
    for _ in range(3):
        found = post(workers.home, f"{address}:predict", {"instances": [ROW]})
        expected = post(workers.other, f"{twin}:predict", {"instances": [ROW]}, key=fresh())
        assert told(found) == told(expected)
    if found.status == 200:
        assert held(workers.other, address) == held(workers.other, twin)


def test_one_that_has_expired_is_410(workers: Workers, server: RedisServer) -> None:
    address = workers.steady()
    server.redis.pexpire(key_of(address), GRACE)
    for client in (workers.home, workers.other):
        assert "expired" in problem(post(client, f"{address}:predict", {"instances": [ROW]}), 410)


def test_what_redis_has_lost_or_put_back_is_what_holds(workers: Workers, server: RedisServer) -> None:
    address, redis = workers.steady(), server.redis
    step, backup = workers.other.step_of(address), redis.dump(key_of(address))
    assert backup is not None
    for _ in range(3):
        workers.home.step(address, [ROW])
    redis.restore(key_of(address), 2 * GRACE, backup, replace=True)
    assert workers.home.step(address, [ROW])["step"] == step + 1
    for _ in range(ENOUGH):
        workers.home.step(address, [ROW])
    redis.delete(key_of(address))
    problem(post(workers.home, f"{address}:predict", {"instances": [ROW]}), 404)
    redis.set(key_of(address), b"\3cut short", px=2 * GRACE)
    assert "damaged" in problem(post(workers.home, f"{address}:predict", {"instances": [ROW]}), 503)


def _steady_total(workers: Workers) -> str:
    address = f"/v1/accumulators/{fresh()}"
    for _ in range(ENOUGH):
        workers.home.post(address, {"values": [0.0]}).expect()
    with workers.unread():
        workers.home.post(address, {"values": [1.5e308]}).expect()
    return address


def test_an_error_is_told_only_if_it_holds_for_what_redis_has(workers: Workers) -> None:
    # From what the worker has kept, the sum of the first is infinite; the second fails for what Redis holds as well.
    over, under = _steady_total(workers), _steady_total(workers)
    workers.other.post(over, {"values": [-1.5e308]}).expect()
    assert workers.home.post(over, {"values": [1.0e308]}).expect()["sum"] == 1.0e308
    step = workers.other.get(under).expect()["step"]
    for _ in range(2):
        assert "infinite" in problem(workers.home.post(under, {"values": [1.0e308]}), 422)
    assert workers.other.get(under).expect()["step"] == step
    assert workers.home.post(under, {"values": [-1.0e308]}).expect()["sum"] == 0.5e308


def test_an_error_that_holds_comes_of_one_forward_and_of_no_lost_race(workers: Workers) -> None:
    address = workers.steady("choosy", 0.0)
    before, lines = Scrape(workers.other), workers.service.err().count("rejects an input")
    for _ in range(2):
        assert "below 2" in problem(post(workers.home, f"{address}:predict", {"instances": [2.0]}), 422)
    assert workers.service.err().count("rejects an input") == lines + 2
    assert risen(before, Scrape(workers.other), "carryover_step_conflicts_total") == 0


def test_a_forward_that_takes_too_long_is_told_only_if_there_is_a_session(
    launch: Launch, server: RedisServer, tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "timed", timed.TimedSum(), [spec((-1,))])
    service = launch(MODEL_REPOSITORY=tmp_path / "models", REDIS_URL=server.url, WORKERS=1, REQUEST_TIMEOUT=1)
    with service.client() as client:
        post(client, "/v1/models/timed:predict", {"instances": [1.5]})  # from now on, its forwards have a limit
        workers = Workers(client, client, service)
        kept, deleted = (workers.steady("timed", 0.0) for _ in range(2))
        server.redis.delete(key_of(deleted))
        problem(post(client, f"{deleted}:predict", {"instances": [2.0]}), 404)
        eventually("the end of its forward", lambda: client.post(f"{kept}:predict", {"instances": [0.0]}).status == 200)
        problem(post(client, f"{kept}:predict", {"instances": [2.0]}), 504)


def test_conditions_and_keys_are_held_against_what_redis_has(workers: Workers) -> None:
    address = workers.steady()
    step = workers.other.step(address, [ROW])["step"]
    problem(post(workers.home, f"{address}:predict", {"instances": [ROW]}, match=f'"{step - 1}"'), 412)
    body, key = {"instances": [ROW]}, fresh()
    first = post(workers.other, f"{address}:predict", body, key=key)
    assert post(workers.home, f"{address}:predict", body, key=key).body == first.body
    assert workers.home.step(address, [ROW])["step"] == step + 2


def test_of_steps_that_come_together_each_counts_once(workers: Workers) -> None:
    addresses = [workers.steady() for _ in range(4)]
    start = workers.other.step_of(addresses[0])

    def hammer(port: int) -> int:
        with closing(Client(port)) as client:
            answers = [client.post(f"{addresses[i % 4]}:predict", {"instances": [ROW]}) for i in range(100)]
        return sum(answer.status == 200 for answer in answers)

    assert together(hammer, [workers.home.port] * 6) == [100] * 6
    assert [workers.other.step_of(address) for address in addresses] == [start + 150] * 4


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_in_whatever_order_it_is_as_its_twin(workers: Workers, seed: int) -> None:
    random = Random(seed)
    address, twin = f"{SESSIONS}/{fresh()}", f"{SESSIONS}/{fresh()}"
    body: dict[str, Any] = {"ttl": 600}
    for _ in range(40):
        if random.random() < 0.5:
            for _ in range(random.randint(1, 2 * ENOUGH)):
                row = [random.uniform(-2, 2) for _ in ROW]
                query = random.choice(["", "?create=600"])
                found = post(workers.home, f"{address}:predict{query}", {"instances": [row]})
                expected = post(workers.other, f"{twin}:predict{query}", {"instances": [row]}, key=fresh())
                assert told(found) == told(expected)
            continue
        client = random.choice([workers.home, workers.other])
        method, path, sent = random.choice([
            ("POST", ":predict", {"instances": [[random.uniform(-2, 2) for _ in ROW]]}),
            ("GET", "", None),
            ("POST", ":reset", {}),
            ("DELETE", "", None),
            ("POST", None, body),
        ])  # fmt: skip
        places = (address, twin)
        if path is None:
            names = [place.rpartition("/")[2] for place in places]
            found, expected = (post(client, SESSIONS, body | {"session": name}) for name in names)
        else:
            found, expected = (call(client, method, f"{place}{path}", sent) for place in places)
        assert found.status == expected.status
        if found.body and "predictions" in found.json:
            assert told(found) == told(expected)
