"""The manifests for Kubernetes and KServe: valid, consistent with each other and with the image."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dotenv import dotenv_values

from carryover import __version__
from carryover.settings import Settings
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
VERSION = "1.34"
KSERVE = ROOT / "deploy" / "kserve"


def resource(file: str, folder: Path = FOLDER) -> Any:
    return yaml.safe_load((folder / file).read_text())


@pytest.fixture
def container() -> Any:
    """The container of the deployment."""
    (found,) = resource("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return found


def test_the_kustomization_lists_every_file() -> None:
    (settings,) = KUSTOMIZATION["configMapGenerator"]
    others = {"kustomization.yaml", "prometheus-adapter.yaml", "api-keys", *settings["envs"]}
    assert {path.name for path in FOLDER.iterdir()} == {*others, *KUSTOMIZATION["resources"]}
    assert "# components: [api-keys]" in (FOLDER / "kustomization.yaml").read_text()


@pytest.mark.parametrize("file", KUSTOMIZATION["resources"])
def test_a_manifest_is_valid(file: str) -> None:
    found = resource(file)
    kubernetes_validate.validate(found, VERSION, strict=True)


def test_every_selector_is_of_the_deployments_pods() -> None:
    labels = resource("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert resource("deployment.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert resource("service.yaml")["spec"]["selector"] == labels
    assert resource("disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert resource("network.yaml")["spec"]["podSelector"]["matchLabels"] == labels


def test_a_runtime_has_a_valid_container() -> None:
    (container,) = resource("runtime.yaml", KSERVE)["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["MODEL_NAME"] == "{{.Name}}"
    assert f'"{variables["MODEL_REPOSITORY"]}/$MODEL_NAME"' in container["args"][0]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, VERSION, strict=True)


def test_the_service_names_the_runtime() -> None:
    runtime, service = resource("runtime.yaml", KSERVE), resource("inference-service.yaml", KSERVE)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {entry["name"] for entry in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_a_redis_outage_takes_no_replica_away(container: Any) -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/v2/health/live"


def test_the_pod_fits_the_image_and_stops_in_time(container: Any) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    pod = resource("deployment.yaml")["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert f"\nUSER {user}:{user}\n" in dockerfile
    assert f"\nEXPOSE {container['ports'][0]['containerPort']}\n" in dockerfile
    (pause,) = (int(word) for word in container["lifecycle"]["preStop"]["exec"]["command"] if word.isdecimal())
    assert pause + int(str(settings()["GRACEFUL_TIMEOUT"])) < pod["terminationGracePeriodSeconds"]


def settings() -> dict[str, str | None]:
    """What `settings.env` says."""
    return dotenv_values(FOLDER / "settings.env")


def test_the_settings_are_those_of_the_service(container: Any) -> None:
    assert {name.lower() for name in settings()} <= set(Settings.model_fields)
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert container["envFrom"] == [{"configMapRef": {"name": generated["name"]}}]


def test_files_beside_the_url_of_redis_are_mounted(container: Any) -> None:
    (url,) = (one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "REDIS_URL")
    pod = resource("deployment.yaml")["spec"]["template"]["spec"]
    (volume,) = (one["name"] for one in pod["volumes"] if one.get("secret") == {"secretName": url["name"]})
    (path,) = (one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume)
    assert f"ssl_ca_certs={path}/ca.pem" in (ROOT / "docs" / "deployment.md").read_text()


def test_the_autoscaler_looks_at_a_metric_that_there_is_and_the_adapter_provides() -> None:
    resources, pods = resource("autoscaler.yaml")["spec"]["metrics"]
    assert resources["resource"]["name"] == "cpu"
    metric = pods["pods"]["metric"]["name"]
    (rule,) = resource("prometheus-adapter.yaml")["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert f"`{metric}`" in (ROOT / "docs" / "operations.md").read_text()


def test_prometheus_is_told_where_the_metrics_are_and_let_in(container: Any) -> None:
    annotations = resource("deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(container["ports"][0]["containerPort"]),
        "prometheus.io/path": "/metrics",
    }
    (rule,) = resource("network.yaml")["spec"]["ingress"]
    assert {tuple(peer) for peer in rule["from"]} == {("podSelector",), ("namespaceSelector",)}
    assert rule["ports"] == [{"port": container["ports"][0]["name"]}]


def test_the_autoscaler_and_the_images_name_what_there_is(container: Any) -> None:
    target = resource("autoscaler.yaml")["spec"]["scaleTargetRef"]
    deployment = resource("deployment.yaml")
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [container["image"]]


def test_the_image_has_one_version_everywhere() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.findall(r'image\.version="(.+)"', dockerfile) == [__version__]
    assert [image["newTag"] for image in KUSTOMIZATION["images"]] == [__version__]
    (container,) = resource("runtime.yaml", KSERVE)["spec"]["containers"]
    assert container["image"].rpartition(":")[2] == __version__


def made_by(file: str) -> set[str]:
    """The targets that a file of continuous integration makes."""
    commands = re.findall(r"^(?: *- run: )?make (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    return {word for command in commands for word in command.split() if not word.startswith("-")}


def test_continuous_integration_runs_every_target_that_tests() -> None:
    targets = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow, own = made_by(".github/workflows/ci.yml"), made_by(".ci/run")
    assert yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert workflow <= targets
    assert {target for target in targets if target.startswith("test")} - workflow == {"test-gpu"}
    # Two minutes of faults, and what asks a database of vulnerabilities, are the workflow's alone.
    assert workflow - own == {"test-chaos", "sbom", "audit"}
    assert own <= workflow
