"""The models that the benchmark serves: those of the repository, and a larger one."""

import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.rows import LARGER, RNN
from models.rnn import RNNClassifier
from tests.support.paths import CHECKPOINTS

HIDDEN = 992
"""The width of the larger RNN, which has 1,003,914 parameters, and 3,968 bytes of state."""


def write(folder: Path) -> Path:
    """Write the model repository into a new folder, and return that."""
    folder.mkdir()
    for model in CHECKPOINTS.iterdir():
        (folder / model.name).symlink_to(model)
    manifest = (CHECKPOINTS / RNN / "model.toml").read_text()
    usual = tomllib.loads(manifest)["arguments"]["hidden_size"]
    weights = folder / LARGER / "1" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    (folder / LARGER / "model.toml").write_text(manifest.replace(f"hidden_size = {usual}", f"hidden_size = {HIDDEN}"))
    torch.manual_seed(0)
    save_file(RNNClassifier(hidden_size=HIDDEN).state_dict(), weights)
    return folder
