"""`inspect` tells state from frozen buffers, also where two states share a tensor."""

import json
from pathlib import Path

from carryover import create_app
from tests.support.own_cases import CASES


def test_two_states_that_start_as_one_tensor_are_inspected(tmp_path: Path) -> None:
    folder = CASES["one-beginning"].write(tmp_path, "one-beginning")
    inspected = create_app().test_cli_runner().invoke(args=["inspect", str(folder), "--json"])
    assert inspected.exit_code == 0, inspected.output
    tensors = {tensor["name"]: tensor["kind"] for tensor in json.loads(inspected.output)["tensors"]}
    assert (tensors["h"], tensors["c"]) == ("state", "state")
