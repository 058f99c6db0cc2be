"""A repository that is loaded in a moment."""

from pathlib import Path

from tests.support.harness import CHECKPOINTS
from tests.support.repository import lstm, rnn, spec, write_model


def write_few(folder: Path) -> Path:
    """Write an RNN, an LSTM, the accumulator and a model without state."""
    folder.mkdir()
    for name in ("accumulator", "digits-batchnorm"):
        (folder / name).symlink_to(CHECKPOINTS / name)
    inputs, outputs = [spec((-1, 1, 3), batch_dim=1)], [spec((-1, 1, 5), name="y", batch_dim=1)]
    write_model(folder, "rnn", rnn(), inputs, outputs, state={"hidden": 1})
    write_model(folder, "lstm", lstm(), inputs, outputs, state={"h": 1, "c": 1})
    return folder
