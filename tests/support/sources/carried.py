"""Modules that keep what they remember outside buffers: passed in and returned, or in attributes."""

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass
class Memory:
    """What `Remembers` passes on: a tensor, a count and a list."""

    mean: Tensor
    count: int
    past: list[Tensor | None]


class Result(NamedTuple):
    y: Tensor
    memory: Memory


class Remembers(nn.Module):
    """Running means in a dataclass with a count in it: (B, F) to (B, F)."""

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(1, 2, features))

    def forward(self, x: Tensor, memory: Memory | None = None) -> Result:
        if memory is None:
            memory = Memory(torch.zeros_like(x), 0, [None, None])
        count = memory.count + 1
        mean = memory.mean + (x - memory.mean) / count
        first = memory.past[0]
        y = self.scale * mean + (0 if first is None else first)
        return Result(y, Memory(mean, count, [memory.past[1], x]))


class Attends(nn.Module):
    """A decoder with a cache of keys and values that grows, in a dict by layer: (B, T, F) to (B, T, F)."""

    def __init__(self, features: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(features, 3 * features) for _ in range(layers))

    def forward(self, x: Tensor, *, cache: Any = None, use_cache: bool = False) -> Any:
        grown: dict[str, tuple[Tensor, Tensor]] = {}
        for index, layer in enumerate(self.layers):
            q, k, v = layer(x).chunk(3, -1)
            if cache is not None:
                k, v = (torch.cat(pair, 1) for pair in zip(cache[f"layer{index}"], (k, v), strict=True))
            grown[f"layer{index}"] = (k, v)
            seen = torch.arange(k.shape[1]) <= torch.arange(x.shape[1])[:, None] + k.shape[1] - x.shape[1]
            x = x + nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return {"y": x, "cache": grown} if use_cache else {"y": x}


class Cell(nn.Module):
    """A cell that cannot do without its state, and returns it first: (B, F) and (B, H) to (B, H)."""

    def __init__(self, features: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features, hidden)
        self.start = nn.Parameter(torch.randn(1, hidden))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h, c = self.cell(x, (h, c))
        return (h, c), h.tanh()


class Decay(nn.Module):
    """Cannot do without its states, which it returns after its output: (B, F) and (B, H) to (B, H)."""

    def __init__(self, features: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features, hidden)
        self.out = nn.Linear(hidden, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cell(x, (h, c))
        return self.out(h), h, c


class Recurrent(nn.Module):
    """Weighs by the number of the step, which it is given, and passes on a list that is empty at first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, step: int, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        total = x * (step + 1) + (states[0] if states else 0)
        return total + self.bias, [total]


class Averages(nn.Module):
    """A running mean in a buffer, and the number of steps in a scalar one: (B, F) to (B, F)."""

    mean: Tensor
    count: Tensor

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, features))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.mean = self.mean + (x - self.mean) / self.count
        return self.mean


class Normalises(nn.Module):
    """Learns a mean and a variance until it has seen some rows, and keeps what follows from them in an attribute."""

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, until: int = 5) -> None:
        super().__init__()
        self.until = until
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("square", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.count < self.until:
            self.count += len(x)
            self.mean += (x - self.mean).sum(0) / self.count
            self.square += (x**2 - self.square).sum(0) / self.count
            self.scale = None
        if self.scale is None:
            self.scale = (self.square - self.mean**2).clamp(min=0).add(0.01).rsqrt()
        return (x - self.mean) * self.scale


class Policy(nn.Module):
    """Keeps a tuple of states in an attribute of a submodule, None at first: (1, F) to (1, 1, H)."""

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4)
            self.hidden_state: Any = None

        def forward(self, x: Tensor) -> Tensor:
            out, self.hidden_state = self.lstm(x.unsqueeze(0), self.hidden_state)
            return torch.as_tensor(out)

    def __init__(self) -> None:
        super().__init__()
        self.rnn = Policy.Memory()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.rnn(x))


class Window(nn.Module):
    """Keeps its last inputs in a deque, a count and a float that becomes a tensor: (1, F) to (1, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.past: deque[Tensor] = deque(maxlen=3)
        self.store: dict[str, Any] = {"v": 0.0, "calls": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(x)
        self.store["calls"] += 1
        self.store["v"] = self.store["v"] * 0.5 + x
        mean = torch.stack(list(self.past)).mean(0)
        return torch.as_tensor(self.scale * mean + self.store["v"] / self.store["calls"])


class Layers(nn.Module):
    """Keeps the state of each layer in an attribute of it, None at first: (B, F) to (B, F)."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 3)
            self.hidden: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = self.cell(x, self.hidden)
            return torch.as_tensor(self.hidden)

    def __init__(self, layers: int = 7) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layers.Layer() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class Averages60(nn.Module):
    """The mean of the last 60 inputs, in a deque that is empty at first: (1, F) to (1, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.past: deque[Tensor] = deque(maxlen=60)

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(x)
        return self.scale * torch.stack(list(self.past)).mean(0)


class Everywhere(nn.Module):
    """Remembers in an argument, in a buffer and in an attribute: (B, F) to (B, F)."""

    trace: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.register_buffer("trace", torch.zeros(1, 3))
        self.steps = 0

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(x, hx)
        self.trace = 0.9 * self.trace + h
        self.steps += 1
        return h + self.trace / self.steps, h


class Rotates(nn.Module):
    """A complex state, multiplied in each step: (T,) to (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ys = []
        z = torch.zeros((), dtype=torch.complex64) if z is None else z
        for value in x:
            z = z * torch.polar(torch.tensor(0.9), self.turn) + value
            ys.append(z.real)
        return torch.stack(ys), z


class Late(nn.Module):
    """Gives nothing to remember until it has seen 4 values: (T,) to (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        held, frame = memory if memory is not None else (x[:0], None)
        held = torch.cat((held, x))
        if len(held) >= 4:
            frame, held = held[:4].sum(), held[4:]
        return x + self.bias + (0 if frame is None else frame), (held, frame)


class Grows(nn.Module):
    """A list that becomes longer with each step, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, past: Any = None) -> tuple[Tensor, list[Tensor]]:
        past = [*(past or []), x]
        return x + self.bias + sum(past), past


class Crossed(nn.Module):
    """Returns its states in another order than that in which it takes them: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x: Tensor, c: Tensor | None = None, h: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        zeros = x.new_zeros(len(x), 4)
        h, c = self.cell(x, (zeros if h is None else h, zeros + 1 if c is None else c))
        return h * 3, h, c


class Stack(nn.Module):
    """Has a tuple of nothing as the default of its states: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])

    def forward(
        self, x: Tensor, states: tuple[Tensor | None, ...] = (None, None)
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        found = []
        for cell, state in zip(self.cells, states, strict=True):
            x = cell(x, state)
            found.append(x)
        return x, tuple(found)


class Writes(nn.Module):
    """Writes its state into a dict that it is given, and returns none of it: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, cache: dict[str, Tensor] | None = None) -> Tensor:
        held: dict[str, Tensor] = {} if cache is None else cache
        held["h"] = self.cell(x, held.get("h"))
        return held["h"] * 2


class Gated(nn.Module):
    """Cannot do without its states, which are all that it returns: (B, 3) and (B, 5) to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = nn.Linear(3, 10)
        self.kept = nn.Linear(5, 10, bias=False)
        self.peep = nn.Parameter(torch.linspace(-1, 1, 5))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        opened, seen = (self.taken(x) + self.kept(h)).chunk(2, -1)
        c = c * (opened + self.peep * c).sigmoid() + seen.tanh()
        return c.tanh(), c


class Pair(nn.Module):
    """Takes its states by other names than those under which it returns them, and nothing else: (B, 3) to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(len(x), 5)
        h_new, c_new = self.cell(x, (zeros if h is None else h, zeros if c is None else c))
        return h_new, c_new


class First(nn.Module):
    """Returns its state before its output: (B, 3) to (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        new = self.cell(x, state)
        return new, self.out(new)


class Joined(nn.Module):
    """Puts its input and its state one after the other: (B, 5) and (B, 6) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5 + 6, 6)
        self.out = nn.Linear(5 + 6, 4)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((x, hidden), 1)
        return self.out(both).log_softmax(1), self.hidden(both)


class Listed(nn.Module):
    """Returns lists by layer, of outputs and of states: (B, 3) to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 5), nn.LSTMCell(5, 5)])

    def forward(self, x: Tensor, hidden: list[list[Tensor]] | None = None) -> tuple[list[Tensor], list[list[Tensor]]]:
        states = []
        for index, cell in enumerate(self.cells):
            x, c = cell(x, None if hidden is None else hidden[index])
            states.append([x, c])
        return [x], states


def compiled() -> Any:
    """Takes anything, says its signature; it is compiled without a compiler."""
    return torch.compile(Pair(), backend="eager")


def scripted() -> Any:
    return torch.jit.script(nn.GRUCell(3, 5))


class Offset(nn.Module):
    """What Mamba's layers write to: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, inference_params: Any = None) -> Tensor:
        held = {} if inference_params is None else inference_params.key_value_memory_dict
        held[0] = self.cell(x, held.get(0))
        return torch.as_tensor(held[0])


class Lazy(nn.Module):
    """Takes whatever size its first input has: (B, F) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.take = nn.LazyLinear(4)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(self.take(x), hx)
        return h * 2, h


class Saves(nn.Module):
    """Saves more than tensors: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.scale = 2.0

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(x, hx)
        return h * self.scale, h


class Resets(nn.Module):
    """Starts again where it is told to: (B, 3) and (B,) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)

    def forward(self, x: Tensor, done: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(len(x), 3) if hx is None else hx
        h = self.cell(x, h * (~done)[..., None])
        return h * 2, h


class Rotated(nn.Module):
    """Its state is a complex buffer: (1, 3) to (1, 3)."""

    wave: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("wave", torch.zeros(1, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        self.wave = self.wave * torch.exp(1j * self.turn) + x
        return self.wave.real


class Fills(nn.Module):
    """Its past is an empty buffer at first, and has its sessions along axis 1 later: (B, 3) to (B, 4)."""

    past: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 4)
        self.register_buffer("past", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        before = self.past if self.past.numel() else torch.zeros_like(x)[None]
        self.past = x[None]
        return torch.as_tensor(self.out(before.sum(0) + x))


class Leaks(nn.Module):
    """Has a number as the default of its state: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.take = nn.Linear(3, 4)

    def forward(self, x: Tensor, h: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        kept: Tensor = 0.9 * h + self.take(x)
        return kept.tanh(), kept


class Starts(Leaks):
    """Has a tensor as the default of its state."""

    def forward(self, x: Tensor, h: Tensor | float = torch.ones(1, 4)) -> tuple[Tensor, Tensor]:  # noqa: B008
        return super().forward(x, h)
