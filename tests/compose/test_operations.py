"""The deployment's scripts and variables, each with a password for Redis and without one."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from http import HTTPStatus

import pytest
import yaml

from tests.compose.conftest import PASSWORD
from tests.compose.deployment import TIMEOUT, Deployment, docker
from tests.support.client import Client
from tests.support.paths import ROOT
from tests.support.waiting import eventually

DETECTOR = "/v1/models/detector"
SAMPLES = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
MAKE_KEY = ("python", "-m", "carryover.cli", "keys", "new")
LIST_MODELS = ("python", "-m", "carryover.cli", "models")
BROKEN = "\nRUN printf '#!/bin/sh\\necho broken on purpose\\nexit 3\\n' >/venv/bin/gunicorn\n"


@pytest.fixture(scope="module", params=["", PASSWORD], ids=["without-password", "with-password"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two replicas that serve the examples from a folder of the host, with a package of one's own."""
    folder = tmp_path_factory.mktemp("own")
    models = folder / "my-models"
    shutil.copytree(ROOT / "examples", models, ignore=shutil.ignore_patterns("__pycache__"))
    (models / "lost+found").mkdir(mode=0o700)
    variables = {"MODELS": str(models)} | ({"REDIS_PASSWORD": request.param} if request.param else {})
    found = Deployment(folder, f"carryover-own-{os.getpid()}-{len(request.param)}", **variables)
    (folder / "own-requirements.txt").write_text("einops==0.8.1\n")
    try:
        found.build()
        found.up(2)
        yield found
    finally:
        found.remove()


def step(own: Deployment, session: str) -> int:
    """Step a session and return the step that it is at."""
    answer = own.post(f"{DETECTOR}/sessions/{session}:predict", SAMPLES)
    found: int = answer.expect()["step"]
    return found


def test_ones_own_models_and_packages_are_served(own: Deployment) -> None:
    assert own.post(f"{DETECTOR}/sessions", {"session": "own"}).status == 201
    assert step(own, "own") == 1
    names = {model["name"] for model in own.get("/v1/models").expect()["models"]}
    assert names == {"detector", "forecaster", "normaliser"}
    replica = own.containers("service")[0]
    assert own.python(replica, "import einops; print(einops.__version__)").strip() == "0.8.1"
    with pytest.raises(RuntimeError, match="Read-only"):
        docker("exec", replica, "touch", "/models/file")


def test_the_metrics_of_one_replica_are_shown_from_inside_it(own: Deployment) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    (program,) = re.findall(r"\$ docker exec carryover-service-1 python -c '(.+)'", page)
    for replica in own.containers("service"):
        assert "carryover_redis_up 1.0" in own.python(replica, program)


def test_a_model_that_is_added_is_served_on_a_signal(own: Deployment) -> None:
    shutil.copytree(own.folder / "my-models" / "detector", own.folder / "my-models" / "added")
    own.compose("kill", "--signal", "HUP", "service")
    eventually("the model", lambda: all(own.get("/v1/models/added").status == HTTPStatus.OK for _ in range(8)))


def test_the_folder_of_one_model_is_served(own: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own.variables, "MODELS", str(own.folder / "my-models" / "detector"))
    shown = own.compose("run", "--rm", "--no-deps", "service", *LIST_MODELS)
    assert models_in(shown) == ["models"]


def test_an_image_of_ones_own_has_the_models_and_their_packages(own: Deployment) -> None:
    folder = own.folder / "own-image"
    shutil.copytree(own.folder / "my-models" / "detector", folder / "models" / "detector")
    (folder / "own-requirements.txt").write_text("einops==0.8.1\n")
    service, tag = own.inspect(own.containers("service")[0])["Config"]["Image"], f"{own.project}-of-ones-own"
    file = str(own.folder / "deploy" / "own-image" / "Dockerfile")
    docker("build", "--file", file, "--build-arg", f"SERVICE={service}", "--tag", tag, str(folder))
    try:
        assert models_in(docker("run", "--rm", "--network", "none", tag, *LIST_MODELS)) == ["detector"]
        program = "import einops, torch; print(einops.__version__, torch.__file__)"
        said = docker("run", "--rm", "--network", "none", tag, "python", "-c", program)
        assert re.fullmatch(r"0\.8\.1 /venv/lib/python\S+/torch/__init__\.py", said.strip())
    finally:
        docker("image", "rm", "--force", tag)


def test_kserves_command_gives_the_model_the_name_of_the_service(own: Deployment) -> None:
    (container,) = yaml.safe_load((own.folder / "deploy" / "kserve" / "runtime.yaml").read_text())["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one} | {"MODEL_NAME": "eeg"}
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    (command,) = container["args"]
    assert command.endswith("exec gunicorn")
    listing = command.replace("exec gunicorn", shlex.join(LIST_MODELS))
    service = own.inspect(own.containers("service")[0])["Config"]["Image"]
    volume = f"{own.folder / 'my-models' / 'detector'}:/mnt/models:ro"
    hardened = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")  # noqa: S108
    shown = docker("run", *hardened, "--volume", volume, *environment, service, *container["command"], listing)
    assert models_in(shown) == ["eeg"]


def models_in(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if line and not line.startswith(" ")]


def test_a_backup_can_be_made_and_restored(own: Deployment) -> None:
    assert own.post(f"{DETECTOR}/sessions", {"session": "backed-up"}).status == 201
    assert step(own, "backed-up") == 1
    backup = own.script("backup")
    assert backup.startswith(b"REDIS")
    assert step(own, "backed-up") == 2
    own.script("restore", backup)
    eventually("readiness", own.ready)
    assert step(own, "backed-up") == 2


def asked(own: Deployment, key: str) -> int:
    """The status of a request with an API key."""
    with Client(own.port, TIMEOUT) as client:
        return client.request("GET", "/v1/models", None, {"Authorization": f"Bearer {key}"}).status


def test_settings_and_api_keys_are_applied_by_an_upgrade_and_keys_are_replaced(
    own: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = own.folder / "keys.toml", own.containers("service")

    def new() -> tuple[str, str]:
        """A key, and its entry in the file, both made by the service's own image."""
        entry, said = own.composed("run", "--rm", "--no-deps", "-T", "service", *MAKE_KEY, "app")
        return re.findall(r"carryover_\S+", said)[-1], entry

    first, entry = new()
    file.write_text(entry)
    monkeypatch.setitem(own.variables, "API_KEYS_FILE", "keys.toml")
    monkeypatch.setitem(own.variables, "SESSION_TTL", "1234")
    own.script("upgrade")
    assert not set(own.containers("service")) & set(before)
    assert asked(own, first) == 200
    with Client(own.port, TIMEOUT) as client:
        body, headers = b"{}", {"Authorization": f"Bearer {first}", "Content-Type": "application/json"}
        assert client.request("POST", f"{DETECTOR}/sessions", body, headers).expect(201)["ttl"] == 1234
    second, other = new()
    digests = re.findall(r'"[0-9a-f]{64}"', entry + other)
    file.write_text(re.sub(r"sha256 = .*", f"sha256 = [{', '.join(digests)}]", entry))  # in place, as `cat >` does
    own.compose("kill", "--signal", "HUP", "service")
    eventually("the second key", lambda: all(asked(own, second) == HTTPStatus.OK for _ in range(8)))
    assert asked(own, first) == 200
    monkeypatch.undo()
    own.script("upgrade")


def test_an_upgrade_that_fails_changes_nothing_and_the_next_one_works(own: Deployment) -> None:
    assert own.post(f"{DETECTOR}/sessions", {"session": "upgraded"}).status == 201
    before = own.containers("service")
    with pytest.raises(RuntimeError, match=r"answers 1: (?s:.*)there is no image to go back to"):
        own.script("upgrade", arguments=("previous",))
    with pytest.raises(RuntimeError, match=r"answers 2: (?s:.*)unknown arguments: previos"):
        own.script("upgrade", arguments=("previos",))
    assert own.containers("service") == before

    image = own.inspect(before[0])["Image"]
    dockerfile = own.folder / "Dockerfile"
    text = dockerfile.read_text()
    dockerfile.write_text(text.replace("\nUSER 10001", f"{BROKEN}USER 10001"))
    with pytest.raises(RuntimeError, match=r"answers 1: (?s:.*)broken on purpose"):
        own.script("upgrade")
    assert own.containers("service") == before
    assert step(own, "upgraded") == 1

    dockerfile.write_text(text.replace("\nUSER 10001", '\nLABEL upgrade="good"\nUSER 10001'))
    own.script("upgrade")
    after = own.containers("service")
    assert len(after) == 2
    assert not set(after) & set(before)
    assert {own.inspect(replica)["Config"]["Labels"].get("upgrade") for replica in after} == {"good"}
    assert step(own, "upgraded") == 2

    own.script("upgrade", arguments=("previous",))
    assert {own.inspect(replica)["Image"] for replica in own.containers("service")} == {image}
    assert step(own, "upgraded") == 3
