"""An input that a model does not take is 422: no trace in the state, and nothing to other sessions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.calls import fresh, held, post
from tests.support.client import Client, problem, sentence
from tests.support.open_inference import described, infer
from tests.support.repository import spec, write_model
from tests.support.service import Service
from tests.support.sources import rejecting

OUT_OF_RANGE = "does not take this input: forward raised IndexError: index out of range in self"


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that has `choosy` raise once."""
    return tmp_path_factory.mktemp("flag") / "once"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, flag: Path) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("rejecting") / "models"
    torch.manual_seed(0)
    tokens, vectors = [spec((1, -1), "INT64", "tokens", 0)], [spec((1, -1, 4), name="y", batch_dim=0)]
    write_model(models, "speller", rejecting.Speller(), tokens, vectors, state={"hidden": 1})
    write_model(models, "positions", rejecting.Positions(), [spec((-1,))])
    write_model(models, "choosy", rejecting.Choosy(), [spec((-1,))], arguments={"file": str(flag)})
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=models) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as connection:
        yield connection


@pytest.mark.parametrize("token", [8, -1, 2**40])
def test_an_index_that_is_out_of_range_is_rejected(client: Client, token: int) -> None:
    address = client.create("speller")
    client.step(address, [1, 2])
    before = held(client, address)
    for path in (address, "/v1/models/speller"):
        assert OUT_OF_RANGE in problem(client.post(f"{path}:predict", {"instances": [3, token]}), 422)
    assert held(client, address) == before
    assert client.step(address, [7])["step"] == 2


def test_neither_other_sessions_nor_other_lines_are_rejected(service: Service, client: Client) -> None:
    names = [client.create("speller").rpartition("/")[2] for _ in range(6)]
    asked = {name: [8 if number == 2 else number] for number, name in enumerate(names)}
    entries = client.post("/v1/models/speller/sessions:predict", {"sessions": asked}).expect()["sessions"]
    assert OUT_OF_RANGE in sentence(entries.pop(names[2]), 422)
    assert [entry["step"] for entry in entries.values()] == [1] * 5
    with service.stream(f"/v1/models/speller/sessions/{names[2]}") as stream:
        stream.send(b'{"instances":[1]}\n{"instances":[9]}\n{"instances":[2]}\n')
        assert stream.line()["step"] == 1
        assert OUT_OF_RANGE in sentence(stream.line(), 422)
        assert stream.line()["step"] == 2


def test_clients_of_the_open_inference_protocol_are_told_too(client: Client) -> None:
    bad, good = (described([[token]], datatype="INT64", name="tokens") for token in (8, 1))
    assert OUT_OF_RANGE in problem(infer(client, "speller", bad), 422)
    sequence = {"sequence_id": fresh(), "sequence_start": True}
    assert OUT_OF_RANGE in problem(infer(client, "speller", bad, parameters=sequence), 422)
    infer(client, "speller", good, parameters=sequence).expect()


def test_a_rejected_input_does_not_use_up_its_key(client: Client) -> None:
    path = f"{client.create('speller')}:predict"
    for _ in range(2):
        assert OUT_OF_RANGE in problem(post(client, path, {"instances": [8]}, key="k"), 422)
    assert post(client, path, {"instances": [1]}, key="k").expect()["step"] == 1


def test_a_state_from_which_no_step_is_possible_is_to_be_reset(client: Client) -> None:
    address = client.create("positions")
    for step in range(1, 5):
        assert client.step(address, [1])["step"] == step
    text = problem(client.post(f"{address}:predict", {"instances": [1]}), 422)
    assert "takes no step from this session's state: forward raised IndexError" in text
    assert "reset the session" in text
    client.post(f"{address}:reset", {}).expect()
    assert client.step(address, [1])["step"] == 1


REASONS = (
    "ValueError: expected numbers below 2",
    "AssertionError",
    "ZeroDivisionError: division by zero",
    "KeyError: 4",
    "RuntimeError",
    "ValueError: " + "x" * 200,
)
"""What `choosy` raises at 2 and above, as a client reads it."""


@pytest.mark.parametrize("index", range(len(REASONS)))
def test_the_reason_is_the_first_line_without_paths(client: Client, index: int) -> None:
    text = problem(client.post("/v1/models/choosy:predict", {"instances": [index + 2]}), 422)
    assert text == f"the model 'choosy' does not take this input: forward raised {REASONS[index]}"


@pytest.mark.parametrize("number", [8, 9, 10, 50], ids=["mistake", "memory", "torch-memory", "allocation"])
def test_what_says_nothing_about_the_input_is_a_failure_of_the_model(client: Client, number: int) -> None:
    address = client.create("choosy")
    for path in (address, "/v1/models/choosy"):
        text = problem(client.post(f"{path}:predict", {"instances": [number]}), 500)
        assert text.startswith("the forward of model 'choosy' raised ")
    assert client.step_of(address) == 0


def test_an_error_that_comes_and_goes_is_a_failure_of_the_model(client: Client, flag: Path) -> None:
    flag.touch()
    body = {"instances": [1]}
    assert "raised ValueError" in problem(client.post("/v1/models/choosy:predict", body), 500)
    assert client.predict("choosy", [1]) == [2.0]


def test_what_was_run_to_find_out_is_not_counted(client: Client) -> None:
    def counted() -> int:
        (stats,) = client.get("/v2/models/speller/stats").expect()["model_stats"]
        return int(stats["execution_count"])

    before = counted()
    problem(client.post("/v1/models/speller:predict", {"instances": [8]}), 422)
    assert counted() == before
