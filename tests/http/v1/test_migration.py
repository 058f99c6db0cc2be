"""A session stays with the version it was created with, and passes to another only where it is asked to and can."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.calls import fresh, held, post, put_state, state
from tests.support.client import Client, problem
from tests.support.redis_server import RedisServer
from tests.support.repository import spec, write_model, write_recurrent
from tests.support.service import Launch, Service
from tests.support.sockets import Event, Events
from tests.support.sources import plain
from tests.support.waiting import eventually

ROW = [0.5, -1.0, 2.0]


class Versions:
    """A service whose repository changes while it runs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.repository = write_recurrent(folder / "models")
        (self.repository / "accumulator").unlink()
        inputs = [spec((-1,), name="values")]
        write_model(self.repository, "accumulator", plain.PlainAccumulator(), inputs, [spec((), name="sum")])
        self.service = Service(folder / "service", MODEL_REPOSITORY=self.repository, WORKERS=1)

    def add(self, model: str, version: str) -> None:
        """Add a version with other weights and the same state."""
        weights = load_file(self.repository / model / "1" / "weights.safetensors")
        other = {name: tensor + 0.25 if name.startswith("rnn") else tensor for name, tensor in weights.items()}
        folder = self.repository / model / version
        folder.mkdir()
        save_file(other, folder / "weights.safetensors")

    def remove(self, model: str, version: str) -> None:
        shutil.rmtree(self.repository / model / version)

    def reload(self) -> None:
        """Have the repository read again, and wait for the workers that serve what is there."""
        before = {worker.pid for worker in self.service.workers()}
        self.service.process.send_signal(signal.SIGHUP)
        eventually("other workers", lambda: (now := self.service.workers()) and before.isdisjoint(w.pid for w in now))
        eventually("readiness", self.service.ready)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    made = Versions(tmp_path_factory.mktemp("versions"))
    try:
        made.service.start()
        yield made
    finally:
        made.service.end()


def test_a_session_stays_and_goes_on_only_where_it_is_asked_to(versions: Versions) -> None:
    with versions.service.client() as client:
        stays, passes, streamed, reset = addresses = [client.create("rnn", fresh()) for _ in range(4)]
        with Events(versions.service.port, passes) as events:
            last = events.next()
        for address in addresses:
            client.step(address, [ROW])
        saved = state(client, stays)
    versions.add("rnn", "2")
    versions.reload()
    with versions.service.client() as client:
        _both_are_served(client, stays)
    versions.remove("rnn", "1")
    versions.reload()
    with versions.service.client() as client:
        _rejected_everywhere(client, stays)
        _migrated_by_a_step(client, passes)
        _told_of_steps(versions.service, passes, last)
        _migrated_by_a_fork_and_a_reset(client, reset)
        _migrated_by_many_steps(versions.service, client, streamed)
        _migrated_as_a_file(client, saved)


def _both_are_served(client: Client, session: str) -> None:
    """Version 1 for the session that was created with it, version 2 for a new one."""
    assert client.get(session).expect()["version"] == "1"
    ours = client.step(session, [ROW])["predictions"]
    new = client.create("rnn", fresh())
    assert client.get(new).expect()["version"] == "2"
    client.step(new, [ROW])
    assert client.step(new, [ROW])["predictions"] != ours
    old = client.post("/v1/models/rnn/versions/1/sessions", {}).expect(201)["session"]
    client.step(f"/v1/models/rnn/sessions/{old}", [ROW])
    assert client.step(f"/v1/models/rnn/sessions/{old}", [ROW])["predictions"] == ours
    # To pass while the version is there is for those who ask for the other one.
    post(client, f"{session}:predict?migrate=true", {"instances": [ROW]}).expect()
    assert client.get(session).expect()["version"] == "1"
    problem(client.get(session.replace("/rnn/", "/rnn/versions/2/")), 409)


def _rejected_everywhere(client: Client, session: str) -> None:
    asked = [
        client.get(session),
        client.get(f"{session}/state"),
        client.post(f"{session}:predict", {"instances": [ROW]}),
        client.post(f"{session}:reset", {}),
        client.post(f"{session}:fork", {}),
        post(client, f"{session}:predict?migrate=false", {"instances": [ROW]}),
    ]
    for answer in asked:
        text = problem(answer, 409)
        assert "fingerprint" in text
        assert "?migrate=true moves it there" in text
    problem(post(client, f"{session}:predict?migrate=perhaps", {"instances": [ROW]}), 400)


def _migrated_by_a_fork_and_a_reset(client: Client, session: str) -> None:
    forked = post(client, f"{session}:fork?migrate=true", {}).expect(201)
    assert (forked["version"], forked["step"]) == ("2", 1)
    problem(client.get(session), 409)
    done = post(client, f"{session}:reset?migrate=true", {}).expect()
    assert (done["version"], done["step"]) == ("2", 0)
    assert client.get(session).expect()["version"] == "2"


def _migrated_by_a_step(client: Client, session: str) -> None:
    assert post(client, f"{session}:predict?migrate=true", {"instances": [ROW]}).expect()["step"] == 2
    assert client.get(session).expect()["version"] == "2"
    assert client.step(session, [ROW])["step"] == 3


def _told_of_steps(service: Service, session: str, last: Event | None) -> None:
    """Who has missed that the session has migrated is told the version of the last step, and of those that follow."""

    def told(last: str | None, count: int) -> list[tuple[int, str | None]]:
        with Events(service.port, session, last=last) as events:
            found = [event for _ in range(count) if (event := events.next()) is not None]
        ids.extend(event.id for event in found)
        return [(event.data["step"], event.data.get("version")) for event in found]

    assert last is not None
    assert last.data["version"] == "1"
    ids: list[str | None] = []
    assert told(last.id, 3) == [(1, None), (2, None), (3, "2")]
    with service.client() as client:
        for _ in range(2):
            client.step(session, [ROW])
    assert told(ids[1], 3) == [(3, None), (4, None), (5, "2")]
    assert told(ids[2], 2) == [(4, "2"), (5, "2")]


def _migrated_by_many_steps(service: Service, client: Client, session: str) -> None:
    name = session.rpartition("/")[2]
    bulk = post(client, "/v1/models/rnn/sessions:predict?migrate=true", {"sessions": {name: [ROW]}}).expect()
    assert bulk["sessions"][name]["step"] == 2
    stream = service.stream(session)
    assert stream.step([ROW])["step"] == 3
    stream.close()


def _migrated_as_a_file(client: Client, saved: bytes) -> None:
    there = f"/v1/models/rnn/sessions/{fresh()}"
    problem(put_state(client, there, saved), 409)
    problem(client.get(there), 404)
    put_state(client, there, saved, "?migrate=true").expect()
    assert client.get(there).expect()["version"] == "2"
    assert held(client, there)["step"] == 1


def test_a_state_of_another_layout_is_not_migrated(versions: Versions) -> None:
    with versions.service.client() as client:
        session = client.create("lstm", fresh())
        client.step(session, [ROW])
    shutil.rmtree(versions.repository / "lstm")
    torch.manual_seed(9)
    inputs, outputs = [spec((-1, 1, 3), batch_dim=1)], [spec((-1, 1, 5), name="y", batch_dim=1)]
    write_model(versions.repository, "lstm", plain.PlainRNN(), inputs, outputs, state={"hidden": 1})
    versions.reload()
    with versions.service.client() as client:
        for query in ("", "?migrate=true"):
            text = problem(post(client, f"{session}:predict{query}", {"instances": [ROW]}), 409)
            assert "cannot migrate" in text
        assert client.delete(session).status == 204
        client.create("lstm", session.rpartition("/")[2])
        assert client.step(session, [ROW])["step"] == 1


def test_an_accumulator_is_migrated(versions: Versions) -> None:
    address = f"/v1/accumulators/{fresh()}"
    with versions.service.client() as client:
        client.post(address, {"values": [1]}).expect()
    manifest = versions.repository / "accumulator" / "model.toml"
    shutil.rmtree(versions.repository / "accumulator")
    write_model(
        versions.repository,
        "accumulator",
        plain.PlainAccumulator(),
        [spec((-1,), name="values")],
        [spec((), name="sum")],
    )
    # Another class name is another fingerprint, of the same state.
    source = manifest.parent / "plain.py"
    source.write_text(source.read_text() + "\n\nclass Renamed(PlainAccumulator):\n    pass\n")
    manifest.write_text(manifest.read_text().replace(":PlainAccumulator", ":Renamed"))
    versions.reload()
    with versions.service.client() as client:
        assert "?migrate=true" in problem(client.post(address, {"values": [2]}), 409)
        assert post(client, f"{address}?migrate=true", {"values": [2]}).expect()["sum"] == 3


def test_during_an_upgrade_no_session_goes_back_to_a_lower_version(
    launch: Launch, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Two replicas share a Redis; one serves version 1 of a model, the other version 2 as well."""
    repositories = [Versions(tmp_path / name) for name in ("old", "new")]
    repositories[1].add("rnn", "2")
    old, new = (launch(MODEL_REPOSITORY=each.repository, REDIS_URL=redis_server.url) for each in repositories)
    with old.client() as before, new.client() as after:
        first = before.create("rnn")
        before.step(first, [ROW])
        # A session of version 1 goes on at both.
        assert [after.step(first, [ROW])["step"], before.step(first, [ROW])["step"]] == [2, 3]
        # One of version 2 does at the new one only, and ?migrate=true does not change that.
        second = after.create("rnn")
        after.step(second, [ROW])
        for query in ("", "?migrate=true"):
            text = problem(post(before, f"{second}:predict{query}", {"instances": [ROW]}), 409)
            assert "it has been on version 2, and no session goes back to a lower one" in text
        file = state(after, second)
        assert "no session goes back" in problem(put_state(before, f"{second}-copy", file, "?migrate=true"), 409)
        assert after.step(second, [ROW])["step"] == 2
        assert after.get(second).expect()["version"] == "2"
