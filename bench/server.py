"""A gunicorn of the repository's own configuration, with one worker for each CPU, on a free port."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import models
from carryover.server import cpus
from tests.support.paths import GUNICORN
from tests.support.redis_server import free_port
from tests.support.service import Service
from tests.support.waiting import eventually


class ServerError(Exception):
    """The server does not start, or does not respond as it should."""


@contextmanager
def running(*options: str) -> Iterator[Service]:
    """Run gunicorn with the repository's configuration, and `options` on its command line, until the block ends.

    Raises:
        ServerError: it ended, or did not respond in time; with the end of its log.

    """
    with TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()  # the baseline does not print the one that it listens on
        server = Service(
            Path(folder),
            (GUNICORN, *options),
            WORKERS=cpus.available(),
            BIND=f"127.0.0.1:{port}",
            MODEL_REPOSITORY=models.write(Path(folder) / "models"),
        )
        server.port = port
        try:
            _start(server)
            yield server
        finally:
            server.end()


def _start(server: Service) -> None:
    process = server.launch()
    try:
        eventually(f"a server at port {server.port}", lambda: process.poll() is not None or _responds(server))
        ended = process.poll() is not None
    except AssertionError:
        ended = True
    if ended:
        end = "\n".join(server.log().splitlines()[-20:])
        raise ServerError(f"the server at port {server.port} does not get ready; its log ends:\n{end}")


def _responds(server: Service) -> bool:
    try:
        with server.client() as client:
            # The baseline has no such route: that it says so is enough.
            return client.get("/v2/health/ready").status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
    except (OSError, HTTPException):
        return False
