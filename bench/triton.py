"""Triton Inference Server with the same models, where the wheel `nvidia-pytriton` is installed, which contains it.

`TRITON` may name the folder that it was installed into: `pip install --no-deps --target FOLDER nvidia-pytriton`. Its
Python backend runs the same modules with the same weights, in as many instances as there are CPUs; a sequence's state
is a dict entry in one of them.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench import models
from bench.messages import POOL, session_name
from bench.rows import CLASSIFIER, LARGER, RNN, TRITON_ROWS, Row, sequence
from bench.server import ServerError
from carryover.server import cpus
from tests.support.client import Client
from tests.support.paths import ROOT
from tests.support.redis_server import free_port
from tests.support.waiting import eventually

_OPTIONS = ("--allow-grpc=false", "--allow-metrics=false", "--log-info=false", "--log-warning=false")
_SEQUENCES = (
    "sequence_batching { max_sequence_idle_microseconds: 3600000000 oldest { max_candidate_sequences: 100000 } }"
)
_BATCHING = {CLASSIFIER: "dynamic_batching { }", RNN: _SEQUENCES, LARGER: _SEQUENCES}
_MODELS = {CLASSIFIER: ("pixels", "64"), RNN: ("rows", "1, 8"), LARGER: ("rows", "1, 8")}
"""The input of each model, and the shape of one request's."""


def find() -> Path | None:
    """Return the folder that holds `pytriton`; None where it is not installed."""
    given = os.environ.get("TRITON")
    spec = importlib.util.find_spec("pytriton") if given is None else None
    folder = Path(given) if given else Path(spec.origin).parents[1] if spec and spec.origin else None
    return folder if folder is not None and (folder / "pytriton" / "tritonserver").is_dir() else None


class Triton:
    """A running server."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.port = port
        self._process = process

    def pids(self) -> list[int]:
        """All processes."""
        return [self._process.pid, *(child.pid for child in self._process.children(recursive=True))]


@contextmanager
def running(installed: Path) -> Iterator[Triton]:
    """Run Triton with the models, and sequences that have started, until the block ends.

    Raises:
        ServerError: it ended, or did not get ready in time; with the end of its log.

    """
    with TemporaryDirectory(prefix="bench-triton-") as name:
        folder, port = Path(name), free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                _command(installed, folder, port), env=_environment(installed), stdout=log, stderr=log
            )
        try:
            _wait_until_ready(process, port, folder / "log")
            for row in TRITON_ROWS:
                if row.sessions:
                    _start_sequences(port, row)
            yield Triton(port, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()


def _command(installed: Path, folder: Path, port: int) -> list[str]:
    """Write the repository and the backend, and return the command that serves them."""
    server = installed / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    served = models.write(folder / "served")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    for name in _MODELS:
        place = folder / "models" / name / "1"
        place.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("triton_model.py"), place / "model.py")
        (place.parent / "config.pbtxt").write_text(_configuration(name, served / name / "1" / "weights.safetensors"))
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        *_OPTIONS,
    ]


def _configuration(name: str, weights: Path) -> str:
    given, dims = _MODELS[name]
    lead = "" if name == CLASSIFIER else "1, "
    return f"""name: "{name}"
backend: "python"
max_batch_size: 64
input [ {{ name: "{given}" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
output [ {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {lead}10 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {cpus.available()} }} ]
parameters {{ key: "checkpoint" value: {{ string_value: "{weights}" }} }}
{_BATCHING[name]}
"""


def _environment(installed: Path) -> dict[str, str]:
    libraries = (installed / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    paths = (ROOT, *filter(None, sys.path))
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "BENCH_PATH": os.pathsep.join(map(str, paths)),  # the backend ignores PYTHONPATH
        "OMP_NUM_THREADS": "1",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def ready() -> bool:
        try:
            with Client(port) as client:
                return process.poll() is not None or client.get("/v2/health/ready").status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False

    try:
        eventually("Triton is ready", ready)
    except AssertionError:
        pass
    else:
        if process.poll() is None:
            return
    end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise ServerError(f"Triton does not get ready; its log ends:\n{end}")


def _start_sequences(port: int, row: Row) -> None:
    with Client(port) as client:
        for number in range(POOL):
            body = sequence(session_name(number), start=True)
            response = client.request("POST", row.path, body, {"Content-Type": "application/json"})
            if response.status != HTTPStatus.OK:
                raise ServerError(f"Triton does not start a sequence: {response.body[:500]!r}")
