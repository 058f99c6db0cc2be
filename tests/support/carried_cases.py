"""Modules that keep their state in arguments, results and attributes: each with a manifest and a plain loop over it."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.support.repository import copy_source
from tests.support.sources import carried

Loop = Callable[[Any], Callable[[torch.Tensor], torch.Tensor]]


def passed_on(
    take: Callable[[Any], tuple[Any, Any]] = tuple, name: str = "hx", method: str = "forward", **others: Any
) -> Loop:
    """A loop that passes on what the module returns; at first nothing is passed."""

    def loop(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        held: dict[str, Any] = {}

        def step(x: torch.Tensor) -> torch.Tensor:
            y, held[name] = take(getattr(module, method)(x, **held, **others))
            return torch.as_tensor(y)

        return step

    return loop


def itself(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A loop over a module that remembers by itself."""
    return lambda x: torch.as_tensor(module(x))


def celled(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    h, c = module.start, torch.zeros(1, 5)

    def step(x: torch.Tensor) -> torch.Tensor:
        nonlocal h, c
        (h, c), y = module.step(x, h, c)
        return torch.as_tensor(y)

    return step


def decayed(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    held = (torch.zeros(1, 5), torch.zeros(1, 5))

    def step(x: torch.Tensor) -> torch.Tensor:
        nonlocal held
        y, *held = module(x, *held)
        return torch.as_tensor(y)

    return step


def counted(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    number, states = 0, list[torch.Tensor]()

    def step(x: torch.Tensor) -> torch.Tensor:
        nonlocal number, states
        y, states = module(x, number, states)
        number += 1
        return torch.as_tensor(y)

    return step


@dataclass(frozen=True)
class Carried:
    """A class, its manifest without the class, a plain loop over it, and the names of its state."""

    cls: type[nn.Module]
    manifest: str
    loop: Loop
    state: tuple[str, ...]
    sizes: tuple[int, ...] = (1, 3, 2, 1, 1, 2)
    batched: bool = True

    @property
    def document(self) -> dict[str, Any]:
        return tomllib.loads(self.manifest)

    def module(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.cls(**self.document.get("arguments", {})).eval()

    def write(self, repository: Path, name: str) -> Path:
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        source = self.cls.__module__
        if source == carried.__name__:
            copy_source(Path(str(carried.__file__)), folder.parent)
            source = "carried.py"
        (folder.parent / "model.toml").write_text(f'class = "{source}:{self.cls.__name__}"\n{self.manifest}')
        torch.save(self.module().state_dict(), folder / "weights.pt")
        return folder.parent


def tensors(shape: str, output: str = "", rest: str = "", more: str = "") -> str:
    kind = f'datatype = "FP32"{rest}'
    return (
        f'inputs = [{{ name = "x", shape = {shape}, {kind} }}]\n'
        f'outputs = [{{ name = "y", shape = {output or shape}, {kind}{more} }}]\n'
    )


RECURRENT = tensors("[-1, 1, 3]", "[-1, 1, 4]", ", batch_dim = 1").replace('"x"', '"input"')
CASES = {
    "gru": Carried(
        nn.GRU,
        f'arguments = {{ input_size = 3, hidden_size = 4 }}\n{RECURRENT}[state.hx]\ninput = "hx"\noutput = 1\n'
        "batch_dim = 1\n",
        passed_on(),
        ("hx",),
    ),
    "lstm": Carried(
        nn.LSTM,
        f"arguments = {{ input_size = 3, hidden_size = 4, num_layers = 2 }}\n{RECURRENT}[state]\nbatch_dim = 1\n"
        'hx = { input = "hx", output = 1 }\n',
        passed_on(),
        ("hx.0", "hx.1"),
    ),
    "lstm-zeros": Carried(
        nn.LSTM,
        f"arguments = {{ input_size = 3, hidden_size = 4 }}\n{RECURRENT}[state]\n"
        'hx = { input = "hx", output = 1, initial = "zeros", batch_dim = { 0 = 1, 1 = 1 } }\n',
        passed_on(),
        ("hx.0", "hx.1"),
    ),
    "dataclass": Carried(
        carried.Remembers,
        tensors("[-1, 3]", rest=", batch_dim = 0") + "[state]\nbatch_dim = 0\n"
        'memory = { input = "memory", output = "memory" }\n',
        passed_on(name="memory"),
        ("memory.mean", "memory.count", "memory.past.1", "memory.past.0"),
        (1,) * 6,
    ),
    "cache": Carried(
        carried.Attends,
        tensors("[1, -1, 4]", rest=", batch_dim = 0") + "call = { use_cache = true }\n"
        '[state.kv]\ninput = "cache"\noutput = "cache"\nbatch_dim = 0\n',
        passed_on(lambda found: tuple(found.values()), "cache", use_cache=True),
        ("kv.layer0.0", "kv.layer0.1", "kv.layer1.0", "kv.layer1.1"),
    ),
    "cell": Carried(
        carried.Cell,
        tensors("[-1, 3]", "[-1, 5]", ", batch_dim = 0", ", result = 1") + 'method = "step"\n'
        '[state.h]\ninput = "h"\noutput = "0.0"\ninitial = "start"\nbatch_dim = 0\n'
        '[state.c]\ninput = "c"\noutput = "0.1"\ninitial = "zeros"\nshape = [1, 5]\nbatch_dim = 0\n',
        celled,
        ("h", "c"),
        (1,) * 6,
    ),
    "required": Carried(
        carried.Decay,
        tensors("[-1, 3]", "[-1, 2]", ", batch_dim = 0") + "[state]\nbatch_dim = 0\n"
        'h = { input = "h", output = 1, initial = "zeros", shape = [1, 5] }\n'
        'c = { input = "c", output = 2, initial = "zeros", shape = [1, 5] }\n',
        decayed,
        ("h", "c"),
        (1,) * 6,
    ),
    "counted": Carried(
        carried.Recurrent,
        tensors("[-1, 3]", rest=", batch_dim = 0") + "[state]\nbatch_dim = 0\n"
        'step = { input = "step", increment = 1 }\nstates = { input = "states", output = 1, initial = "empty" }\n',
        counted,
        ("step", "states.0"),
        (1,) * 6,
    ),
    "scalar": Carried(
        carried.Averages,
        tensors("[-1, 3]", rest=", batch_dim = 0") + "[state]\nbatch_dim = 0\n",
        itself,
        ("mean", "count"),
        (1,) * 6,
    ),
    "cached": Carried(
        carried.Normalises, tensors("[-1, 3]"), itself, ("mean", "square", "count"), (2, 1, 3, 2, 1, 2), batched=False
    ),
    "attribute": Carried(
        carried.Policy,
        tensors("[1, 3]", "[1, 1, 4]") + '[state.memory]\nattribute = "rnn.hidden_state"\n',
        itself,
        ("memory.0", "memory.1"),
        (1,) * 6,
        batched=False,
    ),
    "containers": Carried(
        carried.Window,
        tensors("[1, 3]") + '[state.past]\nattribute = "past"\n[state.store]\nattribute = "store"\n',
        itself,
        ("past.0", "past.1", "past.2", "store.v", "store.calls", "store.v.tensor"),
        (1,) * 6,
        batched=False,
    ),
    "layers": Carried(
        carried.Layers,
        tensors("[-1, 3]", rest=", batch_dim = 0") + '[state.h]\nattribute = "layers.*.hidden"\nbatch_dim = 0\n',
        itself,
        tuple(f"h.{number}" for number in range(7)),
        (1,) * 6,
    ),
    "everywhere": Carried(
        carried.Everywhere,
        tensors("[-1, 3]", rest=", batch_dim = 0") + "[state]\nbatch_dim = 0\n"
        'hx = { input = "hx", output = 1 }\nsteps = { attribute = "steps" }\n',
        passed_on(),
        ("trace", "hx", "steps"),
        (1,) * 6,
    ),
    "long-deque": Carried(
        carried.Averages60,
        tensors("[1, 3]") + '[state.past]\nattribute = "past"\n',
        itself,
        tuple(f"past.{number}" for number in range(60)),
        (1,) * 64,
        batched=False,
    ),
    "complex": Carried(
        carried.Rotates,
        tensors("[-1]") + '[state.z]\ninput = "z"\noutput = 1\n',
        passed_on(name="z"),
        ("z",),
        batched=False,
    ),
    "late": Carried(
        carried.Late,
        tensors("[-1]") + '[state.memory]\ninput = "memory"\noutput = 1\n',
        passed_on(name="memory"),
        ("memory.0", "memory.1"),
        batched=False,
    ),
}
