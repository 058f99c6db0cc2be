"""A look at what a worker is busy with, ten times a second, costs nothing for models that are not."""

import sys
from pathlib import Path

from carryover.engine import Engine
from carryover.engine.limits import Limits
from carryover.runtime.repository import Repository
from carryover.store import Store
from tests.support.paths import CHECKPOINTS


def calls_of_a_look(engine: Engine) -> int:
    count = 0

    def enter(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(enter)
    try:
        engine.sample()
    finally:
        sys.setprofile(None)
    return count


def test_a_look_does_not_grow_with_the_models(tmp_path: Path) -> None:
    (tmp_path / "digits-rnn").symlink_to(CHECKPOINTS / "digits-rnn")
    store = Store("redis://127.0.0.1:1", 1.0, 60)  # which is not asked
    limits = Limits(8, 8, 60, 1 << 20, 1.0, 1 << 20, 1 << 20, 8)
    one, many = (Engine(Repository.load([folder]), store, limits) for folder in (tmp_path, CHECKPOINTS))
    assert len(list(many.repository)) > len(list(one.repository)) == 1
    assert calls_of_a_look(one) == calls_of_a_look(many)
