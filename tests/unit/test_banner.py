"""The banner shows what is known of each tensor."""

from pathlib import Path

import torch
from torch import nn

from carryover.runtime.repository import Repository
from carryover.server.banner import banner

MANIFEST = """class = "torch.nn:GRU"
arguments = { input_size = 3, hidden_size = 4 }
inputs = [{ name = "input", datatype = "FP32", shape = [-1, 3] }]
outputs = [{ name = "output", datatype = "FP32", shape = [-1, 4] }]
state = { h = { input = "hx", output = 1 } }
"""


def test_state_that_starts_as_none_is_shown_by_its_name_alone(tmp_path: Path) -> None:
    weights = tmp_path / "gru" / "1" / "weights.pt"
    weights.parent.mkdir(parents=True)
    torch.save(nn.GRU(3, 4).state_dict(), weights)
    (tmp_path / "gru" / "model.toml").write_text(MANIFEST)
    lines = banner("here", "there", Repository.load([tmp_path])).splitlines()
    assert lines[-1] == "    state  h"
