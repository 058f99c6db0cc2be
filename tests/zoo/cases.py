"""Published modules: each with a manifest of at most 12 lines, and the loop that its package documents."""

import tomllib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from carryover.runtime import classes

Array = np.ndarray[Any, Any]
Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Published:
    """A module of a package. `loop` gives a function of one step's input, by the package's own means.

    `batched` says whether sessions share forwards, `most` is the largest of the whole numbers that it takes.
    """

    manifest: str
    loop: Callable[[Any], Step]
    batched: bool = True
    sizes: tuple[int, ...] = (1, 2, 3, 1, 2)
    most: int = 0

    @property
    def document(self) -> dict[str, Any]:
        return tomllib.loads(self.manifest)

    def module(self) -> Any:
        """The package's class with the parameters that seed 0 gives."""
        torch.manual_seed(0)
        given = self.document.get("arguments", {})
        return classes.build(self.document["class"], given, Path("model.toml")).eval()

    def write(self, repository: Path, name: str) -> None:
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "model.toml").write_text(self.manifest)
        held = {key: value.detach().clone().contiguous() for key, value in self.module().state_dict().items()}
        save_file(held, repository / name / "1" / "weights.safetensors")

    def draw(self, random: np.random.Generator, step: int) -> torch.Tensor:
        """One step's input, in the shape of the manifest."""
        (spec,), length = self.document["inputs"], self.sizes[step % len(self.sizes)]
        shape = [n if n != -1 else 1 if a == spec.get("batch_dim") else length for a, n in enumerate(spec["shape"])]
        drawn = random.integers(0, self.most, shape) if self.most else random.standard_normal(shape, np.float32)
        return torch.from_numpy(drawn)

    def rows(self, kind: str, x: torch.Tensor) -> torch.Tensor:
        """An input or output with its instances along the first axis, as in JSON."""
        (spec,) = self.document[kind]
        axes = [a for a, n in enumerate(spec["shape"]) if n == -1 and a != spec.get("batch_dim")]
        return x.movedim(axes[0], 0) if axes else x[None]


def passed_on(name: str, method: str = "forward", **others: Any) -> Callable[[Any], Step]:
    """A loop that passes on the second result; at first nothing is passed."""

    def loop(module: Any) -> Step:
        held: dict[str, Any] = {}

        def step(x: torch.Tensor) -> torch.Tensor:
            y, held[name] = getattr(module, method)(x, **held, **others)
            return torch.as_tensor(y)

        return step

    return loop


def counted(module: Any) -> Step:
    number, states = 0, list[torch.Tensor]()

    def step(x: torch.Tensor) -> torch.Tensor:
        nonlocal number, states
        y, states = module.forward_recurrent(x, number, states)
        number += 1
        return torch.as_tensor(y)

    return step


def remembering(method: str = "forward", reset: str = "", **others: Any) -> Callable[[Any], Step]:
    """A loop over a module that remembers by itself; `reset` is its method that forgets."""

    def loop(module: Any) -> Step:
        module = deepcopy(module)
        if reset:
            getattr(module, reset)()

        def step(x: torch.Tensor) -> torch.Tensor:
            y = getattr(module, method)(x, **others)
            return torch.as_tensor(y[0] if isinstance(y, tuple) else y)

        return step

    return loop


CASES = {
    "ncps": Published(
        'class = "ncps.torch:CfC"\n'
        "arguments = { input_size = 5, units = 20, proj_size = 3, mixed_memory = true }\n"
        'inputs = [{ name = "input", datatype = "FP32", shape = [1, -1, 5], batch_dim = 0 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 3], batch_dim = 0, result = 0 }]\n'
        'state.hx = { input = "hx", output = 1, batch_dim = 0 }\n',
        passed_on("hx"),
    ),
    "mingru": Published(
        'class = "minGRU_pytorch:minGRU"\n'
        "arguments = { dim = 8, expansion_factor = 1.5 }\n"
        "call = { return_next_prev_hidden = true }\n"
        'inputs = [{ name = "x", datatype = "FP32", shape = [1, -1, 8], batch_dim = 0 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 8], batch_dim = 0, result = 0 }]\n'
        'state.hidden = { input = "prev_hidden", output = 1, batch_dim = 0 }\n',
        passed_on("prev_hidden", return_next_prev_hidden=True),
    ),
    "tcn": Published(
        'class = "pytorch_tcn:TCN"\n'
        "arguments = { num_inputs = 4, num_channels = [8, 8], kernel_size = 3, dilations = [1, 2] }\n"
        "call = { inference = true }\n"
        'inputs = [{ name = "x", datatype = "FP32", shape = [1, 4, -1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, 8, -1] }]\n',
        remembering(reset="reset_buffers", inference=True),
        batched=False,
    ),
    "s5": Published(
        'class = "s5:S5"\n'
        "arguments = { width = 8, state_width = 8 }\n"
        "call = { return_state = true }\n"
        'inputs = [{ name = "signal", datatype = "FP32", shape = [1, -1, 8], batch_dim = 0 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 8], batch_dim = 0, result = 0 }]\n'
        'state.state = { input = "state", output = 1, batch_dim = 0 }\n',
        passed_on("state", return_state=True),
    ),
    "snntorch": Published(
        'class = "snntorch:Leaky"\n'
        "arguments = { beta = 0.9, init_hidden = true }\n"
        'inputs = [{ name = "input_", datatype = "FP32", shape = [-1, 6], batch_dim = 0 }]\n'
        'outputs = [{ name = "spikes", datatype = "FP32", shape = [-1, 6], batch_dim = 0 }]\n'
        "state.mem = { batch_dim = 0 }\n",
        remembering(reset="reset_mem"),
    ),
    "x-transformers": Published(
        'class = "x_transformers:TransformerWrapper"\n'
        "call = { return_intermediates = true, input_not_include_cache = true }\n"
        'inputs = [{ name = "x", datatype = "INT64", shape = [1, -1], batch_dim = 0 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, -1, 20], batch_dim = 0, result = 0 }]\n'
        'state.cache = { input = "cache", output = 1, batch_dim = 0 }\n'
        "[arguments]\nnum_tokens = 20\nmax_seq_len = 64\n"
        'attn_layers = { class = "x_transformers:Decoder", dim = 16, depth = 2, heads = 2, rotary_pos_emb = true }\n',
        passed_on("cache", return_intermediates=True, input_not_include_cache=True),
        most=20,
    ),
    "retnet": Published(
        'class = "yet_another_retnet.retnet:RetNet"\n'
        "arguments = { num_tokens = 20, d_model = 16, nhead = 2, num_layers = 2, dim_feedforward = 32 }\n"
        'method = "forward_recurrent"\n'
        'inputs = [{ name = "x", datatype = "INT64", shape = [-1], batch_dim = 0 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [-1, 20], batch_dim = 0, result = 0 }]\n'
        "[state]\nbatch_dim = 0\n"
        'seq_idx = { input = "seq_idx", increment = 1 }\n'
        'prev_states = { input = "prev_states", output = 1, initial = "empty" }\n',
        counted,
        most=20,
    ),
    "continual": Published(
        'class = "continual:Conv1d"\n'
        "arguments = { in_channels = 4, out_channels = 6, kernel_size = 3, padding = 2 }\n"
        'method = "forward_steps"\n'
        'inputs = [{ name = "input", datatype = "FP32", shape = [1, 4, -1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1, 6, -1] }]\n',
        remembering("forward_steps", reset="clean_state"),
        batched=False,
    ),
    "gru": Published(
        'class = "torch.nn:GRU"\n'
        "arguments = { input_size = 8, hidden_size = 16 }\n"
        'inputs = [{ name = "input", datatype = "FP32", shape = [-1, 1, 8], batch_dim = 1 }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1, 16], batch_dim = 1, result = 0 }]\n'
        'state.hx = { input = "hx", output = 1, batch_dim = 1 }\n',
        passed_on("hx"),
    ),
}
