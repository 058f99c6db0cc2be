"""Many clients at one session."""

from itertools import pairwise

import pytest

from tests.support.client import problem
from tests.support.service import Service
from tests.support.waiting import at_once, eventually, together


@pytest.mark.parametrize(("model", "row"), [("digits-rnn", [0] * 8), ("rnn-alone", [0, 0, 0]), ("sum", 1)])
def test_eight_clients_stepping_one_session_give_every_step_once(service: Service, model: str, row: object) -> None:
    with service.client() as client:
        address = client.create(model)

    def step(_: int) -> list[int]:
        with service.client() as client:
            return [client.step(address, [row])["step"] for _ in range(100)]

    seen = together(step, list(range(8)))
    assert all(one < next_ for mine in seen for one, next_ in pairwise(mine))
    assert sorted(number for mine in seen for number in mine) == list(range(1, 801))
    with service.client() as client:
        assert client.step_of(address) == 800


def test_what_clients_add_in_steps_and_streams_and_many_calls_is_all_there(service: Service) -> None:
    with service.client() as client:
        address = client.create("sum", "mixed-clients")

    def by_step() -> None:
        with service.client() as client:
            for _ in range(50):
                client.step(address, [1])

    def by_many() -> None:
        with service.client() as client:
            other = client.create("sum").rpartition("/")[2]
            for count in range(1, 51):
                asked = {"sessions": {"mixed-clients": [1], other: [2]}}
                entries = client.post("/v1/models/sum/sessions:predict", asked).expect()["sessions"]
                assert entries[other]["step"] == count
                assert entries["mixed-clients"]["step"] >= count

    def by_stream() -> None:
        stream = service.stream(address)
        for _ in range(50):
            assert "step" in stream.step([1])
        stream.finish()
        assert stream.line() is None
        stream.close()

    at_once(*[by_step, by_many, by_stream] * 3)
    with service.client() as client:
        assert client.step_of(address) == 450
        assert client.step(address, [0])["predictions"] == [450.0]


def test_a_session_deleted_under_its_clients_is_410_for_all(service: Service) -> None:
    with service.client() as client:
        address = client.create("sum", "pulled-away")

        def step() -> int:
            with service.client() as other:
                last = 0
                while (answer := other.post(f"{address}:predict", {"instances": [1]})).status == 200:
                    last = answer.json["step"]
                problem(answer, 410)
                return last

        def delete() -> int:
            with service.client() as other:
                eventually("some steps", lambda: other.get(address).json["step"] > 20)
                assert other.delete(address).status == 204
            return 0

        at_once(step, step, step, step, delete)
        assert client.create("sum", "pulled-away") == address
        assert client.step(address, [1]) == {"predictions": [1.0], "session": "pulled-away", "step": 1, "version": "1"}


def test_a_long_forward_does_not_stop_the_worker(single: Service) -> None:
    with single.client() as client:
        address = client.create("slow")
        client.step(address, [0])

    answered = []

    def step() -> int:
        with single.client() as client:
            for number in range(2, 12):
                assert client.step(address, [1])["step"] == number
                answered.append(number)
        return len(answered)

    def look() -> int:
        looks = 0
        with single.client() as client:
            while len(answered) < 10:
                client.get("/v2/health/live").expect()
                client.predict("twice", [1])
                looks += 1
        return looks

    # The worker never could answer more looks than forwards if each forward held it up.
    looks = at_once(step, look)[1]
    assert answered == list(range(2, 12))
    assert looks > 15
