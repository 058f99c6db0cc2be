"""Several versions at once, and new ones while the service runs."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import torch as safetensors
from torch import nn

from tests.support import repository
from tests.support.client import Client, problem
from tests.support.own_cases import GRU, Case, same_axes
from tests.support.service import Launch, Service
from tests.support.sources import cyclic, own_models
from tests.support.waiting import PATIENCE, eventually

INSTANCES = [[0.5, -1.0, 2.0]]


def gru(seed: int) -> own_models.Gru:
    torch.manual_seed(seed)
    return own_models.Gru().eval()


def answers(module: nn.Module, steps: int = 1) -> list[Any]:
    """What the module by itself gives for so many steps."""
    with torch.no_grad():
        return [module(torch.tensor(INSTANCES)[:, None])[:, 0].tolist() for _ in range(steps)]


def close(found: Any, expected: Any) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def write_model(folder: Path) -> Path:
    """Write a model with the versions 1, 2 and 10."""
    Case(own_models.Gru, GRU).write(folder.parent, folder.name)
    shutil.rmtree(folder / "1")
    for version in (1, 2, 10):
        write_version(folder, version)
    return folder


def write_version(folder: Path, version: int) -> Path:
    """Put another checkpoint beside those that are there; version 3 holds the weights of seed 3."""
    # As a careful script does it: the service must never find half of a version.
    hidden = folder / f".{version}"
    hidden.mkdir()
    (hidden / "weights.safetensors").write_bytes(safetensors.save(gru(version).state_dict()))
    return hidden.rename(folder / str(version))


def reload(service: Service, *clients: Client) -> None:
    """Send SIGHUP and wait until none of the old workers is left; their connections end with them."""
    old = service.workers()
    service.process.send_signal(signal.SIGHUP)
    psutil.wait_procs(old, PATIENCE)
    assert service.process.is_running()
    for client in clients:
        client.close()
    eventually("new workers", service.ready)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: a model for each test that changes one, and another model."""
    folder = tmp_path_factory.mktemp("versions")
    for name in ("gru", "pinned", "renewed", "busy", "broken"):
        write_model(folder / "one" / name)
    Case(own_models.Forgetful, same_axes("[-1, 1]")).write(folder / "other", "sums")
    return folder / "one", folder / "other"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, repositories: tuple[Path, Path]) -> Iterator[Service]:
    """A service of both."""
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=":".join(map(str, repositories))) as service:
        yield service


@pytest.fixture
def client(running: Service) -> Iterator[Client]:
    with running.client() as connection:
        yield connection


def test_the_highest_version_serves_and_each_can_be_addressed(client: Client) -> None:
    model = "/v1/models/gru"
    told = client.get(model).expect()
    assert told["version"] == "10"
    assert told["versions"] == ["1", "2", "10"]
    assert close(client.predict("gru", INSTANCES), answers(gru(10))[0])
    for version in (1, 2, 10):
        first, second = answers(gru(version), steps=2)
        address = f"{model}/versions/{version}"
        assert client.get(address).expect()["version"] == str(version)
        assert close(client.post(f"{address}:predict", {"instances": INSTANCES}).expect()["predictions"], first)
        created = client.post(f"{address}/sessions", {"session": f"of-{version}"}).expect(201)
        assert created["version"] == str(version)
        # A session is found under its model as well as under its version.
        assert close(client.step(f"{model}/sessions/of-{version}", INSTANCES)["predictions"], first)
        assert close(client.step(f"{address}/sessions/of-{version}", INSTANCES)["predictions"], second)
    assert problem(client.post(f"{model}/versions/3:predict", {"instances": INSTANCES}), 404) == (
        "model 'gru' has no version '3'; it has 1, 2, 10"
    )
    assert "version" in problem(client.post(f"{model}/versions/2/sessions/of-1:predict", {"instances": INSTANCES}), 409)
    # Sessions of several versions in one call: each goes on with its own.
    asked = {"sessions": {f"of-{version}": INSTANCES for version in (1, 2, 10)}}
    entries = client.post(f"{model}/sessions:predict", asked).expect()["sessions"]
    for version in (1, 2, 10):
        assert close(entries[f"of-{version}"]["predictions"], answers(gru(version), steps=3)[2])


def test_a_step_says_which_version_has_run(client: Client) -> None:
    model = "/v1/models/gru"
    names = {f"run-{version}-{number}": str(version) for version in (1, 10) for number in range(2)}
    for name, version in names.items():
        client.post(f"{model}/versions/{version}/sessions", {"session": name}).expect(201)
        path = f"{model}/sessions/{name}"
        assert client.step(path, INSTANCES)["version"] == version
        lines = f"{json.dumps({'instances': INSTANCES})}\n".encode() * 3
        streamed = client.request("POST", f"{path}:stream", lines, {"Content-Type": "application/x-ndjson"})
        assert [json.loads(line)["version"] for line in streamed.body.splitlines()] == [version] * 3
    for asked in (names, list(names)[:2], list(names)[2:]):  # of two versions, and of one
        found = client.post(f"{model}/sessions:predict", {"sessions": dict.fromkeys(asked, INSTANCES)}).expect()
        assert {name: entry["version"] for name, entry in found["sessions"].items()} == {
            name: names[name] for name in asked
        }


def test_several_folders_make_one_repository(client: Client) -> None:
    names = [model["name"] for model in client.get("/v1/models").expect()["models"]]
    assert names == ["broken", "busy", "gru", "pinned", "renewed", "sums"]
    assert client.predict("sums", [1, 2]) == [[1], [3]]


def test_a_manifest_may_say_which_version_serves(
    running: Service, client: Client, repositories: tuple[Path, Path]
) -> None:
    folder = repositories[0] / "pinned"
    manifest = folder / "model.toml"
    manifest.write_text(f'version = "2"\n{manifest.read_text()}')
    reload(running, client)
    address = "/v1/models/pinned"
    assert client.get(address).expect()["version"] == "2"
    assert close(client.predict("pinned", INSTANCES), answers(gru(2))[0])
    newest = client.post(f"{address}/versions/10:predict", {"instances": INSTANCES}).expect()["predictions"]
    assert close(newest, answers(gru(10))[0])


def test_a_session_stays_on_its_version_when_a_new_one_comes(
    running: Service, client: Client, repositories: tuple[Path, Path]
) -> None:
    folder = repositories[0] / "renewed"
    expected = answers(gru(10), steps=3)
    address = client.create("renewed", "early")
    assert close(client.step(address, INSTANCES)["predictions"], expected[0])
    write_version(folder, 11)
    assert close(client.step(address, INSTANCES)["predictions"], expected[1])
    assert client.get("/v1/models/renewed").expect()["version"] == "10"
    reload(running, client)
    with running.one_client_a_worker() as (one, other):
        for at in (one, other):
            assert at.get("/v1/models/renewed").expect()["version"] == "11"
            assert at.get(address).expect()["version"] == "10"
            assert close(at.predict("renewed", INSTANCES), answers(gru(11))[0])
        assert close(one.step(address, INSTANCES)["predictions"], expected[2])
        late = other.create("renewed")
        assert one.get(late).expect()["version"] == "11"
        assert close(one.step(late, INSTANCES)["predictions"], answers(gru(11))[0])
    # A version that is taken away takes its sessions out of reach, and one that comes back brings them back.
    (folder / "10").rename(folder / ".10")
    reload(running, client)
    problem(client.post(f"{address}:predict", {"instances": INSTANCES}), 409)
    (folder / ".10").rename(folder / "10")
    reload(running, client)
    assert client.step_of(address) == 3


def test_sighup_under_load_drops_no_request(running: Service, repositories: tuple[Path, Path]) -> None:
    folder = repositories[0] / "busy"
    done = threading.Event()
    steps = [0] * 4
    faults: list[Exception] = []
    expected = [value for (value,) in answers(gru(10), steps=5_000)]

    def visit(number: int) -> None:
        """Step a session again and again: the even ones over one connection, the others over a new one each time."""
        try:
            with running.client() as client:
                address = client.create("busy")
                while not done.is_set():
                    if number % 2:
                        client.close()
                    answer = client.step(address, INSTANCES)
                    assert answer["step"] == steps[number] + 1
                    assert close(answer["predictions"][0], expected[steps[number]])
                    steps[number] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
            faults.append(error)

    def more() -> None:
        now = list(steps)
        eventually(
            "more steps", lambda: faults or all(later > before + 5 for later, before in zip(steps, now, strict=True))
        )

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(len(steps))]
    for thread in threads:
        thread.start()
    more()
    for version in (11, 12):
        write_version(folder, version)
        reload(running)
        more()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    with running.client() as client:
        assert client.get("/v1/models/busy").expect()["version"] == "12"


def test_a_broken_version_leaves_the_old_one_serving_and_says_why(
    running: Service, client: Client, repositories: tuple[Path, Path]
) -> None:
    folder = repositories[0] / "broken"
    address = client.create("broken")
    (write_version(folder, 11) / "weights.safetensors").write_bytes(b"half of a")
    reload(running, client)
    wrong = f"{folder}/11/weights.safetensors: is not a readable checkpoint"
    with running.one_client_a_worker() as clients:
        for one in clients:
            ready = one.get("/v2/health/ready").expect()
            assert ready["ready"] is True
            (reason,) = ready["not_loaded"]
            assert reason.startswith(wrong)
            assert one.get("/v1/models/broken").expect()["versions"] == ["1", "2", "10"]
            assert close(one.predict("broken", INSTANCES), answers(gru(10))[0])
    assert f"not loaded: {wrong}" in running.log()
    assert client.step(address, INSTANCES)["step"] == 1

    # A manifest that is broken leaves the whole model as it was.
    manifest = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(manifest.replace(":Gru", ":Lstm"))
    reload(running, client)
    wrong = f"{folder}/model.toml: class: own_models.py has no nn.Module named Lstm"
    assert wrong in client.get("/v2/health/ready").expect()["not_loaded"]
    assert f"not loaded: {wrong}" in running.log()
    assert close(client.predict("broken", INSTANCES), answers(gru(10))[0])
    assert client.step(address, INSTANCES)["step"] == 2

    # And what is put right is loaded.
    (folder / "model.toml").write_text(manifest)
    (folder / "11" / "weights.safetensors").write_bytes(safetensors.save(gru(11).state_dict()))
    reload(running, client)
    assert client.get("/v2/health/ready").expect() == {"ready": True}
    assert close(client.predict("broken", INSTANCES), answers(gru(11))[0])
    assert client.step(address, INSTANCES)["step"] == 3


def test_a_repository_that_is_away_for_a_moment_and_a_model_that_fails_end_no_service(
    launch: Launch, tmp_path: Path
) -> None:
    write_model(tmp_path / "models" / "gru")
    service = launch(MODEL_REPOSITORY=tmp_path / "models")
    (tmp_path / "models").rename(tmp_path / "away")
    reload(service)
    with service.client() as client:
        assert client.get("/v2/health/ready").expect()["not_loaded"] == [
            f"{tmp_path}/models: there is no such folder; MODEL_REPOSITORY names where models are"
        ]
        assert close(client.predict("gru", INSTANCES), answers(gru(10))[0])
    (tmp_path / "away").rename(tmp_path / "models")
    Case(own_models.Particular, same_axes("[-1, 1]", 1)).write(tmp_path / "models", "fails")
    Case(own_models.Sparse, same_axes("[-1]")).write(tmp_path / "models", "sparse")
    (Case(own_models.Gru, GRU).write(tmp_path / "models", "exits") / "own_models.py").write_text("raise SystemExit")
    reload(service)
    with service.client() as client:
        reasons = client.get("/v2/health/ready").expect()["not_loaded"]
        assert any(reason.startswith(f"{tmp_path}/models/exits/") for reason in reasons)
        assert close(client.predict("gru", INSTANCES), answers(gru(10))[0])


def test_models_that_are_replaced_leave_the_memory(launch: Launch, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "cyclic"

    def replace(version: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        repository.write_model(
            folder.parent, folder.name, cyclic.Cyclic(), [repository.spec((-1,))], version=str(version)
        )

    replace(1)
    service = launch(MODEL_REPOSITORY=folder.parent, WORKERS=1)

    held: list[int] = []
    for version in range(2, 10):
        replace(version)
        reload(service)
        held.append(service.process.memory_info().rss)
    with service.client() as client:
        assert client.get("/v1/models/cyclic").expect()["versions"] == ["9"]
    # How much is free between allocations varies; four modules were replaced from one half to the other.
    assert min(held[4:]) - min(held[:4]) < 4 * 4 * cyclic.NUMBERS
