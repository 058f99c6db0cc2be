"""Train the classifiers on scikit-learn's digits and write the checkpoint of every model.

Run `python -m models.train`. On the same machine it writes the same files every time.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import torch as safetensors
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.accumulator import Accumulator
from models.batchnorm import BatchNormClassifier
from models.rnn import RNNClassifier

SEED = 0
HELD_OUT_FRACTION = 0.2
BATCH_SIZE = 64
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-2
VERSION = "1"

Logits = Callable[[Tensor], Tensor]
"""From images (N, 8, 8) to the logits after each of T time steps (T, N, 10)."""


class Digits(NamedTuple):
    """Images (N, 8, 8), pixels from 0 to 16, and their labels (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How to train a classifier: `build` returns it untrained, with its logits as a function of images."""

    name: str
    build: Callable[[], tuple[nn.Module, Logits]]
    epochs: int


def batchnorm() -> tuple[nn.Module, Logits]:
    """Classify all 64 pixels at once: T = 1."""
    model = BatchNormClassifier()
    return model, lambda images: model.logits(images.flatten(1))[None]


def rnn() -> tuple[nn.Module, Logits]:
    """Read 8 rows of 8 pixels, T = 8, from the initial hidden state, and reset it afterwards."""
    model = RNNClassifier()

    def logits(images: Tensor) -> Tensor:
        model.reset(len(images))
        scores = model.logits(images.transpose(0, 1))
        model.reset()
        return scores

    return model, logits


RECIPES = (Recipe("digits-batchnorm", batchnorm, epochs=200), Recipe("digits-rnn", rnn, epochs=400))


def main() -> None:
    """Train every model; the command line names the output folder."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description="Train every model.")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder for the checkpoints")
    train(parser.parse_args().out)


def train(out: Path, recipes: tuple[Recipe, ...] = RECIPES) -> None:
    """Write the weights of the accumulator and of every recipe's classifier below `out`."""
    torch.set_num_threads(1)  # sums are split over threads, so the number of threads changes the rounding
    save(Accumulator(), out / "accumulator" / VERSION)
    training, held_out = split_digits()
    for recipe in recipes:
        torch.manual_seed(SEED)
        model, logits = recipe.build()
        fit(model, logits, training, recipe)
        report = Report(
            model=recipe.name,
            held_out_accuracy=accuracy(model, logits, held_out),
            held_out_size=len(held_out.labels),
            training_size=len(training.labels),
            epochs=recipe.epochs,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
        folder = out / recipe.name / VERSION
        save(model, folder)
        (folder / "training.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
        tqdm.write(f"{recipe.name}: {report.held_out_accuracy:.2%} of the held-out digits")


@dataclass(frozen=True)
class Report:
    """The contents of `training.json`."""

    model: str
    held_out_accuracy: float
    held_out_size: int
    training_size: int
    epochs: int
    parameters: int
    data: str = "sklearn.datasets.load_digits"
    split: str = "train_test_split, stratified by digit"
    held_out_fraction: float = HELD_OUT_FRACTION
    seed: int = SEED
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    torch: str = str(torch.__version__)


def split_digits() -> tuple[Digits, Digits]:
    """Return the digits to train on and the held-out ones, stratified by digit."""
    digits = load_digits()
    training_images, held_out_images, training_labels, held_out_labels = train_test_split(
        torch.tensor(digits.images, dtype=torch.float32),
        torch.tensor(digits.target),
        test_size=HELD_OUT_FRACTION,
        stratify=digits.target,
        random_state=SEED,
    )
    return Digits(training_images, training_labels), Digits(held_out_images, held_out_labels)


def fit(model: nn.Module, logits: Logits, digits: Digits, recipe: Recipe) -> None:
    """Train in place: AdamW with a cosine schedule; every image is shifted at random each time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    model.train()
    for _ in tqdm(range(recipe.epochs), desc=recipe.name, unit="epoch"):
        for batch in torch.split(torch.randperm(len(digits.labels)), BATCH_SIZE):
            optimizer.zero_grad()
            torch.autograd.backward(loss(logits(shifted(digits.images[batch])), digits.labels[batch]))
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
        schedule.step()


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over T steps, (T, N, 10) and (N,) to (), with weight t² for step t."""
    steps = len(logits)
    weights = torch.arange(1, steps + 1, dtype=torch.float32).square()
    each = functional.cross_entropy(logits.flatten(0, 1), labels.repeat(steps), reduction="none")
    return each.view(steps, -1).mean(1) @ (weights / weights.sum())


def shifted(images: Tensor) -> Tensor:
    """Move each image by up to one pixel across and down, (N, 8, 8) to (N, 8, 8), filling with zeros."""
    rows, columns = torch.randint(0, 3, (2, len(images), 1)) + torch.arange(8)
    image = torch.arange(len(images))
    return functional.pad(images, (1, 1, 1, 1))[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def accuracy(model: nn.Module, logits: Logits, digits: Digits) -> float:
    """Return the fraction of images whose digit is the most likely one after the last step."""
    model.eval()
    with torch.inference_mode():
        right = logits(digits.images)[-1].argmax(-1) == digits.labels
    return int(right.sum()) / len(right)


def save(model: nn.Module, folder: Path) -> None:
    """Write the parameters and buffers as the weights of one version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(safetensors.save(model.state_dict()))


if __name__ == "__main__":
    main()
