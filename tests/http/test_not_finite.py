"""Numbers that are not finite: rejected in whatever a client sends, and null in JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.support.calls import fresh, held, put_state
from tests.support.client import Client, Response, problem, sentence
from tests.support.open_inference import HEADER_LENGTH, described
from tests.support.own_cases import CASES, DTYPES, Case, same_axes
from tests.support.service import Service
from tests.support.sources import own_models

FLOATS = ("FP16", "BF16", "FP32", "FP64")
VALUES = {"nan": float("nan"), "inf": float("inf"), "minus inf": float("-inf")}
JSON = {"nan": "NaN", "inf": "1e999", "minus inf": "-1e999"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A connection to a service of `leak-…`, (T, 1, 2), in each floating datatype, and of a model that divides."""
    models = tmp_path_factory.mktemp("not-finite") / "models"
    for datatype in FLOATS:
        CASES[f"leak-{datatype.lower()}"].write(models, f"leak-{datatype.lower()}")
        dtype = str(DTYPES[datatype]).removeprefix("torch.")
        axes = same_axes("[-1]").replace("FP32", datatype)
        Case(own_models.Inverse, f'{axes}arguments.dtype = "{dtype}"').write(models, f"inverse-{datatype.lower()}")
    Case(own_models.Logarithm, same_axes("[-1]")).write(models, "logarithm")
    with Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=models) as service, service.client() as client:
        yield client


@dataclass(frozen=True)
class Sent:
    """One call with a number that is not finite: to a model, its session, the number by name, and its datatype."""

    client: Client
    model: str
    session: str
    what: str
    datatype: str

    @property
    def instances(self) -> bytes:
        return b"[[0, %s]]" % JSON[self.what].encode()

    @property
    def data(self) -> bytes:
        tensor = torch.tensor([0, VALUES[self.what]], dtype=DTYPES[self.datatype])
        return tensor.view(torch.uint8).numpy().tobytes()

    def post(self, path: str, body: bytes, **headers: str) -> Response:
        return self.client.request("POST", path, body, {"Content-Type": "application/json"} | headers)

    def infer(self, data: bytes | None, **parameters: Any) -> Response:
        """`data` None: in JSON."""
        tensor = described([0, 0], [1, 1, 2], self.datatype)
        if data is None:
            body = json.dumps({"inputs": [tensor], "parameters": parameters}).replace(
                "[0, 0]", f"[0,{JSON[self.what]}]"
            )
            return self.post(f"/v2/models/{self.model}/infer", body.encode())
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        return self.post(f"/v2/models/{self.model}/infer", head + data, **{HEADER_LENGTH: str(len(head))})


WAYS: dict[str, Callable[[Sent], Response]] = {
    "predict": lambda sent: sent.post(f"/v1/models/{sent.model}:predict", b'{"instances":%s}' % sent.instances),
    "step": lambda sent: sent.post(f"{sent.session}:predict", b'{"instances":%s}' % sent.instances),
    "infer in JSON": lambda sent: sent.infer(None),
    "infer in binary": lambda sent: sent.infer(sent.data),
    "a sequence in JSON": lambda sent: sent.infer(None, sequence_id=fresh(), sequence_start=True),
    "a sequence in binary": lambda sent: sent.infer(sent.data, sequence_id=fresh(), sequence_start=True),
    "raw": lambda sent: sent.post(f"/v2/models/{sent.model}/infer", sent.data, **{HEADER_LENGTH: "0"}),
}


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_an_input_that_is_not_finite_is_rejected(client: Client, way: str, what: str, datatype: str) -> None:
    model = f"leak-{datatype.lower()}"
    session = client.create(model)
    said = problem(WAYS[way](Sent(client, model, session, what, datatype)), 400)
    # JSON has no word for NaN; what is too large for the datatype is named as it was sent.
    assert "not JSON" in said or "is not JSON" in said or f"not a finite {datatype} number" in said, said
    assert client.step_of(session) == 0


@pytest.mark.parametrize("what", VALUES)
def test_in_a_stream_and_in_a_call_for_many_the_session_says_so(client: Client, what: str) -> None:
    session = client.create("leak-fp32")
    name = session.rpartition("/")[2]
    number = JSON[what].encode()
    line = client.request(
        "POST", f"{session}:stream", b'{"instances":[[0,%s]]}\n' % number, {"Content-Type": "application/x-ndjson"}
    )
    assert json.loads(line.body)["status"] == 400
    body = b'{"sessions":{"%s":[[0,%s]]}}' % (name.encode(), number)
    answer = client.request("POST", "/v1/models/leak-fp32/sessions:predict", body, {"Content-Type": "application/json"})
    if answer.status == 400:
        assert what == "nan"  # not JSON at all
    else:
        assert "finite" in sentence(answer.expect()["sessions"][name], 400)
    assert client.step_of(session) == 0


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("what", VALUES)
def test_a_state_that_is_not_finite_is_rejected(client: Client, what: str, datatype: str) -> None:
    session = client.create(f"leak-{datatype.lower()}")
    level = torch.tensor([[0, VALUES[what]]], dtype=DTYPES[datatype])
    assert "'level' holds NaN or an infinity" in problem(put_state(client, session, save({"level": level})), 422)
    assert client.step_of(session) == 0


def test_a_step_that_would_make_the_state_infinite_is_rejected(client: Client) -> None:
    session = client.create("leak-fp32")
    client.step(session, [[3e38, 0]])
    before = held(client, session)
    assert "'level' NaN or infinite" in problem(client.post(f"{session}:predict", {"instances": [[3e38, 0]]}), 422)
    assert held(client, session) == before


@pytest.mark.parametrize("datatype", FLOATS)
def test_an_output_that_is_not_finite_is_null_in_json_and_itself_in_binary(client: Client, datatype: str) -> None:
    model = f"inverse-{datatype.lower()}"
    assert client.predict(model, [0, 1]) == [None, 1]
    infer = f"/v2/models/{model}/infer"
    body: dict[str, Any] = {"inputs": [described([0, 1], [2], datatype)]}
    assert client.post(infer, body).expect()["outputs"][0]["data"] == [None, 1]
    body["parameters"] = {"binary_data_output": True}
    answer = client.post(infer, body)
    data = answer.body[int(answer.headers[HEADER_LENGTH]) :]
    found = torch.frombuffer(bytearray(data), dtype=DTYPES[datatype])
    assert found.tolist() == [np.inf, 1]
    body["outputs"] = [{"name": "y", "parameters": {"classification": 2, "binary_data": False}}]
    assert client.post(infer, body).expect()["outputs"][0]["data"] == ["inf:0", "1.0:1"]


def test_not_a_number_is_the_last_of_the_classes(client: Client) -> None:
    given = {"name": "x", "datatype": "FP32", "shape": [4], "data": [-1, 4, 0, 1]}
    name = client.get("/v2/models/logarithm").expect()["outputs"][0]["name"]
    wanted = {"name": name, "parameters": {"classification": 4}}
    (output,) = client.post("/v2/models/logarithm/infer", {"inputs": [given], "outputs": [wanted]}).expect()["outputs"]
    assert [text.split(":")[1] for text in output["data"]] == ["1", "3", "2", "0"]
    assert output["data"][3].startswith("nan:")
