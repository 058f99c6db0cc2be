"""A recurrent classifier, whose hidden state is a buffer that every call updates."""

import torch
from torch import Tensor, nn


class RNNClassifier(nn.Module):
    """Classify images of digits row by row: (T, B, 8) pixels from 0 to 16 to (T, B, 10).

    The buffer `hidden` (1, B, H) is the hidden state after the rows so far. A call starts from it and leaves
    in it the hidden state after its last row, so T rows in one call or in T calls give the same result.

    Source: Elman (1990), Finding Structure in Time, Cognitive Science 14, 179-211.
    """

    hidden: Tensor

    def __init__(self, input_size: int = 8, hidden_size: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.rnn = nn.RNN(input_size, hidden_size)
        self.classify = nn.Linear(hidden_size, num_classes)
        self.register_buffer("hidden", torch.zeros(1, 1, hidden_size))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the probability of each digit after each row: (T, B, 8) to (T, B, 10)."""
        return self.logits(rows).softmax(-1)

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits after each row: (T, B, 8) to (T, B, 10)."""
        x = rows / 16
        output, self.hidden = self.rnn(x, self.hidden)
        scores: Tensor = self.classify(output)
        return scores

    def reset(self, batch_size: int = 1) -> None:
        """Return to the initial hidden state, for a batch of `batch_size` images."""
        self.hidden = self.hidden.new_zeros(1, batch_size, self.rnn.hidden_size)
