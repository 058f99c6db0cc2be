"""Traces and timings: a sampled request has its spans, others cost nothing, and who asks for times gets them."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.client import Client, Response
from tests.support.connections import Stream
from tests.support.service import Launch, Service
from tests.support.waiting import eventually

UNUSUAL = {"Keep-Alive": "timeout=5"}
"""Headers with which a request is not ordinary: it goes through Flask."""
both_ways = pytest.mark.parametrize("way", [{}, UNUSUAL], ids=["short", "flask"])
RNN = "/v1/models/digits-rnn"
ROW = [0, 0, 7, 15, 13, 1, 0, 0]
STEP = json.dumps({"instances": [ROW]}).encode()
SPAN = "00f067aa0ba902b7"
STAGES = ["queue", "load", "forward", "commit"]


class Collector:
    """An OpenTelemetry collector that keeps the spans it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parameter
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, trace: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Service]:
    """A service that sends its spans to the collector."""
    settings: dict[str, str | int] = {"OTEL_BSP_SCHEDULE_DELAY": 50, "WORKERS": 1, "REQUEST_LOG": "all"}
    folder = tmp_path_factory.mktemp("traced")
    with Service(folder, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **settings) as running:
        yield running


def step(client: Client, path: str, headers: dict[str, str]) -> Response:
    return client.request("POST", f"{path}:predict", STEP, headers)


def test_a_stream_has_the_stages_of_its_batches_and_ends_with_its_last_line(
    traced: Service, collector: Collector
) -> None:
    trace = "c" * 32
    with traced.client() as client:
        path = client.create("digits-rnn")
        with Stream(traced.port, path, traceparent=f"00-{trace}-{SPAN}-01").open() as stream:
            for number in range(2):
                stream.step([ROW])
                eventually("its stages", lambda number=number: len(collector.of(trace)) == 4 * (number + 1))  # type: ignore[misc]
            stream.finish()
            assert stream.line() is None
        eventually("its own span", lambda: len(collector.of(trace)) == 9)
        *stages, request = sorted(collector.of(trace), key=lambda span: span.end_time_unix_nano)
        assert request.name == "POST /v1/models/{model}/sessions/{session}:stream"
        assert [span.name for span in sorted(stages, key=lambda span: span.start_time_unix_nano)] == STAGES * 2
        assert {span.parent_span_id for span in stages} == {request.span_id}
        assert {a.key: a.value.int_value for a in request.attributes}["carryover.batches"] == 2


def test_a_sampled_request_has_spans_and_no_other_has_any(traced: Service, collector: Collector) -> None:
    before = len(collector.spans)
    with traced.client() as client:
        path = client.create("digits-rnn")
        for number, way in enumerate(({}, UNUSUAL)):
            trace = f"{number + 1:032x}"
            response = step(client, path, way | {"traceparent": f"00-{trace}-{SPAN}-01"})
            step(client, path, way | {"traceparent": f"00-{'f' * 32}-{SPAN}-00"}).expect()
            step(client, path, way).expect()
            eventually("the spans", lambda trace=trace: len(collector.of(trace)) == 5)  # type: ignore[misc]
            spans = {span.name: span for span in collector.of(trace)}
            assert sorted(spans) == sorted([*STAGES, "POST /v1/models/{model}/sessions/{session}:predict"])
            request = spans["POST /v1/models/{model}/sessions/{session}:predict"]
            assert request.parent_span_id.hex() == SPAN
            assert response.headers["traceparent"] == f"00-{trace}-{request.span_id.hex()}-01"
            edges = [request.start_time_unix_nano]
            for stage in STAGES:
                assert spans[stage].parent_span_id == request.span_id
                edges += [spans[stage].start_time_unix_nano, spans[stage].end_time_unix_nano]
            assert [*edges, request.end_time_unix_nano] == sorted([*edges, request.end_time_unix_nano])
            attributes = {attribute.key: attribute.value for attribute in request.attributes}
            assert attributes["http.response.status_code"].int_value == 200
            eventually("its line", lambda trace=trace: f"trace={trace}" in traced.err())  # type: ignore[misc]
    assert traced.stop() == 0
    assert len(collector.spans) == before + 10


def test_a_head_without_a_body_ends_its_span(launch: Launch, collector: Collector) -> None:
    service = launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_SCHEDULE_DELAY=50, WORKERS=1)
    with service.client() as client:
        path = client.create("digits-rnn")
        headers = {"traceparent": f"00-{'d' * 32}-{SPAN}-01"}
        assert client.request("HEAD", f"{path}/events", headers=headers).status == 200
        (span,) = eventually("the span", lambda: collector.of("d" * 32))
        assert span.name == "HEAD /v1/models/{model}/sessions/{session}/events"


@both_ways
def test_the_sessions_of_one_call_share_the_stages_of_their_batch(client: Client, way: dict[str, str]) -> None:
    names = [client.create("digits-rnn").rpartition("/")[2] for _ in range(20)]
    body = json.dumps({"sessions": {name: [ROW] for name in names}}).encode()
    response = client.request("POST", f"{RNN}/sessions:predict", body, way | {"Prefer": "server-timing"})
    response.expect()
    times = {
        name: float(spent) for name, spent in re.findall(r"(\w+);dur=([0-9.]+)", response.headers["Server-Timing"])
    }
    assert sum(times[stage] for stage in STAGES) <= times["total"] + 0.001


def test_spans_that_are_not_yet_sent_are_sent_at_the_end(launch: Launch, collector: Collector) -> None:
    service = launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_SCHEDULE_DELAY=600_000, WORKERS=1)
    with service.client() as client:
        client.request("GET", "/v1/models", headers={"traceparent": f"00-{'a' * 32}-{SPAN}-01"}).expect()
    assert service.stop() == 0
    assert [span.name for span in collector.of("a" * 32)] == ["GET /v1/models"]


@both_ways
def test_a_trace_is_passed_on_and_nothing_is_loaded_without_a_collector(service: Service, way: dict[str, str]) -> None:
    with service.client() as client:
        path = client.create("digits-rnn")
        header = f"00-{'b' * 32}-{SPAN}-01"
        assert step(client, path, way | {"traceparent": header}).headers["traceparent"] == header
        for wrong in ("", "00-a-b-01", f"00-{'0' * 32}-{SPAN}-01"):
            response = step(client, path, way | {"traceparent": wrong})
            response.expect()
            assert "traceparent" not in response.headers
    for worker in service.workers():
        assert not [file for file in worker.memory_maps(grouped=True) if "opentelemetry" in file.path]


@both_ways
def test_who_prefers_it_gets_the_times_of_the_stages(client: Client, way: dict[str, str]) -> None:
    path = client.create("digits-rnn")
    response = step(client, path, way | {"Prefer": "respond-async, Server-Timing"})
    response.expect()
    times = dict(re.findall(r"(\w+);dur=([0-9.]+)", response.headers["Server-Timing"]))
    assert list(times) == [*STAGES, "total"]
    assert 0 < sum(float(times[stage]) for stage in STAGES) <= float(times["total"]) + 0.001
    assert re.search(r'replica;desc="[0-9a-f]{6}", worker;desc="\d+"$', response.headers["Server-Timing"])
    assert response.headers["Preference-Applied"] == "server-timing"
    for other in ({}, {"Prefer": "wait=5"}):
        assert "Server-Timing" not in step(client, path, way | other).headers
