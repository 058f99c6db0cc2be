"""A module, a checkpoint and a manifest are all it takes: models of many kinds, each against the module by itself.

Every model has its class in a file beside its manifest. The steps of a session alternate between two workers, and what
the service answers is compared with what the same module answers in this process.
"""

import shutil
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carryover import create_app
from carryover.runtime.repository import load_model
from tests.support.client import Client, problem, sentence
from tests.support.own_cases import CASES, DTYPES, OTHERS
from tests.support.player import Player
from tests.support.service import Launch, Service
from tests.support.sources import own_models
from tests.support.waiting import together

MAX_STATE_BYTES = 4096

every_case = pytest.mark.parametrize("name", list(CASES))
every_sound_case = every_case


@dataclass(frozen=True)
class Served:
    """A service of two workers, a connection to each, and why some models are not served."""

    service: Service
    clients: list[Client]
    broken: Mapping[str, Exception]

    def workers(self, name: str) -> list[Client]:
        """The connections, where the model is served."""
        if name in self.broken:
            raise self.broken[name]
        return self.clients


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("own") / "models"
    folders = [case.write(repository, name) for name, case in (CASES | OTHERS).items()]
    broken: dict[str, Exception] = {}
    service = Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository, MAX_STATE_BYTES=MAX_STATE_BYTES)
    try:
        try:
            service.start()
        except AssertionError:  # one model that does not load must not hide all others
            broken = without_broken(folders)
            service.start()
        with service.one_client_a_worker() as clients:
            yield Served(service, clients, broken)
    finally:
        service.end()


def without_broken(folders: list[Path]) -> dict[str, Exception]:
    """Remove the models that do not load, and return why, by name."""
    broken: dict[str, Exception] = {}
    for folder in folders:
        try:
            load_model(folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model's tests raise it
            broken[folder.name] = error
            shutil.rmtree(folder)
    return broken


@every_case
def test_a_session_gives_what_the_module_gives(served: Served, name: str) -> None:
    player = Player(name, seed=0)
    one, other = served.workers(name)
    address = one.create(name)
    for client in (one, other, other, one, one, other):
        player.step(client, address)
    assert other.step_of(address) == 6


@every_sound_case
def test_many_sessions_at_a_time_give_what_each_gives_alone(served: Served, name: str) -> None:
    one, other = served.workers(name)
    halves = [[Player(name, seed=worker * 10 + number) for number in range(6)] for worker in range(2)]
    addresses = [
        [client.create(name).rpartition("/")[2] for _ in players]
        for client, players in zip((one, other), halves, strict=True)
    ]

    def run(worker: int) -> None:
        for _ in range(3):
            asked = [player.instances() for player in halves[worker]]
            body = {"sessions": {address: one[0] for address, one in zip(addresses[worker], asked, strict=True)}}
            answers = (one, other)[worker].post(f"/v1/models/{name}/sessions:predict", body).expect()["sessions"]
            for player, address, (_, tensors) in zip(halves[worker], addresses[worker], asked, strict=True):
                player.check(answers[address]["predictions"], tensors)

    together(run, [0, 1])
    # And each goes on by itself where it was, at the other worker.
    for client, players, names in zip((other, one), halves, addresses, strict=True):
        players[0].step(client, f"/v1/models/{name}/sessions/{names[0]}")


@every_sound_case
def test_a_session_shows_the_buffers_that_the_module_changed(served: Served, name: str) -> None:
    player = Player(name, seed=1)
    client, _ = served.workers(name)
    before = {buffer: deepcopy(tensor) for buffer, tensor in buffers(player.module).items()}
    address = client.create(name)
    assert client.get(address).expect()["state"] == listed(before, like=client.get(address).expect()["state"])
    for _ in range(3):
        player.step(client, address)
    after = buffers(player.module)
    changed = {buffer: tensor for buffer, tensor in after.items() if not equal(tensor, before[buffer])}
    assert client.get(address).expect()["state"] == listed(changed)
    frozen = client.get(f"/v1/models/{name}").expect()["frozen_buffers"]
    assert {buffer["name"] for buffer in frozen} == after.keys() - changed.keys()


@every_sound_case
def test_without_a_session_every_call_is_the_first(served: Served, name: str) -> None:
    for client in served.workers(name):
        for _ in range(2):
            player = Player(name, seed=2)
            instances, tensors = player.instances()
            player.check(client.predict(name, instances), tensors)


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """All buffers by name, also those that are None."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, owner in module.named_modules()
        for name, tensor in owner._buffers.items()  # noqa: SLF001 - `named_buffers` leaves out those that are None
    }


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def listed(held: Mapping[str, Tensor | None], like: list[Any] | None = None) -> list[Any]:
    """Buffers as the service lists them; those whose names are in `like`."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return [
        {
            "name": name,
            "datatype": None if tensor is None else names[tensor.dtype],
            "shape": None if tensor is None else list(tensor.shape),
        }
        for name, tensor in held.items()
        if like is None or name in {entry["name"] for entry in like}
    ]


REFUSED_VALUES: dict[str, tuple[str, list[Any], str]] = {
    "over INT8": ("wrapping-int8", [1, 128], "instances[1] is 128, which is out of the range of INT8"),
    "under INT8": ("wrapping-int8", [-129], "instances[0] is -129, which is out of the range of INT8"),
    "over INT16": ("wrapping-int16", [2**15], "instances[0] is 32768, which is out of the range of INT16"),
    "over INT32": ("wrapping-int32", [2**31], "instances[0] is 2147483648, which is out of the range of INT32"),
    "over INT64": (
        "wrapping-int64",
        [2**63],
        "instances[0] is 9223372036854775808, which is out of the range of INT64",
    ),
    "under UINT8": ("wrapping-uint8", [-1], "instances[0] is -1, which is out of the range of UINT8"),
    "over UINT8": ("wrapping-uint8", [256], "instances[0] is 256, which is out of the range of UINT8"),
    "over UINT64": (
        "delay-uint64",
        [2**64],
        "instances[0] is 18446744073709551616, which is out of the range of UINT64",
    ),
    "a fraction": ("wrapping-int8", [1.5], "instances[0] must be a whole number, not 1.5"),
    "a boolean": ("wrapping-int8", [True], "instances[0] must be a whole number, not a boolean"),
    "a number": ("wrapping-bool", [1], "instances[0] must be true or false, not 1"),
    "over FP16": ("leak-fp16", [[0, 65520]], "instances[0][1] is 65520, which is not a finite FP16 number"),
    "a token id": (
        "tagger",
        [{"tokens": 1, "mask": True, "weight": 1}, {"tokens": 2**63, "mask": True, "weight": 1}],
        "instances[1].tokens is 9223372036854775808, which is out of the range of INT64",
    ),
    "a mask": (
        "tagger",
        [{"tokens": 1, "mask": 1, "weight": 1}],
        "instances[0].mask must be true or false, not 1",
    ),
    "no weight": (
        "tagger",
        [{"tokens": 1, "mask": True}],
        (
            "instances[0] must be an object with exactly ['mask', 'tokens', 'weight'], "
            "not an object with ['mask', 'tokens']"
        ),
    ),
    "a fixed axis": (
        "ring-convolution",
        [[1, 2, 3]],
        "instances: each instance must have shape [1, 2], or [2]; the given one has shape [3]",
    ),
    "two fixed axes": (
        "transposed",
        [[[1, 2], [3, 4], [5, 6]]],
        "instances: each instance must have shape [2, 3]; the given one has shape [3, 2]",
    ),
    "two instances": (
        "transposed",
        [[[1, 2, 3]] * 2] * 2,
        "instances must hold exactly one instance: the model's input has no axis for more",
    ),
}


@pytest.mark.parametrize("what", REFUSED_VALUES)
def test_a_value_that_does_not_fit_is_rejected_and_changes_nothing(served: Served, what: str) -> None:
    name, instances, sentence = REFUSED_VALUES[what]
    client, _ = served.workers(name)
    address = client.create(name)
    assert problem(client.post(f"{address}:predict", {"instances": instances}), 400) == sentence
    assert problem(client.post(f"/v1/models/{name}:predict", {"instances": instances}), 400) == sentence
    assert client.step_of(address) == 0


def test_a_number_that_bfloat16_would_make_infinite_is_rejected(served: Served) -> None:
    client, _ = served.workers("leak-bf16")
    answer = client.post("/v1/models/leak-bf16:predict", {"instances": [[3.4e38, 0]]})
    assert problem(answer, 400) == "instances[0][0] is 3.4e+38, which is not a finite BF16 number"


@pytest.mark.parametrize(
    ("name", "instances", "answer"),
    [
        ("wrapping-int64", [2**63 - 1], {"parity": 2**63 - 1, "count": 100}),
        ("wrapping-int64", [-(2**63)], {"parity": -(2**63), "count": 100}),
        ("wrapping-uint8", [255], {"parity": 255, "count": 100}),
        ("wrapping-int8", [-128.0], {"parity": -128, "count": 100}),
        ("delay-uint16", [0, 65535], 0),
        ("delay-uint64", [2**64 - 1], 0),
        ("leak-fp16", [[65504, -65504]], [65504, -65504]),
        ("leak-bf16", [[3.3895314e38, 1]], [3.3895314e38, 1]),
        ("leak-fp64", [[1.7976931348623157e308, 5e-324]], [1.7976931348623157e308, 5e-324]),
    ],
)
def test_the_largest_number_of_a_datatype_is_taken(served: Served, name: str, instances: Any, answer: Any) -> None:
    for client in served.workers(name):
        assert client.predict(name, instances)[0] == answer


def test_state_over_the_limit_is_rejected_and_the_session_stays(served: Served) -> None:
    one, other = served.workers("growing")
    address = one.create("growing")
    assert one.step(address, [0.5] * 1000)["predictions"] == [1000]
    answer = other.post(f"{address}:predict", {"instances": [0.5] * 100})
    # 1,100 values of 4 bytes, and a table of 6 that says how many there are.
    assert problem(answer, 422) == (
        "this step would make the session's state 4406 bytes large, over the limit of 4096 (MAX_STATE_BYTES); "
        "the session stays at step 1"
    )
    assert one.get(address).expect()["state"] == [{"name": "kept", "datatype": "FP32", "shape": [1000]}]
    assert other.step(address, [0.5] * 22) | {"session": ""} == {
        "predictions": [1022],
        "session": "",
        "step": 2,
        "version": "1",
    }


def test_a_classifier_of_one_step_a_call_gives_a_label(served: Served) -> None:
    client, _ = served.workers("labelled-cell")
    (prediction,) = client.predict("labelled-cell", [[1, 2, 3]])
    assert prediction["label"] in ("no", "yes")
    assert len(prediction["probabilities"]) == 2


def test_an_output_of_the_whole_call_stands_with_every_instance(served: Served) -> None:
    client, _ = served.workers("summary")
    assert client.predict("summary", [1, 2, 3]) == [{"doubled": doubled, "sum": 6} for doubled in (2, 4, 6)]


def test_a_frozen_buffer_that_a_request_writes_is_put_back(served: Served) -> None:
    client, _ = served.workers("seldom")
    assert client.predict("seldom", [0, 0]) == [[0], [0]]
    answer = client.post("/v1/models/seldom:predict", {"instances": [1]})
    assert problem(answer, 500) == (
        "forward changed the buffer 'calls', which the dry run found to be frozen; list it under [state] in the "
        "manifest if it is meant to change"
    )
    assert client.predict("seldom", [0, 0]) == [[0], [0]]


@pytest.mark.parametrize("value", [6, -6], ids=["written", "rebound"])
def test_a_parameter_that_a_request_changes_is_put_back(served: Served, value: int) -> None:
    for client in served.workers("wandering"):
        for _ in range(2):
            answer = client.post("/v1/models/wandering:predict", {"instances": [1, value]})
            assert problem(answer, 500) == (
                "forward changed the parameter 'weight'; what is to change belongs in a buffer (register_buffer)"
            )
            assert client.predict("wandering", [1, 2]) == [2, 4]


def test_all_that_a_request_changes_is_put_back(served: Served) -> None:
    for client in served.workers("wandering"):
        answer = client.post("/v1/models/wandering:predict", {"instances": [1, 11]})
        assert problem(answer, 500).startswith(
            "forward changed the buffer 'scale', which the dry run found to be frozen"
        )
        assert client.predict("wandering", [1, 2]) == [2, 4]


def test_a_parameter_that_cannot_be_put_back_is_not_served(launch: Launch, tmp_path: Path) -> None:
    folder = OTHERS["wandering"].write(tmp_path / "models", "wandering")
    with launch(MODEL_REPOSITORY=tmp_path / "models", WORKERS=1).client() as client:
        kept = (folder / "1/weights.safetensors").rename(tmp_path / "kept")
        for value in (6, 1, 1):
            text = problem(client.post("/v1/models/wandering:predict", {"instances": [value]}), 500)
            assert text.startswith("forward changed the parameter 'weight'; ")
        kept.rename(folder / "1/weights.safetensors")
        problem(client.post("/v1/models/wandering:predict", {"instances": [1]}), 500)
        assert client.predict("wandering", [1]) == [2]


def test_a_model_may_need_a_whole_window(served: Served, tmp_path: Path) -> None:
    folder = OTHERS["loudness"].write(tmp_path, "loudness")
    inspected = create_app().test_cli_runner().invoke(args=["inspect", str(folder)])
    assert (inspected.exit_code, "level" in inspected.output) == (0, True), inspected.output
    x, module = torch.randn(16), own_models.Loudness()
    expected = [module(x[None, :12])[0].tolist(), module(x[None, 8:])[0].tolist()]
    assert [len(loudness) for loudness in expected] == [2, 1]
    one, other = served.workers("loudness")
    address = one.create("loudness")
    assert one.step(address, x[:12].tolist())["predictions"] == pytest.approx(expected[0])
    assert other.step(address, x[8:].tolist())["predictions"] == pytest.approx(expected[1])
    assert "does not take this input" in problem(one.post(f"{address}:predict", {"instances": [1.0] * 7}), 422)
    assert one.step_of(address) == 2


@pytest.mark.parametrize("name", ["breaking", "breaking-alone"])
@pytest.mark.parametrize("way", range(len(own_models.Breaking.WAYS)))
def test_whatever_a_forward_does_the_others_have_their_results(served: Served, name: str, way: int) -> None:
    sound = {"before": [[1.0]], "after": [[2.0], [3.0]]}
    for client in served.workers(name):
        sessions = {session: client.create(name) for session in (*sound, "broken")}
        bodies = {
            address.rpartition("/")[2]: sound.get(session, [[100 + way]]) for session, address in sessions.items()
        }
        answers = client.post(f"/v1/models/{name}/sessions:predict", {"sessions": bodies}).expect()["sessions"]
        found = {session: answers[address.rpartition("/")[2]] for session, address in sessions.items()}
        assert found["before"]["predictions"] in ([1.0], [[1.0]])
        assert found["after"]["predictions"] in ([2.0, 5.0], [[2.0], [5.0]])
        if own_models.Breaking.WAYS[way] in ("parameter", "attribute"):
            assert sentence(found["broken"], 422).endswith(f"raised ValueError: {own_models.Breaking.WAYS[way]}")
        else:
            assert sentence(found["broken"], 500).startswith(f"the forward of model '{name}' raised ")
        # What came in the buffer's place is not there for others.
        assert client.step(sessions["after"], [[1.0]])["predictions"] in ([6.0], [[6.0]])
        assert client.step(sessions["broken"], [[7.0]])["predictions"] in ([7.0], [[7.0]])


def test_workers_draw_different_random_numbers(served: Served) -> None:
    one, other = ([client.predict("sampling", [1.0]) for _ in range(8)] for client in served.workers("sampling"))
    assert len({str(drawn) for drawn in one + other}) == 16


def test_what_makes_no_difference_may_be_kept_in_attributes(served: Served) -> None:
    for client in served.workers("harmless"):
        first = client.predict("harmless", [1, 2])
        client.predict("harmless", [5, 6, 7])
        assert client.predict("harmless", [1, 2]) == pytest.approx(first, abs=1e-6)


def test_an_error_that_torch_raises_ends_no_worker(served: Served) -> None:
    service = served.service
    served.workers("mismatched")
    workers = {worker.pid for worker in service.workers()}

    def visit(client: Client) -> None:
        for _ in range(150):
            assert client.predict("mismatched", [[1, 2, 3, 4]]) == [[1, 2, 3, 4]]
            answer = client.post("/v1/models/mismatched:predict", {"instances": [[9, 9, 9, 9]]})
            assert "forward raised RuntimeError: mat1 and mat2 shapes cannot be multiplied" in problem(answer, 422)

    with service.clients(8) as clients:
        together(visit, clients)
    assert {worker.pid for worker in service.workers()} == workers
