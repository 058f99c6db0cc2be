"""A checkpoint says the sizes of torch's own layers, whose constructors take anything and have overloads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carryover.errors import ConfigurationError
from carryover.runtime import weights
from carryover.runtime.argument_guesses import fit


class Named(nn.GRU):
    """Passes on what it is given."""


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        (nn.GRU(6, 24), {"input_size": 6, "hidden_size": 24}),
        (nn.RNN(3, 4), {"input_size": 3, "hidden_size": 4}),
        (nn.LSTM(2, 3, num_layers=2), {"input_size": 2, "hidden_size": 3, "num_layers": 2}),
        (Named(6, 24), {"input_size": 6, "hidden_size": 24}),
    ],
    ids=["gru", "rnn", "lstm", "subclass"],
)
def test_the_sizes_of_torchs_layers_follow_from_a_checkpoint(
    module: nn.Module, sizes: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    found, _ = fit(type(module), {}, weights.state_dicts(tmp_path / "weights.pt"), tmp_path)
    assert found == sizes


def test_without_a_checkpoint_they_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="GRU needs input_size, hidden_size: pass --arguments"):
        fit(nn.GRU, {}, [], tmp_path)
    assert fit(nn.GRU, {"input_size": 3, "hidden_size": 4}, [], tmp_path)[0] == {"input_size": 3, "hidden_size": 4}
