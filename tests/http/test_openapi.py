"""The OpenAPI document describes every operation, and every response is as it says."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from carryover.api.routes import ROUTES
from tests.support.client import JSON, NDJSON, Client, Response
from tests.support.connections import Wire, request_bytes
from tests.support.sockets import UPGRADE

ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = {"instances": [ROW]}
INFER = {"inputs": [{"name": "rows", "shape": [1, 1, 8], "datatype": "FP32", "data": ROW}]}
OCTETS = "application/octet-stream"
KEYED = {"Idempotency-Key": "openapi"}
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(service: Any) -> Document:
    with service.client() as client:
        found: Document = client.get("/openapi.json").expect()
    return found


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_it_is_a_valid_document(document: Document) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] for _, _, operation in operations(document))


def test_it_has_every_route_and_no_other(document: Document) -> None:
    expected = {(route.method, path.removesuffix("/") or "/") for route in ROUTES for path in route.templates()}
    assert {(method, path) for method, path, _ in operations(document)} == expected


def test_names_are_patterns(document: Document) -> None:
    for _, path, operation in operations(document):
        named = {p["name"]: p["schema"].get("pattern") for p in operation["parameters"] if p.get("in") == "path"}
        assert set(named) == set(re.findall(r"\{(\w+)\}", path))
        if {"file", "asset"} & set(named):  # one of few
            continue
        for name, pattern in named.items():
            assert re.search(pattern, "1")
            for wrong in ("", "a/b", "a b", "é", "a" * 129):
                assert not re.search(pattern, wrong), (name, wrong)
    create = document["components"]["schemas"]["CreateSession"]["properties"]["session"]["anyOf"][0]
    assert re.search(create["pattern"], "a~b")
    assert not re.search(create["pattern"], "..")


EXEMPLARY = (
    "v1_models_predict",
    "v1_sessions_create",
    "v1_sessions_predict",
    "v1_sessions_predict_many",
    "v2_infer_infer",
)
"""Operations whose requests depend on the model, in an order in which they succeed."""


def test_the_examples_are_requests_that_succeed(document: Document, client: Client) -> None:
    by_id = {operation["operationId"]: (path, operation) for _, path, operation in operations(document)}
    tried = 0
    for name in EXEMPLARY:
        path, operation = by_id[name]
        for example, body in operation["requestBody"]["content"][JSON]["examples"].items():
            of_path = {p["name"]: p for p in operation["parameters"] if p.get("in") == "path"}
            model = of_path["model"]["examples"][example]["value"]
            filled = path.format(model=model, session=of_path.get("session", {}).get("example"))
            response = client.post(filled, body["value"])
            taken = name == "v1_sessions_create" and response.status == 409
            assert taken or response.status in (200, 201), (filled, body, response.body)
            tried += 1
    assert tried >= len(EXEMPLARY) * 2
    models = {model["name"] for model in client.get("/v1/models").expect()["models"]}
    assert set(by_id["v1_models_predict"][1]["requestBody"]["content"][JSON]["examples"]) <= models


def test_links_name_operations_and_their_parameters(document: Document) -> None:
    parameters = {
        operation["operationId"]: {p["name"] for p in operation["parameters"] if p.get("in") == "path"}
        for _, _, operation in operations(document)
    }
    links = [
        link
        for _, _, operation in operations(document)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) > 20
    for link in links:
        assert set(link["parameters"]) == parameters[link["operationId"]]


def operation_of(document: Document, method: str, path: str) -> dict[str, Any]:
    """The operation that a request is, by the document's own patterns; a fixed path goes before one with a name."""
    for template in sorted(document["paths"], key=lambda template: template.count("{")):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/:]+", re.escape(template))
        item = document["paths"][template]
        if re.fullmatch(pattern, path) and method.lower() in item:
            operation: dict[str, Any] = item[method.lower()]
            return operation
    raise AssertionError(f"no operation for {method} {path}")


def check(document: Document, method: str, response: Response) -> str:
    """Check a response against its operation, and return the operation's id."""
    operation = operation_of(document, method, response.path.partition("?")[0])
    described = operation["responses"].get(str(response.status))
    assert described is not None, (operation["operationId"], response.status, response.body)
    for header in ("ETag", "Location", "Idempotency-Replayed", "Retry-After", "X-Request-ID"):
        if header in response.headers:
            assert header in described["headers"], (operation["operationId"], response.status, header)
    if response.headers["Content-Type"] is None:
        assert "content" not in described or not response.body
    else:
        schema = described["content"][response.headers["Content-Type"]].get("schema")
        if schema is not None and response.headers.get_content_maintype() != "text":
            validator = Draft202012Validator(schema | {"components": document["components"]})
            for line in response.body.splitlines() or [b""]:
                validator.validate(json.loads(line))
    found: str = operation["operationId"]
    return found


def requests(model: str, session: str, version: str) -> Iterator[tuple[str, str, Any, dict[str, str]]]:
    """Requests to every operation but those that reload the workers: method, path, body and headers."""
    v1, v2 = f"/v1/models/{model}{version}", f"/v2/models/{model}{version}"
    path = f"{v1}/sessions/{session}"
    yield "POST", f"{v1}/sessions", {"session": session}, {}
    yield "POST", f"{v1}/sessions", {"session": session}, {}
    yield "GET", path, None, {}
    yield "GET", path, None, {"If-Match": '"77"'}
    for _ in range(2):
        yield "POST", f"{path}:predict", STEP, KEYED
    yield "POST", f"{path}:predict", STEP, {"If-Match": '"77"'}
    yield "POST", f"{path}:predict", {"instances": "a"}, KEYED
    yield "POST", f"{path}:predict", STEP, {"Content-Type": "text/plain"}
    yield "POST", f"{path}:stream", b'{"instances":[[0,0,7,15,13,1,0,0]]}\n{"instances":1}\n', {"Content-Type": NDJSON}
    yield "POST", f"{v1}/sessions:predict", {"sessions": {session: [ROW], "none-such": [ROW]}}, {}
    yield "POST", f"{path}:fork", {}, {}
    yield "POST", f"{path}:reset", None, {}
    yield "GET", f"{path}/state", None, {}
    yield "PUT", f"{path}/state", b"no file", {"Content-Type": OCTETS}
    yield "DELETE", path, None, {}
    yield "DELETE", path, None, {}
    yield "GET", path, None, {}
    yield "POST", f"{v1}:predict", STEP, {}
    yield "POST", f"{v1}:predict", STEP, {"X-Request-ID": "mine"}
    yield "GET", v1, None, {}
    for parameters in ({}, {"sequence_id": "openapi", "sequence_start": True}, {"sequence_id": 7}):
        yield "POST", f"{v2}/infer", INFER | {"parameters": parameters}, {}
        yield "POST", f"{v2}/infer", INFER | {"parameters": parameters, "outputs": [{"name": "none"}]}, {}
    for suffix in ("", "/ready", "/config", "/stats"):
        yield "GET", f"{v2}{suffix}", None, {}


OTHERS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/v1/models", None, {}),
    ("GET", "/v1/models/digits-rnn/sessions?limit=1", None, {}),
    ("GET", "/v1/models/digits-rnn/sessions?limit=0", None, {}),
    ("GET", "/v1/models/none-such/sessions", None, {}),
    ("GET", "/v1/models/digits-rnn/sessions:count?prefix=a", None, {}),
    ("GET", "/v1/models/digits-rnn/sessions:count?cursor=a", None, {}),
    ("DELETE", "/v1/models/digits-rnn/sessions?prefix=openapi-none", None, {}),
    ("DELETE", "/v1/models/digits-rnn/sessions", None, {}),
    ("GET", "/v1/accumulators:count", None, {}),
    ("DELETE", "/v1/accumulators?prefix=openapi-none", None, {}),
    ("GET", "/v1/accumulators", None, {}),
    ("POST", "/v1/accumulators/openapi", {"values": [1, 2]}, {}),
    ("POST", "/v1/accumulators/openapi", {"values": []}, {}),
    ("GET", "/v1/accumulators/openapi", None, {}),
    ("DELETE", "/v1/accumulators/openapi", None, {}),
    ("GET", "/v1/accumulators/openapi", None, {}),
    ("GET", "/", None, {}),
    ("GET", "/", None, {"Accept": "text/html"}),
    ("GET", "/playground/page.js", None, {}),
    ("GET", "/playground/page.js", None, {"If-None-Match": "*"}),
    ("GET", "/playground/none-such.js", None, {}),
    ("GET", "/v2/health/live", None, {}),
    ("GET", "/v2/health/ready", None, {}),
    ("GET", "/v2", None, {}),
    ("GET", "/v2/models/stats", None, {}),
    ("POST", "/v2/repository/index", {"ready": True}, {}),
    ("POST", "/v2/repository/index", b"[", {}),
    ("POST", "/v2/repository/models/digits-rnn/unload", {}, {}),
    ("POST", "/v2/repository/models/digits-rnn/load", {"parameters": {"config": "{}"}}, {}),
    ("POST", "/v2/repository/models/none-such/load", {}, {}),
    ("GET", "/metrics", None, {}),
    ("GET", "/openapi.json", None, {}),
    ("GET", "/docs", None, {}),
    ("GET", "/docs/start.js", None, {}),
    ("GET", "/docs/none-such.js", None, {}),
]
"""Requests to the operations that are of no model, and those to the repository that change nothing."""


def test_every_response_is_as_the_document_says(document: Document, client: Client) -> None:
    succeeded = set[str]()
    every = [
        *requests("digits-rnn", "openapi", ""),
        *requests("digits-rnn", "openapi-1", "/versions/1"),
        *requests("none-such", "openapi", ""),
        *requests("digits-batchnorm", "openapi", ""),
        *OTHERS,
    ]
    for method, path, body, headers in every:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        response = client.request(method, path, data, ({} if data is None else {"Content-Type": JSON}) | headers)
        operation = check(document, method, response)
        if response.status < 300:
            succeeded.add(operation)
    for version in ("", "/versions/1"):  # those whose responses go on
        path = client.create("digits-rnn").replace("/sessions", f"{version}/sessions")
        for target, headers in ((f"{path}:stream", UPGRADE), (f"{path}/events", {}), (f"{path}:stream", {})):
            wire = Wire(client.port)
            wire.send(request_bytes("GET", target, headers))
            status, found = wire.head()
            body = wire.body(found) if status >= 400 else b""
            operation = check(document, "GET", Response(status, found, body, target))
            succeeded |= {operation} if status < 400 else set()
            wire.close()
    state = client.request("GET", f"{client.create('digits-rnn')}/state")
    put = client.request("PUT", "/v1/models/digits-rnn/sessions/put/state", state.body, {"Content-Type": OCTETS})
    put_1 = client.request(
        "PUT", "/v1/models/digits-rnn/versions/1/sessions/put-1/state", state.body, {"Content-Type": OCTETS}
    )
    succeeded |= {check(document, "PUT", put), check(document, "PUT", put_1)}
    never = {operation["operationId"] for _, _, operation in operations(document)} - succeeded
    # Those reload the workers that other tests use.
    assert never == {"v2_repository_load", "v2_repository_unload"}
