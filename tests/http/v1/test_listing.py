"""Lists of sessions and accumulators: every live one is on a page, and no other."""

from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from tests.support.client import Client, problem
from tests.support.metrics import Scrape
from tests.support.waiting import eventually

SESSIONS = "/v1/models/digits-rnn/sessions"
ROW = [0, 0, 7, 15, 13, 1, 0, 0]


def listed(client: Client, path: str, member: str, query: str) -> list[dict[str, object]]:
    """All pages of a list."""
    found: list[dict[str, object]] = []
    cursor = ""
    while True:
        page = client.get(f"{path}?{query}{cursor}").expect()
        found += page[member]
        if "next" not in page:
            return found
        cursor = f"&cursor={page['next']}"


def test_sessions_are_listed_with_what_is_known_of_them(client: Client) -> None:
    path = client.create("digits-rnn", f"listed-{uuid4().hex}", ttl=600)
    client.request(
        "POST", f"{path}:predict", b'{"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}', {"Idempotency-Key": "a"}
    ).expect()
    shown = client.get(path).expect()
    (found,) = listed(client, SESSIONS, "sessions", f"prefix={shown['session']}")
    assert found.pop("bytes") == len(client.get(f"{path}/state").body) - _head(client, path)
    for name in ("last_used", "expires"):  # those follow from how long the key has left: to some milliseconds
        times = [datetime.fromisoformat(str(one.pop(name))) for one in (found, shown)]
        assert abs(times[0] - times[1]) < timedelta(seconds=5)
    del shown["state"], shown["model"]
    assert found == shown


def _head(client: Client, path: str) -> int:
    """The bytes of a safetensors file before its buffers."""
    return 8 + int.from_bytes(client.get(f"{path}/state").body[:8], "little")


def test_every_live_session_is_on_a_page_and_no_other(client: Client) -> None:
    prefix = f"page-{uuid4().hex[:8]}"
    names = {f"{prefix}-{number}" for number in range(30)}
    for name in names:
        client.create("digits-rnn", name)
    client.create("digits-rnn", f"other-{prefix}")
    client.create("digits-rnn", f"{prefix}-short", ttl=1)
    client.create("digits-rnn", f"{prefix}-deleted")
    client.delete(f"{SESSIONS}/{prefix}-deleted")
    eventually("its expiry", lambda: client.get(f"{SESSIONS}/{prefix}-short").status == 410)
    for limit in (1, 7, 1000):
        found = listed(client, SESSIONS, "sessions", f"prefix={prefix}&limit={limit}")
        assert {entry["session"] for entry in found} == names
    assert names <= {entry["session"] for entry in listed(client, SESSIONS, "sessions", "limit=1000")}
    assert listed(client, "/v1/accumulators", "accumulators", f"prefix={prefix}") == []


def test_accumulators_are_listed(client: Client) -> None:
    name = f"total-{uuid4().hex}"
    for _ in range(2):
        client.post(f"/v1/accumulators/{name}", {"values": [1]}).expect()
    (found,) = listed(client, "/v1/accumulators", "accumulators", f"prefix={name}")
    assert (found["accumulator"], found["step"], found["ttl"]) == (name, 2, 3600)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=a", "limit=", "cursor=a", "cursor=1", "cursor=",
        "cursor=0.99999999999999999999", "prefix=*",
        "prefix=%5B", "prefix=a%7D",
    ],
)  # fmt: skip
def test_an_invalid_query_is_an_error(client: Client, query: str) -> None:
    problem(client.get(f"{SESSIONS}?{query}"), 400)


def test_models_without_state_have_no_sessions(client: Client) -> None:
    assert "keeps no state" in problem(client.get("/v1/models/digits-batchnorm/sessions"), 400)
    problem(client.get("/v1/models/none-such/sessions"), 404)
    assert client.get(f"{SESSIONS}?cursor=7.0").expect() == {"sessions": []}


ADMINISTERED = pytest.mark.parametrize("kind", ["sessions", "accumulators"])


def create(client: Client, kind: str, name: str) -> str:
    """Create a session, or an accumulator; return its path."""
    if kind == "sessions":
        return client.create("digits-rnn", name)
    client.post(f"/v1/accumulators/{name}", {"values": [1]}).expect()
    return f"/v1/accumulators/{name}"


def path_of(kind: str) -> str:
    return SESSIONS if kind == "sessions" else "/v1/accumulators"


@ADMINISTERED
def test_those_with_a_prefix_are_counted_and_deleted_and_no_others(client: Client, kind: str) -> None:
    prefix = f"many-{uuid4().hex[:8]}"
    paths = [create(client, kind, f"{prefix}-{number}") for number in range(40)]
    other = create(client, kind, f"other-{prefix}")
    client.delete(paths.pop())
    listed_bytes = sum(int(str(one["bytes"])) for one in listed(client, path_of(kind), kind, f"prefix={prefix}"))
    assert client.get(f"{path_of(kind)}:count?prefix={prefix}").expect() == {"count": 39, "bytes": listed_bytes}
    assert client.get(f"{path_of(kind)}:count").expect()["count"] >= 40
    assert client.delete(f"{path_of(kind)}?prefix={prefix}").expect() == {"deleted": 39}
    assert {client.get(path).status for path in paths} == {410}
    assert client.get(other).status == 200
    assert client.get(f"{path_of(kind)}:count?prefix={prefix}").expect() == {"count": 0, "bytes": 0}
    assert client.delete(f"{path_of(kind)}?prefix={prefix}").expect() == {"deleted": 0}


@ADMINISTERED
@pytest.mark.parametrize("query", ["", "?limit=7", "?prefixes=a", "?prefix=a*", "?prefix=a&cursor=b"])
def test_nothing_is_deleted_without_a_valid_prefix(client: Client, kind: str, query: str) -> None:
    kept = create(client, kind, f"a-{uuid4().hex}")
    problem(client.delete(f"{path_of(kind)}{query}"), 400)
    client.get(kept).expect()


def test_steps_of_a_session_that_was_deleted_with_many_fail(client: Client) -> None:
    prefix = f"stepped-{uuid4().hex[:8]}"
    path = client.create("digits-rnn", prefix)
    client.step(path, [ROW])
    assert client.delete(f"{SESSIONS}?prefix={prefix}").expect() == {"deleted": 1}
    problem(client.post(f"{path}:predict", {"instances": [ROW]}), 410)
    assert client.create("digits-rnn", prefix) == path
    assert client.step(path, [ROW])["step"] == 1


@pytest.mark.parametrize("path", ["/v1/models/digits-batchnorm/sessions", "/v1/models/none-such/sessions"])
def test_a_model_without_sessions_has_none_to_count_or_delete(client: Client, path: str) -> None:
    status = 404 if "none-such" in path else 400
    problem(client.get(f"{path}:count"), status)
    problem(client.delete(f"{path}?prefix="), status)


def test_without_keys_none_can_be_named(client: Client) -> None:
    path = client.create("digits-rnn", f"unowned-{uuid4().hex}")
    assert "has none" in problem(client.get(f"{path}?api_key=a"), 400)
    assert "has none" in problem(client.post(f"{path}:predict?api_key=a", {"instances": [ROW]}), 400)
    assert client.get(f"{SESSIONS}?api_key=a").expect()["sessions"] == []


def test_the_sessions_of_each_model_are_a_metric(client: Client) -> None:
    prefix = f"gauge-{uuid4().hex[:8]}"
    for number in range(5):
        client.create("digits-rnn", f"{prefix}-{number}")
    client.delete(f"{SESSIONS}/{prefix}-0")
    client.create("digits-rnn", f"{prefix}-short", ttl=1)

    def agrees() -> bool:
        counted: int = client.get(f"{SESSIONS}:count").expect()["count"]
        return Scrape(client).value("carryover_sessions", model="digits-rnn") == counted

    eventually("a count", agrees, interval=0.2)
