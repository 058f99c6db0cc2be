"""Recurrent modules as research code has them, whose state shows late, or lies where a signature does not say."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Cell(nn.Module):
    """A GRU cell and its read-out: (B, 3) to (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.out = nn.Linear(5, 2)


class Tokens(Cell):
    """Gives whole numbers alone."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.out(h).argmax(-1), h


class Spikes(nn.Module):
    """Integrates for many steps before the first spike: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(0.95))

    def forward(self, x: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mem = x[:, :1].sigmoid() * 0.05 + (0 if mem is None else self.leak * mem)
        spikes = mem > 10
        return spikes, mem * ~spikes


class Held(nn.Module):
    """The same, in an attribute that is a number at first; the spike is often the same as without it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        with torch.no_grad():
            self.linear.weight.abs_().mul_(0.1)
        self.level: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        level: Tensor = 0.95 * self.level + self.linear(x)
        spikes = (level > 1).float()
        self.level = level - spikes
        return spikes


class Warms(nn.Module):
    """Gives zeros until it has seen 8 inputs, and looks at none before: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        warmed: Tensor = self.linear(x) if self.steps > 8 else torch.zeros_like(x)
        return warmed


class Window(nn.Module):
    """A convolution over the last inputs, which fails where others of another shape are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(3, 3, 4)
        self.past = deque([torch.zeros(1, 3)] * 4, maxlen=4)

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(x)
        mixed: Tensor = self.convolution(torch.stack(tuple(self.past), -1)).squeeze(-1)
        return mixed


class Looks(nn.Module):
    """Keeps what it has last looked at, which no later call depends on: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.weights = self.linear(x).softmax(-1)
        return self.weights * x


class Placed(Cell):
    """Takes its state, and a mask before it, by position only."""

    def forward(self, x: Tensor, mask: Tensor | None = None, h: Tensor | None = None, /) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        y: Tensor = self.out(h)
        return y if mask is None else y * mask, h


class PlacedRequired(Cell):
    """Cannot do without a state that it takes by position only."""

    def forward(self, x: Tensor, h: Tensor, /) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.out(h), h


class Keywords(Cell):
    """Looks its state up among all other keyword arguments."""

    def forward(self, x: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, kwargs.get("state"))
        return self.out(h), h


class PassesThrough(nn.Module):
    """Passes all keyword arguments to a layer: (T, B, 3) to (T, B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5)

    def forward(self, x: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x, **kwargs)
        return y, h


class Variable(Cell):
    """Takes its state as one of any number of arguments."""

    def forward(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, rest[0] if rest else None)
        return self.out(h), h


class Stacked(nn.Module):
    """Two cells, whose states of one shape come back the other way round: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRUCell(3, 4), nn.GRUCell(4, 4)

    def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Any:
        lower = self.first(x, a)
        upper = self.second(lower, b)
        return upper.tanh(), upper, lower


class StackedInside(Stacked):
    """Returns them in one result."""

    def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Any:
        y, upper, lower = super().forward(x, a, b)
        return y, (upper, lower)


class StackedRequired(nn.Module):
    """Cannot do without them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Stacked()

    def forward(self, x: Tensor, h_a: Tensor, h_b: Tensor) -> Any:
        return self.net(x, h_a, h_b)


class Long(nn.Module):
    """An LSTM cell, whose states depend on each other, and come back the other way round: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Any:
        h_new, c_new = self.cell(x, None if h is None or c is None else (h, c))
        return h_new.tanh(), c_new, h_new


class LongUnnamed(Long):
    """Gives them no names that tell which is which."""

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Any:
        y, *others = super().forward(x, h, c)
        return y, others[0], others[1]


class Begun(nn.Module):
    """Cannot do without a tuple, which a method makes: (B, 3) to (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)
        self.out = nn.Linear(5, 2)

    def init_hidden(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.ones(batch_size, 5), torch.zeros(batch_size, 5)

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = self.cell(x, hidden)
        return self.out(h), (h, c)


class BegunDict(nn.Module):
    """Cannot do without a dict, which a method makes: (B, 3) to (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Begun()

    def initial_state(self) -> dict[str, Tensor]:
        h, c = self.net.init_hidden(1)
        return {"h": h, "c": c}

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y, (h, c) = self.net(x, (state["h"], state["c"]))
        return y, {"h": h, "c": c}


class NotBegunRequired(Cell):
    """Cannot do without an object, which nothing makes."""

    def forward(self, x: Tensor, state: SimpleNamespace) -> tuple[Tensor, SimpleNamespace]:
        h = self.cell(x, state.h)
        return self.out(h), SimpleNamespace(h=h)


class KeyedInside(nn.Module):
    """Cannot do without a dict, of which a part of it says the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.net = BegunDict()

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y, carry = self.net(x, carry)
        return y, carry


class Unpacked(nn.Module):
    """An LSTM of one layer for all gates, that cannot do without both states: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(3 + 4, 4 * 4)

    def forward(self, x: Tensor, hc: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = hc
        i, f, g, o = self.gates(torch.cat((x, h), -1)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)


class Images(nn.Module):
    """The same of images, by convolution: (B, 3, Y, X) to (B, 4, Y, X)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(3 + 4, 4 * 4, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = state
        i, f, g, o = self.gates(torch.cat((x, h), 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)


class Scratch(nn.Module):
    """A GRU of three layers, whose only result is the state that it cannot do without: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.update, self.reset, self.new = (nn.Linear(3 + 4, 4) for _ in range(3))

    def forward(self, x: Tensor, h_prev: Tensor) -> Tensor:
        z, r = (gate(torch.cat((x, h_prev), -1)).sigmoid() for gate in (self.update, self.reset))
        n = self.new(torch.cat((x, r * h_prev), -1)).tanh()
        h: Tensor = z * h_prev + (1 - z) * n
        return h


class Layers(nn.Module):
    """Cannot do without the states of its layers, and leaves a list of them: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4), nn.GRUCell(4, 4)])

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after = []
        for cell, h in zip(self.cells, states, strict=True):
            x = cell(x, h)
            after.append(x)
        return x, after


class Pairs(nn.Module):
    """The same of LSTM cells, with two states each: (B, 3) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 4), nn.LSTMCell(4, 4)])

    def forward(self, x: Tensor, states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after = []
        for cell, pair in zip(self.cells, states, strict=True):
            h, c = cell(x, pair)
            x = h
            after.append((h, c))
        return x, after


class Numbered(nn.Module):
    """Attends to all before it, and has 24 positions: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(24, 3)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past = x[:, None] if past is None else torch.cat((past, x[:, None]), 1)
        return past.mean(1) + self.positions(torch.tensor(past.shape[1] - 1)), past


class ImagesAlone(Images):
    """Leaves nothing but its states."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x, state)[1]


class Oscillates(nn.Module):
    """One layer takes the input together with both states: (B, 3) to (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(3 + 6 + 6, 6)

    def forward(self, x: Tensor, hy: Tensor, hz: Tensor) -> tuple[Tensor, Tensor]:
        hz = hz + 0.1 * (self.gates(torch.cat((x, hz, hy), 1)).tanh() - 2.7 * hy - 4.7 * hz)
        hy = hy + 0.1 * hz
        return hy, hz


class Masked(nn.Module):
    """A policy that starts again where a mask says so: (B, 3) and (B, 1) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6)
        self.actor = nn.Linear(6, 4)

    def forward(self, inputs: Tensor, rnn_hxs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(inputs[None], (rnn_hxs * masks)[None])
        return self.actor(y[0]), h[0]


class Diagonal(nn.Module):
    """A state space of complex numbers, which a method makes: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.complex(-torch.rand(3, 4) - 0.2, torch.randn(3, 4)))

    def default_state(self, *batch_shape: int) -> Tensor:
        return torch.zeros(*batch_shape, 3, 4, dtype=torch.cfloat)

    def forward(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (self.rates * 0.1).exp() * state + u[..., None]
        return state.sum(-1).real, state


class Believes(nn.Module):
    """A world model: its state and the client's last action go in, two states come out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.prior, self.posterior = nn.GRUCell(4 + 2, 6), nn.Linear(6, 4), nn.Linear(6 + 3, 4)

    def initial(self, batch_size: int) -> dict[str, Tensor]:
        return {"stochastic": torch.zeros(batch_size, 4), "deterministic": torch.zeros(batch_size, 6)}

    def forward(self, prev_state: dict[str, Tensor], prev_action: Tensor, embed: Tensor) -> Any:
        h = self.cell(torch.cat((prev_state["stochastic"], prev_action), -1), prev_state["deterministic"])
        z = self.posterior(torch.cat((h, embed), -1))
        return {"stochastic": z, "deterministic": h}, {"stochastic": self.prior(h), "deterministic": h}


class Parallel(nn.Module):
    """Takes its state of inputs with an axis of time alone, and does without of others: (B, T, 8) to (B, T, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(8, 16)

    def forward(self, x: Tensor, prev_hidden: Tensor | None = None, return_next_prev_hidden: bool = False) -> Any:
        hidden, gate = self.gates(x).chunk(2, -1)
        h, out = 0 if prev_hidden is None else prev_hidden[:, 0], []
        for value, share in zip(hidden.unbind(1), gate.sigmoid().unbind(1), strict=True):
            h = (1 - share) * h + share * value
            out.append(h)
        y = torch.stack(out, 1)
        return (y, y[:, -1:]) if return_next_prev_hidden else y


class Expanded(nn.Module):
    """Its heads start from one parameter, whose memory they share: (B, 3) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(1).expand(3))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = x if state is None else state + self.rate * (x - state)
        return state.tanh(), state


class Drawn(Cell):
    """Draws the state that a session starts from."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(x, torch.rand(x.shape[0], 5) if h is None else h)
        return self.out(h), h


class Attends(nn.Module):
    """Attends to what another module has made of all before: (T, B, 8), (S, B, 8) to (T, B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2)

    def forward(self, tgt: Tensor, memory: Tensor) -> Tensor:
        found: Tensor = self.layer(tgt, memory)
        return found


class AttendsOptional(Attends):
    """Does without it."""

    def forward(self, tgt: Tensor, memory: Tensor | None = None) -> Tensor:
        return super().forward(tgt, tgt if memory is None else memory)


class Remembered(nn.Module):
    """Keeps as many as it is given, and fails without any: (B, 3), (N, B, 5) to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 5)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        past = torch.cat((past[1:], self.net(x)[None]))
        return past[-4:].mean(0), past


class Optional(Cell):
    """Can do without its input."""

    def forward(self, x: Tensor | None = None, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(torch.zeros(1, 3) if x is None else x, h)
        return self.out(h), h


class Projects(Cell):
    """Projects its input at random, and keeps how in no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.randn(3, 3)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(x @ self.projection, h)
        return self.out(h), h
