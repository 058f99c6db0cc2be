"""Deployments and other programs share a Redis: each touches only the keys under its own prefix."""

from pathlib import Path

from carryover.store import Store
from carryover.store.record import GRACE, HEADER_BYTES
from carryover.store.sweeper import sweep
from tests.support.calls import post
from tests.support.client import problem
from tests.support.redis_server import RedisServer
from tests.support.service import Launch
from tests.support.waiting import eventually

ROW = [1, 2, 3, 4, 5, 6, 7, 8]
SESSION = "/v1/models/digits-rnn/sessions/same"


def test_deployments_with_different_prefixes_share_a_server(launch: Launch, redis_server: RedisServer) -> None:
    redis = redis_server.redis
    redis.set("session:of-another-program", "value")
    redis.set("{digits-rnn/same}", "value")
    first, second = (
        launch(REDIS_URL=redis_server.url, REDIS_PREFIX=prefix, WORKERS=1) for prefix in ("shop", "shop:test")
    )
    with first.client() as one, second.client() as other:
        for client, steps in ((one, 3), (other, 1)):
            client.create("digits-rnn", "same")
            for step in range(steps):
                answer = post(client, f"{SESSION}:predict", {"instances": [ROW]}, key=str(step))
                assert answer.expect()["step"] == step + 1
            post(client, "/v1/accumulators/total", {"values": [1]}).expect()
        eventually("no probe", lambda: not redis.keys("*probe*"))
        keys: list[bytes] = list(redis.scan_iter())
        owners = [key.partition(b":{")[0] for key in keys if b":{" in key]
        # Sessions, stored responses, and a marker.
        assert (owners.count(b"shop"), owners.count(b"shop:test")) == (2 + 3 + 1, 2 + 1 + 1)
        others = {key for key in keys if not key.startswith(b"shop:")}
        assert others == {b"session:of-another-program", b"{digits-rnn/same}"}

        for prefix in ("shop", "shop:test"):
            redis.pexpire(f"{prefix}:{{digits-rnn/same}}", GRACE)
        assert sweep(Store(redis_server.url, 2, 60, prefix="shop")) == 1
        assert redis.strlen("shop:{digits-rnn/same}") == HEADER_BYTES
        assert redis.strlen("shop:test:{digits-rnn/same}") > HEADER_BYTES
        problem(one.get(SESSION), 410)

        assert one.delete("/v1/accumulators/total").status == 204
        assert other.get("/v1/accumulators/total").expect()["sum"] == 1
    assert redis.get("session:of-another-program") == redis.get("{digits-rnn/same}") == b"value"


def test_the_embedded_server_has_a_prefix_too(launch: Launch, tmp_path: Path) -> None:
    data = tmp_path / "data"
    service = launch(DATA_DIR=data, REDIS_PREFIX="own", WORKERS=1)
    with service.client() as client:
        client.create("digits-rnn", "same")
    files = list((data / "appendonlydir").glob("*.incr.aof"))
    eventually("the session on disk", lambda: any(b"own:{digits-rnn/same}" in file.read_bytes() for file in files))
    service.stop()
    # Another prefix is another set of sessions; the first ones are there again with the first prefix.
    service = launch(DATA_DIR=data, REDIS_PREFIX="other", WORKERS=1)
    with service.client() as client:
        problem(client.get(SESSION), 404)
    service.stop()
    with launch(DATA_DIR=data, REDIS_PREFIX="own", WORKERS=1).client() as client:
        assert client.step_of(SESSION) == 0
