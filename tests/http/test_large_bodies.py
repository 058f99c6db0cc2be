"""A large request gets what small ones get, though it is read, run and encoded in parts and in other threads."""

from tests.support.calls import REPLAYED, fresh, post
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


def test_what_is_not_rectangular_is_said_of_its_place(client: Client) -> None:
    rows = [[1.0, 2.0, 3.0]] * 30_000
    rows[20_000] = [1.0]
    said = problem(client.post("/v1/models/rnn:predict", {"instances": rows}), 400)
    assert "instances[20000] has 1 elements where its neighbours have 3" in said


def test_of_an_accumulator(client: Client) -> None:
    for nested in (VALUES, [VALUES[:3], [VALUES[3:]]], [[value] for value in VALUES]):
        totals = client.post(f"/v1/accumulators/{fresh()}", {"values": nested}).expect()
        assert (totals["sum"], totals["count"], totals["maximum"]) == (sum(VALUES), COUNT, 999.0)
    said = problem(client.post("/v1/accumulators/large", {"values": [*VALUES, None]}), 400)
    assert f"values[{COUNT}]" in said


def test_of_infer_with_several_forms_of_data(client: Client) -> None:
    def tensor(data: object, shape: list[int]) -> object:
        return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}

    flat = client.post("/v2/models/identity-fp32-0/infer", tensor(VALUES, [COUNT])).expect()
    assert flat["outputs"][0]["data"] == VALUES
    said = problem(client.post("/v2/models/identity-fp32-0/infer", tensor(VALUES, [COUNT - 1])), 400)
    assert "does not match" in said
    said = problem(client.post("/v2/models/identity-fp32-0/infer", tensor([*VALUES[1:], "x"], [COUNT])), 400)
    assert f"inputs[0].data[{COUNT - 1}]" in said
