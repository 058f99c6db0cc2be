"""A service that cannot serve does not start: it says why in one sentence, and leaves nothing running."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.test_refused_models import REFUSED
from tests.support.edits import MANIFEST, SAFETENSORS, replace, source, weights
from tests.support.paths import GUNICORN
from tests.support.redis_server import servers_on
from tests.support.repository import write_rnn
from tests.support.service import Launch, Service
from tests.support.waiting import PATIENCE


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with one model that is right: an RNN."""
    write_rnn(tmp_path / "models", "m")
    return tmp_path / "models"


def refused(service: Service) -> str:
    """Start a service that cannot, and return the sentence with which it ends."""
    status = service.launch().wait(PATIENCE)
    assert status not in (0, None)
    assert "Traceback" not in service.err(), service.err()
    assert service.out() == ""
    left_over = servers_on(service.data)
    service.end()
    assert left_over == []
    # gunicorn's own log lines begin with a time in brackets.
    said = [line for line in service.err().splitlines() if line.strip() and not line.startswith("[")]
    assert len(said) == 1, service.err()
    return said[0]


def of_a_manifest(models: Path) -> str:
    replace("FP32", "FP31")(models)
    return str(models / MANIFEST)


def of_a_source(models: Path) -> str:
    source("raise ValueError('no\\nway')\n")(models)
    return str(models / MANIFEST)


def of_a_checkpoint(models: Path) -> str:
    weights(lambda tensors: tensors.update({name: tensor[:0] for name, tensor in tensors.items()}))(models)
    return str(models / SAFETENSORS)


@pytest.mark.parametrize("break_it", [of_a_manifest, of_a_source, of_a_checkpoint])
def test_the_service_does_not_start_for_a_fault(models: Path, tmp_path: Path, break_it: Callable[[Path], str]) -> None:
    file = break_it(models)
    said = refused(Service(tmp_path / "service", (GUNICORN,), MODEL_REPOSITORY=models))
    assert said.startswith(f"carryover: {file}")


SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "no-repository": ({"MODEL_REPOSITORY": "/nowhere/models"}, ["/nowhere/models", "MODEL_REPOSITORY"]),
    "workers": ({"WORKERS": "many"}, ["WORKERS=many"]),
    "redis-no-url": ({"REDIS_URL": "localhost"}, ["REDIS_URL"]),
    "redis-port": ({"REDIS_URL": "redis://localhost:port/0"}, ["REDIS_URL"]),
    "redis-option": ({"REDIS_URL": "redis://localhost?no_such_option=1"}, ["REDIS_URL", "no_such_option"]),
    "redis-database": ({"REDIS_URL": "redis://localhost/first"}, ["REDIS_URL", "first"]),
    "redis-ca": ({"REDIS_URL": "rediss://localhost?ssl_ca_certs=/nowhere/ca.pem"}, ["REDIS_URL", "/nowhere/ca.pem"]),
    "redis-cluster-option": ({"REDIS_URL": "redis+cluster://localhost?no_such=1"}, ["REDIS_URL", "no_such"]),
    "redis-prefix": ({"REDIS_PREFIX": "a{b"}, ["REDIS_PREFIX=a{b"]),
    "bind-no-port": ({"BIND": "127.0.0.1:http"}, ["http"]),
    "data-dir": ({"DATA_DIR": "/proc/nothing"}, ["DATA_DIR", "/proc/nothing"]),
    "data-dir-read-only": ({"DATA_DIR": "/proc"}, ["/proc"]),
}


@pytest.mark.parametrize(("given", "words"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_service_does_not_start_with_a_bad_setting(
    models: Path, tmp_path: Path, given: dict[str, str], words: list[str]
) -> None:
    said = refused(Service(tmp_path / "service", (GUNICORN,), **({"MODEL_REPOSITORY": str(models)} | given)))
    for word in words:
        assert word in said


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which something else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_the_service_does_not_start_at_a_port_in_use(models: Path, tmp_path: Path, taken: str) -> None:
    source("import time\ntime.sleep(60)\n")(models)  # which is not waited for
    start = time.monotonic()
    said = refused(Service(tmp_path / "service", (GUNICORN,), MODEL_REPOSITORY=models, BIND=taken))
    why = "another process listens there; set BIND to another port, or end that process"
    assert said == f"carryover: BIND={taken}: {why}"
    assert time.monotonic() - start < 30


def test_the_service_does_not_start_at_an_address_of_another_machine(models: Path, tmp_path: Path) -> None:
    said = refused(Service(tmp_path / "service", (GUNICORN,), MODEL_REPOSITORY=models, BIND="192.0.2.1:8000"))
    assert said.startswith("carryover: BIND=192.0.2.1:8000: this machine has no such address")


def test_a_service_starts_where_gunicorn_is_told_to_and_another_does_not_start_on_its_data(
    launch: Launch, models: Path, tmp_path: Path, taken: str
) -> None:
    first = launch(MODEL_REPOSITORY=models, WORKERS=1, BIND=taken, GUNICORN_CMD_ARGS="--bind 127.0.0.1:0")
    second = Service(tmp_path / "second", (GUNICORN,), MODEL_REPOSITORY=models, DATA_DIR=first.data)
    assert second.launch().wait(PATIENCE) != 0
    assert str(first.data) in second.err()
    assert "Traceback" not in second.err()
    assert len(servers_on(first.data)) == 1
    assert first.ready()


def test_the_service_does_not_start_and_says_why(tmp_path: Path) -> None:
    refused = REFUSED["sessions that see each other"]
    folder = refused.case.write(tmp_path / "models", "mean")
    service = Service(tmp_path / "service", (GUNICORN,), MODEL_REPOSITORY=tmp_path / "models")
    assert service.launch().wait(60) != 0
    (said,) = [line for line in service.log().splitlines() if line.startswith("carryover: ")]
    assert said == f"carryover: {folder}/model.toml (version 1): {refused.sentence}"
    assert "Traceback" not in service.log()
