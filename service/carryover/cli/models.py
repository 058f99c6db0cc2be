"""`models`: what the model repository serves."""

from collections.abc import Mapping
from typing import Any

import click

from carryover import settings
from carryover.api.v1.models import describe
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.runtime.repository import Repository

_TENSORS = ("inputs", "outputs", "frozen_buffers", "state_buffers")


@click.command()
@json_option
def models(*, as_json: bool) -> None:
    """List what MODEL_REPOSITORY serves."""
    with working():
        configured = settings.read()
        repository = Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2)
    described = list(map(describe, repository))
    if as_json:
        show_json({"models": described})
    else:
        click.echo("\n\n".join(map(_text, described)))


def _text(model: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{number} (serves)" if number == model["version"] else number for number in model["versions"])
    rows = [("versions", versions), ("fingerprint", model["fingerprint"])]
    for word, key in zip(("inputs", "outputs", "frozen", "state"), _TENSORS, strict=True):
        lines = [f"{one['name']} {one['datatype'] or 'None'} {list(one['shape'] or ())}" for one in model[key]]
        rows += [("" if number else word, line) for number, line in enumerate(lines or ["none"])]
    return f"{model['name']}\n{table([(f'  {word}', shown) for word, shown in rows])}"
