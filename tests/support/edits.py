"""Edits that make the RNN `m` of a model repository invalid."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Edit = Callable[[Path], None]


def replace(old: str, new: str) -> Edit:
    """Change the manifest; `old` is a regular expression."""

    def edit(models: Path) -> None:
        path = models / "m/model.toml"
        text, count = re.subn(old, new, path.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        path.write_text(text)

    return edit


def append(text: str) -> Edit:
    return lambda models: write(models / "m/model.toml", (models / "m/model.toml").read_bytes() + text.encode())


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def source(text: str) -> Edit:
    return lambda models: write(models / "m/plain.py", text.encode())


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Edit:
    def edit(models: Path) -> None:
        path = models / "m/1/weights.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def no_weights(models: Path) -> None:
    (models / "m/1/weights.safetensors").unlink()


def other_file(name: str, data: bytes) -> Edit:
    def edit(models: Path) -> None:
        no_weights(models)
        write(models / "m/1" / name, data)

    return edit


def rename(old: str, new: str) -> Edit:
    def edit(models: Path) -> None:
        (models / old).rename(models / new)

    return edit


def delete_hidden(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["hidden"]


MANIFEST = "m/model.toml"


SAFETENSORS = "m/1/weights.safetensors"
