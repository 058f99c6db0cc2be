"""A large request gets what small ones get, though it is read, run and encoded in parts and in other threads."""

from tests.support.calls import REPLAYED, post
from tests.support.client import Client, problem

COUNT = 100_003
"""Elements that are more than one part, and no whole number of parts."""
VALUES = [float(number % 1000) for number in range(COUNT)]


def test_of_predict(client: Client) -> None:
    assert client.predict("identity-fp32-0", VALUES) == VALUES


def test_of_infer(client: Client) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [COUNT], "data": VALUES}
    (output,) = client.post("/v2/models/identity-fp32-0/infer", {"inputs": [tensor]}).expect()["outputs"]
    assert (output["shape"], output["data"]) == ([COUNT], VALUES)


def test_of_labels(client: Client) -> None:
    rows = [[number % 16] * 64 for number in range(7000)]
    large = client.predict("digits-batchnorm", rows)
    small = client.predict("digits-batchnorm", rows[:16])
    assert len(large) == len(rows)
    assert [entry["label"] for entry in large] == [small[number % 16]["label"] for number in range(len(rows))]


def test_of_a_step_and_its_retry(client: Client) -> None:
    path, body = f"{client.create('rnn')}:predict", {"instances": [[1.0, 2.0, 3.0]] * 15_000}
    first = post(client, path, body, key="large")
    assert len(first.expect()["predictions"]) == 15_000
    again = post(client, path, body, key="large")
    assert (again.body, again.headers[REPLAYED]) == (first.body, "true")
    assert client.step_of(path.removesuffix(":predict")) == 1


def test_what_is_wrong_is_said_of_its_place(client: Client) -> None:
    values = [*VALUES[:-1], "x"]
    assert f"instances[{COUNT - 1}]" in problem(
        client.post("/v1/models/identity-fp32-0:predict", {"instances": values}), 400
    )
