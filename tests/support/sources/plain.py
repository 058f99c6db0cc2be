"""Modules as anyone might write them; the tests copy this file into model repositories, and also run it themselves."""

import sys

import torch
from torch import Tensor, nn


class PlainRNN(nn.Module):
    """(T, 1, 3) to (T, 1, 5)."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 5)
        self.register_buffer("hidden", torch.zeros(1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, self.hidden = self.rnn(x, self.hidden)
        return output


class BatchFirstRNN(nn.Module):
    """(1, T, 3) to (1, T, 5)."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True)
        self.register_buffer("hidden", torch.zeros(1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, self.hidden = self.rnn(x, self.hidden)
        return output


class PlainLSTM(nn.Module):
    """(T, 1, 3) to (T, 1, 5), two layers."""

    h: Tensor
    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2)
        self.register_buffer("h", torch.zeros(2, 1, 5))
        self.register_buffer("c", torch.zeros(2, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor
        output, (self.h, self.c) = self.lstm(x, (self.h, self.c))
        return output


class PlainAccumulator(nn.Module):
    """(N,) to a scalar: the sum of all that it was ever given."""

    sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        self.sum += x.sum()
        return self.sum


class PlainBatchNorm(nn.Module):
    """(N, 3) to (N, 3)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.bias = nn.Parameter(torch.rand(3))
        self.register_buffer("running_mean", torch.rand(3))
        self.register_buffer("running_var", torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1
        )


class Fails(nn.Module):
    """Counts its calls, and raises in the middle of its work where a number is below `least`."""

    calls: Tensor

    def __init__(self, least: float = -100.0) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if bool((x < self.least).any()):
            raise ValueError("cannot open /etc/secret/weights.bin")
        return x + self.calls[:, None]


class WritesFrozen(nn.Module):
    """Writes to `scale` where a number is above 100, and rebinds it where one is below -100."""

    scale: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if bool((x > 100).any()):
            self.scale += 1
        if bool((x < -100).any()):
            self.scale = self.scale + 1
        return x * self.scale


class NowAndThen(nn.Module):
    """(N,) to (N,): remembers the largest number it was ever given, and writes it only when there is a larger one."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.max() > self.largest):
            self.largest = x.max()
        return x / self.largest.clamp(min=1)


class Unborn(nn.Module):
    """(N,) to (N,): a running sum whose buffer is empty until the first call."""

    total: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", None)

    def forward(self, x: Tensor) -> Tensor:
        self.total = x.sum() if self.total is None else self.total + x.sum()
        return x + self.total


class Slow(nn.Module):
    """(T, B, 1) to (T, B, 1): a sum, after multiplying large matrices."""

    total: Tensor

    def __init__(self, size: int = 600, times: int = 8) -> None:
        super().__init__()
        self.times = times
        self.register_buffer("matrix", torch.ones(size, size) / size)
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        product = self.get_buffer("matrix")
        for _ in range(self.times):
            product = product @ self.get_buffer("matrix")
        self.total = self.total + x.sum(0)[:, 0] * product[0, 0].round(decimals=3) * product.shape[0]
        return x * 0 + self.total[:, None]


class SlowAsAsked(nn.Module):
    """(T, B, 1) to (T, B, 1): a sum, after as many products of large matrices as the largest of its inputs."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.ones(400, 400) / 400)
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        product = self.get_buffer("matrix")
        for _ in range(int(x.abs().max())):
            product = product @ self.get_buffer("matrix")
        self.total = self.total + x.sum(0)[:, 0] * product[0, 0].round(decimals=3) * product.shape[0]
        return x * 0 + self.total[:, None]


class Grid(nn.Module):
    """(N,) to (N, N): all products, which it counts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x[:, None] * x


class Talks(nn.Module):
    """(T, B, 1) to (T, B, 1): a running sum, which says on standard error how many sessions each forward runs."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        sys.stderr.write(f"a forward of {x.shape[1]} sessions\n")
        sys.stderr.flush()
        self.total = self.total + x.sum((0, 2))
        return x * 0 + self.total[:, None]


class Mixed(nn.Module):
    """Three inputs and two outputs of several datatypes, by name."""

    def forward(self, x: Tensor, index: Tensor, flag: Tensor) -> dict[str, Tensor]:
        return {"chosen": x.gather(1, index[:, None])[:, 0], "kept": torch.where(flag, index, -1)}


class Pair(nn.Module):
    """Two outputs, in order."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x > 0


class Identity(nn.Module):
    """What goes in comes out."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Kinds(nn.Module):
    """(N,) to (N,): state buffers of every datatype, each a running count of the calls."""

    def __init__(self) -> None:
        super().__init__()
        for dtype in KINDS:
            self.register_buffer(str(dtype).replace("torch.", "count_"), torch.zeros(2, 3, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, ~buffer if buffer.dtype is torch.bool else buffer + 1)
            total = total + self.get_buffer(name).float().sum()
        return x * 0 + total


KINDS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


class Statistics(nn.Module):
    """(N, 3) to (N, 3): a normalisation that goes on learning its running mean while it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        self.norm.running_mean += 0.1 * (x.mean(0) - self.norm.running_mean)
        output: Tensor = self.norm(x)
        return output
