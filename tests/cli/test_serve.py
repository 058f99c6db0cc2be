"""`carryover serve`: where its settings come from."""

import os
import platform
import re
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
        "completion", "inspect", "keys", "models", "new", "serve"
    ]  # fmt: skip


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --no")])
def test_a_shell_completes_commands_and_flags(shell: str, words: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert words in done.output
    assert {"serve", "models"} & completed(shell, "carryover ser", 1) == {"serve"}
    assert {"--max-batch", "--max-queue"} & completed(shell, "carryover serve --max-b", 2) == {"--max-batch"}


def completed(shell: str, words: str, at: int) -> set[str]:
    """What the program offers to the script of a shell, as words."""
    at_word = words.split()[at] if shell == "fish" else str(at)
    environment = {"_CARRYOVER_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": at_word}
    said = CliRunner().invoke(main, env=environment, prog_name="carryover").output
    return set(re.split(r"[,\t\n]", said))


def test_a_platform_without_a_build_is_one_sentence(executed: Executed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    done = CliRunner().invoke(main, ["serve"])
    assert (done.exit_code, executed) == (1, [])
    (said,) = done.output.splitlines()
    assert said.startswith("Error: the service does not run on Windows, as gunicorn needs Unix: use WSL 2, or ")
