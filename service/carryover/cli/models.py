"""`models`: what the model repository serves."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from carryover import settings
from carryover.api.v1.models import describe
from carryover.cli.terminal import json_option, show_json, table, working
from carryover.runtime.repository import Repository


@click.command()
@json_option
def models(*, as_json: bool) -> None:
    """List what MODEL_REPOSITORY serves."""
    with working():
        configured = settings.read()
        repository = Repository.load(configured.model_folders, trust_pt2=configured.trust_pt2)
        described = [describe(model) for model in repository]
    if as_json:
        show_json({"models": described})
    else:
        click.echo("\n\n".join(map(_text, described)))


def _text(model: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{number} (serves)" if number == model["version"] else number for number in model["versions"])
    rows = [
        ("versions", versions),
        ("fingerprint", model["fingerprint"]),
        *_block("inputs", model["inputs"]),
        *_block("outputs", model["outputs"]),
        *_block("frozen", model["frozen_buffers"]),
        *_block("state", model["state_buffers"]),
    ]
    return f"{model['name']}\n{table([(f'  {word}', shown) for word, shown in rows])}"


def _block(word: str, tensors: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    lines = [f"{tensor['name']} {tensor['datatype'] or 'None'} {list(tensor['shape'] or ())}" for tensor in tensors]
    return [("" if number else word, line) for number, line in enumerate(lines or ["none"])]
