"""Models of other people's kinds, as they are written anywhere: nothing here knows of the service.

The tests copy this file beside manifests, and also run the modules by themselves. T is time, B sessions side by side.
"""

import itertools
import random
import sys
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Gru(nn.Module):
    """(T, B, 3) to (T, B, 5)."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5)
        self.register_buffer("hidden", torch.zeros(1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, self.hidden = self.gru(x, self.hidden)
        return output


class Cell(nn.Module):
    """One step a call: (B, 3) to the probabilities of two classes, (B, 2)."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 2)
        self.register_buffer("hidden", torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.cell(x, self.hidden)
        return self.hidden.softmax(-1)


class Encoder(nn.Module):
    """An LSTM whose two states lie in a submodule of the model."""

    h: Tensor
    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4)
        self.register_buffer("h", torch.zeros(1, 1, 4))
        self.register_buffer("c", torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, (self.h, self.c) = self.lstm(x, (self.h, self.c))
        return output


class NestedLstm(nn.Module):
    """(T, B, 3) to (T, B, 2), with a BatchNorm whose buffers are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.encoder(x)
        scores: Tensor = self.head(self.norm(encoded.flatten(0, 1)).view(encoded.shape))
        return scores


class StackedRnn(nn.Module):
    """(B, T, 3) to (B, T, 5), two layers."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 5, num_layers=2, batch_first=True)
        self.register_buffer("hidden", torch.zeros(2, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, self.hidden = self.rnn(x, self.hidden)
        return output


class RingConvolution(nn.Module):
    """(T, B, 2) to (T, B, 3): a causal convolution over the last four vectors, in a ring with an integer position."""

    ring: Tensor
    position: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(2, 3, 4)
        self.register_buffer("ring", torch.zeros(1, 2, 4))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(vector) for vector in x])

    def step(self, vector: Tensor) -> Tensor:
        self.ring.scatter_(2, self.position[:, None, None].expand(-1, 2, 1), vector[:, :, None])
        self.position = (self.position + 1) % 4
        order = (self.position[:, None] + torch.arange(4)) % 4
        window = self.ring.gather(2, order[:, None].expand(-1, 2, -1))
        convolved: Tensor = self.convolution(window)[:, :, 0]
        return convolved


class ChannelsFirst(nn.Module):
    """(B, 2, T) to (B, 3, T): the same convolution as anyone has it, its past concatenated in front."""

    past: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(2, 3, 4)
        self.register_buffer("past", torch.zeros(1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat((self.past, x), 2)
        self.past = seen[:, :, -3:]
        convolved: Tensor = self.convolution(seen)
        return convolved


class EmptyCache(nn.Module):
    """(B, T, 4) to (B, T, 4): causal attention to everything so far, in a cache that begins empty and grows."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.register_buffer("keys", torch.zeros(1, 0, 4))
        self.register_buffer("values", torch.zeros(1, 0, 4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).chunk(3, -1)
        self.keys = torch.cat((self.keys, key), 1)
        self.values = torch.cat((self.values, value), 1)
        return attend(query, self.keys, self.values)


class NoneCache(nn.Module):
    """The same attention, in a cache that is None before the first call."""

    keys: Tensor | None
    values: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.register_buffer("keys", None)
        self.register_buffer("values", None)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).chunk(3, -1)
        self.keys = key if self.keys is None else torch.cat((self.keys, key), 1)
        self.values = value if self.values is None else torch.cat((self.values, value), 1)
        return attend(query, self.keys, self.values)


class CountedCache(NoneCache):
    """The same again, and an integer that counts what the cache holds."""

    length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("length", torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        self.length += x.shape[1]
        return super().forward(x)


class RingCache(nn.Module):
    """(T, B, 4) to (T, B, 4): attention to the last three, in a cache of fixed size that says which of it is filled."""

    keys: Tensor
    values: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.register_buffer("keys", torch.zeros(1, 3, 4))
        self.register_buffer("values", torch.zeros(1, 3, 4))
        self.register_buffer("filled", torch.zeros(1, 3, dtype=torch.bool))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(vector) for vector in x])

    def step(self, vector: Tensor) -> Tensor:
        query, key, value = self.project(vector).chunk(3, -1)
        session = torch.arange(len(vector))
        self.keys[session, self.position] = key
        self.values[session, self.position] = value
        self.filled[session, self.position] = True
        self.position = (self.position + 1) % 3
        scores = (self.keys @ query[:, :, None])[:, :, 0].masked_fill(~self.filled, -torch.inf)
        mixed: Tensor = scores.softmax(-1)[:, None] @ self.values
        return mixed[:, 0]


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Let each of the last T queries see all keys up to its own: (B, T, D), (B, N, D) twice, to (B, T, D)."""
    count, length = query.shape[1], keys.shape[1]
    visible = torch.ones(count, length, dtype=torch.bool).tril(length - count)
    return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible)


class Tagger(nn.Module):
    """Token ids, a mask and a keyword-only weight, each (T, B), to tags and scores, (T, B)."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.rnn = nn.RNN(4, 4)
        self.register_buffer("hidden", torch.zeros(1, 1, 4))

    def forward(self, tokens: Tensor, mask: Tensor, *, weight: Tensor) -> dict[str, Tensor]:
        vectors = self.embed(tokens) * mask[..., None] * weight[..., None]
        output, self.hidden = self.rnn(vectors, self.hidden)
        score, tag = output.max(-1)
        return {"score": score, "tag": tag, "sure": score > 0.2, "vectors": vectors}


class Both(NamedTuple):
    """What some forwards return."""

    total: Tensor
    largest: Tensor


class Returns(nn.Module):
    """(T, B) to its running total and the largest so far, (T, B), as `kind` says."""

    sum: Tensor
    peak: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("sum", torch.zeros(1))
        self.register_buffer("peak", torch.full((1,), -torch.inf))

    def forward(self, x: Tensor) -> object:
        total = self.sum + x.cumsum(0)
        largest = torch.cat((self.peak[None], x)).cummax(0).values[1:]
        self.sum, self.peak = total[-1], largest[-1]
        returned: dict[str, object] = {
            "tuple": (total, largest),
            "list": [total, largest, None],
            "dict": {"largest": largest, "other": None, "total": total},
            "named tuple": Both(total, largest),
        }
        return returned[self.kind]


class Leak(nn.Module):
    """(T, B, 2) to (T, B, 2) in one floating datatype throughout, state included."""

    level: Tensor

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.75, dtype=getattr(torch, dtype)))
        self.register_buffer("level", torch.zeros(1, 2, dtype=getattr(torch, dtype)))

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for row in x:
            self.level = self.level * self.rate + row
            levels.append(self.level)
        return torch.stack(levels)


class Wrapping(nn.Module):
    """(T,) integers or booleans to their running exclusive or, and how often each of 256 bytes came, wrapping."""

    parity: Tensor
    seen: Tensor

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.register_buffer("parity", torch.zeros((), dtype=getattr(torch, dtype)))
        self.register_buffer("seen", torch.zeros(256, dtype=torch.uint8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parities, counts = [], []
        for value in x:
            self.parity ^= value
            self.seen[value.long() % 256] += 100
            parities.append(self.parity.clone())
            counts.append(self.seen[value.long() % 256].clone())
        return torch.stack(parities), torch.stack(counts)


class Forgetful(nn.Module):
    """(T, B) to (T, B): a running sum that no checkpoint holds."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        total = self.sum + x.cumsum(0)
        self.sum = total[-1].clone()
        return total


class Peak(nn.Module):
    """(T, B) to (T, B): scales by the largest magnitude so far, which it writes only when there is a larger one."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.full((1,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        magnitude = x.abs().amax(0)
        if bool((magnitude > self.largest).any()):
            self.largest = torch.maximum(self.largest, magnitude)
        return x / self.largest


class Clouds(nn.Module):
    """(T, N, 2), T clouds of N points, to each cloud's centre, (T, 2), and each point's way from the mean centre."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centres = x.mean(1)
        self.total += centres.sum(0)
        self.count += len(x)
        return centres, x - self.total / self.count


class InPlace(nn.Module):
    """(T, B, 2) to (T, B, 2): writes into its input, as code that saves memory does."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        self.sum = self.sum + x.sum(0)
        return x * self.sum


class Views(nn.Module):
    """(B, 2, T) to (B, 2, T): calls `view`, which only takes memory that lies in order."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return (x.view(x.shape[0], -1).cumsum(1).view(x.shape) * self.calls).to(x.dtype)


class Transposed(nn.Module):
    """(2, 3) to (3, 2), whose memory does not lie in order, plus the number of the call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x + self.calls).T


class Summary(nn.Module):
    """(T,) to itself and a running total, (): one output for each instance and one for the call."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor(0.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.sum = self.sum + x.sum()
        return x * 2, self.sum


class Growing(nn.Module):
    """(T,) to how many values it has kept, ()."""

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.kept = torch.cat((self.kept, x))
        return torch.tensor(len(self.kept))


class AcrossSessions(nn.Module):
    """(T, B, 2) to (T, B, 2), less the mean over B: sessions side by side see each other."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x.sum(0)
        return x - x.mean(1, keepdim=True)


class Scrambled(nn.Module):
    """(T, B, 3) to (T, B, 5): takes `view` for a transposition, which goes unseen where T or B is 1."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.register_buffer("hidden", torch.zeros(1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        time, sessions, _ = x.shape
        output, self.hidden = self.gru(x.view(sessions, time, 3), self.hidden)
        scrambled: Tensor = output.reshape(time, sessions, 5)
        return scrambled


class Particulars(nn.Module):
    """A positional-only input and a keyword-only one, (T,) each, to (T,)."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor(0.0))

    def forward(self, x: Tensor, /, *, weight: Tensor) -> Tensor:
        total = self.sum + (x * weight).cumsum(0)
        self.sum = total[-1]
        return total


class AnyName(nn.Module):
    """Two inputs, (T,) each, that forward does not name, to their running sum of products, (T,)."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor(0.0))

    def forward(self, **given: Tensor) -> Tensor:
        total = self.sum + (given["x"] * given["weight"]).cumsum(0)
        self.sum = total[-1]
        return total


class Drifting(nn.Module):
    """(T,) to (T,): an integer buffer that the first call makes a floating one."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 0.5
        return x


class Delay(nn.Module):
    """(T, B) to (T, B), one later, in a datatype that torch hardly calculates with."""

    last: Tensor

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 1, dtype=getattr(torch, dtype)))

    def forward(self, x: Tensor) -> Tensor:
        delayed = torch.cat((self.last, x))
        self.last = delayed[-1:]
        return delayed[:-1]


class Late(nn.Module):
    """(T,) to (T,): registers its buffer when it is first called."""

    sum: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "sum"):
            self.register_buffer("sum", torch.tensor(0.0), persistent=False)
        self.sum = self.sum + x.sum()
        return x + self.sum


class Learning(nn.Module):
    """(T,) to (T,): goes on changing its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data += x.mean()
        return x * self.weight


class Adapting(nn.Module):
    """(T,) to (T,): normalises in training mode always, which moves the statistics without a trace in torch."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("variance", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        nn.functional.batch_norm(torch.cat((x, x + 1))[:, None], self.mean, self.variance, training=True)
        return x - self.mean


class PythonState(nn.Module):
    """(T,) to (T,): keeps its running sum in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.tensor(0.0)

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x.sum()
        return x + self.sum


class Particular(nn.Module):
    """(T, B) to (T, B): raises for anything but zeros."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.any()):
            raise ValueError("only zeros, please")
        return x


class Seldom(nn.Module):
    """(T, B) to (T, B): writes a buffer that it does not write for zeros."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.any()):
            self.calls += 1
        return x + self.calls


class Mismatched(nn.Module):
    """(T, 4) to (T, 4): has torch itself raise where a number is above 5."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ x if bool((x > 5).any()) else x


class Sparse(nn.Module):
    """(T,) to (T,), with a frozen buffer that holds only what is not zero."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(2).to_sparse(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sparse.sum(self.matrix)


class Shared(nn.Module):
    """(T,) to (T,): one buffer under two names, of which the second is rebound."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Counter(), Counter()
        self.second.count = self.first.count

    def forward(self, x: Tensor) -> Tensor:
        self.second.count = self.second.count + 1
        return x + self.second.count


class Counter(nn.Module):
    """Holds a count."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0.0), persistent=False)


class Wandering(nn.Module):
    """(T,) to (T,): writes to its parameter for numbers above 5, and replaces it for numbers below -5.

    Above 10 it writes to all that it has.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("shift", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 5).any()):
            self.weight.add_(1)
        if bool((x < -5).any()):
            self.weight = nn.Parameter(torch.zeros(2))
        if bool((x > 10).any()):
            self.scale.add_(1)
            self.shift = self.shift + 1
        return x * self.weight[0] * self.scale + self.shift


class Stealthy(nn.Module):
    """(T,) to (T,): writes to a frozen buffer without a trace, and only if there is something to write."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data += x.sum()
        return x * self.scale


class Appending(nn.Module):
    """(T,) to (T,): keeps all that it has seen in a list, within an object of its own."""

    class Memory:
        """What was seen."""

        def __init__(self) -> None:
            self.seen: list[Tensor] = []

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.Memory()

    def forward(self, x: Tensor) -> Tensor:
        self.memory.seen.append(x)
        return x + torch.cat(self.memory.seen).sum()


class Counting(nn.Module):
    """(T,) to (T,): a plain number says where in the sequence it is."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0

    def forward(self, x: Tensor) -> Tensor:
        self.position += len(x)
        return x + self.position


class Harmless(nn.Module):
    """(T,) to (T,): keeps much in attributes, of which no output depends on what came before."""

    table: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(1, 1))
        self.cache: dict[int, Tensor] = {}
        self.last: Tensor | None = None
        self.calls = 0
        self.odd = [torch.ones(2, device="meta"), torch.eye(2).to_sparse()]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        if len(x) not in self.cache:
            self.cache[len(x)] = torch.arange(len(x))
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.ones(1), persistent=False)
        y: Tensor = self.linear(x[:, None])[:, 0] + self.cache[len(x)] * self.table + torch.rand(()) * 1e-9
        return y


class Dicing(nn.Module):
    """(T,) to (T,): draws random numbers, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def forward(self, x: Tensor) -> Tensor:
        self.drawn += len(x)
        return x + torch.rand_like(x)


class OfItsClass(nn.Module):
    """(T,) to (T,): keeps its running sum in its class."""

    sum = torch.tensor(0.0)

    def forward(self, x: Tensor) -> Tensor:
        type(self).sum = type(self).sum + x.sum()
        return x + type(self).sum


class Iterating(nn.Module):
    """(T,) to (T,): divides by the number of the call, which an iterator counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / next(self.calls)


class Noisy(nn.Module):
    """(T,) to (T,): adds random numbers of a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(self.generator.random(len(x), dtype=np.float32))


class Halting(nn.Module):
    """(T,) to (T,): zeros, once an input was above 1,000."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.halted = False

    def forward(self, x: Tensor) -> Tensor:
        self.halted = self.halted or bool((x > 1000).any())
        return x * 0 if self.halted else x * self.scale


class Tied(nn.Module):
    """(T, B) tokens to (T, B, 7) scores, whose weights are those of the embedding."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.gru = nn.GRU(4, 4)
        self.score = nn.Linear(4, 7, bias=False)
        self.score.weight = self.embed.weight
        self.register_buffer("hidden", torch.zeros(1, 1, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        output, self.hidden = self.gru(self.embed(tokens % 7), self.hidden)
        scores: Tensor = self.score(output)
        return scores


class Scripted(nn.Module):
    """(T, 2) to (T, 2): a part of it is TorchScript, with parameters and state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(Part())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class Part(nn.Module):
    """(T, 2) to (T, 2): adds up what a layer gives."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("sum", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.linear(x).cumsum(0) + self.sum
        self.sum = total[-1]
        return total


class Lazy(nn.Module):
    """(N, F) to (N, 2): its checkpoint says how large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


class Loudness(nn.Module):
    """(B, T) samples to (B, F) smoothed loudness of windows of 8 samples, 4 apart: it takes no fewer than 8."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(1))

    def forward(self, samples: Tensor) -> Tensor:
        levels = []
        for loud in samples.unfold(1, 8, 4).square().mean(2).unbind(1):
            self.level = 0.5 * self.level + 0.5 * loud
            levels.append(self.level)
        return torch.stack(levels, 1)


class OneBeginning(nn.Module):
    """(B, T, 3) to (B, T, 4): an LSTM of two layers, whose two states begin as one tensor of zeros."""

    h: Tensor
    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)
        zeros = torch.zeros(2, 1, 4)
        self.register_buffer("h", zeros)
        self.register_buffer("c", zeros)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, (self.h, self.c) = self.lstm(x, (self.h, self.c))
        return output


class Scratch(nn.Module):
    """(3,) to (3,): adds up its inputs, and writes what it gives into one and the same tensor, to save memory."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(3))
        self.scratch = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x
        torch.mul(self.sum, 2, out=self.scratch)
        return self.scratch


class Resized(nn.Module):
    """(T,) to (T,): doubles, into a tensor of its own that it makes as long as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        torch.mul(x, 2, out=self.scratch.resize_(x.shape))
        return self.scratch


class Matched(nn.Module):
    """(4,) to (4,): the imaginary part of a spectrum through a matched filter, all of which torch conjugates lazily."""

    filter: Tensor
    past: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.fft.fft(torch.arange(4.0)).conj(), persistent=False)
        self.register_buffer("past", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(x + self.past) * self.filter
        self.past = spectrum.conj().imag
        found: Tensor = spectrum.conj().imag
        return found


class Saliency(nn.Module):
    """(3,) to (3,): the gradient of a layer at the sum of its inputs."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("sum", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x
        with torch.inference_mode(mode=False), torch.enable_grad():
            at = self.sum.clone().requires_grad_()
            gradient: Tensor
            (gradient,) = torch.autograd.grad(self.linear(at).tanh().sum(), at, create_graph=True)
        return gradient


class Breaking(nn.Module):
    """(T, B) to (T, B): adds up its inputs; breaks at some of them, each in its own way."""

    WAYS = ("exit", "interrupt", "pass", "sparse", "meta", "parameter", "attribute")

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        highest = int(x.max())
        way = self.WAYS[highest - 100] if highest >= 100 else ""
        if way == "exit":
            sys.exit(1)
        if way == "interrupt":
            raise KeyboardInterrupt
        if way == "pass":
            raise GeneratorExit
        if way in ("parameter", "attribute"):
            del self.sum
            self.sum = nn.Parameter(torch.ones(1)) if way == "parameter" else torch.ones(1)
            raise ValueError(way)
        total = x.cumsum(0) + self.sum
        self.sum = total[-1]
        return total.to_sparse() if way == "sparse" else total.to("meta") if way == "meta" else total


class Sampling(nn.Module):
    """() to (): a number drawn between 0 and the given one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(())


class Window(nn.Module):
    """(T,) to (2,): one buffer is a view of the start, or of the end, of another that it writes to."""

    past: Tensor
    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(4))
        self.register_buffer("first", self.past[:2])

    def forward(self, x: Tensor) -> Tensor:
        self.past += x.sum()
        return self.first.clone()


class Columns(nn.Module):
    """(T,) to (2,): two buffers that lie side by side in one memory, and do not overlap."""

    left: Tensor
    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        both = torch.zeros(2, 2)
        self.register_buffer("left", both[:, 0])
        self.register_buffer("right", both[:, 1])

    def forward(self, x: Tensor) -> Tensor:
        self.left += x.sum()
        self.right -= x.sum() / 2
        return self.left + self.right


class Exiting(nn.Module):
    """(T,) to (T,): ends the process at zeros."""

    def forward(self, x: Tensor) -> Tensor:
        if not bool(x.any()):
            sys.exit("all is zero")
        return x


class Membrane(nn.Module):
    """(1, 6) to (1, 6): a spiking neuron; its potential is an attribute, and the spikes seldom show it."""

    def __init__(self) -> None:
        super().__init__()
        self.potential: float | Tensor = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.potential = self.potential + (x - self.potential) / 2
        spikes: Tensor = (self.potential >= 1).to(x)
        self.potential = self.potential * (1 - spikes)
        return spikes


class NormalizeUntil(nn.Module):
    """(T, 3) to (T, 3): scales by the deviation so far; after eight rows it keeps that in an attribute."""

    count: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0.0))
        self.register_buffer("squares", torch.ones(3))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.count >= 8:
            if self.kept is None:
                self.kept = (self.squares / self.count).rsqrt()
            return x * self.kept
        self.count += len(x)
        self.squares += x.square().sum(0)
        return x * (self.squares / self.count).rsqrt()


class Keeping(nn.Module):
    """(T,) to (T,): from numbers above 50 on, keeps them in its own way, and adds to its input what it has kept."""

    buffered: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.total = 0.0
        self.tensor = torch.zeros(2)
        self.pair = (torch.zeros(2), torch.zeros(2))
        self.scratch = torch.zeros(0)
        self.array = np.zeros(2)
        self.items: list[float] = []
        self.ring: deque[float] = deque([0.0, 0.0], maxlen=2)
        self.table: dict[str, list[float]] = {"kept": [0.0]}
        self.members: set[float] = set()
        self.inner: Any = nn.Linear(1, 1)
        self.notes = Notes()
        self.dropout = nn.Dropout(1.0)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 50).any()):
            getattr(self, f"keep_{self.kind}")(float(x.sum()))
        kept = self.total + self.tensor.sum() + self.pair[1].sum() + self.scratch.sum() + float(self.array.sum())
        kept = kept + sum(self.items) + sum(self.ring) + sum(map(sum, self.table.values())) + sum(self.members)
        kept = kept + sum(self.notes.seen) + getattr(self.inner, "kept", 0.0) + getattr(self, "late", 0.0)
        y: Tensor = self.dropout(x + kept + 0 * self.inner(x[:1]))
        return y + getattr(self, "buffered", 0.0)

    def keep_number(self, value: float) -> None:
        self.total += value

    def keep_tensor(self, value: float) -> None:
        self.tensor = self.tensor + value

    def keep_in_place(self, value: float) -> None:
        self.tensor += value

    def keep_within_a_tuple(self, value: float) -> None:
        self.pair[1].add_(value)

    def keep_resized(self, value: float) -> None:
        self.scratch.resize_(len(self.scratch) + 1)[-1] = value

    def keep_in_an_array(self, value: float) -> None:
        self.array += value

    def keep_in_a_list(self, value: float) -> None:
        self.items.append(value)

    def keep_in_a_ring(self, value: float) -> None:
        self.ring.append(value)

    def keep_in_a_dict(self, value: float) -> None:
        self.table[str(value)] = [value]

    def keep_deep_in_a_dict(self, value: float) -> None:
        self.table["kept"].append(value)

    def keep_in_a_set(self, value: float) -> None:
        self.members.add(value)

    def keep_in_a_submodule(self, value: float) -> None:
        self.inner.kept = getattr(self.inner, "kept", 0.0) + value

    def keep_in_another_submodule(self, value: float) -> None:
        with torch.inference_mode(mode=False):
            self.inner = nn.Linear(1, 1)
            self.inner.kept = value

    def keep_in_an_object(self, value: float) -> None:
        self.notes.seen.append(value)

    def keep_in_a_new_attribute(self, value: float) -> None:
        self.late = getattr(self, "late", 0.0) + value

    def keep_in_a_new_buffer(self, value: float) -> None:
        if hasattr(self, "buffered"):
            value += float(self.buffered)
        self.register_buffer("buffered", torch.tensor(value), persistent=False)

    def keep_as_a_hook(self, value: float) -> None:
        self.register_forward_hook(lambda *given: given[2] + value)

    def keep_training(self, _: float) -> None:
        self.train()

    def keep_a_part_training(self, _: float) -> None:
        self.dropout.train()

    def keep_no_attribute(self, value: float) -> None:
        del self.total
        raise ValueError(value)


class Notes:
    """What a module writes down."""

    def __init__(self) -> None:
        self.seen: list[float] = []


class Seeding(nn.Module):
    """(T,) to (T,): seeds every generator with its input."""

    def forward(self, x: Tensor) -> Tensor:
        seed = int(x[0].abs())
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - as such models do
        random.seed(seed)
        return x


class Drawing(nn.Module):
    """(T,) to (3,): a number of each generator."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.rand(()) * x[0], np.random.random(), random.random()  # noqa: NPY002 - as such models do
        return torch.tensor([float(number) for number in drawn])


class Enabling(nn.Module):
    """(T,) to (T,), plus 1 if gradients are on, and 2 if the default datatype is not FP32; it turns both around."""

    def forward(self, x: Tensor) -> Tensor:
        found = x + torch.is_grad_enabled() + 2 * (torch.get_default_dtype() is not torch.float32)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float64)
        return found


class Filling(nn.Module):
    """(T,) to (T,): makes a table and an object at its first call, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.notes: Notes | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.table is None or self.notes is None:
            self.table, self.notes = torch.arange(1.0, 2.0), Notes()
        return x * self.table


class Calibrating(nn.Module):
    """(T,) to (T,): takes the mean of the first call for that of all."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = x.mean()
        return x - self.mean


class Locked(nn.Module):
    """(T,) to (T,): writes to a dict of a class that keeps all that it is given, above 50."""

    class Table(dict[str, float]):
        """It is not taken back."""

        def __delitem__(self, key: str) -> None:
            raise TypeError("not to be deleted")

    def __init__(self) -> None:
        super().__init__()
        self.table = self.Table(kept=0.0)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 50).any()):
            self.table[str(len(self.table))] = float(x.sum())
        return x + sum(self.table.values())


class Logarithm(nn.Module):
    """(T,) to (T,): minus infinity at zero, and no number below."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Inverse(nn.Module):
    """(T,) to (T,) in a floating datatype: infinite at zero."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = getattr(torch, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 1 / x
        return y.to(self.dtype)


class Phased(nn.Module):
    """(T,) to (T,): keeps text in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "idle"

    def forward(self, x: Tensor) -> Tensor:
        idle, self.phase = self.phase == "idle", "active"
        return x if idle else x * 2


class Known(nn.Module):
    """(T,) to (T,): keeps what it was given in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.known = set[float]()

    def forward(self, x: Tensor) -> Tensor:
        new = float(x[0]) not in self.known
        self.known.add(float(x[0]))
        return x if new else x * 2


class Started(nn.Module):
    """(T,) to (T,): keeps in an attribute that it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False

    def forward(self, x: Tensor) -> Tensor:
        first, self.started = not self.started, True
        return x if first else x * 2


class Stepping(nn.Module):
    """(T,) to (T,): has no forward."""

    def step(self, x: Tensor) -> Tensor:
        return x

    def observe(self, x: Tensor) -> Tensor:
        return x

    def reset(self) -> None:
        """Take nothing."""
