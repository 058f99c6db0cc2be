"""Inference only reads the frozen buffers, and what a row gets does not depend on who else asks."""

from hashlib import sha256
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.support.client import Client
from tests.support.repository import batchnorm
from tests.support.service import Service
from tests.support.waiting import together


def digests(client: Client, model: str) -> dict[str, str]:
    return {buffer["name"]: buffer["sha256"] for buffer in client.get(f"/v1/models/{model}").expect()["frozen_buffers"]}


@pytest.mark.parametrize(("model", "features"), [("digits-batchnorm", 64), ("batchnorm", 3), ("library", 3)])
def test_frozen_buffers_are_the_same_after_ten_thousand_predictions(
    service: Service, model: str, features: int
) -> None:
    with service.one_client_a_worker() as clients:
        before = [digests(client, model) for client in clients]
        assert before[0]
        assert all(len(bytes.fromhex(digest)) == 32 for digest in before[0].values())
        assert before == [before[0]] * len(clients)
        rows = (torch.randn(100, features) * 10 + 5).tolist()
        made = 0
        while made < 10_000:
            for client in clients:
                made += len(client.predict(model, rows))
                made += len(client.predict(model, rows[:1]))
        assert [digests(client, model) for client in clients] == before


def test_the_digest_is_that_of_the_checkpoint(client: Client) -> None:
    module = batchnorm()
    assert digests(client, "batchnorm") == {
        name: sha256(buffer.numpy().tobytes()).hexdigest() for name, buffer in module.named_buffers()
    }


def probabilities(answers: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([answer["probabilities"] for answer in answers])


def test_a_prediction_does_not_depend_on_its_neighbours_in_the_call(client: Client) -> None:
    rows = (torch.rand(40, 64) * 16).tolist()
    together_ = probabilities(client.predict("digits-batchnorm", rows))
    reversed_ = probabilities(client.predict("digits-batchnorm", rows[::-1])).flip(0)
    alone = torch.cat([probabilities(client.predict("digits-batchnorm", [row])) for row in rows])
    assert_close(together_, alone, rtol=0, atol=1e-5)
    assert_close(reversed_, alone, rtol=0, atol=1e-5)


def test_a_prediction_does_not_depend_on_who_asks_at_the_same_time(service: Service) -> None:
    row = (torch.rand(64) * 16).tolist()
    wild = (torch.rand(30, 64) * 1e4 - 5e3).tolist()
    with service.client() as client:
        expected = probabilities(client.predict("digits-batchnorm", [row]))

    def ask(number: int) -> torch.Tensor:
        with service.client() as client:
            if number % 2:
                for size in range(40):
                    client.predict("digits-batchnorm", wild[: 1 + size % 30])
                return expected
            return torch.cat([probabilities(client.predict("digits-batchnorm", [row])) for _ in range(40)])

    for answers in together(ask, list(range(12))):
        assert_close(answers, expected.expand_as(answers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [101, -101], ids=["written", "rebound"])
def test_a_write_to_a_frozen_buffer_fails_clearly_and_is_undone(service: Service, value: int) -> None:
    with service.one_client_a_worker() as clients:
        before = digests(clients[0], "writes-frozen")
        address = clients[0].create("writes-frozen")
        for client in clients:
            assert client.step(address, [3])["predictions"] == [[6.0]]
        for client in clients:
            for path in (address, "/v1/models/writes-frozen"):
                text = client.post(f"{path}:predict", {"instances": [value]}).expect(500)["detail"]
                assert "'scale'" in text
                assert "frozen" in text
            assert digests(client, "writes-frozen") == before
            assert client.predict("writes-frozen", [3]) == [[6.0]]
            assert client.step_of(address) == len(clients)
        assert clients[0].step(address, [3])["step"] == len(clients) + 1


def test_a_write_to_a_frozen_buffer_does_not_reach_who_asks_at_the_same_time(service: Service) -> None:
    def ask(number: int) -> None:
        with service.client() as client:
            for _ in range(15):
                if number % 4 == 0:
                    client.post("/v1/models/writes-frozen:predict", {"instances": [101]}).expect(500)
                else:
                    assert client.predict("writes-frozen", [number]) == [[2.0 * number]]

    together(ask, list(range(12)))
