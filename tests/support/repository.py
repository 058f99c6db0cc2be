"""Writing small model repositories."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.support.harness import CHECKPOINTS
from tests.support.sources import plain

Spec = dict[str, Any]
DATATYPES = ("FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL")
SHAPES = ((-1,), (-1, 3), (-1, 1, 2), (2, -1, 1), (1, -1, 4), (-1, -1), (-1, 1, -1, 1), (2, 2), ())
"""Of the identity models: `identity-fp32-0` is the first of these in FP32."""


def spec(shape: tuple[int, ...], datatype: str = "FP32", name: str = "x", batch_dim: int | None = None) -> Spec:
    """One input or output of a manifest."""
    return {"name": name, "datatype": datatype, "shape": shape} | (
        {} if batch_dim is None else {"batch_dim": batch_dim}
    )


def write_model(  # noqa: PLR0913
    repository: Path,
    name: str,
    module: nn.Module,
    inputs: list[Spec],
    outputs: list[Spec] | None = None,
    *,
    state: Mapping[str, int | None] | None = None,
    arguments: Mapping[str, Any] | None = None,
    version: str = "1",
    file: str = "weights.safetensors",
) -> Path:
    """Write a model of a class of `plain` (or of torch) with its weights; without `outputs` they are as the inputs.

    `state` gives batch dims by buffer name. Returns the manifest's path.
    """
    folder = repository / name / version
    folder.mkdir(parents=True)
    cls = type(module)
    source = "plain.py" if cls.__module__ == plain.__name__ else cls.__module__
    if source == "plain.py":
        shutil.copy(Path(plain.__file__), folder.parent / source)
    lines = [f'class = "{source}:{cls.__name__}"']
    if arguments:
        lines.append("arguments = { " + ", ".join(f"{key} = {json.dumps(v)}" for key, v in arguments.items()) + " }")
    for table, specs in (("inputs", inputs), ("outputs", inputs if outputs is None else outputs)):
        for one in specs:
            lines += ["", f"[[{table}]]", *(f"{key} = {json.dumps(value)}" for key, value in one.items())]
    for buffer, batch_dim in (state or {}).items():
        lines += ["", f"[state.{buffer}]", *([] if batch_dim is None else [f"batch_dim = {batch_dim}"])]
    manifest = folder.parent / "model.toml"
    manifest.write_text("\n".join(lines) + "\n")
    if file.endswith(".pt"):
        torch.save(module.state_dict(), folder / file)
    else:
        save_file(module.state_dict(), folder / file)
    return manifest


def rnn() -> plain.PlainRNN:
    """The RNN of the model `rnn`, the same each time."""
    torch.manual_seed(1)
    return plain.PlainRNN().eval()


def gru() -> plain.BatchFirstRNN:
    torch.manual_seed(2)
    return plain.BatchFirstRNN().eval()


def lstm() -> plain.PlainLSTM:
    torch.manual_seed(3)
    return plain.PlainLSTM().eval()


def batchnorm() -> plain.PlainBatchNorm:
    torch.manual_seed(4)
    return plain.PlainBatchNorm().eval()


def library_batchnorm() -> nn.BatchNorm1d:
    torch.manual_seed(5)
    module = nn.BatchNorm1d(3)
    for _ in range(10):
        module(torch.randn(8, 3) * 3 + 2)
    return module.eval()


def write_zoo(repository: Path) -> None:
    """Write the models that come with the service, and one of each module in `plain`."""
    shutil.copytree(CHECKPOINTS, repository)
    inputs, outputs = [spec((-1, 1, 3), batch_dim=1)], [spec((-1, 1, 5), name="y", batch_dim=1)]
    write_model(repository, "rnn", rnn(), inputs, outputs, state={"hidden": 1})
    write_model(repository, "rnn-alone", rnn(), [spec((-1, 1, 3))], [spec((-1, 1, 5), name="y")])
    write_model(repository, "lstm", lstm(), inputs, outputs, state={"h": 1, "c": 1}, file="weights.pt")
    write_model(
        repository,
        "gru",
        gru(),
        [spec((1, -1, 3), batch_dim=0)],
        [spec((1, -1, 5), name="y", batch_dim=0)],
        state={"hidden": 1},
    )
    write_model(repository, "sum", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(repository, "batchnorm", batchnorm(), [spec((-1, 3), batch_dim=0)])
    write_model(repository, "library", library_batchnorm(), [spec((-1, 3), batch_dim=0)], arguments={"num_features": 3})
    write_model(repository, "statistics", plain.Statistics(), [spec((-1, 3))])
    side_by_side = [spec((-1, 1, 1), batch_dim=1)]
    write_model(repository, "fails", plain.Fails(), side_by_side, state={"calls": 0})
    write_model(repository, "writes-frozen", plain.WritesFrozen(), side_by_side, state={"calls": 0})
    write_few(repository)
    write_model(repository, "now-and-then", plain.NowAndThen(), [spec((-1,))], state={"largest": None})
    write_model(repository, "kinds", plain.Kinds(), [spec((-1,))])
    write_model(
        repository,
        "mixed",
        plain.Mixed(),
        [
            spec((-1, 2), batch_dim=0),
            spec((-1,), "INT64", "index", batch_dim=0),
            spec((-1,), "BOOL", "flag", batch_dim=0),
        ],
        [spec((-1,), "FP32", "chosen", batch_dim=0), spec((-1,), "INT64", "kept", batch_dim=0)],
    )
    write_model(repository, "pair", plain.Pair(), [spec((-1,))], [spec((-1,)), spec((-1,), "BOOL", "positive")])
    for datatype in DATATYPES:
        for index, shape in enumerate(SHAPES):
            write_model(repository, f"identity-{datatype.lower()}-{index}", plain.Identity(), [spec(shape, datatype)])


def write_few(repository: Path) -> None:
    """Write a few models by which to see how a worker goes about its work."""
    side_by_side = [spec((-1, 1, 1), batch_dim=1)]
    write_model(repository, "slow", plain.Slow(), side_by_side, state={"total": 0})
    write_model(repository, "talks", plain.Talks(), side_by_side, state={"total": 0})
    write_model(repository, "total", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(repository, "twice", plain.Pair(), [spec((-1,))], [spec((-1,)), spec((-1,), "BOOL", "positive")])
