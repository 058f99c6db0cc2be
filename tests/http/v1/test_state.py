"""A session's state as a file: it goes on in another deployment, and what is not its state does no harm."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from tests.support.calls import fresh, held, post, put_state, state
from tests.support.client import Client, problem
from tests.support.repository import rnn, spec, write_model, write_recurrent
from tests.support.service import Service
from tests.support.sources import window

ROW = [0.5, -1.0, 2.0]
SESSIONS = "/v1/models/rnn/sessions"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Two deployments of the same models that know nothing of each other."""
    repository = write_recurrent(tmp_path_factory.mktemp("few") / "models")
    write_model(repository, "window", window.Window(), [spec((-1, 2))], [spec((), name="sum")])
    services = [
        Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository, WORKERS=1, MAX_STATE_BYTES=4000)
        for _ in range(2)
    ]
    try:
        yield services[0].start(), services[1].start()
    finally:
        for service in services:
            service.end()


@pytest.fixture
def ours(two: tuple[Service, Service]) -> Iterator[Client]:
    with two[0].client() as client:
        yield client


@pytest.fixture
def theirs(two: tuple[Service, Service]) -> Iterator[Client]:
    with two[1].client() as client:
        yield client


def file(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with a header of one's own making."""
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + data


HIDDEN = {"dtype": "F32", "shape": [1, 1, 5], "data_offsets": [0, 20]}
ZEROS = bytes(20)


class TestForks:
    def test_a_fork_goes_its_own_way_from_where_the_other_stood(self, ours: Client) -> None:
        address = ours.create("lstm", fresh())
        ours.step(address, [ROW, ROW])
        before = held(ours, address)
        fork = post(ours, f"{address}:fork", {"session": fresh(), "ttl": 77})
        assert fork.expect(201)["ttl"] == 77
        there = fork.headers["Location"]
        assert held(ours, there) == before
        one, other = ours.step(there, [ROW]), ours.step(address, [ROW])
        assert one["predictions"] == other["predictions"]
        ours.step(there, [ROW])
        assert ours.step_of(address) == 2
        assert ours.step_of(there) == 3

    def test_a_fork_outlives_its_origin(self, ours: Client) -> None:
        address = ours.create("rnn", fresh())
        there = post(ours, f"{address}:fork", {}).headers["Location"]
        assert ours.delete(address).status == 204
        problem(post(ours, f"{address}:fork", {}), 410)
        assert ours.step(there, [ROW])["step"] == 1

    def test_nothing_forks_from_nothing(self, ours: Client) -> None:
        problem(post(ours, f"{SESSIONS}/{fresh()}:fork", {}), 404)

    def test_a_fork_takes_no_name_that_is_taken(self, ours: Client) -> None:
        one, other = ours.create("rnn", fresh()), ours.create("rnn", fresh())
        problem(post(ours, f"{one}:fork", {"session": other.rpartition("/")[2]}), 409)


class TestResets:
    def test_a_reset_restores_the_initial_state(self, ours: Client) -> None:
        address = ours.create("lstm", fresh())
        new = held(ours, address)
        first = ours.step(address, [ROW])
        assert post(ours, f"{address}:reset").expect()["step"] == 0
        assert held(ours, address) == new
        assert ours.step(address, [ROW]) == first

    def test_what_is_not_there_is_not_reset(self, ours: Client) -> None:
        address = f"{SESSIONS}/{fresh()}"
        problem(post(ours, f"{address}:reset"), 404)
        ours.create("rnn", address.rpartition("/")[2])
        ours.delete(address)
        problem(post(ours, f"{address}:reset"), 410)


class TestAStateElsewhere:
    @pytest.mark.parametrize("model", ["rnn", "lstm"])
    def test_goes_on_with_the_same_predictions(self, model: str, ours: Client, theirs: Client) -> None:
        here = ours.create(model, fresh())
        ours.step(here, [ROW, [1, 2, 3]])
        there = f"/v1/models/{model}/sessions/{fresh()}"
        put = put_state(theirs, there, state(ours, here))
        assert put.expect()["step"] == 1
        assert put.headers["ETag"] == '"1"'
        for _ in range(3):
            assert theirs.step(there, [ROW])["predictions"] == ours.step(here, [ROW])["predictions"]
        assert held(theirs, there) == held(ours, here)

    def test_replaces_the_state_of_a_session_that_lives(self, ours: Client, theirs: Client) -> None:
        here, there = ours.create("rnn", fresh()), theirs.create("rnn", fresh())
        for _ in range(3):
            ours.step(here, [ROW])
        theirs.step(there, [[0, 0, 1]])
        put_state(theirs, there, state(ours, here)).expect()
        assert held(theirs, there) == held(ours, here)

    def test_that_has_grown_goes_on_too(self, ours: Client, theirs: Client) -> None:
        here, there = ours.create("window", fresh()), f"/v1/models/window/sessions/{fresh()}"
        ours.step(here, [[1, 2], [3, 4]])
        assert load(state(ours, here))["seen"].shape == (2, 2)
        put_state(theirs, there, state(ours, here)).expect()
        assert theirs.step(there, [[1, 1]])["predictions"] == ours.step(here, [[1, 1]])["predictions"] == [12.0]

    def test_has_the_same_bytes_each_time(self, ours: Client, theirs: Client) -> None:
        here, there = ours.create("lstm", fresh()), f"/v1/models/lstm/sessions/{fresh()}"
        ours.step(here, [ROW])
        file = state(ours, here)
        put_state(theirs, there, file).expect()
        assert {state(ours, here) for _ in range(8)} == {state(theirs, there)} == {file}
        assert int.from_bytes(file[:8], "little") % 8 == 0, "the tensors are aligned"

    def test_says_what_it_is(self, ours: Client, tmp_path: Path) -> None:
        here = ours.create("rnn", fresh())
        ours.step(here, [ROW])
        answer = ours.get(f"{here}/state")
        assert answer.headers.get_content_type() == "application/octet-stream"
        assert f"{here.rpartition('/')[2]}-1.safetensors" in answer.headers["Content-Disposition"]
        path = tmp_path / "state"
        path.write_bytes(answer.body)
        with safe_open(path, "np") as opened:
            said = opened.metadata()
        assert (said["model"], said["version"], said["step"]) == ("rnn", "1", "1")
        with torch.inference_mode():
            module = rnn()
            module(torch.tensor([[ROW]]))
        assert np.allclose(load(answer.body)["hidden"], module.hidden, atol=1e-6)

    def test_without_metadata_starts_at_step_0(self, theirs: Client) -> None:
        there = f"{SESSIONS}/{fresh()}"
        assert put_state(theirs, there, save({"hidden": np.ones((1, 1, 5), np.float32)})).expect()["step"] == 0
        assert load(state(theirs, there))["hidden"].tolist() == [[[1.0] * 5]]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "hidden"),
        ({"hiden": np.zeros((1, 1, 5), np.float32)}, "hidden"),
        ({"hidden": np.zeros((1, 1, 5), np.float32), "more": np.zeros(1, np.float32)}, "more"),
        ({"hidden": np.zeros((1, 5), np.float32)}, "FP32 [1, 1, 5]"),
        ({"hidden": np.zeros((1, 1, 5), np.float64)}, "FP64 [1, 1, 5]"),
        ({"hidden": np.zeros((1, 1, 5), np.int32)}, "INT32 [1, 1, 5]"),
        ({"hidden": np.zeros((1, 1, 5), np.uint16)}, "hidden"),
        ({"hidden": np.zeros((1, 1, 4), np.float32)}, "cannot go on"),
        ({"hidden": np.zeros((1, 2, 5), np.float32)}, "cannot go on"),
        ({"hidden": np.zeros((0, 1, 5), np.float32)}, "cannot go on"),
    ],
    ids=lambda value: str({k: f"{v.dtype}{v.shape}" for k, v in value.items()}) if isinstance(value, dict) else "",
)
def test_a_state_that_is_not_the_models_is_rejected(tensors: dict[str, Any], reason: str, ours: Client) -> None:
    address = ours.create("rnn", fresh())
    ours.step(address, [ROW])
    before, data = held(ours, address), save(tensors)
    assert reason in problem(put_state(ours, address, data), 400)
    assert held(ours, address) == before
    new = f"{SESSIONS}/{fresh()}"
    problem(put_state(ours, new, data), 400)
    problem(ours.get(new), 404)


def test_a_state_of_another_fingerprint_is_rejected_unless_migrated(ours: Client) -> None:
    address = ours.create("rnn", fresh())
    data = save({"hidden": np.ones((1, 1, 5), np.float32)}, {"fingerprint": "0123456789abcdef", "step": "9"})
    text = problem(put_state(ours, address, data), 409)
    assert "0123456789abcdef" in text
    assert "?migrate=true" in text
    assert ours.step_of(address) == 0
    assert put_state(ours, address, data, "?migrate=true").expect()["step"] == 9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_rejected(value: float, ours: Client) -> None:
    address = ours.create("rnn", fresh())
    before = held(ours, address)
    data = np.zeros((1, 1, 5), np.float32)
    data[0, 0, 3] = value
    assert "'hidden' holds NaN or an infinity" in problem(put_state(ours, address, save({"hidden": data})), 422)
    assert held(ours, address) == before


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "less than a length": b"\1\2\3",
    "a length of nothing": struct.pack("<Q", 0),
    "a length that lies": struct.pack("<Q", 1000) + b'{"hidden":',
    "a length beyond memory": struct.pack("<Q", 2**63) + b"{}",
    "a length of all": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a header cut short": file({"hidden": HIDDEN}, ZEROS)[:40],
    "data cut short": file({"hidden": HIDDEN}, ZEROS[:7]),
    "data left over": file({"hidden": HIDDEN}, ZEROS + b"more"),
    "a header that is not JSON": file(b"hello, I am a header", ZEROS),
    "a header that is not UTF-8": file(b'{"\xff\xfe": 1}', ZEROS),
    "a header that is a list": file([1, 2, 3], ZEROS),
    "a header of depth": file(b'{"hidden":' + b"[" * 20000 + b"]" * 20000 + b"}", ZEROS),
    "a shape beyond memory": file({"hidden": HIDDEN | {"shape": [2**40, 2**40]}}, ZEROS),
    "a shape that wraps around": file({"hidden": HIDDEN | {"shape": [2**32, 2**32, 5]}}, ZEROS),
    "a shape of nothing, and huge": file({"hidden": HIDDEN | {"shape": [0, 2**40, 5], "data_offsets": [0, 0]}}),
    "a shape of nothing, beyond a word": file({"hidden": HIDDEN | {"shape": [0, 2**63, 5], "data_offsets": [0, 0]}}),
    "a shape below zero": file({"hidden": HIDDEN | {"shape": [1, -1, 5]}}, ZEROS),
    "a shape of text": file({"hidden": HIDDEN | {"shape": "5"}}, ZEROS),
    "a shape that is not the data's": file({"hidden": HIDDEN | {"shape": [1, 1, 6]}}, ZEROS),
    "offsets backwards": file({"hidden": HIDDEN | {"data_offsets": [20, 0]}}, ZEROS),
    "offsets outside": file({"hidden": HIDDEN | {"data_offsets": [1000, 1020]}}, ZEROS),
    "offsets below zero": file({"hidden": HIDDEN | {"data_offsets": [-20, 0]}}, ZEROS),
    "offsets that overlap": file({"hidden": HIDDEN, "other": HIDDEN}, ZEROS),
    "offsets with a hole": file({"hidden": HIDDEN | {"data_offsets": [4, 24]}}, ZEROS + ZEROS[:4]),
    "a datatype that is none": file({"hidden": HIDDEN | {"dtype": "F7"}}, ZEROS),
    "a datatype of eight bits": file(
        {"hidden": {"dtype": "F8_E4M3", "shape": [1, 1, 20], "data_offsets": [0, 20]}}, ZEROS
    ),
    "a datatype of four bits": file({"hidden": {"dtype": "F4", "shape": [1, 1, 40], "data_offsets": [0, 20]}}, ZEROS),
    "a complex datatype": file({"hidden": {"dtype": "C64", "shape": [1, 1, 2], "data_offsets": [0, 16]}}, ZEROS[:16]),
    "metadata of numbers": file({"__metadata__": {"step": 5}, "hidden": HIDDEN}, ZEROS),
    "metadata of lists": file({"__metadata__": ["step"], "hidden": HIDDEN}, ZEROS),
    "a step below zero": file({"__metadata__": {"step": "-1"}, "hidden": HIDDEN}, ZEROS),
    "a step that is none": file({"__metadata__": {"step": "\u0663"}, "hidden": HIDDEN}, ZEROS),
    "a step beyond a word": file({"__metadata__": {"step": str(2**63)}, "hidden": HIDDEN}, ZEROS),
    "a step of a book": file({"__metadata__": {"step": "9" * 5000}, "hidden": HIDDEN}, ZEROS),
    "a fingerprint that is none": file({"__metadata__": {"fingerprint": "xyz"}, "hidden": HIDDEN}, ZEROS),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_rejected(name: str, ours: Client) -> None:
    address = ours.create("rnn", fresh())
    ours.step(address, [ROW])
    before = held(ours, address)
    problem(put_state(ours, address, HOSTILE[name]), 400)
    assert held(ours, address) == before
    assert ours.step(address, [ROW])["step"] == 2


def test_of_two_tensors_of_one_name_no_harm_comes(ours: Client) -> None:
    address = ours.create("rnn", fresh())
    header = b'{"hidden":%s,"hidden":%s}' % ((json.dumps(HIDDEN).encode(),) * 2)
    assert put_state(ours, address, file(header, ZEROS)).status in (200, 400)
    assert ours.step(address, [ROW])["step"] == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_with_bytes_changed_is_taken_or_rejected_and_never_fails(ours: Client, data: st.DataObject) -> None:
    address = ours.create("rnn", fresh())
    whole = bytearray(state(ours, address))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    answer = put_state(ours, address, bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert answer.status in (200, 400, 409, 422), answer.body
    held(ours, address)


def test_a_state_that_has_grown_too_large_is_rejected(ours: Client) -> None:
    address = ours.create("window", fresh())
    for rows, status in ((100, 200), (501, 422)):
        answer = put_state(ours, address, save({"seen": np.ones((rows, 2), np.float32)}))
        answer.expect(status)


def test_a_body_is_called_what_it_is(ours: Client) -> None:
    address = ours.create("rnn", fresh())
    data = state(ours, address)
    said = {"Content-Type": "application/json"}
    problem(ours.request("PUT", f"{address}/state", data, said), 415)
    ours.request("PUT", f"{address}/state", data, {"Content-Type": "application/vnd.safetensors"}).expect()


def test_of_an_unknown_session_there_is_no_state(ours: Client) -> None:
    problem(ours.get(f"{SESSIONS}/{fresh()}/state"), 404)
    address = ours.create("rnn", fresh())
    data = state(ours, address)
    ours.delete(address)
    problem(ours.get(f"{address}/state"), 410)
    put_state(ours, address, data).expect()
    assert ours.step(address, [ROW])["step"] == 1
