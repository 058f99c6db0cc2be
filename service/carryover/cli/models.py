"""`models`: what the model repository serves."""

from typing import Any

import click

from carryover import settings
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.repository import Model, Repository
from carryover.runtime.version import TensorInfo


@click.command()
@json_option
def models(*, as_json: bool) -> None:
    """List what MODEL_REPOSITORY serves."""
    with working():
        configured = settings.read()
        repository = Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2)
    described = list(map(_described, repository))
    if as_json:
        show_json({"models": described})
    else:
        click.echo("\n\n".join(map(_text, described)))


def _described(model: Model) -> dict[str, Any]:
    """The model as `GET /v1/models` lists it."""
    version, digests = model.default, model.default.frozen_digests()
    return {
        "name": model.name,
        "ready": True,
        "version": version.version,
        "versions": list(model.versions),
        "fingerprint": version.fingerprint.hex(),
        "stateful": version.stateful,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
        **({"labels": model.labels} if model.labels else {}),
        "parameters": [_tensor(info) for info in version.parameters()],
        "frozen_buffers": [_tensor(info) | {"sha256": digests[info.name]} for info in version.frozen_buffers()],
        "state_buffers": [_tensor(info) for info in version.state_buffers()],
    }


def _tensor(found: TensorInfo | TensorSpec) -> dict[str, Any]:
    datatype = found.datatype if isinstance(found, TensorInfo) else found.datatype.name
    return {"name": found.name, "datatype": datatype, "shape": found.shape}


def _text(model: dict[str, Any]) -> str:
    versions = ", ".join(f"{number} (serves)" if number == model["version"] else number for number in model["versions"])
    rows = [("versions", versions), ("fingerprint", model["fingerprint"])]
    blocks = {"inputs": "inputs", "outputs": "outputs", "frozen": "frozen_buffers", "state": "state_buffers"}
    for word, key in blocks.items():
        lines = [f"{one['name']} {one['datatype'] or 'None'} {list(one['shape'] or ())}" for one in model[key]]
        rows += [("" if number else word, line) for number, line in enumerate(lines or ["none"])]
    return f"{model['name']}\n{table([(f'  {word}', shown) for word, shown in rows])}"
