"""A deployment under a name of its own, driven by `docker compose` and nothing else."""

import json
import os
import re
import shutil
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.support.client import Client, Response
from tests.support.paths import ROOT
from tests.support.redis_server import free_port

SOURCES = (
    ".dockerignore", "Dockerfile", "checkpoints", "deploy", "docker-compose.yml", "gunicorn.conf.py", "models",
    "requirements.txt", "service",
)  # fmt: skip
"""What a deployment is made of; the rest of a checkout plays no part in it."""

TIMEOUT = 30.0
"""Seconds that a client waits for a response."""

_LIST_PROCESSES = "from glob import glob\nfor path in glob('/proc/[0-9]*/stat'): print(open(path).read(), end='')"
_GET = "exec 3<>/dev/tcp/127.0.0.1/8404 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
_ANSWERED = re.compile(r'haproxy_server_http_responses_total\{proxy="replicas",server="(\w+)",code="\dxx"\} (\d+)')


def docker(*arguments: str) -> str:
    """Run a docker command and return what it prints."""
    return run(_docker(), *arguments).stdout.decode()


def run(
    *command: str, environment: dict[str, str] | None = None, folder: Path = ROOT, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command; raise with what it complained of where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, check=False, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} answers {done.returncode}: {done.stderr.decode()[-4000:]}")
    return done


def missing_engine() -> str | None:
    """Return what is wrong with the container engine; None where it can be used."""
    if shutil.which("docker") is None:
        return "there is no `docker` on PATH"
    try:
        docker("version", "--format", "{{.Server.Version}}")
        docker("compose", "version")
    except RuntimeError as error:
        return str(error)
    return None


class Deployment:
    """One compose project, made from a copy of the checkout's sources in `folder`."""

    def __init__(self, folder: Path, project: str, **variables: str) -> None:
        self.folder = folder
        self.project = project
        self.port = free_port()
        self.variables = variables
        for source in SOURCES:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / source, folder / source)

    def compose(self, *arguments: str) -> str:
        return self.composed(*arguments)[0]

    def composed(self, *arguments: str) -> tuple[str, str]:
        """Run a command of compose, and return what it prints to standard output and to standard error."""
        done = self._run(_docker(), "compose", *arguments)
        return done.stdout.decode(), done.stderr.decode()

    def script(self, name: str, given: bytes = b"", arguments: tuple[str, ...] = ()) -> bytes:
        """Run one of the deployment's own scripts."""
        return self._run(str(self.folder / "deploy" / name), *arguments, given=given).stdout

    def build(self, *services: str) -> str:
        """Build images and return BuildKit's account of it."""
        done = self._run(_docker(), "compose", "build", *services)
        return (done.stdout + done.stderr).decode()

    @staticmethod
    def build_steps(account: str, command: str) -> list[str]:
        """Return how the steps that run a command ended, by BuildKit's account: CACHED, or DONE and the seconds."""
        numbers = re.findall(rf"(?m)^#(\d+) \[.*{re.escape(command)}", account)
        return [how for number in numbers for how in re.findall(rf"(?m)^#{number} (CACHED|DONE .*)$", account)]

    def up(self, replicas: int) -> None:
        self.compose("up", "--detach", "--wait", "--scale", f"service={replicas}")

    def scale(self, replicas: int) -> None:
        self.compose(
            "up", "--detach", "--wait", "--no-recreate", "--no-deps", "--scale", f"service={replicas}", "service"
        )

    def containers(self, service: str) -> list[str]:
        """Return the names of a service's running containers."""
        return self.compose("ps", "--format", "{{.Name}}", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", container))[0]
        return found

    def python(self, replica: str, program: str) -> str:
        """Run Python in a replica."""
        return docker("exec", replica, "python", "-c", program)

    def processes(self, replica: str) -> tuple[int, list[int]]:
        """Return the process numbers of a replica's gunicorn and of its workers."""
        parents: dict[int, int] = {}
        for line in self.python(replica, _LIST_PROCESSES).splitlines():
            number, rest = line.split(" (", 1)
            parents[int(number)] = int(rest.rpartition(") ")[2].split()[1])
        (arbiter,) = (number for number, parent in parents.items() if parent == 1)
        return arbiter, [number for number, parent in parents.items() if parent == arbiter]

    def kill(self, replica: str, process: int) -> None:
        # Detached: the container may end before it can say how this went.
        docker("exec", "--detach", replica, "python", "-c", f"import os; os.kill({process}, 9)")

    def answered(self) -> dict[str, int]:
        """Return how many requests each replica has answered, by the proxy's count."""
        counts: dict[str, int] = {}
        for server, count in _ANSWERED.findall(docker("exec", *self.containers("proxy"), "bash", "-c", _GET)):
            counts[server] = counts.get(server, 0) + int(count)
        return counts

    def ready(self) -> bool:
        """Ask a replica whether it can serve sessions."""
        return self.get("/v2/health/ready").status == HTTPStatus.OK

    def get(self, path: str) -> Response:
        """Send a request over a connection of its own."""
        with Client(self.port, TIMEOUT) as client:
            return client.get(path)

    def post(self, path: str, body: Any) -> Response:
        """Send a request over a connection of its own."""
        with Client(self.port, TIMEOUT) as client:
            return client.post(path, body)

    def remove(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "10")

    def _run(self, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {"COMPOSE_PROJECT_NAME": self.project, "PORT": str(self.port)} | self.variables
        return run(*command, environment=environment, folder=self.folder, given=given)


def _docker() -> str:
    return shutil.which("docker") or "docker"
