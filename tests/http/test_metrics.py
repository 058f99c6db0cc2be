"""`/metrics` counts what clients have sent, over all workers, on both ways, whatever happens to the workers."""

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from carryover import __version__
from carryover.api.routes import ROUTES
from tests.support.client import Client
from tests.support.connections import Wire
from tests.support.metrics import ROUND_TRIPS, Scrape, risen
from tests.support.paths import ROOT
from tests.support.redis_server import RedisServer
from tests.support.service import Launch, Service
from tests.support.waiting import eventually, together

RNN = "/v1/models/digits-rnn"
STEP = {"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}
COUNT = "carryover_http_request_duration_seconds_count"
UNUSUAL = {"Keep-Alive": "timeout=5", "Content-Type": "application/json"}
"""Headers with which a request is not ordinary: it goes through Flask."""


def test_two_workers_counters_sum_to_what_the_clients_counted(service: Service, client: Client) -> None:
    path, before = client.create("digits-rnn"), Scrape(client)

    def send(worker: Client) -> Counter[tuple[str, int]]:
        counted: Counter[tuple[str, int]] = Counter()
        for number in range(40):
            headers = UNUSUAL if number % 2 else {"Content-Type": "application/json"}
            body = STEP if number % 5 else {"instances": "wrong"}
            response = worker.request("POST", f"{path}:predict", json.dumps(body).encode(), headers)
            counted["POST", response.status] += 1
            counted["GET", worker.get(path).status] += 1
        return counted

    with service.one_client_a_worker() as clients:
        sent = sum(together(send, clients), Counter())
    after = Scrape(client)
    assert sent["POST", 200] == 64
    for (method, status), count in sent.items():
        route = "/v1/models/{model}/sessions/{session}" + (":predict" if method == "POST" else "")
        assert risen(before, after, COUNT, method=method, route=route, status=str(status)) == count
    model = {"model": "digits-rnn", "version": "1"}
    assert risen(before, after, "carryover_steps_total", **model) == 64
    for stage in ("queue", "load", "forward", "commit"):
        assert risen(before, after, "carryover_stage_duration_seconds_count", **model, stage=stage) >= 64
        assert risen(before, after, "carryover_stage_duration_seconds_sum", **model, stage=stage) > 0
    assert risen(before, after, "carryover_batch_size_sum") >= 64
    assert client.step_of(path) == 64


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose workers a test may kill."""
    with Service(tmp_path_factory.mktemp("own"), TRITON_METRICS="true") as running:
        yield running


def test_counters_outlive_workers_and_a_reload(own: Service) -> None:
    with own.client() as client:
        path = client.create("digits-rnn")
        for _ in range(5):
            client.step(path, STEP["instances"])
    for number in (signal.SIGKILL, signal.SIGTERM):
        for worker in own.workers():
            worker.send_signal(number)
            worker.wait()
        eventually("new workers", own.ready)
    old = own.workers()
    own.process.send_signal(signal.SIGHUP)
    eventually("other workers", lambda: not {worker.pid for worker in old} & {w.pid for w in own.workers()})
    eventually("readiness", own.ready)
    with own.client() as client:
        client.step(path, STEP["instances"])
        scrape = Scrape(client)
    route = "/v1/models/{model}/sessions/{session}:predict"
    assert scrape.value(COUNT, method="POST", route=route, status="200") == 6
    assert scrape.value("carryover_steps_total", model="digits-rnn") == 6
    for triton in ("request_success", "count", "exec_count"):
        assert scrape.value(f"nv_inference_{triton}", model="digits-rnn", version="1") == 6
    assert scrape.value("nv_inference_request_failure", model="digits-rnn") == 0
    assert scrape.value("nv_inference_request_duration_us", model="digits-rnn") > 100


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_counted_under_its_template(client: Client, route: object) -> None:
    template, method = route.template, route.method  # type: ignore[attr-defined]
    path = re.sub(r"\{(\w+)\}", lambda found: f"no-such-{found[1]}", template)
    before = Scrape(client)
    response = client.request(method, path, None if method == "GET" else b"{")
    after = Scrape(client)
    # A scrape counts itself when it is done: the first one is in the second.
    scrapes = 1 if path == "/metrics" else 0
    assert risen(before, after, COUNT, method=method, route=template, status=str(response.status)) == 1 + scrapes


def test_paths_and_methods_that_do_not_exist_make_no_series(service: Service, client: Client) -> None:
    before = Scrape(client)
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.request(f"FETCH{number}", "/v1/models")
        wire = Wire(service.port)
        wire.send(f"GET /{number} HTTP/9.9\r\n\r\n".encode())
        assert wire.response().status == 400
        wire.close()
    after = Scrape(client)
    for status in ("404", "405", "400"):
        assert risen(before, after, COUNT, method="other", route="other", status=status) == 20
    assert len(after.samples(COUNT)) - len(before.samples(COUNT)) <= 4
    assert "nowhere" not in after.text
    assert "FETCH" not in after.text


def test_histograms_are_cumulative_and_their_counts_agree(client: Client) -> None:
    client.step(client.create("digits-rnn"), [[0] * 8])
    scrape = Scrape(client)
    histograms = [family for family in scrape.families.values() if family.type == "histogram"]
    assert len(histograms) == 5
    for family in histograms:
        buckets: dict[tuple[tuple[str, str], ...], list[float]] = {}
        for labels, value in scrape.samples(f"{family.name}_bucket"):
            buckets.setdefault(tuple(sorted(labels.items() - {("le", labels["le"])})), []).append(value)
        assert buckets
        for values in buckets.values():
            assert values == sorted(values)
        counts = [value for _, value in scrape.samples(f"{family.name}_count")]
        assert counts == [values[-1] for values in buckets.values()]


def test_replays_and_ends_of_sessions_are_counted(client: Client) -> None:
    before = Scrape(client)
    path = client.create("digits-rnn")
    keyed = {"Idempotency-Key": "metrics", "Content-Type": "application/json"}
    for _ in range(3):
        client.request("POST", f"{path}:predict", json.dumps(STEP).encode(), keyed).expect()
    client.delete(path).expect(204)
    client.delete(path).expect(410)
    rows = {"name": "rows", "shape": [1, 1, 8], "datatype": "FP32", "data": STEP["instances"][0]}
    for parameters in ({"sequence_start": True}, {"sequence_end": True}):
        infer = {"inputs": [rows], "parameters": {"sequence_id": "measured", **parameters}}
        client.post("/v2/models/digits-rnn/infer", infer).expect()
    after = Scrape(client)
    assert risen(before, after, "carryover_step_replays_total", model="digits-rnn") == 2
    assert risen(before, after, "carryover_steps_total", model="digits-rnn") == 3
    assert risen(before, after, "carryover_sessions_ended_total", how="deleted") == 1
    assert risen(before, after, "carryover_sessions_ended_total", how="sequence_end") == 1


def test_steps_that_lose_a_race_are_counted_as_conflicts(service: Service, client: Client) -> None:
    path, before = client.create("digits-rnn"), Scrape(client)

    def race() -> bool:
        with service.one_client_a_worker() as clients:
            together(lambda one: [one.step(path, STEP["instances"]) for _ in range(50)], clients)
        return risen(before, Scrape(client), "carryover_step_conflicts_total", model="digits-rnn") > 0

    eventually("two workers that race for a session", race)
    after = Scrape(client)
    assert risen(before, after, "carryover_steps_total", model="digits-rnn") == client.step_of(path)


def test_streams_are_shown_while_they_are_open(service: Service, client: Client) -> None:
    path = client.create("digits-rnn")
    before = Scrape(client).value("carryover_streams")
    streams = [service.stream(path) for _ in range(3)]
    assert Scrape(client).value("carryover_streams") == before + 3
    for stream in streams:
        stream.close()
    eventually("the end of the streams", lambda: Scrape(client).value("carryover_streams") == before)


def test_what_a_killed_worker_was_busy_with_is_not_shown(own: Service) -> None:
    with own.client() as client:
        path = client.create("digits-rnn")
    streams = [own.stream(path) for _ in range(4)]
    with own.client() as client:
        assert Scrape(client).value("carryover_streams") == 4
    for worker in own.workers():
        worker.kill()
        worker.wait()
    eventually("new workers", own.ready)
    with own.client() as client:
        eventually("the end of what was shown", lambda: Scrape(client).value("carryover_streams") == 0)
    for stream in streams:
        stream.close()


def test_requests_that_wait_are_shown(single: Service) -> None:
    body = b'{"instances": [[1.0]]}'
    head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    wires = [Wire(single.port) for _ in range(4)]

    def queued() -> bool:
        for wire in wires:
            wire.send(head + body)
        seen = Scrape(client).value("carryover_queue_requests", model="slow") >= 1
        for wire in wires:
            wire.response().expect()
        return seen

    with single.client() as client:
        eventually("a queue", queued)
        assert Scrape(client).value("carryover_queue_requests", model="slow") == 0
    for wire in wires:
        wire.close()


def test_redis_is_shown_as_lost_and_as_back(launch: Launch, redis_server: RedisServer) -> None:
    service = launch(REDIS_URL=redis_server.url)
    with service.client() as client:
        path = client.create("digits-rnn")
        client.step(path, STEP["instances"])
        scrape = Scrape(client)
        assert scrape.value("carryover_redis_up") == 1
        for operation in ("load", "commit"):
            assert scrape.value(ROUND_TRIPS, operation=operation) > 0
        redis_server.kill()
        client.post(f"{path}:predict", STEP).expect(503)
        assert Scrape(client).value("carryover_redis_up") == 0
        redis_server.start()
        eventually("Redis", lambda: Scrape(client).value("carryover_redis_up") == 1)


def test_what_is_served_is_shown_with_its_fingerprint(client: Client) -> None:
    scrape = Scrape(client)
    fingerprint = client.get(RNN).expect()["fingerprint"]
    assert scrape.value("carryover_model_info", model="digits-rnn", version="1", fingerprint=fingerprint) == 1
    assert scrape.value("carryover_build_info", version=__version__) == 1


def test_the_lag_of_the_event_loop_is_measured_in_every_worker(client: Client) -> None:
    before = Scrape(client)
    eventually("looks", lambda: risen(before, Scrape(client), "carryover_loop_lag_seconds_count") > 20)


def test_every_metric_is_described(client: Client) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    names = {sample.name for family in Scrape(client).families.values() for sample in family.samples}
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names}
    assert len(names) > 14
    for name in names:
        assert f"`{name}" in page, name
