"""Running totals of all values so far, in which rounding errors do not accumulate."""

import torch
from torch import Tensor, nn


class Accumulator(nn.Module):
    """Add values to totals that are kept in buffers, all of them float64 scalars.

    `sum` is the float64 nearest to the compensated sum, and `compensation` the remainder that does not
    fit in it: the rounding error of every addition is kept and added back, so a small value added to a
    large one is not lost. The totals must stay below the largest float64 (1.8e308) after every value;
    beyond it `sum` becomes infinite or NaN and stays so.

    Source: Neumaier (1974), Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen,
    ZAMM 54, 39-51; applied to whole vectors as Sum2 of Ogita, Rump and Oishi (2005),
    Accurate Sum and Dot Product, SIAM J. Sci. Comput. 26, 1955-1988.
    """

    sum: Tensor
    compensation: Tensor
    count: Tensor
    minimum: Tensor
    maximum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("compensation", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("minimum", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("maximum", torch.tensor(-torch.inf, dtype=torch.float64))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Add float64 values of any shape, and return the totals: scalars, `count` int64, the others float64.

        Without values the totals are unchanged, which is how they are read. The mean of no values is NaN,
        their minimum is infinity and their maximum minus infinity.
        """
        if values.numel():
            self.add(values.flatten())
        return {
            "count": self.count.long(),
            "sum": self.sum,
            "mean": self.sum / self.count,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }

    def add(self, values: Tensor) -> None:
        """Add one or more values, (N,), to the totals."""
        running = torch.cat((self.sum[None], values)).cumsum(0)
        lost = rounding_error(running[:-1], values, running[1:])
        naive = running[-1]
        compensation = self.compensation + lost.sum()
        self.sum = naive + compensation
        self.compensation = rounding_error(naive, compensation, self.sum)
        self.count = self.count + len(values)
        minimum, maximum = values.aminmax()
        self.minimum = self.minimum.minimum(minimum)
        self.maximum = self.maximum.maximum(maximum)


def rounding_error(a: Tensor, b: Tensor, rounded: Tensor) -> Tensor:
    """Return a + b - rounded exactly, where `rounded` is a + b in floating point; elementwise.

    Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B (TwoSum).
    """
    added = rounded - a
    return (a - (rounded - added)) + (b - added)
