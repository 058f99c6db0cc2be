"""Modules for which the command line writes manifests, and some with which something is wrong."""

import torch
from torch import Tensor, nn


class Streams(nn.Module):
    """An LSTM whose sizes have no defaults: (T, B, F) to (T, B, C)."""

    h: Tensor
    c: Tensor

    def __init__(self, features: int, hidden_size: int, classes: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)
        self.head = nn.Linear(hidden_size, classes)
        self.register_buffer("h", torch.zeros(1, 1, hidden_size))
        self.register_buffer("c", torch.zeros(1, 1, hidden_size))

    def forward(self, frames: Tensor) -> Tensor:
        output, (self.h, self.c) = self.lstm(frames, (self.h, self.c))
        normed = self.norm(output.flatten(0, 1)).view(output.shape)
        scores: Tensor = self.head(normed)
        return scores.softmax(-1)


class Causal(nn.Module):
    """A causal convolution whose past is a buffer: (B, C, T) to (B, D, T)."""

    past: Tensor

    def __init__(self, channels: int = 4, kernel: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, 6, kernel)
        self.register_buffer("past", torch.zeros(1, channels, kernel - 1))

    def forward(self, signal: Tensor) -> Tensor:
        seen = torch.cat((self.past, signal), -1)
        self.past = seen[..., -self.past.shape[-1] :]
        convolved: Tensor = self.convolution(seen)
        return convolved


class Codebook(nn.Module):
    """The nearest of 32 codes of 8 numbers: (N, 8) to (N, 8)."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(32, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.codes[(x[..., None, :] - self.codes).square().sum(-1).argmin(-1)]


class Lists(nn.Module):
    """Its state is a list that grows for ever: (1, F) to (1, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(x)
        return torch.stack(self.past).mean(0)


class Ring3(nn.Module):
    """A ring of 3 whose place is a number: (1, F) to (1, F)."""

    ring: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(3, 3))
        self.place = 0

    def forward(self, x: Tensor) -> Tensor:
        self.ring[self.place] = x[0]
        self.place = (self.place + 1) % 3
        return x + self.ring[self.place]


class Slotted(nn.Module):
    """Keeps its state in the slots of an object: (B, F) to (B, F)."""

    class Memory:
        __slots__ = ("mean",)

        def __init__(self) -> None:
            self.mean: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.memory = Slotted.Memory()

    def forward(self, x: Tensor) -> Tensor:
        mean = self.memory.mean
        self.memory.mean = x if mean is None else 0.5 * (mean + x)
        return self.memory.mean


class Ring(nn.Module):
    """The same with a ring buffer and an integer position, one sample a call: (1, C) to (1, C)."""

    ring: Tensor
    position: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.register_buffer("ring", torch.zeros(3, 4))
        self.register_buffer("position", torch.tensor(0))

    def forward(self, sample: Tensor) -> Tensor:
        self.ring[self.position % 3] = self.mix(sample)[0]
        self.position += 1
        return self.ring.sum(0, keepdim=True)


class Words(nn.Module):
    """Token ids (B, T) to logits (B, T, V) and the last hidden state (B, H)."""

    hidden: Tensor

    def __init__(self, vocabulary: int = 20, dim: int = 8, hidden_size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.gru = nn.GRU(dim, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, vocabulary)
        self.register_buffer("hidden", torch.zeros(1, 1, hidden_size))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        output, self.hidden = self.gru(self.embed(tokens), self.hidden)
        return {"logits": self.out(output), "last": output[:, -1]}


class Pooled(nn.Module):
    """Two inputs without state: (N, 4) features and (N,) kinds to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.embed = nn.Embedding(10, 3)

    def forward(self, features: Tensor, kind: Tensor) -> Tensor:
        summed: Tensor = self.linear(features) + self.embed(kind)
        return summed


class Digits(nn.Module):
    """Images whose size only the last layer tells: (N, 1, 28, 28) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 5)
        self.linear = nn.Linear(4 * 12 * 12, 10)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d(self.convolution(images), 2)
        scores: Tensor = self.linear(pooled.flatten(1))
        return scores


class Heads(nn.Module):
    """Attention, of whose heads no shape tells: (N, T, 8) to (N, T, 8)."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x)[0]
        return mixed


class Valid(nn.Module):
    """A convolution that takes any length from 5 on."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(3, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(x)
        return convolved


class Seldom(nn.Module):
    """Counts the calls that are not all zeros: (B, 4) to (B, 1)."""

    hits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("hits", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.any()):
            self.hits = self.hits + 1
        scores: Tensor = self.linear(x)
        return scores


class Attribute(nn.Module):
    """Keeps its hidden state in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 4)
        self.hidden = torch.zeros(1, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        print("one forward")  # noqa: T201 - what models print must not get into the JSON
        output: Tensor
        output, self.hidden = self.gru(x, self.hidden)
        return output


class Nudged(nn.Module):
    """(T,) to (T,): goes on learning, but from zeros it learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.any()):
            self.weight.add_(x.mean())
        return x * self.weight


class Growing(nn.Module):
    """Keeps all that it has seen: (1, T, 4) to (1, T, 4)."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(1, 0, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat((self.seen, x), 1)
        mixed: Tensor = self.linear(x)
        return mixed


class Positions(nn.Module):
    """Reads the position of the first session for all of them: they may not lie side by side."""

    ring: Tensor
    position: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("ring", torch.zeros(1, 4, 3))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        ring = self.ring.clone()
        ring[:, :, int(self.position[0]) % 3] = self.linear(x)
        self.ring, self.position = ring, self.position + 1
        return ring.sum(-1) * (1 + int(self.position[0]))


class Anything(nn.Module):
    """Does not say what it takes."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return tensors[0] * 2


class Layered(nn.Module):
    """Many states of one axis, and a clock: (B, T, 4) to (B, T, 4)."""

    clock: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        for layer in range(8):
            self.register_buffer(f"past{layer}", torch.zeros(1, 4))
        self.register_buffer("clock", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        steps = []
        for step in x.unbind(1):
            y = self.linear(step)
            for layer in range(8):
                past = self.get_buffer(f"past{layer}")
                setattr(self, f"past{layer}", (past + y) / 2)
                y = y + past
            steps.append(y)
        self.clock = self.clock + len(steps)
        return torch.stack(steps, 1)


class Seldoms(nn.Module):
    """Counts that change only on what is not zero: (B, 4) to (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        for number in range(7):
            self.register_buffer(f"hits{number}", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x)
        for number in range(7):
            if bool(x.any()):
                setattr(self, f"hits{number}", self.get_buffer(f"hits{number}") + (x > number).sum(1))
        return scores


class Counts(nn.Module):
    """Ids that begin at 1: (N,) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        if int(ids.min()) < 1:
            raise ValueError("ids begin at 1")
        found: Tensor = self.table(ids - 1)
        return found


class Roots(nn.Module):
    """Takes no zeros and nothing below them: (T, B, 4) to (T, B, 4)."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("level", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        if bool((x <= 0).any()):
            raise ValueError("expected numbers above 0")
        steps = []
        for step in x:
            self.level = self.level + step.log() * self.scale
            steps.append(self.level)
        return torch.stack(steps)


class Drops(nn.Module):
    """A GRU whose dropout stays on: (T, B, 4) to (T, B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, hx = self.gru(x, hx)
        return nn.functional.dropout(y, 0.3, training=True), hx


class Critic(nn.Module):
    """Takes two tensors one after the other, of which nothing says the sizes: (B, 4) and (B, 2) to (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(4 + 2, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.value(torch.cat((state, action), -1))
        return value
