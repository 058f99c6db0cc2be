"""Modules that need more than eval mode and no gradients: they differentiate, draw random numbers, or stay in training.

The tests copy this file beside manifests, and also run the modules by themselves.
"""

import random

import torch
from torch import Tensor, nn
from torch.nn import functional


class Forces(nn.Module):
    """The gradient of an energy, for which it enables gradients itself."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.differentiate(x)

    def differentiate(self, x: Tensor) -> Tensor:
        x = x.detach().clone().requires_grad_()
        return -torch.autograd.grad(torch.tanh(self.energy(x)).sum(), x)[0]


class BareForces(Forces):
    """Expects that gradients are enabled, as they are outside of everything."""

    def forward(self, x: Tensor) -> Tensor:
        return self.differentiate(x)


class Descent(nn.Module):
    """Moves its state along a gradient; leaves gradients in its parameters."""

    at: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(4, 1)
        self.register_buffer("at", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        at = (self.at + x).detach().requires_grad_()
        self.energy.requires_grad_()
        torch.tanh(self.energy(at)).sum().backward()  # type: ignore[no-untyped-call]
        assert at.grad is not None
        assert self.energy.weight.grad is not None
        self.at = at - at.grad
        return self.at + self.energy.weight.grad


class Dropped(nn.Module):
    """A recurrent cell whose dropout stays on."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.cell(functional.dropout(x, 0.5, training=True), self.h)
        return self.h + 0.01 * torch.randn_like(self.h)


class Mixed(Dropped):
    """Draws random numbers, and mixes sessions as well."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum()


class Python(nn.Module):
    """Draws random numbers from Python's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.energy(x) * random.random()
        return y


class Normalised(nn.Module):
    """Normalises by running statistics that inference goes on to collect."""

    def __init__(self) -> None:
        super().__init__()
        self.normaliser = nn.BatchNorm1d(4, momentum=0.5)
        self.out = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.normaliser(x))
        return y
