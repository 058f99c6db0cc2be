"""What a forward leaves behind outside its state is put back: no call sees anything of another's."""

from collections.abc import Iterator
from typing import Any

import pytest

from carryover.runtime.repository import load_model
from tests.support.client import Client, problem
from tests.support.own_cases import Case, same_axes
from tests.support.player import Player
from tests.support.service import Service
from tests.support.sources import own_models

AXES = same_axes("[-1]")
KINDS = [name.removeprefix("keep_") for name in vars(own_models.Keeping) if name.startswith("keep_")]
CASES = {
    **{kind: Case(own_models.Keeping, f'{AXES}arguments.kind = "{kind}"') for kind in KINDS},
    "membrane": Case(own_models.Membrane, same_axes("[1, 6]")),
    "normalize-until": Case(own_models.NormalizeUntil, same_axes("[-1, 3]")),
    "filling": Case(own_models.Filling, AXES),
    "locked": Case(own_models.Locked, AXES),
    "enabling": Case(own_models.Enabling, AXES),
    "seeding": Case(own_models.Seeding, AXES),
    "drawing": Case(own_models.Drawing, AXES.replace("[-1]", "[3]")),
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """A connection to each of two workers."""
    repository = tmp_path_factory.mktemp("attributes") / "models"
    for name, case in CASES.items():
        case.write(repository, name)
    with (
        Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository) as service,
        service.one_client_a_worker() as clients,
    ):
        yield clients


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_call_keeps_no_other_sees(clients: list[Client], kind: str) -> None:
    for client in clients:
        expected = client.predict(kind, [1, 2])
        with_it = [client.post(f"/v1/models/{kind}:predict", {"instances": [100, 7]}) for _ in range(2)]
        assert with_it[0].status == with_it[1].status == (422 if kind == "no_attribute" else 200)
        one, other = (response.json | {"request_id": None} for response in with_it)
        assert one == other
        assert client.predict(kind, [1, 2]) == expected


def test_identical_requests_get_identical_spikes(clients: list[Client]) -> None:
    for client in clients:
        assert [client.predict("membrane", [[1.5] * 6]) for _ in range(5)] == [[[[0] * 6]]] * 5
        assert client.predict("membrane", [[2.5] * 6]) == [[[1] * 6]]


def test_what_is_computed_from_the_state_belongs_to_the_session(clients: list[Client]) -> None:
    """From the ninth row on, each session has a scale in an attribute."""
    one, other = clients
    players = [Player("normalize-until", seed=seed, case=CASES["normalize-until"]) for seed in range(3)]
    addresses = [one.create("normalize-until") for _ in players]
    for client in (one, other, other, one, one, other, one, other, other, one, one, other):
        for player, address in zip(players, addresses, strict=True):
            player.step(client, address)


def test_a_change_that_cannot_be_put_back_fails_and_says_what_to_write(clients: list[Client]) -> None:
    client, _ = clients
    assert client.predict("locked", [1]) == [1]
    for value in (100, 1):
        answer = client.post("/v1/models/locked:predict", {"instances": [value]})
        assert problem(answer, 500) == (
            "forward changed the attribute 'table', which cannot be put back; what is to change belongs in a buffer "
            "(register_buffer)"
        )


def test_a_mode_or_datatype_of_torch_is_not_left_behind(clients: list[Client]) -> None:
    for client in clients:
        assert [client.predict("enabling", [0]) for _ in range(3)] == [[0]] * 3


def test_seeding_is_no_concern_of_other_models_and_workers(clients: list[Client]) -> None:
    drawn: list[list[Any]] = []
    for client in clients:
        for _ in range(3):
            client.predict("seeding", [7])
            drawn.append(client.predict("drawing", [[1, 1, 1]])[0])
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == len(drawn), numbers


def test_what_every_first_call_fills_in_alike_is_kept(clients: list[Client], tmp_path: Any) -> None:
    for client in clients:
        assert [client.predict("filling", [2]) for _ in range(3)] == [[2]] * 3
    version = load_model(CASES["filling"].write(tmp_path, "filling")).default
    assert version.forward.attributes is not None
    assert version.forward.attributes.restored == ["calls"]
    assert version.forward.module.notes is not None
