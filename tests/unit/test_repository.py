"""Which folders of a repository are models."""

import shutil
from pathlib import Path

from carryover.runtime.repository import Repository
from tests.support.paths import CHECKPOINTS


def test_a_repository_may_be_the_folder_of_one_model(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "accumulator", tmp_path / "totals")
    repository = Repository.load([tmp_path / "totals"])
    assert [model.name for model in repository] == ["totals"]
    assert repository.folders() == ["totals"]
    assert [model.name for model in repository.reloaded()] == ["totals"]
    repository.probe("totals")


def test_the_only_model_is_served_while_its_folder_is_missing(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "accumulator", tmp_path / "totals")
    repository = Repository.load([tmp_path / "totals"])
    (tmp_path / "totals").rename(tmp_path / "unmounted")
    reloaded = repository.reloaded()
    assert [model.name for model in reloaded] == ["totals"]
    assert len(reloaded.failures) == 1


def test_lost_and_found_is_no_model(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "accumulator", tmp_path / "totals")
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "totals" / "lost+found").mkdir()
    assert [model.name for model in Repository.load([tmp_path])] == ["totals"]
