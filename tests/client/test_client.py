"""What the client promises: every call works, and whatever happens in between, nothing is lost or doubled."""

import asyncio
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import trustme
from safetensors.numpy import load

from carryover.client import (
    AsyncClient,
    CertificateError,
    Client,
    NoResponseError,
    ProblemError,
    Retries,
    Session,
    Step,
)
from tests.support.calls import fresh
from tests.support.paths import ROOT
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, free_port
from tests.support.service import Launch, Service

ROW = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.float32)


@pytest.fixture
def ours(service: Service) -> Iterator[Client]:
    """A client of the shared service."""
    with Client(f"http://127.0.0.1:{service.port}") as client:
        yield client


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    """A proxy in front of the shared service, whose connections can be cut."""
    with Proxy(service.port) as found:
        yield found


@pytest.fixture
def behind(proxy: Proxy) -> Iterator[Client]:
    """A client behind the proxy."""
    with Client(f"http://127.0.0.1:{proxy.port}") as client:
        yield client


def test_the_client_needs_no_part_of_the_service() -> None:
    program = (
        "import carryover.client, sys;"
        "assert not {'torch', 'flask', 'gunicorn', 'gevent', 'redis', 'pydantic'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "service")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_missing_extra_is_named() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; import carryover.client"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'carryover[client]'")


def test_predictions_are_arrays(ours: Client) -> None:
    found = ours.predict("digits-batchnorm", np.zeros((3, 64)))
    assert found.array(dtype=np.float32).shape == (3, 10)
    assert found.array("label").shape == (3,)
    assert ours.predict("digits-batchnorm", [np.zeros(64), [0] * 64]).array().shape == (2, 10)
    assert ours.predict("digits-batchnorm", np.zeros((64, 2)).T).array().dtype == np.float64
    with pytest.raises(KeyError, match="expected one of"):
        found.array("other")
    assert {model["name"] for model in ours.models()} >= {"digits-rnn", "accumulator"}
    assert ours.model("digits-rnn", version="1")["stateful"]


def test_tensors_are_taken_as_arrays_are(ours: Client) -> None:
    session, row = ours.create("digits-rnn"), ROW.tolist()
    wanted = session.step(row).predictions
    for instances in (torch.tensor(row), torch.tensor(row, requires_grad=True), [torch.tensor(row[0]).bfloat16()]):
        session.reset()
        assert session.step(instances).predictions == wanted
    with pytest.raises(TypeError, match="object is not JSON; expected lists, numbers or arrays"):
        session.step(object())


def test_a_session_has_all_its_calls(ours: Client) -> None:
    session = ours.create("digits-rnn", fresh(), ttl=600)
    first = session.step(ROW)
    assert first.version == "1"
    assert (first.session, first.step) == (session.name, 1)
    assert session.describe()["ttl"] == 600
    fork = session.fork()
    assert session.step(ROW, if_step=1).predictions == fork.step(ROW).predictions
    state = session.get_state()
    assert load(state)["hidden"].shape == (1, 1, 64)
    other = ours.session("digits-rnn", fresh())
    assert other.put_state(state)["step"] == 2
    assert other.step(ROW).predictions == session.step(ROW).predictions
    assert session.reset()["step"] == 0
    assert session.step(ROW).predictions == first.predictions
    session.delete()
    with pytest.raises(ProblemError) as caught:
        session.step(ROW)
    assert (caught.value.status, caught.value.type) == (410, "urn:carryover:gone")


def test_a_step_may_create_its_session(ours: Client) -> None:
    name = fresh("created")
    one, other = ours.session("digits-rnn", name), ours.session("digits-rnn", fresh("created"))
    with pytest.raises(ProblemError, match="404"):
        one.step(ROW)
    assert [one.step(ROW, create=True).step, one.step(ROW, create=True).step] == [1, 2]
    with other.stream(create=True) as stream:
        assert stream.step(ROW).step == 1


def test_many_sessions_are_stepped_each_on_its_own(ours: Client) -> None:
    names = [ours.create("digits-rnn").name for _ in range(3)]
    found = ours.step_many("digits-rnn", {**dict.fromkeys(names, ROW), "never-there": ROW})
    assert [one.step for one in map(found.get, names) if isinstance(one, Step)] == [1, 1, 1]
    missing = found["never-there"]
    assert isinstance(missing, ProblemError)
    assert missing.status == 404


def test_an_accumulator_has_its_totals(ours: Client) -> None:
    rain = ours.accumulator(fresh())
    assert rain.add(np.array([0.5, 1.5]))["sum"] == 2
    assert rain.add([[1], 2], if_step=1)["count"] == 4
    with pytest.raises(ProblemError) as caught:
        rain.add([1], if_step=1)
    assert (caught.value.status, caught.value.step) == (412, 2)
    assert rain.totals()["step"] == 2
    rain.delete()
    with pytest.raises(ProblemError, match=r"^410: "):
        rain.totals()


def test_a_stream_is_read_while_it_is_sent(ours: Client) -> None:
    session = ours.create("sum")
    with session.stream() as stream:
        for number in range(1, 6):
            assert stream.step([number]).step == number
        for number in range(6, 300):
            stream.send([number])
        assert [stream.receive().step for _ in range(6, 300)] == list(range(6, 300))
        with pytest.raises(ProblemError, match=r"^400: "):
            stream.step(["x"])
        with pytest.raises(ValueError, match="send one first"):
            stream.receive()
        assert stream.step([0]).array().tolist() == [sum(range(300))]
    assert session.describe()["step"] == 300


def test_a_long_line_comes_through(ours: Client) -> None:
    with ours.create("digits-rnn").stream() as stream:
        assert len(stream.step(np.ones((2000, 8)), key="once").predictions) == 2000


def test_a_stream_of_no_session_fails_when_it_is_opened(ours: Client) -> None:
    with pytest.raises(ProblemError, match=r"^404: "), ours.session("sum", "never-there").stream():
        pass


def test_all_of_it_works_with_asyncio(service: Service) -> None:
    async def use() -> list[int]:
        async with AsyncClient(f"http://127.0.0.1:{service.port}") as client:
            sessions = await asyncio.gather(*(client.create("sum") for _ in range(5)))
            await asyncio.gather(*(session.step([1]) for session in sessions))
            async with sessions[0].stream() as stream:
                await stream.send([1])
                await stream.send([1])
                return [(await stream.receive()).step, (await stream.receive()).step]

    assert asyncio.run(use()) == [2, 3]


@pytest.mark.parametrize("before", [True, False], ids=["request", "response"])
@pytest.mark.parametrize(
    "change",
    [
        lambda _, session: session.step([1]),
        lambda client, session: client.step_many("sum", {session.name: [1]}),
        lambda _, session: session.reset(),
        lambda _, session: session.put_state(session.get_state()),
        lambda _, session: session.fork(),
        lambda _, session: session.delete(),
        lambda client, _: client.create("sum", fresh()),
        lambda client, _: client.accumulator(fresh()).add([1]),
    ],
    ids=["step", "many", "reset", "put", "fork", "delete", "create", "accumulator"],
)
def test_a_connection_that_is_cut_costs_nothing(
    behind: Client, proxy: Proxy, before: bool, change: Callable[[Client, Session], Any]
) -> None:
    session = behind.create("sum")
    session.step([1])
    proxy.cut_at(b"dempotency-", before=before)
    change(behind, session)
    assert proxy.cuts == 1


@pytest.mark.parametrize("before", [True, False], ids=["request", "response"])
def test_a_cut_step_counts_once(behind: Client, proxy: Proxy, before: bool) -> None:
    session = behind.create("sum")
    for number in range(1, 6):
        proxy.cut_at(b":predict", before=before, times=2)
        step = session.step([number])
        assert (step.step, step.predictions) == (number, [float(sum(range(number + 1)))])
        assert proxy.cuts == 2


@pytest.mark.parametrize("ahead", [1, 20])
@pytest.mark.parametrize("before", [True, False], ids=["request", "response"])
def test_a_stream_that_is_cut_goes_on(behind: Client, proxy: Proxy, before: bool, ahead: int) -> None:
    session = behind.create("sum")
    with session.stream() as stream:
        for start in range(0, 60, ahead):
            if start % 20 == 0:
                proxy.cut_at(b"instances", before=before)
            for _ in range(ahead):
                stream.send([1])
            steps = [stream.receive() for _ in range(ahead)]
            assert [step.step for step in steps] == [start + number for number in range(1, ahead + 1)]
            assert steps[-1].predictions == [float(start + ahead)]
    assert session.describe()["step"] == 60


def test_nothing_is_lost_or_doubled_when_workers_are_killed(launch: Launch) -> None:
    own = launch()
    stopping = threading.Event()

    def kill() -> None:
        while not stopping.wait(0.7):
            for worker in own.workers()[:1]:
                try:
                    worker.kill()
                except psutil.NoSuchProcess:
                    continue

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with Client(f"http://127.0.0.1:{own.port}") as client:
            stepped, streamed, total = client.create("digits-rnn"), client.create("digits-rnn"), client.accumulator("t")
            with streamed.stream() as stream:
                for number in range(1, 200):
                    stream.send(ROW)
                    one, other = stepped.step(ROW), stream.receive()
                    assert one.step == other.step == number
                    assert one.predictions == other.predictions
                    assert total.add([1])["count"] == number
    finally:
        stopping.set()
        killer.join()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, RedisServer]]:
    """A service and its Redis, which a test may kill."""
    server = RedisServer().start()
    try:
        with Service(tmp_path_factory.mktemp("stored"), REDIS_URL=server.url) as service:
            yield service, server
    finally:
        server.end()


def test_an_outage_of_redis_is_waited_for(stored: tuple[Service, RedisServer]) -> None:
    service, server = stored
    with Client(f"http://127.0.0.1:{service.port}") as client:
        session = client.create("digits-rnn")
        server.kill()
        timer = threading.Timer(2, server.start)
        timer.start()
        assert client.predict("digits-batchnorm", [[0] * 64]).array().shape == (1, 10)
        assert session.step(ROW).step == 1
        timer.join()


def test_retry_after_is_honoured_and_bounded(stored: tuple[Service, RedisServer]) -> None:
    service, server = stored
    server.kill()
    with (
        Client(f"http://127.0.0.1:{service.port}", retries=Retries(seconds=0.5)) as client,
        pytest.raises(ProblemError) as caught,
    ):
        client.create("digits-rnn")
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)


def test_a_client_that_is_closed_says_so(service: Service) -> None:
    client = Client(f"http://127.0.0.1:{service.port}")
    session = client.create("digits-rnn")
    client.close()
    client.close()
    for call in (client.models, lambda: session.step(ROW)):
        with pytest.raises(RuntimeError, match="the client is closed"):
            call()


UNCLOSED = """
import gc, sys, threading
from carryover.client import Client
session = Client(sys.argv[1]).create("digits-rnn")
print(session.step([[1, 2, 3, 4, 5, 6, 7, 8]]).step)
(thread,) = (one for one in threading.enumerate() if one.name == "carryover-client")
session = None
gc.collect()
print(thread.is_alive())
client = Client(sys.argv[1])
print(len(client.models()) > 0)
"""


def test_a_client_that_nobody_has_closed_ends_without_a_word(service: Service) -> None:
    """It lives for as long as its sessions do; at the latest, the end of the program closes it."""
    command = [sys.executable, "-X", "dev", "-c", UNCLOSED, f"http://127.0.0.1:{service.port}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\nFalse\nTrue\n", "")


FORKED = """
import os, signal, sys
from carryover.client import Client
with Client(sys.argv[1]) as client:
    client.models()
    if os.fork() == 0:
        signal.alarm(20)
        try:
            client.models()
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
    print(len(client.models()) > 0)
"""


def test_a_client_that_a_process_has_inherited_says_so(service: Service) -> None:
    """Its thread and its connections are its parent's: waiting for them would never end."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, f"http://127.0.0.1:{service.port}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the client was made in another process; make one in each\nTrue\n"


def test_a_service_that_is_not_there_is_one_sentence() -> None:
    port = free_port()
    with (
        Client(f"http://127.0.0.1:{port}", retries=Retries(seconds=0.3)) as client,
        pytest.raises(NoResponseError, match=f"there is no response: .*127.0.0.1:{port}"),
    ):
        client.models()


def test_a_url_without_a_scheme_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:8000' is invalid; expected http:// or https://"):
        Client("127.0.0.1:8000")


def test_a_certificate_of_an_authority_of_ones_own(service: Service, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(service.port, context) as encrypted:
        url = f"https://127.0.0.1:{encrypted.port}"
        # At once, and not after a minute of retries.
        with Client(url) as client, pytest.raises(CertificateError, match="SSL_CERT_FILE") as caught:
            client.models()
        assert not caught.value.temporary
        program = f"from carryover.client import Client; print(len(Client({url!r}).models()))"
        environment = os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "PYTHONPATH": str(ROOT / "service")}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 0
