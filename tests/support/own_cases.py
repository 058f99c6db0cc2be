"""The models of `own_models`, each with a manifest and a checkpoint as its author would write them."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import nn

from tests.support.repository import copy_source
from tests.support.sources import own_models

DTYPES = {
    "FP64": torch.float64, "FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16, "INT64": torch.int64,
    "INT32": torch.int32, "INT16": torch.int16, "INT8": torch.int8, "UINT64": torch.uint64, "UINT32": torch.uint32,
    "UINT16": torch.uint16, "UINT8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
UNSIGNED = ("UINT16", "UINT32", "UINT64")
"""Those that torch moves, and hardly calculates with."""

Save = Callable[[nn.Module, Path], None]


def as_safetensors(module: nn.Module, folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(safetensors.save(module.state_dict()))


def as_training_script(module: nn.Module, folder: Path) -> None:
    """As scripts save that train on several GPUs."""
    state_dict = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    optimizer = torch.optim.Adam(module.parameters()).state_dict()
    torch.save({"epoch": 7, "state_dict": state_dict, "optimizer": optimizer}, folder / "weights.pt")


def as_compiled(module: nn.Module, folder: Path) -> None:
    """As scripts save that compile."""
    state_dict = {f"_orig_mod.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"model": state_dict}, folder / "weights.pt")


def as_safetensors_saves(module: nn.Module, folder: Path) -> None:
    """With one of the names of each tensor."""
    safetensors.save_model(module, str(folder / "weights.safetensors"))


def as_state_dict(module: nn.Module, folder: Path) -> None:
    torch.save(module.state_dict(), folder / "weights.pt")


@dataclass(frozen=True)
class Case:
    """A model: its manifest without the class, how its author saves it, and what its calls are like.

    `sizes` are those of the second axis that varies, where there is one, call by call. The first `by_position` inputs
    have no names in its forward.
    """

    cls: type[nn.Module]
    manifest: str
    save: Save = as_safetensors
    sizes: tuple[int, ...] = (1,)
    by_position: int = 0

    @property
    def document(self) -> dict[str, Any]:
        return tomllib.loads(self.text)

    @property
    def text(self) -> str:
        return f'class = "own_models.py:{self.cls.__name__}"\n{self.manifest}'

    def module(self) -> nn.Module:
        """The module, the same each time."""
        torch.manual_seed(len(self.text))
        return self.cls(**self.document.get("arguments", {})).eval()

    def write(self, repository: Path, name: str) -> Path:
        """Write the model's folder as its author would."""
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        copy_source(Path(own_models.__file__), folder.parent)
        (folder.parent / "model.toml").write_text(self.text)
        self.save(self.module(), folder)
        return folder.parent


def same_axes(shape: str, batch_dim: int | None = None) -> str:
    """A manifest's lines for one input `x` and one output `y` of the same shape."""
    rest = f'datatype = "FP32", shape = {shape}' + ("" if batch_dim is None else f", batch_dim = {batch_dim}")
    return f'inputs = [{{ name = "x", {rest} }}]\noutputs = [{{ name = "y", {rest} }}]\n'


GRU = """
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 1, 3], batch_dim = 1 }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1, 5], batch_dim = 1 }]
state.hidden.batch_dim = 1
"""
KINDS = """
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 1], batch_dim = 1 }}]
outputs = [
    {{ name = "total", datatype = "FP32", shape = [-1, 1], batch_dim = 1 }},
    {{ name = "largest", datatype = "FP32", shape = [-1, 1], batch_dim = 1 }},
]
arguments = {{ kind = "{}" }}
state = {{ sum.batch_dim = 0, peak.batch_dim = 0 }}
"""
LEAK = """
inputs = [{{ name = "x", datatype = "{0}", shape = [-1, 1, 2], batch_dim = 1 }}]
outputs = [{{ name = "levels", datatype = "{0}", shape = [-1, 1, 2], batch_dim = 1 }}]
arguments = {{ dtype = "{1}" }}
state.level.batch_dim = 0
"""
WRAPPING = """
inputs = [{{ name = "x", datatype = "{0}", shape = [-1] }}]
outputs = [
    {{ name = "parity", datatype = "{0}", shape = [-1] }},
    {{ name = "count", datatype = "UINT8", shape = [-1] }},
]
arguments = {{ dtype = "{1}" }}
"""
DELAY = """
inputs = [{{ name = "x", datatype = "{0}", shape = [-1, 1], batch_dim = 1 }}]
outputs = [{{ name = "y", datatype = "{0}", shape = [-1, 1], batch_dim = 1 }}]
arguments.dtype = "{1}"
state.last.batch_dim = 1
"""
CACHE = same_axes("[1, -1, 4]", 0)

CASES = {
    "gru": Case(own_models.Gru, GRU),
    "gru-alone": Case(own_models.Gru, GRU.replace("state.hidden.batch_dim = 1", "")),
    "gru-auto": Case(own_models.Gru, GRU + 'device = "auto"'),
    "gru-any-batch": Case(own_models.Gru, GRU.replace("[-1, 1, ", "[-1, -1, ")),
    "gru-from-several-gpus": Case(
        own_models.Gru, GRU + 'weights = { key = "state_dict", prefix = "module." }', as_training_script
    ),
    "gru-compiled": Case(own_models.Gru, GRU + 'weights = { key = "model", prefix = "_orig_mod." }', as_compiled),
    "gru-pt": Case(own_models.Gru, GRU.replace('name = "x"', 'name = "rows"'), as_state_dict, by_position=1),
    "cell": Case(
        own_models.Cell,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1, 3], batch_dim = 0 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [-1, 2], batch_dim = 0 }]
        state.hidden.batch_dim = 0
        """,
    ),
    "nested-lstm": Case(
        own_models.NestedLstm,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1, 1, 3], batch_dim = 1 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1, 2], batch_dim = 1 }]
        state = { "encoder.h" = { batch_dim = 1 }, "encoder.c" = { batch_dim = 1 } }
        """,
    ),
    "stacked-rnn": Case(
        own_models.StackedRnn,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [1, -1, 3], batch_dim = 0 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 5], batch_dim = 0 }]
        state.hidden.batch_dim = 1
        """,
    ),
    "ring-convolution": Case(
        own_models.RingConvolution,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1, 1, 2], batch_dim = 1 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1, 3], batch_dim = 1 }]
        state = { ring.batch_dim = 0, position.batch_dim = 0 }
        """,
    ),
    "channels-first": Case(
        own_models.ChannelsFirst,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [1, 2, -1], batch_dim = 0 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [1, 3, -1], batch_dim = 0 }]
        state.past.batch_dim = 0
        """,
    ),
    "empty-cache": Case(own_models.EmptyCache, CACHE + "state = { keys.batch_dim = 0, values.batch_dim = 0 }"),
    "empty-cache-alone": Case(own_models.EmptyCache, same_axes("[1, -1, 4]")),
    "none-cache": Case(own_models.NoneCache, CACHE + "state = { keys.batch_dim = 0, values.batch_dim = 0 }"),
    "none-cache-alone": Case(own_models.NoneCache, same_axes("[1, -1, 4]")),
    "counted-cache": Case(
        own_models.CountedCache, CACHE + "state = { keys.batch_dim = 0, values.batch_dim = 0, length.batch_dim = 0 }"
    ),
    "ring-cache": Case(
        own_models.RingCache,
        same_axes("[-1, 1, 4]", 1)
        + "state = { keys.batch_dim = 0, values.batch_dim = 0, filled.batch_dim = 0, position.batch_dim = 0 }",
    ),
    "tagger": Case(
        own_models.Tagger,
        """
        inputs = [
            { name = "weight", datatype = "FP32", shape = [-1, 1], batch_dim = 1 },
            { name = "tokens", datatype = "INT64", shape = [-1, 1], batch_dim = 1 },
            { name = "mask", datatype = "BOOL", shape = [-1, 1], batch_dim = 1 },
        ]
        outputs = [
            { name = "tag", datatype = "INT64", shape = [-1, 1], batch_dim = 1 },
            { name = "score", datatype = "FP32", shape = [-1, 1], batch_dim = 1 },
            { name = "sure", datatype = "BOOL", shape = [-1, 1], batch_dim = 1 },
            { name = "vectors", datatype = "FP32", shape = [-1, 1, 4], batch_dim = 1 },
        ]
        state.hidden.batch_dim = 1
        """,
    ),
    **{f"returns-a-{kind.replace(' ', '-')}": Case(own_models.Returns, KINDS.format(kind))
       for kind in ("tuple", "list", "dict", "named tuple")},
    **{f"leak-{name.lower()}": Case(own_models.Leak, LEAK.format(name, str(dtype).removeprefix("torch.")))
       for name, dtype in DTYPES.items() if dtype.is_floating_point},
    **{f"wrapping-{name.lower()}": Case(own_models.Wrapping, WRAPPING.format(name, str(dtype).removeprefix("torch.")))
       for name, dtype in DTYPES.items() if not dtype.is_floating_point and name not in UNSIGNED},
    **{f"delay-{name.lower()}": Case(own_models.Delay, DELAY.format(name, name.lower()))
       for name in UNSIGNED},
    "forgetful": Case(own_models.Forgetful, same_axes("[-1, 1]", 1) + "state.sum.batch_dim = 0"),
    "peak": Case(own_models.Peak, same_axes("[-1, 1]", 1) + "state.largest.batch_dim = 0"),
    "clouds": Case(
        own_models.Clouds,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1, -1, 2] }]
        outputs = [
            { name = "centres", datatype = "FP32", shape = [-1, 2] },
            { name = "ways", datatype = "FP32", shape = [-1, -1, 2] },
        ]
        """,
        sizes=(1, 3, 2),
    ),
    "in-place": Case(own_models.InPlace, same_axes("[-1, 1, 2]", 1) + "state.sum.batch_dim = 0"),
    "particulars": Case(
        own_models.Particulars,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1] }, { name = "weight", datatype = "FP32", shape = [-1] }]
        outputs = [{ name = "y", datatype = "FP32", shape = [-1] }]
        """,
        by_position=1,
    ),
    "any-name": Case(
        own_models.AnyName,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1] }, { name = "weight", datatype = "FP32", shape = [-1] }]
        outputs = [{ name = "y", datatype = "FP32", shape = [-1] }]
        """,
    ),
    "views": Case(own_models.Views, same_axes("[1, 2, -1]", 0) + "state.calls.batch_dim = 0"),
    "tied": Case(
        own_models.Tied,
        """
        inputs = [{ name = "tokens", datatype = "INT64", shape = [-1, 1], batch_dim = 1 }]
        outputs = [{ name = "scores", datatype = "FP32", shape = [-1, 1, 7], batch_dim = 1 }]
        state.hidden.batch_dim = 1
        """,
        as_safetensors_saves,
    ),
    "scripted": Case(own_models.Scripted, same_axes("[-1, 2]")),
    "transposed": Case(
        own_models.Transposed,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [2, 3] }]
        outputs = [{ name = "y", datatype = "FP32", shape = [3, 2] }]
        """,
    ),
    "one-beginning": Case(
        own_models.OneBeginning,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [1, -1, 3], batch_dim = 0 }]
        outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 4], batch_dim = 0 }]
        state = { h.batch_dim = 1, c.batch_dim = 1 }
        """,
        as_state_dict,
    ),
    "scratch": Case(own_models.Scratch, same_axes("[3]")),
    "matched": Case(own_models.Matched, same_axes("[4]")),
    "columns": Case(
        own_models.Columns,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1] }]
        outputs = [{ name = "y", datatype = "FP32", shape = [2] }]
        """,
        as_state_dict,
    ),
    "saliency": Case(own_models.Saliency, same_axes("[3]")),
}  # fmt: skip

OTHERS = {
    "growing": Case(
        own_models.Growing,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1] }]
        outputs = [{ name = "count", datatype = "INT64", shape = [] }]
        """,
    ),
    "summary": Case(
        own_models.Summary,
        """
        inputs = [{ name = "x", datatype = "FP32", shape = [-1] }]
        outputs = [
            { name = "doubled", datatype = "FP32", shape = [-1] },
            { name = "sum", datatype = "FP32", shape = [] },
        ]
        """,
    ),
    "labelled-cell": Case(own_models.Cell, CASES["cell"].manifest + 'labels = ["no", "yes"]'),
    "wandering": Case(own_models.Wandering, same_axes("[-1]")),
    "harmless": Case(own_models.Harmless, same_axes("[-1]")),
    "seldom": Case(own_models.Seldom, same_axes("[-1, 1]")),
    "sparse": Case(own_models.Sparse, same_axes("[-1]")),
    "breaking": Case(own_models.Breaking, same_axes("[-1, 1]", 1) + "state.sum.batch_dim = 0"),
    "breaking-alone": Case(own_models.Breaking, same_axes("[-1, 1]")),
    "sampling": Case(own_models.Sampling, same_axes("[]")),
    "mismatched": Case(own_models.Mismatched, same_axes("[-1, 4]")),
    "loudness": Case(own_models.Loudness, same_axes("[-1, -1]", 0) + "state.level.batch_dim = 0"),
}
"""What some tests ask for by name."""
