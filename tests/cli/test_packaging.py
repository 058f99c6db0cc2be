"""The wheel is complete: built from the checkout's sources alone, it serves without the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

from carryover import __version__
from tests.support.paths import ROOT

SOURCES = ("pyproject.toml", "README.md", "LICENSE", *(path.name for path in ROOT.glob("requirements*.txt")))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMAND = PROJECT["project"]["scripts"]["carryover"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the build backend, without network, from a copy: nothing that was built before gets into it."""
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy2(ROOT / name, checkout / name)
    shutil.copytree(ROOT / "service", checkout / "service", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = f"import sys; from {PROJECT['build-system']['build-backend']} import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=checkout, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as installed, and beside it what a repository of models needs."""
    folder = tmp_path_factory.mktemp("installed")
    ZipFile(wheel).extractall(folder / "packages")
    for name in ("checkpoints", "models"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"carryover-{__version__}.dist-info/METADATA"))


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def carryover(installed: Path, *arguments: str) -> str:
    """Run the console command of the installed package."""
    module, _, function = COMMAND.partition(":")
    program = f"import sys; from {module} import {function}; sys.argv[0] = 'carryover'; {function}()"
    environment = os.environ | {"PYTHONPATH": str(installed / "packages")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=installed, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "service"
    expected = {
        str(path.relative_to(source))
        for pattern in ("*.py", "*.lua", "*.html", "*.css", "*.js", "*.svg", "py.typed")
        for path in (source / "carryover").rglob(pattern)
    }
    assert "carryover/py.typed" in expected
    assert "carryover/store/scripts/commit.lua" in expected
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_the_metadata_has_the_version_the_requirements_and_the_command(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Version"] == __version__
    required = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == requirements("requirements.txt")
    for extra in ("embedded", "client", "otel"):
        lines = [line for line in found.get_all("Requires-Dist", []) if f'extra == "{extra}"' in line]
        assert [line.partition(";")[0] for line in lines] == requirements(f"requirements-{extra}.txt")
    with ZipFile(wheel) as archive:
        commands = archive.read(f"carryover-{__version__}.dist-info/entry_points.txt").decode().split("\n")
    assert commands[:2] == ["[console_scripts]", f"carryover = {COMMAND}"]


def test_the_installed_command_runs_without_the_checkout(installed: Path) -> None:
    assert carryover(installed, "--version").split()[-1] == __version__
    listed = carryover(installed, "models")
    for model in ("accumulator", "digits-batchnorm", "digits-rnn"):
        assert model in listed
