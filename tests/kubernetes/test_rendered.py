"""The manifests as a cluster gets them: rendered by kubectl, and checked by KServe's own schemas."""

import lzma
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve"
KUBERNETES = "1.34"
SCHEMAS = {"ServingRuntime": "servingruntimes", "InferenceService": "inferenceservices"}
"""The file of each of KServe's resources in `schemas`."""


def rendered(folder: Path) -> list[Any]:
    """What `kubectl apply -k` sends."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "these tests need kubectl on PATH"
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def container(resources: list[Any]) -> Any:
    (deployment,) = (one for one in resources if one["kind"] == "Deployment")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return found


def variables(resources: list[Any]) -> Mapping[str, Any]:
    return {one["name"]: one.get("value") for one in container(resources)["env"]}


def test_what_is_rendered_is_valid() -> None:
    resources = rendered(FOLDER)
    assert sorted(one["kind"] for one in resources) == [
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"
    ]  # fmt: skip
    for one in resources:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert container(resources)["image"] == "registry.example.com/carryover:0.1.0"
    assert "API_KEYS" not in variables(resources)
    (settings,) = (one for one in resources if one["kind"] == "ConfigMap")
    assert container(resources)["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    assert settings["data"]["LOG_FORMAT"] == "json"


def test_api_keys_come_from_a_secret_with_the_component(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / "kustomization.yaml"
    file.write_text(file.read_text().replace("# components:", "components:"))
    resources = rendered(file.parent)
    for one in resources:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    mounts = {mount["name"]: mount["mountPath"] for mount in container(resources)["volumeMounts"]}
    assert variables(resources)["API_KEYS"] == f"{mounts['api-keys']}/keys.toml"
    assert "REDIS_URL" in variables(resources)
    assert {"tmp", "redis"} <= set(mounts)


@pytest.mark.parametrize("file", ["runtime.yaml", "inference-service.yaml"])
def test_a_resource_of_kserve_is_valid(file: str) -> None:
    resource = yaml.safe_load((KSERVE / file).read_text())
    version = resource["apiVersion"].rpartition("/")[2]
    jsonschema.validate(resource, strict(schema(resource["kind"], version)))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("runtime.yaml", "supportedModelFormat", []), ("inference-service.yaml", "predictor", {"model": {"runtime": 1}})],
)
def test_what_is_not_valid_is_noticed(file: str, key: str, value: Any) -> None:
    resource = yaml.safe_load((KSERVE / file).read_text())
    version = resource["apiVersion"].rpartition("/")[2]
    resource["spec"][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource, strict(schema(resource["kind"], version)))


def schema(kind: str, version: str) -> Any:
    """The schema of a resource of KServe."""
    text = lzma.decompress((Path(__file__).parent / "schemas" / f"{SCHEMAS[kind]}.yaml.xz").read_bytes())
    (found,) = (one for one in yaml.load(text, yaml.CSafeLoader)["spec"]["versions"] if one["name"] == version)
    return found["schema"]["openAPIV3Schema"]


def strict(found: Any) -> Any:
    """A schema that allows only what it lists: an API server drops the rest, and a typing error with it."""
    if isinstance(found, list):
        return [strict(one) for one in found]
    if not isinstance(found, dict):
        return found
    closed = {name: strict(value) for name, value in found.items()}
    is_open = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(found)
    if found.get("type") == "object" and found.get("properties") and not is_open:
        closed["additionalProperties"] = False
    return closed
