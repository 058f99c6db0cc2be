"""A session: created, stepped, read, expired, deleted; each on its own."""

from datetime import UTC, datetime, timedelta

import pytest
import torch
from torch.testing import assert_close

from tests.support.client import Client, problem, sentence
from tests.support.repository import rnn
from tests.support.service import Service
from tests.support.waiting import eventually, together

ROW = [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_session_starts_at_step_0(client: Client) -> None:
    answer = client.post("/v1/models/digits-rnn/sessions", {})
    body = answer.expect(201)
    assert body["model"] == "digits-rnn"
    assert body["version"] == "1"
    assert body["step"] == 0
    assert body["ttl"] == 3600
    assert body["state"] == [{"name": "hidden", "datatype": "FP32", "shape": [1, 1, 64]}]
    assert answer.headers["ETag"] == '"0"'
    assert answer.headers["Location"] == f"/v1/models/digits-rnn/sessions/{body['session']}"
    assert client.get(answer.headers["Location"]).expect()["session"] == body["session"]


def test_the_body_of_a_creation_is_optional(client: Client) -> None:
    path = "/v1/models/digits-rnn/sessions"
    assert client.request("POST", path).expect(201)["step"] == 0
    assert client.request("POST", path, b"").expect(201)["step"] == 0
    assert client.request("POST", path, iter([b"{}"]), {"Content-Type": "application/json"}).expect(201)["step"] == 0
    assert client.request("POST", path, iter([])).expect(201)["step"] == 0


def test_names_that_the_service_gives_are_distinct(client: Client) -> None:
    assert len({client.create("sum") for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["a", "A-Z.0_9~", "~", "-", "_", "x" * 128, "0", "null", "sessions", "..."])
def test_a_session_may_have_its_own_name(client: Client, name: str) -> None:
    address = client.create("sum", name)
    assert address == f"/v1/models/sum/sessions/{name}"
    assert client.step(address, [1])["session"] == name
    assert client.delete(address).status == 204


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_is_a_path_segment_can_be_used_or_is_rejected(client: Client, name: str) -> None:
    # RFC 3986, section 5.2.4: clients take these two out of an address before they send it.
    answer = client.post("/v1/models/sum/sessions", {"session": name})
    problem(answer, 400)


def test_a_taken_name_is_a_conflict_and_changes_nothing(client: Client) -> None:
    address = client.create("sum", "taken")
    client.step(address, [5])
    assert "'taken'" in problem(client.post("/v1/models/sum/sessions", {"session": "taken"}), 409)
    assert client.step(address, [1])["predictions"] == [6.0]
    assert client.create("rnn", "taken") == "/v1/models/rnn/sessions/taken"
    client.delete(address)


def test_of_many_that_create_one_name_one_wins(service: Service) -> None:
    def begin(_: int) -> int:
        with service.client() as client:
            return client.post("/v1/models/sum/sessions", {"session": "contended"}).status

    assert sorted(together(begin, list(range(12)))) == [201] + [409] * 11


def test_a_step_answers_with_its_number(client: Client) -> None:
    address = client.create("digits-rnn")
    for step in range(1, 4):
        answer = client.post(f"{address}:predict", {"instances": [ROW]})
        body = answer.expect()
        assert set(body) == {"predictions", "session", "step", "version"}
        assert body["step"] == step
        assert answer.headers["ETag"] == f'"{step}"'
        looked = client.get(address)
        assert looked.expect()["step"] == step
        assert looked.headers["ETag"] == f'"{step}"'


def test_reading_is_no_step(client: Client) -> None:
    address = client.create("digits-rnn")
    client.step(address, [ROW])
    shown = [client.get(address).expect() for _ in range(5)]
    assert {one["step"] for one in shown} == {1}
    assert len({one["created"] for one in shown}) == 1


def test_times_are_reported(client: Client) -> None:
    address = client.create("sum", ttl=600)
    client.step(address, [1])
    shown = client.get(address).expect()
    created, used, expires = (datetime.fromisoformat(shown[name]) for name in ("created", "last_used", "expires"))
    assert shown["ttl"] == 600
    assert expires - used == timedelta(seconds=600)
    # Of two clocks: the workers' and Redis'.
    assert used - created > timedelta(seconds=-1)
    assert abs(created - datetime.now(UTC)) < timedelta(minutes=10)


def test_two_sessions_never_mix(service: Service) -> None:
    inputs = torch.randn(16, 30, 3)
    with torch.inference_mode():
        outputs = [rnn()(rows[:, None])[:, 0] for rows in inputs]

    def run(number: int) -> None:
        rows, expected = inputs[number], outputs[number]
        with service.client() as one, service.client() as other:
            address = one.create("rnn")
            got = [(one, other)[t % 2].step(address, [row])["predictions"][0] for t, row in enumerate(rows.tolist())]
        assert_close(torch.tensor(got), expected, rtol=0, atol=1e-5)

    together(run, list(range(16)))


def test_many_sessions_step_in_one_call_each_on_its_own(client: Client) -> None:
    addresses = {name: client.create("sum", name) for name in ("many-a", "many-b", "many-c")}
    client.step(addresses["many-b"], [10])
    asked = {"many-a": [1], "many-b": [2, 3], "many-c": ["x"], "nobody": [1], "not a name": [1], "many-d": 7}
    answer = client.post("/v1/models/sum/sessions:predict", {"sessions": asked}).expect()
    entries = answer["sessions"]
    assert list(entries) == list(asked)
    assert entries["many-a"] == {"predictions": [1.0], "session": "many-a", "step": 1, "version": "1"}
    assert entries["many-b"] == {"predictions": [15.0], "session": "many-b", "step": 2, "version": "1"}
    assert "number" in sentence(entries["many-c"], 400)
    assert "'nobody'" in sentence(entries["nobody"], 404)
    assert "name" in sentence(entries["not a name"], 400)
    assert "list" in sentence(entries["many-d"], 400)
    assert client.step_of(addresses["many-c"]) == 0
    for address in addresses.values():
        client.delete(address)


def test_many_sessions_in_one_call_agree_with_one_call_each(client: Client) -> None:
    rows = torch.randn(3, 20, 3)
    names = [client.create("lstm").rpartition("/")[2] for _ in range(20)]
    alone = [client.create("lstm") for _ in range(20)]
    for step in rows:
        asked = {name: [row.tolist()] for name, row in zip(names, step, strict=True)}
        entries = client.post("/v1/models/lstm/sessions:predict", {"sessions": asked}).expect()["sessions"]
        single = [client.step(address, [row.tolist()])["predictions"] for address, row in zip(alone, step, strict=True)]
        side_by_side = [entries[name]["predictions"] for name in names]
        assert_close(torch.tensor(side_by_side), torch.tensor(single), rtol=0, atol=1e-5)


def test_a_conflicting_step_is_run_again(service: Service) -> None:
    with service.one_client_a_worker() as clients:
        address = clients[0].create("rnn-alone")

        def step(client: Client) -> list[int]:
            return [client.step(address, [[0, 0, 0]])["step"] for _ in range(100)]

        steps = together(step, clients)
        assert all(mine == sorted(mine) for mine in steps)
        assert sorted(step for mine in steps for step in mine) == list(range(1, 100 * len(clients) + 1))


def test_an_unknown_session_is_404_everywhere(client: Client) -> None:
    address = "/v1/models/sum/sessions/never-there"
    for answer in (client.get(address), client.delete(address), client.post(f"{address}:predict", {"instances": [1]})):
        assert "'never-there'" in problem(answer, 404)


def test_a_deleted_session_is_410_everywhere_and_its_name_is_free(client: Client) -> None:
    address = client.create("sum", "deleted")
    client.step(address, [5])
    answer = client.delete(address)
    assert (answer.status, answer.body) == (204, b"")
    for gone in (client.get(address), client.delete(address), client.post(f"{address}:predict", {"instances": [1]})):
        assert "'deleted'" in problem(gone, 410)
    many = client.post("/v1/models/sum/sessions:predict", {"sessions": {"deleted": [1]}}).expect()
    sentence(many["sessions"]["deleted"], 410)
    assert client.create("sum", "deleted") == address
    assert client.step_of(address) == 0
    assert client.step(address, [1])["predictions"] == [1.0]
    client.delete(address)


def test_an_expired_session_is_410_everywhere_and_its_name_is_free(client: Client) -> None:
    address = client.create("sum", "expired", ttl=1)
    gone = eventually("the end of the session", lambda: (a := client.get(address)).status != 200 and a)
    assert "'expired'" in problem(gone, 410)
    assert "expired" in problem(client.post(f"{address}:predict", {"instances": [1]}), 410)
    problem(client.post(f"{address}:stream", b""), 415)
    many = client.post("/v1/models/sum/sessions:predict", {"sessions": {"expired": [1]}}).expect()
    sentence(many["sessions"]["expired"], 410)
    assert client.create("sum", "expired", ttl=600) == address
    assert client.step_of(address) == 0
    assert client.step(address, [1])["predictions"] == [1.0]
    client.delete(address)


def test_a_session_belongs_to_its_model(client: Client) -> None:
    address = client.create("rnn", "of-rnn")
    for other in ("sum", "lstm", "digits-rnn"):
        assert "of-rnn" in problem(client.get(f"/v1/models/{other}/sessions/of-rnn"), 404)
        answer = client.post(f"/v1/models/{other}/sessions/of-rnn:predict", {"instances": [1]})
        problem(answer, 404 if other == "sum" else 400)
    assert client.step_of(address) == 0


def test_a_model_without_state_has_no_sessions(client: Client) -> None:
    path = "/v1/models/digits-batchnorm/sessions"
    for answer in (
        client.post(path, {}),
        client.get(f"{path}/a"),
        client.delete(f"{path}/a"),
        client.post(f"{path}/a:predict", {"instances": [[0] * 64]}),
        client.post(f"{path}:predict", {"sessions": {"a": [[0] * 64]}}),
    ):
        assert "keeps no state" in problem(answer, 400)


def test_a_step_that_fails_changes_nothing(client: Client) -> None:
    address = client.create("fails")
    assert client.step(address, [1])["predictions"] == [[2.0]]
    for bad in ([-1000], [1, -1000, 1]):
        text = problem(client.post(f"{address}:predict", {"instances": bad}), 422)
        assert "secret" not in text
        assert client.step_of(address) == 1
    assert client.step(address, [1]) == {
        "predictions": [[3.0]],
        "session": address.rpartition("/")[2],
        "step": 2,
        "version": "1",
    }


def test_a_step_that_makes_the_state_infinite_is_rejected(client: Client) -> None:
    address = client.create("sum")
    client.step(address, [3e38])
    text = problem(client.post(f"{address}:predict", {"instances": [3e38]}), 422)
    assert "'sum'" in text
    assert "step 1" in text
    assert client.step_of(address) == 1
    assert client.step(address, [-3e38])["predictions"] == [0.0]


def test_a_step_that_fails_in_a_shared_forward_fails_alone(client: Client) -> None:
    names = [client.create("fails").rpartition("/")[2] for _ in range(6)]
    asked = {name: [-1000 if i == 2 else i] for i, name in enumerate(names)}
    entries = client.post("/v1/models/fails/sessions:predict", {"sessions": asked}).expect()["sessions"]
    for i, name in enumerate(names):
        if i == 2:
            sentence(entries[name], 422)
        else:
            assert entries[name]["predictions"] == [[i + 1.0]]
    assert [client.step_of(f"/v1/models/fails/sessions/{name}") for name in names] == [1, 1, 0, 1, 1, 1]
