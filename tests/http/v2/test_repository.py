"""The model repository and the statistics, over all workers."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from tritonclient.utils import InferenceServerException

from tests.support.client import Client, problem
from tests.support.open_inference import connected, described, infer, tensor, wanted
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources import plain
from tests.support.waiting import eventually

TWO = np.array([1, 2], np.float32)
UNSIGNED = ["UINT16", "UINT32", "UINT64"]
NAMES = ["relu", "sum", *map(str.lower, UNSIGNED)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models `sum`, `relu`, which writes to its input, and identities of unsigned integers."""
    folder = tmp_path_factory.mktemp("own") / "models"
    write_model(folder, "sum", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(folder, "relu", nn.ReLU(), [spec((-1,))], arguments={"inplace": True})
    for datatype in UNSIGNED:
        write_model(folder, datatype.lower(), plain.Identity(), [spec((-1,), datatype, batch_dim=0)])
    return folder


@pytest.fixture(scope="module")
def own(models: Path) -> Iterator[Service]:
    """A service whose repository the tests change; they leave it as it was."""
    with Service(models.parent / "service", MODEL_REPOSITORY=models) as running:
        yield running


def write_pair(folder: Path, version: str = "1") -> Path:
    outputs = [spec((-1,)), spec((-1,), "BOOL", "positive")]
    return write_model(folder, "pair", plain.Pair(), [spec((-1,))], outputs, version=version)


def counted(client: Client, model: str) -> Any:
    (found,) = client.get(f"/v2/models/{model}/stats").expect()["model_stats"]
    return found


def test_the_index_says_what_is_there(service: Service, client: Client) -> None:
    served = {model["name"] for model in client.get("/v1/models").expect()["models"]}
    with connected(service) as triton:
        index = triton.get_model_repository_index()
    assert {entry["name"] for entry in index} == served
    assert all(entry == {"name": entry["name"], "version": "1", "state": "READY", "reason": ""} for entry in index)
    for body in (b"", b"{}", b'{"ready": true}', b'{"ready": false}'):
        assert client.post("/v2/repository/index", body).expect() == index
    problem(client.post("/v2/repository/index", b'{"ready": 1}'), 400)
    problem(client.post("/v2/repository/index", b"["), 400)


def test_models_are_loaded_and_unloaded_by_all_workers(own: Service, models: Path) -> None:
    with connected(own) as client:
        client.infer("sum", [tensor(TWO)], sequence_id=5, sequence_start=True)
        assert not client.is_model_ready("pair")
        with pytest.raises(
            InferenceServerException, match="failed to load 'pair', failed to poll from model repository"
        ):
            client.load_model("pair")

        manifest = write_pair(models)
        index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
        assert index == dict.fromkeys(NAMES, "READY") | {"pair": "UNAVAILABLE"}
        client.load_model("pair")
        for other in connections(own):
            assert other.infer("pair", [tensor(TWO)]).as_numpy("x").tolist() == [2.0, 4.0]
        assert client.infer("sum", [tensor(TWO)], sequence_id=5).as_numpy("sum") == 6

        good = manifest.read_text()
        manifest.write_text(good.replace("FP32", "FP33"))
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("pair")
        text = caught.value.message()
        assert text.startswith("failed to load 'pair', pair/model.toml: inputs.0.datatype")
        assert str(models) not in text
        assert client.infer("pair", [tensor(TWO)]).as_numpy("x").tolist() == [2.0, 4.0]

        manifest.write_text(good)
        write_pair(models, version="2")
        client.load_model("pair")
        for other in connections(own):
            assert other.get_model_metadata("pair")["versions"] == ["1", "2"]
            assert other.get_model_metadata("pair", "2")["versions"] == ["2"]
            assert other.infer("pair", [tensor(TWO)]).get_response()["model_version"] == "2"
            assert other.infer("pair", [tensor(TWO)], model_version="1").get_response()["model_version"] == "1"

        with pytest.raises(InferenceServerException, match="take the folder away first") as caught:
            client.unload_model("pair")
        assert caught.value.status() == "501"
        shutil.rmtree(models / "pair")
        client.unload_model("pair")
        for other in connections(own):
            assert not other.is_model_ready("pair")
        client.unload_model("pair")
        assert [entry["name"] for entry in client.get_model_repository_index()] == NAMES
        assert client.infer("sum", [tensor(TWO)], sequence_id=5, sequence_end=True).as_numpy("sum") == 9


def connections(service: Service) -> Iterator[Any]:
    """New connections, so many that every worker has one."""
    for _ in range(20):
        with connected(service) as client:
            yield client


def test_a_model_may_write_to_its_input(own: Service) -> None:
    x = np.array([-1, 2, -3], np.float32)
    with connected(own) as client:
        for binary in (True, False, True):
            assert client.infer("relu", [tensor(x, binary=binary)]).as_numpy("x").tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("datatype", UNSIGNED)
def test_unsigned_integers_come_back_bit_for_bit(own: Service, datatype: str) -> None:
    dtype = np.dtype(datatype.lower())
    x = np.array([0, 1, np.iinfo(dtype).max, np.iinfo(dtype).max // 2 + 1], dtype)
    with connected(own) as client, own.client() as other:
        for sent in (True, False):
            for asked in (True, False):
                result = client.infer(datatype.lower(), [tensor(x, binary=sent)], outputs=[wanted("x", binary=asked)])
                assert result.as_numpy("x").dtype == dtype
                assert result.as_numpy("x").tolist() == x.tolist()
        for value in (-1, 2 ** (8 * dtype.itemsize)):
            answer = infer(other, datatype.lower(), described([value], datatype=datatype))
            assert f"out of the range of {datatype}" in problem(answer, 400)
        assert other.predict(datatype.lower(), x.tolist()) == x.tolist()


def test_models_do_not_come_out_of_requests(service: Service) -> None:
    with connected(service) as client:
        for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.pt": b"abc"}}):
            with pytest.raises(InferenceServerException, match="none from a request"):
                client.load_model("pair", **more)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2Fb", "nope", "%00"])
def test_only_folders_of_the_repository_are_loaded(client: Client, name: str) -> None:
    assert client.post(f"/v2/repository/models/{name}/load", b"").status in (400, 404)


def test_statistics_count_the_requests_of_all_workers(service: Service, client: Client) -> None:
    before = counted(client, "library")
    rows = [[1.0, 2.0, 3.0]]
    with service.one_client_a_worker() as clients:
        for one in clients:
            for _ in range(5):
                infer(one, "library", described(rows)).expect()
            one.predict("library", rows)
            infer(one, "library", described([1.0])).expect(400)
        seen = [counted(one, "library") for one in clients]
    assert seen[0] == seen[1]
    after = seen[0]
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] == 12
    assert after["last_inference"] > before["last_inference"]
    stats = after["inference_stats"]
    for word in ("success", "queue", "compute_infer"):
        assert stats[word]["count"] - before["inference_stats"][word]["count"] == 12
        assert stats[word]["ns"] > before["inference_stats"][word]["ns"]
    assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"]
    assert stats["fail"] == before["inference_stats"]["fail"]
    assert (
        sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in after["batch_stats"])
        == (stats["compute_infer"]["count"])
    )


def test_statistics_count_each_session_of_a_call_for_many(client: Client) -> None:
    good, overflowing, deleted = (client.create("sum").rpartition("/")[2] for _ in range(3))
    client.delete(f"/v1/models/sum/sessions/{deleted}")
    before = counted(client, "sum")["inference_stats"]
    steps = {good: [1], overflowing: [3e38, 3e38], deleted: [1], "never-there": [1]}
    answer = client.post("/v1/models/sum/sessions:predict", {"sessions": steps}).expect()["sessions"]
    assert [answer[name].get("status", 200) for name in steps] == [200, 422, 410, 404]
    after = counted(client, "sum")["inference_stats"]
    assert after["success"]["count"] - before["success"]["count"] == 1
    assert after["fail"]["count"] - before["fail"]["count"] == 3
    assert after["fail"]["ns"] > before["fail"]["ns"]


def test_statistics_of_sequences_have_the_time_of_their_states(service: Service, client: Client) -> None:
    before = counted(client, "now-and-then")["inference_stats"]
    with connected(service) as triton:
        for position in range(4):
            triton.infer("now-and-then", [tensor(TWO)], sequence_id=8, sequence_start=position == 0)
        with pytest.raises(InferenceServerException, match="START"):
            triton.infer("now-and-then", [tensor(TWO)], sequence_id=9)
    after = counted(client, "now-and-then")["inference_stats"]
    for word in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[word]["count"] - before[word]["count"] == 4
        assert after[word]["ns"] > before[word]["ns"]
    assert after["fail"]["count"] - before["fail"]["count"] == 1
    parts = sum(after[word]["ns"] for word in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert parts <= after["success"]["ns"]


def test_statistics_of_all_models_and_of_one_version(client: Client) -> None:
    entries = client.get("/v2/models/stats").expect()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in entries] == [
        (model["name"], version)
        for model in client.get("/v1/models").expect()["models"]
        for version in model["versions"]
    ]
    (one,) = client.get("/v2/models/rnn/versions/1/stats").expect()["model_stats"]
    assert (one["name"], one["version"]) == ("rnn", "1")


def test_statistics_outlive_workers(own: Service) -> None:
    def work() -> int:
        with own.client() as client:
            for _ in range(5):
                infer(client, "sum", described([1.0])).expect()
            found = counted(client, "sum")["inference_count"]
            assert isinstance(found, int)
            return found

    before, workers = work(), own.workers()
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    eventually("new workers", lambda: len(set(own.workers()) - set(workers)) == 2)
    eventually("readiness", own.ready)
    assert work() == before + 5
