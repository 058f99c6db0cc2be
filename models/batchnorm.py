"""Batch normalisation, whose buffers are updated in training and only read in inference, and a classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.Module):
    """Normalise every feature over the batch: (N, F) or (N, F, ...) to the same shape.

    Training uses the batch's mean and biased variance, and moves the buffers towards its mean and unbiased
    variance: running = (1 - momentum) * running + momentum * batch. Evaluation uses the buffers instead, and
    leaves them unchanged.

    Source: Ioffe and Szegedy (2015), Batch Normalization, arXiv:1502.03167, algorithms 1 and 2.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / sqrt(variance + eps) * weight + bias."""
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )


class BatchNormClassifier(nn.Module):
    """Classify images of digits, 8 by 8 pixels: (N, 64) pixels from 0 to 16 to (N, 10)."""

    def __init__(self, hidden_size: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, hidden_size, bias=False),
            BatchNorm(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size, bias=False),
            BatchNorm(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 10),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probability of each digit: (N, 64) to (N, 10)."""
        return self.logits(pixels).softmax(-1)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits: (N, 64) to (N, 10)."""
        scores: Tensor = self.layers(pixels / 16)
        return scores
