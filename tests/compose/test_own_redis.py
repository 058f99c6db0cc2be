"""The deployment with a Redis of one's own: over TLS, of its own authority, as the user that the page describes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.compose.deployment import Deployment, docker
from tests.support.paths import ROOT

HOST = "redis.example.com"
IMAGE = os.environ.get("REDIS_IMAGE", "redis:7-bookworm")
ROW = {"instances": [[1, 2, 3, 4, 5, 6, 7, 8]]}
RNN = "/v1/models/digits-rnn"
CONFIGURATION = """
port 0
tls-port 6380
tls-cert-file /tls/server.pem
tls-key-file /tls/server.key
tls-ca-cert-file /tls/ca.pem
tls-auth-clients no
appendonly yes
user default off
user admin on >admin ~* &* +@all
user {user}
"""
ASK = ("redis-cli", "--tls", "--cacert", "/tls/ca.pem", "-h", HOST, "-p", "6380", "--user", "admin", "--pass", "admin")


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployment]:
    """One replica, and the server in the network that leads out."""
    _configure(tmp_path / "tls")
    url = f"rediss://carryover:password@{HOST}:6380/0?ssl_ca_certs=/run/secrets/redis_ca"
    variables = {"REDIS_URL": url, "REDIS_CA": "tls/ca.pem", "SERVICE_REPLICAS": "1"}
    files = "docker-compose.yml:deploy/managed-redis.yml"
    found = Deployment(tmp_path, f"carryover-own-redis-{os.getpid()}", COMPOSE_FILE=files, **variables)
    try:
        found.build()
        found.compose("create")
        docker(
            "run", "--detach", "--name", redis_of(found),
            "--network", f"{found.project}_outside", "--network-alias", HOST,
            "--volume", f"{tmp_path / 'tls'}:/tls:ro", IMAGE, "redis-server", "/tls/redis.conf",
        )  # fmt: skip
        found.up(1)
        yield found
    finally:
        docker("rm", "--force", "--volumes", redis_of(found))
        found.remove()


def _configure(folder: Path) -> None:
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    page = (ROOT / "docs" / "deployment.md").read_text()
    (user,) = re.findall(r"^ACL SETUSER (.+)$", page, re.MULTILINE)
    (folder / "redis.conf").write_text(CONFIGURATION.format(user=user))
    for file in folder.iterdir():
        file.chmod(0o644)


def redis_of(deployed: Deployment) -> str:
    return f"{deployed.project}-server"


def test_sessions_are_in_a_redis_of_ones_own(deployed: Deployment) -> None:
    assert deployed.containers("service")
    assert "redis" not in deployed.compose("ps", "--services").split()
    assert deployed.post(f"{RNN}/sessions", {"session": "own"}).status == 201
    assert deployed.post(f"{RNN}/sessions/own:predict", ROW).expect()["step"] == 1
    assert deployed.ready()
    denied = docker("exec", redis_of(deployed), *ASK, "ACL", "LOG").splitlines()
    objects = [denied[number + 1] for number, line in enumerate(denied) if line == "object"]
    assert set(objects) <= {"info"}, denied
