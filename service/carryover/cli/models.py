"""`models`: what the model repository serves."""

from collections.abc import Iterable
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
    if as_json:
        show_json({"models": list(map(_json, repository))})
    else:
        click.echo("\n\n".join(map(_text, repository)))


def _text(model: Model) -> str:
    version = model.default
    rows = [
        (
            "versions",
            ", ".join(f"{number} (serves)" if number == version.version else number for number in model.versions),
        ),
        ("fingerprint", version.fingerprint.hex()),
        *_block("inputs", map(_spec, model.inputs)),
        *_block("outputs", map(_spec, model.outputs)),
        *_block("frozen", map(_info, version.frozen_buffers())),
        *_block("state", map(_info, version.state_buffers())),
    ]
    return f"{model.name}\n{table([(f'  {word}', shown) for word, shown in rows])}"


def _block(word: str, tensors: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    lines = [f"{tensor['name']} {tensor['datatype'] or 'None'} {list(tensor['shape'] or ())}" for tensor in tensors]
    return [("" if number else word, line) for number, line in enumerate(lines or ["none"])]


def _json(model: Model) -> dict[str, Any]:
    """The model as `GET /v1/models` lists it."""
    version, digests = model.default, model.default.frozen_digests()
    return {
        "name": model.name,
        "ready": True,
        "version": version.version,
        "versions": list(model.versions),
        "fingerprint": version.fingerprint.hex(),
        "stateful": version.stateful,
        "inputs": [_spec(spec) for spec in model.inputs],
        "outputs": [_spec(spec) for spec in model.outputs],
        **({"labels": model.labels} if model.labels else {}),
        "parameters": [_info(tensor) for tensor in version.parameters()],
        "frozen_buffers": [_info(tensor) | {"sha256": digests[tensor.name]} for tensor in version.frozen_buffers()],
        "state_buffers": [_info(tensor) for tensor in version.state_buffers()],
    }


def _info(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}
