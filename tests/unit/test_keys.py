"""The file of API keys: what it may hold, and errors that hold no key."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from carryover import keys
from carryover.cli.keys import keys as command
from carryover.errors import ConfigurationError

DIGEST = keys.digest("a")
EXEMPT = frozenset({"open"})


def file(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text)
    return path


def test_an_entry_has_rights_models_expiry_and_digests(tmp_path: Path) -> None:
    read = keys.read(
        file(
            tmp_path,
            f"""
            [keys.app]
            sha256 = ["{DIGEST}", "{keys.digest("b")}"]
            rights = ["predict"]
            models = ["gru"]
            expires = 2020-01-01T00:00:00Z
            rate = "600/minute"
            [keys.other]
            sha256 = "{keys.digest("c")}"
            rights = []
            models = "all"
            """,
        ),
        EXEMPT,
    )
    first = read.find("a")
    assert first is not None
    assert first is read.find("b")
    assert (first.name, first.rights, first.models, first.expired) == (
        "app",
        frozenset({"predict"}),
        frozenset({"gru"}),
        True,
    )
    other = read.find("c")
    assert other is not None
    assert (other.rights, other.models, other.expired) == (frozenset(), None, False)
    assert first.rate == keys.Rate(600, 60, 600)
    assert first.rate.interval == 100_000
    assert other.rate is None
    assert read.find("d") is None
    assert len(read) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "keys: Field required"),
        ("[keys]", "keys: "),
        ("keys = 3", "keys: "),
        ("[keys.a", "expected TOML"),
        ("[keys.a]\nsha256 = 'secret'\nrights = []", "keys.a.sha256.0: String should match"),
        ("[keys.a]\nsha256 = 5\nrights = []", "keys.a.sha256: Input should be a valid list"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nmodels = 'rnn'", "keys.a.models: Input should be a valid list"),
        (f"[keys.a]\nsha256 = '{DIGEST}'", "keys.a.rights: Field required"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = ['secret']", "keys.a.rights.0: Input should be 'predict'"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nsecret = 1", "keys.a.secret"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nexpires = 2020-01-01T00:00:00", "keys.a.expires"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nrate = '0/second'", "keys.a.rate"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nrate = '5/week'", "keys.a.rate"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nrate = '5/second'\nburst = 0", "keys.a.burst"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\nburst = 5", "keys.a.burst: expected a rate as well"),
        (f"[keys.'a@b']\nsha256 = '{DIGEST}'\nrights = []", "keys.a@b"),
        (f"[keys.a]\nsha256 = '{DIGEST}'\nrights = []\n[keys.b]\nsha256 = '{DIGEST}'\nrights = []", "same digest"),
    ],
)
def test_an_invalid_file_is_one_sentence_without_values(tmp_path: Path, text: str, sentence: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        keys.read(path, EXEMPT)
    said = str(caught.value)
    assert said.startswith(f"API_KEYS={path}: ")
    assert sentence in said
    assert "\n" not in said
    assert "'secret'" not in said


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        keys.read(tmp_path / "nowhere", EXEMPT)


def test_the_command_shows_a_key_once_and_prints_its_entry(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        command, ["new", "a.b", "--right", "admin", "--right", "sessions", "--model", "gru", "--days", "2"]
    )
    assert made.exit_code == 0, made.output
    secret = made.stderr.split()[-1]
    assert secret.startswith("carryover_")
    assert len(secret) > 50
    assert secret not in made.stdout
    key = keys.read(file(tmp_path, made.stdout), EXEMPT).find(secret)
    assert key is not None
    assert (key.name, key.rights, key.models) == ("a.b", frozenset({"admin", "sessions"}), frozenset({"gru"}))
    assert 47 * 3600 < key.expires - time.time() <= 48 * 3600
    plain = CliRunner().invoke(command, ["new", "plain"])
    found = keys.read(file(tmp_path, plain.stdout), EXEMPT).find(plain.stderr.split()[-1])
    assert found is not None
    assert (found.rights, found.models, found.expired) == (frozenset({"predict", "sessions"}), None, False)


@pytest.mark.parametrize("arguments", [["a@b"], [""], ["a", "--model", "b c"], ["a", "--right", "all"], []])
def test_the_command_rejects_names_that_no_file_may_have(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, ["new", *arguments]).exit_code in (1, 2)
