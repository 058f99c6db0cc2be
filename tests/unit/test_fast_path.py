"""What the short way takes, gunicorn's parser accepts and reads in the same way."""

from collections.abc import Sequence

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from carryover.api.inbound import Inbound
from carryover.api.routes import ROUTES
from carryover.server.fast_path import FastPath
from carryover.server.heads import ordinary

PATH = b"/v1/models/digits-rnn/sessions/a:predict"
HEADERS = (b"Host: a", b"Content-Type: application/json", b"Content-Length: 12")


class Bodies:
    """The limit of bodies, which is all that is asked for here."""

    limit = 1000


def head(*headers: bytes, line: bytes = b"POST " + PATH + b" HTTP/1.1") -> bytes:
    return b"\r\n".join((line, *headers)) + b"\r\n\r\n"


def found(data: bytes, config: Config | None = None) -> bool:
    path = FastPath(None, None, Bodies(), config or Config(), 1.0)  # type: ignore[arg-type]
    return path.find(data) is not None


def test_an_ordinary_request_is_taken() -> None:
    assert found(head(*HEADERS))
    assert found(head(*HEADERS, b"Connection: Keep-Alive", b"User-Agent: a/1", b'If-Match: "3"', b"Accept: */*"))
    assert found(head(b"Content-Length: 12"))
    assert found(head(*HEADERS, b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-Proto: https"))


@pytest.mark.parametrize(
    "line",
    [b"GET " + PATH + b" HTTP/1.1", b"POST " + PATH + b" HTTP/1.0", b"POST " + PATH + b"  HTTP/1.1",
     b"POST " + PATH + b"\xff HTTP/1.1", b"POST /v1/models HTTP/1.1", b"POST  " + PATH + b" HTTP/1.1",
     b" POST " + PATH + b" HTTP/1.1", b"POST " + PATH + b"\n HTTP/1.1", b"POST " + PATH + b"#a HTTP/1.1",
     b"POST HTTP/1.1", b"POST " + PATH + b"?a#b HTTP/1.1", b""],
)  # fmt: skip
def test_headers_that_are_known_make_no_other_line_ordinary(line: bytes) -> None:
    path = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
    for _ in range(2):
        taken = path.find(head(*HEADERS))
        assert taken is not None
        assert (taken[1].path, taken[1].headers["content-type"], taken[2]) == (PATH.decode(), "application/json", 12)
        assert path.find(head(*HEADERS, line=line)) is None
    changed = path.find(head(*HEADERS, line=b"POST " + PATH.replace(b"/a:", b"/b:") + b" HTTP/1.1"))
    assert changed is not None
    assert changed[1].parameters["session"] == "b"


KEY, MATCH = b"Idempotency-Key: ", b"if-match: "


def test_known_headers_have_the_values_of_this_request() -> None:
    path = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
    for number in range(3):
        key, match = b"key-%d" % number, b'"%d"' % number
        taken = path.find(head(HEADERS[0], KEY + key, *HEADERS[1:], MATCH + match))
        assert taken is not None
        assert taken[1].headers == {
            "content-type": "application/json", "idempotency-key": key.decode(), "if-match": match.decode(),
        }  # fmt: skip
        plain = path.find(head(*HEADERS))
        assert plain is not None
        assert plain[1].headers == {"content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [(KEY + b"a", KEY + b"b"), (KEY + b"a", KEY), (KEY + b"a\tb",), (KEY + b"\xff",), (KEY + b"a\rX: b",),
     (KEY + b"a\0",),
     (KEY + b"a", b"IDEMPOTENCY-KEY:b"), (KEY + b"a ", MATCH + b"*"), (KEY + b"a", MATCH + b"*", MATCH + b"*"),
     (KEY + b"a", b" folded"), (KEY + b"a", MATCH + b"*", b"Expect: 100-continue")],
)  # fmt: skip
def test_known_headers_make_no_others_ordinary(headers: tuple[bytes, ...]) -> None:
    path = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
    for known in ((KEY + b"a",), (MATCH + b"*",), (KEY + b"a", MATCH + b"*")):
        assert path.find(head(*HEADERS, *known)) is not None
    assert path.find(head(*HEADERS, *headers)) is None


def test_an_empty_value_is_not_that_of_the_request_before() -> None:
    path = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
    for value in (b'"3"', b"", b'"4", "5"', b"7\t"):
        taken = path.find(head(*HEADERS, KEY + b"a", MATCH + value))
        alone = FastPath(None, None, Bodies(), Config(), 1.0).find(head(*HEADERS, KEY + b"a", MATCH + value))  # type: ignore[arg-type]
        assert (taken and taken[1].headers) == (alone and alone[1].headers)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.hot], ids=lambda route: route.name)
def test_every_hot_route_is_found_with_its_parameters(route: object) -> None:
    path = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
    for template in route.templates():  # type: ignore[attr-defined]
        named = {name: f"{name}-1.2" for name in ("model", "version", "session", "name") if f"{{{name}}}" in template}
        line = f"POST {template.format(**named)}?migrate=true HTTP/1.1".encode()
        taken = path.find(head(*HEADERS, line=line))
        assert taken is not None, template
        assert taken[0] is route
        assert taken[1].parameters == named
        assert (taken[1].query, taken[2]) == ("migrate=true", 12)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(head(*HEADERS, line=b"GET " + PATH + b" HTTP/1.1"), id="method"),
        pytest.param(head(*HEADERS, line=b"POST " + PATH + b" HTTP/1.0"), id="version"),
        pytest.param(head(*HEADERS, line=b"POST " + PATH + b"  HTTP/1.1"), id="two blanks"),
        pytest.param(head(*HEADERS, line=b"POST /v1/models HTTP/1.1"), id="cold route"),
        pytest.param(head(*HEADERS, line=b"POST " + PATH.replace(b"rnn", b"r%6En") + b" HTTP/1.1"), id="escape"),
        pytest.param(head(*HEADERS, line=b"POST " + PATH + b"#a HTTP/1.1"), id="fragment"),
        pytest.param(head(*HEADERS, line=b"POST " + PATH + b"?a#b HTTP/1.1"), id="fragment after query"),
        pytest.param(head(*HEADERS, line=b"POST http://a" + PATH + b" HTTP/1.1"), id="absolute"),
        pytest.param(head(*HEADERS, line=b"POST /" + PATH + b" HTTP/1.1"), id="two slashes"),
        pytest.param(head(*HEADERS[:2]), id="no length"),
        pytest.param(head(*HEADERS, b"Content-Length: 12"), id="length twice"),
        pytest.param(head(b"Content-Length: +12"), id="signed length"),
        pytest.param(head(b"Content-Length: 1001"), id="large body"),
        pytest.param(head(*HEADERS[:2], b"Transfer-Encoding: chunked"), id="chunked"),
        pytest.param(head(*HEADERS, b"Transfer-Encoding: chunked"), id="length and chunked"),
        pytest.param(head(*HEADERS, b"Host: b"), id="a header twice"),
        pytest.param(head(*HEADERS, b"Content_Type: text/plain"), id="underscore"),
        pytest.param(head(*HEADERS, b"Connection: close"), id="close"),
        pytest.param(head(*HEADERS, b"Connection: keep-alive, close"), id="several connection options"),
        pytest.param(head(*HEADERS, b"Expect: 100-continue"), id="expect"),
        pytest.param(head(*HEADERS, b"Upgrade: websocket", b"Connection: upgrade"), id="upgrade"),
        pytest.param(head(*HEADERS, b"TE: trailers"), id="te"),
        pytest.param(head(*HEADERS, b"Content-Encoding: gzip"), id="compressed"),
        pytest.param(head(*HEADERS, b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"), id="two schemes"),
        pytest.param(head(*HEADERS, b"X: a\r\n b"), id="folded"),
        pytest.param(head(*HEADERS, b"X : a"), id="blank before the colon"),
        pytest.param(head(*HEADERS, b"X: a\tb"), id="tab"),
        pytest.param(head(*HEADERS, b"X: \xe4"), id="not ASCII"),
        pytest.param(head(*HEADERS, b"X: a\nY: b"), id="bare line feed"),
        pytest.param(head(*HEADERS, b"X: a\rY: b"), id="bare carriage return"),
        pytest.param(head(*HEADERS, b"X: a\0b"), id="control character"),
        pytest.param(b"\r\n" + head(*HEADERS), id="empty line first"),
        pytest.param(head(*HEADERS, *(b"X%d: a" % number for number in range(60))), id="many headers"),
    ],
)
def test_any_other_request_is_left_to_gunicorn(data: bytes) -> None:
    assert not found(data)


def test_the_limits_of_gunicorns_configuration_hold() -> None:
    config = Config()
    config.set("limit_request_fields", 3)
    assert found(head(*HEADERS), config)
    assert not found(head(*HEADERS, b"X: a"), config)


PIECES = st.sampled_from(
    (
        b"POST", b"GET", b" ", b"  ", b"\t", PATH, b"/v2/models/a/infer", b"?migrate=true", b"#", b"%2f", b"//",
        b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1", b"\r\n", b"\n", b"\r", b"\0", b"\x7f", b"\xe4", b":", b": ", b",", b'"',
        b"Host: a", b"Content-Length: 12", b"Content-Length:12", b"Content-Length: 012", b"Content-Length: 1 2",
        b"Content-Length: 12 ", b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: keep-alive",
        b"Connection: KEEP-ALIVE ", b"content-length: 3", b"X", b"X-Y: z", b"X_Y: z", b"!#$%&'*+-.^`|~: a", b"X: ",
        b"Expect: 100-continue", b"\r\nif-match: *", b'If-Match: "1", "2"',
        b"If-Match: ", b"\r\nIdempotency-Key: b", b" folded", b"Upgrade: h2c", b"X:", b"_",
        b"http://a", b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http",
    )
)  # fmt: skip


KNOWING = FastPath(None, None, Bodies(), Config(), 1.0)  # type: ignore[arg-type]
for known in ((), (KEY + b"a",), (MATCH + b"*",), (KEY + b"a", MATCH + b"*"), (MATCH + b"*", KEY + b"a")):
    KNOWING.find(head(*HEADERS, *known))


def headers_of(taken: tuple[object, Inbound, int] | None) -> object:
    return taken and (taken[1].headers, taken[2])


@settings(max_examples=500, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), st.lists(PIECES, max_size=3)), max_size=3),
    more=st.lists(PIECES, max_size=3),
)
def test_what_is_taken_gunicorn_reads_in_the_same_way(
    edits: Sequence[tuple[int, int, list[bytes]]], more: list[bytes]
) -> None:
    data = head(*HEADERS, *more)
    for start, length, pieces in edits:
        at = min(start, len(data) - 4)
        data = data[:at] + b"".join(pieces) + data[at + length :]
    data = data[: data.find(b"\r\n\r\n") + 4]
    assert headers_of(KNOWING.find(data)) == headers_of(FastPath(None, None, Bodies(), Config(), 1.0).find(data))  # type: ignore[arg-type]
    taken = ordinary(data) if data else None
    if taken is None:
        return
    request = next(RequestParser(Config(), iter((data + b"x" * 999_999,)), ("127.0.0.1", 1)))
    assert request.method == "POST"
    assert request.version == (1, 1)
    assert request.uri.encode() == taken.target
    read = {name.lower().encode(): value.encode() for name, value in request.headers}
    read.pop(b"connection", None)
    assert read == taken.headers
    assert request.body.reader.length == int(taken.headers[b"content-length"])
    assert not request.should_close()
