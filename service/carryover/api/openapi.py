"""The interface as an OpenAPI 3.1 document, made from the route table and the types of its bodies."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from http import HTTPStatus
from inspect import getdoc
from typing import Any, Literal

from pydantic import TypeAdapter

from carryover import __version__, errors
from carryover.api import auth, conditions, examples, names, paging, problems, rates, request_ids
from carryover.api.examples import Example
from carryover.api.json import encode
from carryover.api.pages import docs, playground
from carryover.api.problems import Problem
from carryover.api.response import JSON, NDJSON
from carryover.api.route import Route, Scope
from carryover.api.v1 import events
from carryover.api.v1 import schemas as v1
from carryover.api.v2 import schemas as v2
from carryover.keys import NAME
from carryover.runtime.manifest import MODEL_NAME
from carryover.runtime.repository import Repository

Schema = dict[str, Any]
_Key = tuple[Any, Literal["validation", "serialization"]]

_ANY = (errors.CarryoverError, errors.UnavailableError)
_ANY_BODY = (
    errors.InvalidInputError, errors.SlowClientError, errors.BodyTooLargeError, errors.MediaTypeError,
)  # fmt: skip
"""What any route raises that reads a body."""
_UNAUTHORIZED = (errors.UnauthorizedError, errors.ForbiddenError, errors.RateLimitedError)
"""What any route raises that may need an API key."""
_RETRY = frozenset(
    (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
)
_NAME = {"type": "string", "pattern": names.PATTERN, "maxLength": names.MAX_LENGTH}
_PARAMETERS: dict[str, tuple[str, Schema]] = {
    "model": ("The name of a model.", {"type": "string", "pattern": f"^{MODEL_NAME}$"}),
    "version": ("The number of a version.", {"type": "string", "pattern": "^[0-9]+$"}),
    "session": ("The name of a session.", _NAME),
    "name": ("The name of an accumulator.", _NAME),
    "file": ("The name of a file.", {"enum": list(docs.FILES)}),
    "asset": ("The name of a file.", {"enum": list(playground.FILES)}),
}
_ETAG = {"type": "string", "pattern": '^(W/)?"[0-9a-f]+"$'}
_HEADERS: dict[str, Schema] = {
    request_ids.HEADER: {"description": "The id of the request.", "schema": {"type": "string"}},
    "ETag": {"description": "The session's step; of a file, a digest.", "schema": _ETAG},
    "Location": {"description": "The path of what was created.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {"description": "The response is that of an earlier request.", "schema": {"const": "true"}},
    rates.POLICY: {
        "description": "The rate of the API key: `q` requests in `w` seconds.",
        "schema": {"type": "string"},
    },
    rates.LEFT: {
        "description": "`r` requests are left now, and all are again in `t` seconds.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to retry.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}

_SCHEMES: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": auth.HEADER,
        "description": "The same, where Authorization is used.",
    },
}
_SESSION = "example"
"""The name of the session, or the accumulator, in examples."""
_NAMES = re.compile(r"\{(\w+)\}")
_BODIES: dict[Any, Callable[[Any], Any]] = {
    v1.Predict: lambda one: {"instances": one.instances},
    v1.Line: lambda one: {"instances": one.instances},
    v1.PredictMany: lambda one: {"sessions": {_SESSION: one.instances}},
    v1.CreateSession: lambda _: {"session": _SESSION, "ttl": 600},
    v1.Accumulate: lambda _: {"values": [1, 2, 3]},
    v2.Infer: lambda one: {"inputs": one.inputs},
}
"""What the bodies of requests are in examples."""
_OPTIONAL = (Scope.HEALTH, Scope.METRICS)
"""Scopes of routes that a setting may exempt."""


@lru_cache(1)
def document(routes: tuple[Route, ...], repository: Repository, *, keyed: bool) -> bytes:
    """Return the document, as JSON, with examples for the models of `repository`; `keyed`: there are API keys."""
    schemas, known = _Schemas(routes), examples.of(repository)
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        for path, suffix in _paths(route):
            operation = _operation(route, path, suffix, schemas)
            if route.scope is Scope.ADMIN or (keyed and route.scope is Scope.SESSIONS):
                operation["parameters"].append(_reference(auth.PARAMETER))
            operation["security"] = _security(route, keyed=keyed)
            _add_examples(route, path, operation, known)
            for status, response in operation["responses"].items():
                if int(status) in route.responses and (links := _links(route, path, routes)):
                    response["links"] = links
            paths.setdefault(path, {})[route.method.lower()] = operation
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Carryover",
                "version": __version__,
                "summary": "A REST inference service for stateful PyTorch models.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": schemas.definitions,
                "headers": _HEADERS,
                "parameters": dict(_shared_parameters()),
                "securitySchemes": _SCHEMES,
            },
        }
    )


class _Schemas:
    """The JSON schemas of all bodies: what they share is in `definitions`."""

    def __init__(self, routes: Sequence[Route]) -> None:
        kinds: set[_Key] = {(Problem, "serialization")}
        kinds |= {(route.body, "validation") for route in routes}
        kinds |= {(kind, "serialization") for route in routes for kind in route.responses.values()}
        adapters = {key: TypeAdapter(key[0]) for key in kinds if key[0] not in (None, bytes, str, dict)}
        self._found, self._rest = TypeAdapter.json_schemas(
            [(key, key[1], adapter) for key, adapter in adapters.items()], ref_template="#/components/schemas/{model}"
        )
        self.definitions: Schema = self._rest.get("$defs", {})

    def of(self, kind: Any, mode: Literal["validation", "serialization"]) -> Schema:
        """Return the schema of a body."""
        if kind is bytes:
            return {}
        if kind in (str, dict):
            return {"type": "string" if kind is str else "object"}
        return dict(self._found[(kind, mode), mode])


def _paths(route: Route) -> Iterator[tuple[str, str]]:
    """Yield a route's paths, each with what makes the operation's id another one."""
    for path in route.templates():
        if path == route.template:
            yield path, ""
        elif path.count("{") > route.template.count("{"):  # not one that only ends in a slash
            yield path, "_of_version"


def _id(route: Route, suffix: str) -> str:
    return route.name.replace(".", "_") + suffix


def _operation(route: Route, path: str, suffix: str, schemas: _Schemas) -> Schema:
    doc = (getdoc(route.handler) or "").split("\n\n")
    operation: Schema = {
        "operationId": _id(route, suffix),
        "summary": doc[0].rstrip("."),
        "tags": [route.name.rpartition(".")[0]],
        "parameters": [*_path_parameters(path), *_references(route)],
    }
    if doc[1:]:
        operation["description"] = "\n\n".join(doc[1:])
    if route.body is not None:
        schema = schemas.of(route.body, "validation")
        content = {kind: {"schema": schema} if kind in (JSON, NDJSON) else {} for kind in route.accepts}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    operation["responses"] = {**_successes(route, schemas), **_errors(route, path, schemas)}
    return operation


def _security(route: Route, *, keyed: bool) -> list[Schema]:
    if route.scope is Scope.OPEN:
        return []
    schemes: list[Schema] = [{name: []} for name in _SCHEMES]
    return schemes if keyed and route.scope not in _OPTIONAL else [{}, *schemes]


def _path_parameters(path: str) -> Iterator[Schema]:
    for name, (description, schema) in _PARAMETERS.items():
        if f"{{{name}}}" in path:
            yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _references(route: Route) -> list[Schema]:
    used = [request_ids.HEADER]
    if _has_step(route):
        used.append("If-Match")
    if route.changes:
        used += ["If-None-Match", "migrate", *([] if route.streams else ["Idempotency-Key"])]
    used += ["create"] if route.creates else []
    used += route.query
    return [_reference(name) for name in used]


def _reference(parameter: str) -> Schema:
    return {"$ref": f"#/components/parameters/{parameter}"}


def _has_step(route: Route) -> bool:
    """Whether a route is about a session, whose step can be asked for and is returned."""
    return route.changes or (route.method == "GET" and route.scope is Scope.SESSIONS)


def _shared_parameters() -> Iterator[tuple[str, Schema]]:
    key = {"type": "string", "minLength": 1, "maxLength": conditions.MAX_KEY_LENGTH, "pattern": "^[ -~]+$"}
    flag = {"type": "boolean", "default": False}
    limit = {"type": "integer", "minimum": 1, "maximum": paging.MAX_LIMIT, "default": paging.DEFAULT_LIMIT}
    match = {"type": "string", "pattern": conditions.IF_MATCH}
    owner = {"type": "string", "pattern": f"^$|{NAME}"}
    start = {"type": "string", "pattern": f"^{paging.PREFIX}$"}
    event = {"type": "string", "pattern": f"^{events.ID.pattern}$"}
    yield "prefix-to-delete", {
        "name": "prefix", "in": "query", "required": True, "schema": start,
        "description": "What the names start with of those to delete; empty for all.",
    }  # fmt: skip
    for name, place, description, schema in (
        (request_ids.HEADER, "header", request_ids.DESCRIPTION, {"type": "string"}),
        ("If-Match", "header", 'The step that the session must be at, a list of them, or "*".', match),
        ("If-None-Match", "header", "The session must not exist.", {"const": "*"}),
        ("Idempotency-Key", "header", "A request with it is carried out once, however often it is sent.", key),
        ("prefix", "query", "What names start with.", start),
        (auth.PARAMETER, "query", "For administrators: the name of the key whose sessions they are.", owner),
        ("limit", "query", "About how many entries a page has.", limit),
        ("cursor", "query", "The `next` of the page before.", {"type": "string", "pattern": f"^{paging.CURSOR}$"}),
        ("create", "query", "Whether the session is created where it does not exist.", flag),
        ("if_match", "query", "If-Match, where no header can be sent.", match),
        ("if_none_match", "query", "If-None-Match, where no header can be sent.", {"const": "*"}),
        ("Last-Event-ID", "header", "The id of the last event that was read: the events go on after it.", event),
        ("state", "query", "Whether events hold the session's state.", flag),
        ("migrate", "query", "Whether the session moves to the current version where its own is not served.", flag),
    ):
        yield name, {"name": name, "in": place, "description": description, "schema": schema}


def _successes(route: Route, schemas: _Schemas) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for status, kind in route.responses.items():
        used = _common(route)
        cached = HTTPStatus.NOT_MODIFIED in route.responses
        if cached or (_has_step(route) and status != HTTPStatus.NO_CONTENT and not route.streams):
            used.append("ETag")
        if route.changes and not route.streams:
            used.append("Idempotency-Replayed")
        if status == HTTPStatus.CREATED:
            used.append("Location")
        found[str(status)] = _response(HTTPStatus(status).phrase, used)
        if kind is not None:
            schema = schemas.of(kind, "serialization")
            if NDJSON in route.returns:  # a line that fails has its problem as its response
                schema = {"anyOf": [schema, schemas.of(Problem, "serialization")]}
            media = {"schema": schema} if schema else {}
            plain = JSON not in route.returns
            found[str(status)]["content"] = {kind: media if plain or kind == JSON else {} for kind in route.returns}
    return found


def _errors(route: Route, path: str, schemas: _Schemas) -> dict[str, Schema]:
    """Return the responses to requests that fail, of each status with what it may mean."""
    unauthorized = () if route.scope is Scope.OPEN else _UNAUTHORIZED
    raised = dict.fromkeys((*route.errors, *_ANY, *unauthorized, *(() if route.body is None else _ANY_BODY)))
    meanings: dict[HTTPStatus, list[str]] = {}
    for error in raised:
        meanings.setdefault(problems.status_of(error), []).append((getdoc(error) or "").partition("\n")[0])
    schema = schemas.of(Problem, "serialization")
    found: dict[str, Schema] = {}
    for status, sentences in sorted(meanings.items()):
        if int(status) in route.responses:
            continue
        used = _common(route)
        used += ["Retry-After"] if status in _RETRY else []
        used += ["WWW-Authenticate"] if status == HTTPStatus.UNAUTHORIZED else []
        used += ["ETag"] if status == HTTPStatus.PRECONDITION_FAILED else []
        found[str(int(status))] = _response(" ".join(sentences), used)
        found[str(int(status))]["content"] = {problems.media_type(path): {"schema": schema}}
    return found


def _common(route: Route) -> list[str]:
    """Return the headers of all responses of a route."""
    return [request_ids.HEADER, *(() if route.scope is Scope.OPEN else (rates.POLICY, rates.LEFT))]


def _add_examples(route: Route, path: str, operation: Schema, known: Sequence[Example]) -> None:
    """Give the parameters of a path and the body examples that belong together, in the same order."""
    stateful = "/sessions" in path
    fitting = [one for one in known if one.stateful or not stateful]
    for parameter in operation["parameters"]:
        if parameter.get("in") == "path" and parameter["name"] in ("model", "version"):
            parameter["examples"] = {one.model: {"value": getattr(one, parameter["name"])} for one in fitting}
        elif parameter.get("in") == "path" and parameter["name"] in ("session", "name"):
            parameter["example"] = _SESSION
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if media_type not in (JSON, NDJSON):
            continue
        if "{model}" not in path and route.body in _BODIES:
            content["example"] = _BODIES[route.body](None)
        elif route.body in _BODIES:
            content["examples"] = {one.model: {"value": _BODIES[route.body](one)} for one in fitting}


def _links(route: Route, path: str, routes: Sequence[Route]) -> dict[str, Schema]:
    """Return what may follow a request that has created a session or accumulator, or may have."""
    parent = path.partition("/{session}")[0]
    created = HTTPStatus.CREATED in route.responses
    if not (created or route.creates or route.body is v1.Accumulate):
        return {}
    named = "name" if route.body is v1.Accumulate else "session"
    own = path if route.body is v1.Accumulate else f"{parent}/{{session}}"
    found: dict[str, Schema] = {}
    for other in routes:
        for target, suffix in _paths(other):
            if target == own or target.startswith((f"{own}:", f"{own}/")):
                parameters = {key: f"$request.path.{key}" for key in _NAMES.findall(own)}
                if created:
                    parameters[named] = "$response.body#/session"
                found[_id(other, suffix)] = {"operationId": _id(other, suffix), "parameters": parameters}
    return found


def _response(description: str, headers: list[str]) -> Schema:
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
    }
