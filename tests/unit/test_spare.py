"""A version's second module gives what its first does, and shares its weights."""

from pathlib import Path

import pytest

from carryover.runtime import spare
from carryover.runtime.repository import load_model
from carryover.runtime.selfcheck import difference
from tests.support.paths import ROOT
from tests.support.repository import write_lstm


@pytest.mark.parametrize("name", ["accumulator", "digits-batchnorm", "digits-rnn"])
def test_it_shares_parameters_and_buffers_and_gives_the_same(name: str) -> None:
    version = load_model(ROOT / "checkpoints" / name).default
    other = spare.build(version)
    assert other is not None
    modules = version.forward.module, other.forward.module
    assert modules[0] is not modules[1]
    one, two = ({name: tensor.data_ptr() for name, tensor in module.state_dict().items()} for module in modules)
    assert one == two
    for call in spare.examples(version):
        assert difference(version, version.run([call])[0], other.run([call])[0]) is None


def test_a_class_whose_file_has_changed_is_constructed_as_it_was(tmp_path: Path) -> None:
    write_lstm(tmp_path)
    version = load_model(tmp_path / "lstm").default
    for file in (tmp_path / "lstm").glob("*.py"):
        file.write_text("")
    other = spare.build(version)
    assert other is not None
    assert other.fingerprint == version.fingerprint
