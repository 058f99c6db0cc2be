"""Recurrent modules as they are, torch's own among them: the service passes their state in and takes it out again.

The steps of a session alternate between two workers, and predictions are compared with a plain loop over the module.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.carried_cases import CASES, Carried
from tests.support.client import Client, problem
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources import called
from tests.support.waiting import together

Array = np.ndarray[Any, Any]
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """A connection to each of two workers."""
    repository = tmp_path_factory.mktemp("carried") / "models"
    for name, case in CASES.items():
        case.write(repository, name)
    row = spec((-1, 4), batch_dim=0)
    mask = row | {"name": "mask"}
    write_model(repository, "masked", called.Masked(), [row, mask], [row | {"name": "y"}], state={"total": 0})
    required = [row, mask | {"optional": False}]
    write_model(repository, "both", called.Masked(), required, [row | {"name": "y"}], state={"total": 0})
    with (
        Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository) as service,
        service.one_client_a_worker() as clients,
    ):
        yield clients


class Loop:
    """A plain loop over a case's module, and the steps that it and a session take."""

    def __init__(self, case: Carried, seed: int) -> None:
        self._case = case
        self._step = case.loop(case.module())
        self._random = np.random.default_rng(seed)
        self._sizes = iter(case.sizes * 3)

    def next(self) -> tuple[Any, Array]:
        """The next step's instances, and the predictions for them."""
        (spec,) = self._case.document["inputs"]
        axis = next((a for a, size in enumerate(spec["shape"]) if size == -1 and a != spec.get("batch_dim")), None)
        size = next(self._sizes)
        shape = [size if a == axis else 1 if length == -1 else length for a, length in enumerate(spec["shape"])]
        x = self._random.standard_normal(shape).astype(np.float32)
        with torch.inference_mode():
            y = self._step(torch.from_numpy(x)).numpy()
        instances = x[None] if axis is None else np.moveaxis(x, axis, 0)
        return instances.tolist(), y.ravel()


def predictions(body: Any) -> Array:
    found: list[float] = []

    def collect(value: Any) -> None:
        if isinstance(value, list):
            for inner in value:
                collect(inner)
        else:
            found.append(value)

    collect(body["predictions"])
    return np.array(found)


@every_case
def test_a_session_equals_a_plain_loop(workers: list[Client], name: str) -> None:
    one, other = workers
    loop = Loop(CASES[name], seed=0)
    address = one.create(name)
    for client in (one, other, other, one, one, other):
        instances, expected = loop.next()
        np.testing.assert_allclose(predictions(client.step(address, instances)), expected, atol=1e-5)
    assert one.step_of(address) == 6


@every_case
def test_sessions_at_a_time_equal_as_many_loops(workers: list[Client], name: str) -> None:
    def play(given: tuple[Client, Loop]) -> None:
        client, loop = given
        address = client.create(name)
        for _ in range(5):
            instances, expected = loop.next()
            np.testing.assert_allclose(predictions(client.step(address, instances)), expected, atol=1e-5)

    together(play, [(client, Loop(CASES[name], seed)) for seed, client in enumerate(workers)])


@every_case
def test_sessions_in_one_call_equal_as_many_loops(workers: list[Client], name: str) -> None:
    client = workers[0]
    loops = {client.create(name).rpartition("/")[2]: Loop(CASES[name], seed) for seed in range(10, 15)}
    for _ in range(4):
        steps = {session: loop.next() for session, loop in loops.items()}
        asked = {session: instances for session, (instances, _) in steps.items()}
        body = client.post(f"/v1/models/{name}/sessions:predict", {"sessions": asked}).expect()
        for session, (_, expected) in steps.items():
            np.testing.assert_allclose(predictions(body["sessions"][session]), expected, atol=1e-5)


@every_case
def test_a_state_is_read_and_set_from_outside(workers: list[Client], name: str) -> None:
    one, other = workers
    loop = Loop(CASES[name], seed=1)
    address, copy = one.create(name), one.create(name)
    for _ in range(3):
        one.step(address, loop.next()[0])
    file = one.get(f"{address}/state")
    assert file.status == 200
    tensors = safetensors.torch.load(file.body)
    assert set(tensors) <= set(CASES[name].state)
    assert tensors
    other.request("PUT", f"{copy}/state", file.body).expect()
    assert other.step_of(copy) == 3
    instances, expected = loop.next()
    np.testing.assert_allclose(predictions(other.step(copy, instances)), expected, atol=1e-5)


@every_case
def test_reset_goes_back_to_the_start_and_fork_copies(workers: list[Client], name: str) -> None:
    one, other = workers
    loop, again = Loop(CASES[name], seed=2), Loop(CASES[name], seed=2)
    address = one.create(name)
    for _ in range(2):
        one.step(address, loop.next()[0])
    fork = one.post(f"{address}:fork", {"session": f"{name}-fork"})
    fork.expect(201)
    instances, expected = loop.next()
    np.testing.assert_allclose(predictions(other.step(fork.headers["Location"], instances)), expected, atol=1e-5)
    other.post(f"{address}:reset", {}).expect()
    instances, expected = again.next()
    np.testing.assert_allclose(predictions(one.step(address, instances)), expected, atol=1e-5)


def test_a_state_with_half_of_its_tensors_is_rejected(workers: list[Client]) -> None:
    client = workers[0]
    address = client.create("lstm")
    half = safetensors.torch.save({"hx.0": torch.zeros(2, 1, 4)})
    sentence = problem(client.request("PUT", f"{address}/state", half), 400)
    assert "cannot go on from this state" in sentence
    wrong = safetensors.torch.save({"hx.0": torch.zeros(2, 1, 5), "hx.1": torch.zeros(2, 1, 5)})
    problem(client.request("PUT", f"{address}/state", wrong), 400)
    assert client.step_of(address) == 0


def test_what_a_session_holds_is_listed(workers: list[Client]) -> None:
    client = workers[0]
    state = client.get("/v1/models/lstm").expect()["state_buffers"]
    assert [buffer["name"] for buffer in state] == ["hx.0", "hx.1"]
    address = client.create("lstm")
    client.step(address, [[[1.0, 2.0, 3.0]]])
    assert client.get(address).expect()["state"] == [
        {"name": "hx.0", "datatype": "FP32", "shape": [2, 1, 4]},
        {"name": "hx.1", "datatype": "FP32", "shape": [2, 1, 4]},
    ]


def test_an_optional_input_may_be_left_out(workers: list[Client]) -> None:
    one, other = workers
    x, mask = [1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.0, 0.0]
    assert one.predict("masked", [{"x": x, "mask": mask}]) == [[2, 0, 6, 0]]
    assert one.predict("masked", [{"x": x}]) == one.predict("masked", [x]) == [[2, 4, 6, 8]]
    address = one.create("masked")
    one.step(address, [{"x": x, "mask": mask}])
    assert other.step(address, [{"x": x}])["predictions"] == [[4, 4, 12, 8]]
    given = [
        {"name": name, "datatype": "FP32", "shape": [1, 4], "data": data} for name, data in (("x", x), ("mask", mask))
    ]
    for inputs, expected in ((given, [2, 0, 6, 0]), (given[:1], [2, 4, 6, 8])):
        body = one.post("/v2/models/masked/infer", {"inputs": inputs}).expect()
        assert body["outputs"][0]["data"] == expected
    problem(one.post("/v1/models/masked:predict", {"instances": [{"mask": mask}]}), 400)
    problem(one.post("/v1/models/masked:predict", {"instances": [{"x": x}, {"x": x, "mask": mask}]}), 400)
    problem(one.post("/v2/models/masked/infer", {"inputs": given[1:]}), 400)
    said = [
        spec.get("optional") for name in ("masked", "both") for spec in one.get(f"/v1/models/{name}").expect()["inputs"]
    ]
    assert said == [None, True, None, None]
    problem(one.post("/v1/models/both:predict", {"instances": [{"x": x}]}), 400)


def test_calls_without_a_session_start_from_nothing(workers: list[Client]) -> None:
    one, other = workers
    x = [[[0.5, -1.0, 2.0]]]
    first = one.predict("gru", x)
    one.step(one.create("gru"), x)
    assert other.predict("gru", x) == first
    module = CASES["gru"].module()
    with torch.inference_mode():
        expected = module(torch.tensor(x))[0]
    np.testing.assert_allclose(np.ravel(first), expected.numpy().ravel(), atol=1e-5)
