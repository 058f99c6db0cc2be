"""A step of each of many sessions in one call, of models that run all of them as one batch."""

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.support.client import Client, sentence
from tests.support.connections import line_of
from tests.support.service import Service
from tests.support.waiting import at_once, eventually

URL = "/v1/models/{}/sessions:predict"


def created(client: Client, model: str, count: int) -> list[str]:
    """The names of new sessions."""
    return [client.create(model).rpartition("/")[2] for _ in range(count)]


def step_all(client: Client, model: str, asked: dict[str, Any]) -> dict[str, Any]:
    entries = client.post(URL.format(model), {"sessions": asked}).expect()["sessions"]
    assert list(entries) == list(asked)
    return dict(entries)


def numbers_of(entry: Any) -> torch.Tensor:
    return torch.tensor([row["probabilities"] if isinstance(row, dict) else row for row in entry["predictions"]])


@pytest.mark.parametrize(("model", "width"), [("lstm", 3), ("rnn", 3), ("gru", 3), ("digits-rnn", 8)])
def test_sessions_in_one_call_get_what_each_gets_alone(client: Client, model: str, width: int) -> None:
    names, alone = created(client, model, 12), [client.create(model) for _ in range(12)]
    for count in (1, 3, 1):
        rows = torch.randn(len(names), count, width).tolist()
        entries = step_all(client, model, dict(zip(names, rows, strict=True)))
        for name, address, own in zip(names, alone, rows, strict=True):
            single = client.step(address, own)
            assert (entries[name]["session"], entries[name]["step"]) == (name, single["step"])
            assert len(entries[name]["predictions"]) == count
            assert_close(numbers_of(entries[name]), numbers_of(single), rtol=1e-4, atol=1e-5)
    assert [client.step_of(f"/v1/models/{model}/sessions/{name}") for name in names] == [3] * len(names)


def test_of_many_sessions_only_the_bad_ones_fail(client: Client) -> None:
    deleted, expired, huge, *good = created(client, "decay", 8)
    client.delete(f"/v1/models/decay/sessions/{deleted}")
    short = client.create("decay", ttl=1)
    eventually("the end of the session", lambda: client.get(short).status == 410)
    row = [[0.5, -1.0, 2.0]]
    asked: dict[str, Any] = dict.fromkeys((deleted, expired, short.rpartition("/")[2], huge, "nobody", *good), row)
    for values, status in ((row, None), ([[3e38, 0.0, 0.0]], None), ([[3e38, 0.0, 0.0]], 422)):
        asked[huge] = values
        entries = step_all(client, "decay", asked)
        assert entries[huge].get("status") == status
        assert [entries[name].get("status") for name in asked if name not in (huge, *good, expired)] == [410, 410, 404]
    # Without those that do not exist, all but one are plain.
    kept = {name: asked[name] for name in (huge, *good)}
    entries = step_all(client, "decay", kept)
    sentence(entries.pop(huge), 422)
    assert [entry["step"] for entry in entries.values()] == [4] * len(good)
    assert client.step_of(f"/v1/models/decay/sessions/{huge}") == 2


def test_no_step_of_a_session_is_lost_that_several_clients_step_at_once(service: Service) -> None:
    calls, model = 25, "lstm"
    with service.client() as client:
        names = created(client, model, 6)
    seen: dict[str, list[int]] = {name: [] for name in names}

    def by_many(order: int) -> None:
        with service.client() as client:
            for _ in range(calls):
                for name, entry in step_all(client, model, {key: [[0.1, 0.2, 0.3]] for key in names[::order]}).items():
                    seen[name].append(entry["step"])

    def alone() -> None:
        with service.client() as client:
            for _ in range(calls):
                for name in names:
                    address = f"/v1/models/{model}/sessions/{name}"
                    seen[name].append(client.step(address, [[0.1, 0.2, 0.3]])["step"])

    def by_stream() -> None:
        stream = service.stream(f"/v1/models/{model}/sessions/{names[0]}")
        stream.send(line_of([[0.1, 0.2, 0.3]]) * calls)
        steps = [stream.line()["step"] for _ in range(calls)]
        assert all(one < other for one, other in pairwise(steps))
        seen[names[0]] += steps
        stream.close()

    at_once(*[lambda: by_many(1), lambda: by_many(-1), alone, by_stream] * 2)
    for name, steps in seen.items():
        assert sorted(steps) == list(range(1, calls * (8 if name == names[0] else 6) + 1))


def test_as_many_sessions_share_a_forward_and_are_counted(client: Client) -> None:
    def stats() -> Any:
        (found,) = client.get("/v2/models/gru/stats").expect()["model_stats"]
        return found

    names = created(client, "gru", 10)
    before = stats()
    step_all(client, "gru", {key: [[1, 2, 3]] for key in names})
    after = stats()
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_count"] - before["inference_count"] == 10
    grown = {
        kind: after["inference_stats"][kind]["count"] - before["inference_stats"][kind]["count"]
        for kind in ("success", "fail")
    }
    assert grown == {"success": 10, "fail": 0}


@pytest.mark.parametrize(
    "body",
    ['{"sessions": {"%s": [[1, 2, 3]], "%s": [[1, 2, 3]]}}', '{ "sessions":{"%s":[[1,2,3]]\n,"%s" :[[1e0, 2,3]]} } '],
)
def test_a_session_that_is_named_twice_makes_one_step(client: Client, body: str) -> None:
    (name,) = created(client, "lstm", 1)
    response = client.request("POST", URL.format("lstm"), (body % (name, name)).encode())
    assert list(response.expect()["sessions"]) == [name]
    assert client.step_of(f"/v1/models/lstm/sessions/{name}") == 1


def test_conditions_hold_for_each_of_many(client: Client) -> None:
    names = created(client, "lstm", 3)
    client.step(f"/v1/models/lstm/sessions/{names[0]}", [[1, 2, 3]])
    body = json.dumps({"sessions": {key: [[1, 2, 3]] for key in names}}).encode()
    entries = client.request("POST", URL.format("lstm"), body, {"If-Match": '"0"'}).expect()["sessions"]
    assert [entry.get("status") for entry in entries.values()] == [412, None, None]
