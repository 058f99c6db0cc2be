"""Versions of one model with other inputs and outputs: a session is read and answered as its version says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.client import Client, problem
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources import widths

NARROW = ([spec((-1, 1, 2), batch_dim=1)], [spec((-1, 1, 1), name="y", batch_dim=1)])
WIDE = (
    [spec((-1, 1, 3), name="signal", batch_dim=1), spec((-1, 1, 1), name="gain", batch_dim=1)],
    [spec((-1, 1, 4), name="y", batch_dim=1), spec((-1, 1, 4), "BOOL", "sign", batch_dim=1)],
)
PLAIN = ([spec((-1, 2))], [spec((-1,), name="y")])
STATE_OF_NARROW = '\n[state.h]\ninput = "h"\noutput = 1\nbatch_dim = 1\n'


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(2)
    return {"1": widths.Narrow().eval(), "2": widths.Wide().eval(), "3": widths.Plain().eval()}


def write(repository: Path, name: str, default: str) -> None:
    """The model in three versions, of which the first has no manifest of its own."""
    one, two, three = modules().values()
    path = write_model(repository, name, one, *NARROW)
    narrow = path.read_text() + STATE_OF_NARROW
    for number, module, tensors, state in (("2", two, WIDE, {"h": 1}), ("3", three, PLAIN, {})):
        write_model(repository, name, module, *tensors, state=state, version=number)
        path.rename(path.parent / number / "model.toml")
    path.write_text(f'version = "{default}"\n{narrow}')


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("widths") / "models"
    for default in ("2", "3"):
        write(repository, f"serves-{default}", default)
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository) as service:
        yield service


@pytest.fixture(scope="module")
def workers(served: Service) -> Iterator[list[Client]]:
    with served.one_client_a_worker() as clients:
        yield clients


def narrow() -> Callable[[], tuple[Any, Any]]:
    """A loop over version 1: each call gives instances, and the predictions for them."""
    module, h, seed = modules()["1"], None, torch.Generator().manual_seed(1)

    def step() -> tuple[Any, Any]:
        nonlocal h
        x = torch.randn(2, 1, 2, generator=seed)
        with torch.inference_mode():
            y, h = module(x, h)
        return x[:, 0].tolist(), y[:, 0].tolist()

    return step


def wide() -> Callable[[], tuple[Any, Any]]:
    """The same of version 2."""
    module, seed = modules()["2"], torch.Generator().manual_seed(2)

    def step() -> tuple[Any, Any]:
        signal, gain = torch.randn(2, 1, 3, generator=seed), torch.rand(2, 1, 1, generator=seed)
        with torch.inference_mode():
            given = module(signal=signal, gain=gain)
        rows = zip(signal[:, 0].tolist(), gain[:, 0].tolist(), strict=True)
        results = zip(given["y"][:, 0].tolist(), given["sign"][:, 0].tolist(), strict=True)
        return [{"signal": s, "gain": g} for s, g in rows], [{"y": y, "sign": sign} for y, sign in results]

    return step


def numbers(value: Any) -> list[float]:
    """All numbers of a nest of lists and objects, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    return [number for inner in value for number in numbers(inner)] if isinstance(value, list) else [float(value)]


def assert_close(found: Any, expected: Any) -> None:
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-5)


def test_each_version_says_what_it_takes(workers: list[Client]) -> None:
    for client in workers:
        for path in ("/v1/models/serves-2", "/v2/models/serves-2"):
            for suffix, inputs, outputs in (("/versions/1", *NARROW), ("/versions/2", *WIDE), ("", *WIDE)):
                told = client.get(path + suffix).expect()
                for kind, specs in (("inputs", inputs), ("outputs", outputs)):
                    assert [(one["name"], one["datatype"], one["shape"]) for one in told[kind]] == [
                        (one["name"], one["datatype"], list(one["shape"])) for one in specs
                    ]
        stateful = {v: client.get(f"/v1/models/serves-2/versions/{v}").expect()["stateful"] for v in "123"}
        assert stateful == {"1": True, "2": True, "3": False}
        config = client.get("/v2/models/serves-3/config").expect()
        assert "sequence_batching" not in config
        assert "sequence_batching" in client.get("/v2/models/serves-3/versions/1/config").expect()


def test_steps_are_read_as_the_version_of_their_session_says(workers: list[Client]) -> None:
    base, loops = "/v1/models/serves-2", {"early": narrow(), "late": wide()}
    workers[0].post(f"{base}/versions/1/sessions", {"session": "early"}).expect(201)
    workers[1].post(f"{base}/sessions", {"session": "late"}).expect(201)
    for client in workers * 2:
        for name, loop in loops.items():
            instances, expected = loop()
            assert_close(client.step(f"{base}/sessions/{name}", instances)["predictions"], expected)
        asked = {name: loop() for name, loop in loops.items()}
        bulk = {"sessions": {name: instances for name, (instances, _) in asked.items()}}
        entries = client.post(f"{base}/sessions:predict", bulk).expect()["sessions"]
        for name, (_, expected) in asked.items():
            assert_close(entries[name]["predictions"], expected)


def test_the_wrong_inputs_are_rejected_and_change_nothing(workers: list[Client]) -> None:
    base, loop = "/v1/models/serves-2", narrow()
    path = "/v1/models/serves-2/sessions/kept"
    workers[0].post(f"{base}/versions/1/sessions", {"session": "kept"}).expect(201)
    for client in workers:
        text = problem(client.post(f"{path}:predict", {"instances": wide()()[0]}), 400)
        assert "instances[0]" in text
        entry = client.post(f"{base}/sessions:predict", {"sessions": {"kept": [[1.0, 2.0, 3.0]]}}).expect()
        assert entry["sessions"]["kept"]["status"] == 400
        instances, expected = loop()
        assert_close(client.step(path, instances)["predictions"], expected)
    problem(workers[0].post(f"{base}/versions/2/sessions/kept:predict", {"instances": wide()()[0]}), 409)


def test_a_stream_goes_on_with_the_version_of_its_session(served: Service, workers: list[Client]) -> None:
    loop = narrow()
    workers[0].post("/v1/models/serves-2/versions/1/sessions", {"session": "streamed"}).expect(201)
    stream = served.stream("/v1/models/serves-2/sessions/streamed")
    for _ in range(3):
        instances, expected = loop()
        assert_close(stream.step(instances)["predictions"], expected)
    stream.close()


def test_a_sequence_goes_on_with_the_version_that_it_started_on(workers: list[Client]) -> None:
    loop, parameters = narrow(), {"sequence_id": "v2", "sequence_start": True}
    for client, path in zip(workers * 2, ("/versions/1", "", "", ""), strict=True):
        instances, expected = loop()
        tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1, 2], "data": numbers(instances)}
        asked = {"inputs": [tensor], "parameters": parameters}
        told = client.post(f"/v2/models/serves-2{path}/infer", asked).expect()
        assert told["model_version"] == "1"
        assert_close(told["outputs"][0]["data"], expected)
        parameters = {"sequence_id": "v2"}
    started = {"inputs": [tensor], "parameters": {"sequence_id": "v2", "sequence_start": True}}
    assert "input 'x'" in problem(workers[0].post("/v2/models/serves-2/infer", started), 400)


def test_a_default_version_without_state_leaves_the_sessions_of_others(workers: list[Client]) -> None:
    base, loop = "/v1/models/serves-3", narrow()
    sentence = problem(workers[0].post(f"{base}/sessions", {}), 400)
    assert "version 3 of model 'serves-3', which serves, keeps no state" in sentence
    problem(workers[0].post(f"{base}/sessions/new:predict?create=true", {"instances": [[1.0, 2.0]]}), 400)
    workers[0].post(f"{base}/versions/1/sessions", {"session": "old"}).expect(201)
    for client in workers:
        instances, expected = loop()
        assert_close(client.step(f"{base}/sessions/old", instances)["predictions"], expected)
    assert workers[0].get(f"{base}/sessions/old").expect()["version"] == "1"
    assert workers[1].delete(f"{base}/sessions/old").status == 204
    with torch.inference_mode():
        expected = modules()["3"](torch.tensor([[1.0, 2.0]])).tolist()
    assert_close(workers[0].predict("serves-3", [[1.0, 2.0]]), expected)
