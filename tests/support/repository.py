"""Writing small model repositories."""

import inspect
import json
import shutil
from collections.abc import Mapping
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.support import sources
from tests.support.paths import CHECKPOINTS
from tests.support.sources import plain, steps

Spec = dict[str, Any]
DATATYPES = ("FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL")
SHAPES = ((-1,), (-1, 3), (-1, 1, 2), (2, -1, 1), (1, -1, 4), (-1, -1), (-1, 1, -1, 1), (2, 2), ())
"""Of the identity models: `identity-fp32-0` is the first of these in FP32."""


def spec(shape: tuple[int, ...], datatype: str = "FP32", name: str = "x", batch_dim: int | None = None) -> Spec:
    """One input or output of a manifest."""
    return {"name": name, "datatype": datatype, "shape": shape} | (
        {} if batch_dim is None else {"batch_dim": batch_dim}
    )


_ROWS = [spec((-1, 1, 3), batch_dim=1)]
_FEATURES = [spec((-1, 1, 5), name="y", batch_dim=1)]


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
    """Write a model of a class of `sources` (or of torch) with its weights; without `outputs` they are as the inputs.

    `state` gives batch dims by buffer name. Returns the manifest's path.
    """
    folder = repository / name / version
    folder.mkdir(parents=True)
    cls = type(module)
    source = cls.__module__
    if source.startswith(sources.__name__):
        file_of_class = Path(inspect.getfile(cls))
        copy_source(file_of_class, folder.parent)
        source = file_of_class.name
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


def copy_source(file: Path, folder: Path) -> None:
    """Copy the file of a class, and what Python has compiled of it: else every copy is compiled again."""
    shutil.copy2(file, folder)
    compiled = Path(cache_from_source(str(file)))
    if compiled.exists():
        (folder / "__pycache__").mkdir(exist_ok=True)
        shutil.copy2(compiled, folder / "__pycache__")


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


def write_common(repository: Path) -> None:
    """Write the models that come with the service, and those of `plain` that many tests use."""
    shutil.copytree(CHECKPOINTS, repository)
    _write_recurrent(repository)
    _write_stateful(repository)
    _write_several_inputs(repository)
    for datatype in DATATYPES:
        write_identity(repository, datatype, 0)
    for index in range(1, len(SHAPES)):
        write_identity(repository, "FP32", index)


def write_identities(repository: Path) -> None:
    """Write an identity of every datatype and shape, and the models that the same properties are shown on."""
    shutil.copytree(CHECKPOINTS, repository)
    write_model(repository, "sum", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    _write_several_inputs(repository)
    for datatype in DATATYPES:
        for index in range(len(SHAPES)):
            write_identity(repository, datatype, index)


def write_identity(repository: Path, datatype: str, index: int) -> None:
    """Write `identity-fp32-0`: of FP32, and the first shape of `SHAPES`."""
    write_model(repository, f"identity-{datatype.lower()}-{index}", plain.Identity(), [spec(SHAPES[index], datatype)])


def write_recurrent(repository: Path) -> Path:
    """Write an RNN, an LSTM, the accumulator and a model without state: a repository that loads in a moment."""
    repository.mkdir()
    for name in ("accumulator", "digits-batchnorm"):
        (repository / name).symlink_to(CHECKPOINTS / name)
    write_rnn(repository)
    write_lstm(repository)
    return repository


def write_rnn(repository: Path, name: str = "rnn") -> None:
    """Write the RNN."""
    write_model(repository, name, rnn(), _ROWS, _FEATURES, state={"hidden": 1})


def write_lstm(repository: Path, file: str = "weights.safetensors") -> None:
    """Write the LSTM."""
    write_model(repository, "lstm", lstm(), _ROWS, _FEATURES, state={"h": 1, "c": 1}, file=file)


def write_batching(repository: Path) -> None:
    """Write models that are slow, or print what a worker does."""
    batched = [spec((-1, 1, 1), batch_dim=1)]
    write_model(repository, "slow", plain.Slow(), batched, state={"total": 0})
    _write_quick(repository)


def _write_quick(repository: Path) -> None:
    batched = [spec((-1, 1, 1), batch_dim=1)]
    write_model(repository, "talks", plain.Talks(), batched, state={"total": 0})
    write_model(repository, "total", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(repository, "twice", plain.Pair(), [spec((-1,))], [spec((-1,)), spec((-1,), "BOOL", "positive")])


def _write_recurrent(repository: Path) -> None:
    write_rnn(repository)
    write_lstm(repository, "weights.pt")
    write_model(repository, "rnn-alone", rnn(), [spec((-1, 1, 3))], [spec((-1, 1, 5), name="y")])
    write_model(
        repository,
        "gru",
        gru(),
        [spec((1, -1, 3), batch_dim=0)],
        [spec((1, -1, 5), name="y", batch_dim=0)],
        state={"hidden": 1},
    )


def _write_stateful(repository: Path) -> None:
    batched = [spec((-1, 1, 1), batch_dim=1)]
    write_model(repository, "sum", plain.PlainAccumulator(), [spec((-1,))], [spec((), name="sum")])
    write_model(repository, "batchnorm", batchnorm(), [spec((-1, 3), batch_dim=0)])
    write_model(repository, "library", library_batchnorm(), [spec((-1, 3), batch_dim=0)], arguments={"num_features": 3})
    write_model(repository, "statistics", plain.Statistics(), [spec((-1, 3))])
    write_model(repository, "decay", steps.Decay(), [spec((-1, 3))])
    write_model(repository, "fails", plain.Fails(), batched, state={"calls": 0})
    write_model(repository, "writes-frozen", plain.WritesFrozen(), batched, state={"calls": 0})
    write_model(repository, "now-and-then", plain.NowAndThen(), [spec((-1,))], state={"largest": None})
    product = plain.Slow(size=32, times=1)
    write_model(repository, "product", product, batched, state={"total": 0}, arguments={"size": 32, "times": 1})
    write_model(repository, "kinds", plain.Kinds(), [spec((-1,))])
    write_model(repository, "unborn", plain.Unborn(), [spec((-1,))])
    write_model(repository, "positive", plain.Fails(0.0), batched, state={"calls": 0}, arguments={"least": 0.0})
    _write_quick(repository)


def _write_several_inputs(repository: Path) -> None:
    write_mixed(repository)
    write_model(repository, "pair", plain.Pair(), [spec((-1,))], [spec((-1,)), spec((-1,), "BOOL", "positive")])


def write_mixed(repository: Path) -> None:
    """Write a model of several inputs and outputs, of different datatypes."""
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
