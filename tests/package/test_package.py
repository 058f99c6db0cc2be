"""The distributions: built, installed in an environment of their own, and served from there."""

import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from carryover import __version__
from tests.support.paths import ROOT
from tests.support.service import Service

ROW = {"instances": [[0, 0, 7, 15, 13, 1, 0, 0]]}


def run(*command: str | Path, folder: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel and its extras."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    (wheel,) = built.glob("*.whl")
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    run(folder / "bin" / "pip", "install", "--quiet", *index, f"{wheel}[embedded,client]")
    return folder


@pytest.fixture(scope="module")
def served(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The models of the checkout, served by the installed package."""
    checkout = tmp_path_factory.mktemp("elsewhere")
    for name in ("checkpoints", "models"):
        (checkout / name).symlink_to(ROOT / name)
    command = (environment / "bin" / "carryover", "serve", "checkpoints")
    with Service(tmp_path_factory.mktemp("service"), command, checkout) as service:
        yield service


def test_the_source_distribution_holds_what_the_wheel_is_built_from(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "requirements.txt"} <= names
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as held_by_wheel:
        files = {name for name in held_by_wheel.namelist() if name.startswith("carryover/")}
    assert files <= {name.removeprefix("service/") for name in names}


def test_what_is_installed_is_complete_and_consistent(environment: Path, tmp_path: Path) -> None:
    run(environment / "bin" / "pip", "check")
    assert run(environment / "bin" / "carryover", "--version", folder=tmp_path).split()[-1] == __version__
    run(environment / "bin" / "python", "-c", "import carryover.client", folder=tmp_path)


def test_the_installed_package_serves_a_session(served: Service) -> None:
    path = "/v1/models/digits-rnn/sessions"
    with served.client() as client:
        assert client.post(path, {"session": "installed"}).status == 201
        assert client.post(f"{path}/installed:predict", ROW).expect()["step"] == 1
