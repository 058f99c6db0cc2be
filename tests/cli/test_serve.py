"""`carryover serve`: where its settings come from."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from carryover.cli.__main__ import main
from carryover.settings import Settings

Executed = list[tuple[str, ...]]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What would have been executed; the environment is as before afterwards."""
    found: Executed = []
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(os, "execv", lambda _, command: found.append(command))
    return found


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_flag_counts_before_the_environment_and_that_before_a_file(executed: Executed, tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("MAX_BATCH=1\nMAX_QUEUE=1\nSESSION_TTL=1\n")
    os.environ |= {"MAX_BATCH": "2", "MAX_QUEUE": "2", "SESSION_TTL": ""}
    run("one", "two", "--settings", file, "--max-batch", "3")
    found = {name: os.environ[name] for name in ("MAX_BATCH", "MAX_QUEUE", "SESSION_TTL", "MODEL_REPOSITORY")}
    assert found == {"MAX_BATCH": "3", "MAX_QUEUE": "2", "SESSION_TTL": "1", "MODEL_REPOSITORY": "one:two"}
    assert [command[1:3] for command in executed] == [("-m", "gunicorn")]


def test_help_lists_every_setting() -> None:
    shown = run("--help")
    for name in Settings.model_fields:
        assert name == "model_repository" or f"--{name.replace('_', '-')} " in shown


def test_help_lists_every_command() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert [line.split()[0] for line in done.output.partition("Commands:\n")[2].splitlines() if line.strip()] == [
        "inspect", "keys", "models", "new", "serve"
    ]  # fmt: skip
