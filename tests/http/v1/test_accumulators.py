"""Named running totals."""

import math
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote

import pytest

from tests.support.client import Client, problem
from tests.support.service import Service
from tests.support.waiting import eventually, together


def path(name: str) -> str:
    return f"/v1/accumulators/{name}"


def test_the_first_post_creates_it(client: Client) -> None:
    answer = client.post(path("first"), {"values": [1, 2.5]})
    assert answer.expect() == {
        "accumulator": "first",
        "count": 2,
        "sum": 3.5,
        "mean": 1.75,
        "minimum": 1.0,
        "maximum": 2.5,
        "step": 1,
    }
    assert answer.headers["ETag"] == '"1"'
    assert client.post(path("first"), {"values": [-4]}).expect()["sum"] == -0.5
    shown = client.get(path("first"))
    assert shown.headers["ETag"] == '"2"'
    assert shown.expect() == {
        "accumulator": "first",
        "count": 3,
        "sum": -0.5,
        "mean": -0.5 / 3,
        "minimum": -4.0,
        "maximum": 2.5,
        "step": 2,
    }


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1, [2, [3, [[4]]]]], [[], [1, [], 2], 3, 4, [[]]]])
def test_values_may_be_nested_in_any_way(client: Client, values: object) -> None:
    name = f"nested-{abs(hash(str(values)))}"
    answer = client.post(path(name), {"values": values}).expect()
    assert (answer["count"], answer["sum"], answer["minimum"], answer["maximum"]) == (4, 10.0, 1.0, 4.0)


def test_sums_are_compensated_over_calls(client: Client) -> None:
    for value, expected in ((1e16, 1e16), (1, 1e16), (-1e16, 1.0)):
        assert client.post(path("compensated"), {"values": [value]}).expect()["sum"] == expected
    assert client.post(path("at-once"), {"values": [1e16, 1, -1e16]}).expect()["sum"] == 1.0


def test_a_million_tenths_are_a_hundred_thousand(client: Client) -> None:
    for _ in range(10):
        answer = client.post(path("tenths"), {"values": [0.1] * 100_000}).expect()
    assert answer["count"] == 1_000_000
    assert math.isclose(answer["sum"], 100_000, rel_tol=0, abs_tol=1e-9)


def test_reading_is_no_step(client: Client) -> None:
    client.post(path("looked-at"), {"values": [1]}).expect()
    shown = [client.get(path("looked-at")).expect() for _ in range(3)]
    assert shown[0] == shown[2]
    assert shown[0]["step"] == 1


def test_a_value_that_is_too_large_for_the_sum_changes_nothing(client: Client) -> None:
    client.post(path("large"), {"values": [1e308]}).expect()
    assert "'sum'" in problem(client.post(path("large"), {"values": [1e308]}), 422)
    assert client.get(path("large")).expect()["count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"values": []},
        {"values": [[]]},
        {"values": 1},
        {"values": "1"},
        {"values": ["1"]},
        {"values": [True]},
        {"values": [None]},
        {"values": [{}]},
        {"values": {"a": 1}},
        {"value": [1]},
        {"values": [1], "name": "x"},
        {},
        [],
        b"",
        b'{"values":[NaN]}',
        b'{"values":[Infinity]}',
        b'{"values":[-Infinity]}',
        b'{"values":[1, 1e999]}',
        b'{"values":[' + b"9" * 400 + b"]}",
        b'{"values":[' + b"9" * 5000 + b"]}",
        b'{"values":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: str(body)[:30],
)
def test_bad_values_are_rejected_and_change_nothing(client: Client, body: object) -> None:
    client.post(path("strict"), {"values": [1]}).expect()
    before = client.get(path("strict")).expect()
    problem(client.post(path("strict"), body), 400)
    assert client.get(path("strict")).expect() == before


def test_bad_values_create_nothing(client: Client) -> None:
    problem(client.post(path("unborn"), {"values": [1, None]}), 400)
    problem(client.get(path("unborn")), 404)


@pytest.mark.parametrize("name", ["a b", "x" * 129, "ü", "a:b", "%00", "a%0A", "%2e%2e%2fa"])
def test_a_bad_name_is_rejected(client: Client, name: str) -> None:
    for answer in (
        client.post(path(quote(name, safe="%")), {"values": [1]}),
        client.get(path(quote(name, safe="%"))),
        client.delete(path(quote(name, safe="%"))),
    ):
        assert answer.status in (400, 404)
        problem(answer, answer.status)


def test_an_unknown_one_is_404(client: Client) -> None:
    assert "'unknown'" in problem(client.get(path("unknown")), 404)
    problem(client.delete(path("unknown")), 404)


def test_a_post_after_a_delete_starts_from_zero(client: Client) -> None:
    client.post(path("forgotten"), {"values": [1, 2]}).expect()
    assert client.delete(path("forgotten")).status == 204
    problem(client.get(path("forgotten")), 410)
    problem(client.delete(path("forgotten")), 410)
    answer = client.post(path("forgotten"), {"values": [5]}).expect()
    assert (answer["count"], answer["sum"], answer["step"]) == (1, 5.0, 1)


def test_two_names_never_mix(service: Service) -> None:
    def add(number: int) -> None:
        with service.client() as client:
            for count in range(1, 31):
                answer = client.post(path(f"apart-{number}"), {"values": [number]}).expect()
                assert (answer["count"], answer["sum"]) == (count, count * number)
                assert answer["accumulator"] == f"apart-{number}"

    together(add, list(range(12)))


def test_eight_clients_with_a_thousand_values_each_give_the_exact_totals(service: Service) -> None:
    def add(number: int) -> list[tuple[int, float]]:
        with service.client() as client:
            mine = range(number * 1000 + 1, number * 1000 + 1001)
            bodies = [{"values": list(mine[start : start + 4])} for start in range(0, 1000, 4)]
            answers = [client.post(path("shared"), body).expect() for body in bodies]
            return [(answer["count"], answer["sum"]) for answer in answers]

    seen = together(add, list(range(8)))
    with service.client() as client:
        totals = client.get(path("shared")).expect()
    assert totals["count"] == 8000
    assert totals["sum"] == 8000 * 8001 / 2
    assert totals["step"] == 2000
    assert (totals["minimum"], totals["maximum"]) == (1.0, 8000.0)
    for mine in seen:
        assert all(one[0] < next_[0] and one[1] < next_[1] for one, next_ in pairwise(mine))
    assert sorted(count for mine in seen for count, _ in mine) == list(range(4, 8001, 4))


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("short-lived"), SESSION_TTL=1, WORKERS=1) as running:
        yield running


def test_an_expired_one_is_never_silently_created_again(short_lived: Service) -> None:
    with short_lived.client() as client:
        client.post(path("old"), {"values": [1, 2]}).expect()
        gone = eventually("its end", lambda: (a := client.get(path("old"))).status != 200 and a)
        assert "expired" in problem(gone, 410)
        for _ in range(3):
            assert "expired" in problem(client.post(path("old"), {"values": [5]}), 410)
        assert client.delete(path("old")).status == 204
        answer = client.post(path("old"), {"values": [5]}).expect()
        assert (answer["count"], answer["sum"], answer["step"]) == (1, 5.0, 1)


def test_the_default_life_is_the_setting(short_lived: Service) -> None:
    with short_lived.client() as client:
        assert client.post("/v1/models/digits-rnn/sessions", {}).expect(201)["ttl"] == 1
        assert client.post("/v1/models/digits-rnn/sessions", {"ttl": 77}).expect(201)["ttl"] == 77
