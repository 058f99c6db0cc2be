"""What is wrong in a setting, a manifest or a checkpoint is said at the start, in one sentence, and nothing runs on."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from carryover import settings
from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository
from tests.support.edits import (
    MANIFEST,
    SAFETENSORS,
    Edit,
    append,
    delete_hidden,
    no_weights,
    other_file,
    rename,
    replace,
    source,
    weights,
    write,
)
from tests.support.repository import spec, write_model, write_rnn
from tests.support.sources import plain


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with one model that is right: an RNN."""
    write_rnn(tmp_path / "models", "m")
    return tmp_path / "models"


def delete_two(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["hidden"], tensors["rnn.bias_hh_l0"]


def add_unknown(tensors: dict[str, torch.Tensor]) -> None:
    tensors["surplus"] = torch.zeros(1)


def other_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["rnn.weight_ih_l0"] = torch.zeros(5, 4)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(Path(os.environ["CARRYOVER_TOUCH"])),)


REFUSALS: dict[str, tuple[Edit, str, list[str]]] = {
    "no-manifest": (lambda models: (models / MANIFEST).unlink(), MANIFEST, ["no such file"]),
    "not-toml": (lambda models: write(models / MANIFEST, b"class = "), MANIFEST, ["TOML"]),
    "not-utf-8": (lambda models: write(models / MANIFEST, b'class = "\xff"'), MANIFEST, ["TOML"]),
    "empty": (lambda models: write(models / MANIFEST, b""), MANIFEST, ["inputs: missing"]),
    "no-class": (replace(r"^class.*$", ""), MANIFEST, ["class", "required"]),
    "no-inputs": (replace(r"^\[\[inputs\]\](.|\n)*(?=\[\[outputs)", ""), MANIFEST, ["inputs: missing"]),
    "unknown-key": (replace("^class", 'claas = "x"\nclass'), MANIFEST, ["claas"]),
    "unknown-input-key": (replace("^name", 'nmae = "x"\nname'), MANIFEST, ["inputs.0.nmae"]),
    "unknown-state-key": (append("dim = 1\n"), MANIFEST, ["state.hidden.dim"]),
    "class-form": (replace("plain.py:PlainRNN", "plain.PlainRNN"), MANIFEST, ["class", "plain.PlainRNN"]),
    "class-not-a-string": (replace('"plain.py:PlainRNN"', "1"), MANIFEST, ["class", "string"]),
    "no-such-file": (replace("plain.py", "other.py"), MANIFEST, ["class", "other.py"]),
    "no-such-package": (replace("plain.py", "nowhere.at.all"), MANIFEST, ["class", "nowhere"]),
    "no-such-class": (replace("PlainRNN", "FancyRNN"), MANIFEST, ["class", "FancyRNN"]),
    "not-a-module": (replace("PlainRNN", "KINDS"), MANIFEST, ["class", "nn.Module", "KINDS"]),
    "file-above": (replace("plain.py", "../plain.py"), MANIFEST, ["class"]),
    "source-with-a-fault": (source("def broken(:\n"), MANIFEST, ["class", "plain.py"]),
    "source-that-raises": (source("raise ValueError('no\\nway')\n"), MANIFEST, ["class", "plain.py"]),
    "source-that-exits": (source("import sys; sys.exit('enough')\n"), MANIFEST, ["class", "plain.py"]),
    "arguments": (replace("^class", "arguments = { size = 3 }\nclass"), MANIFEST, ["arguments", "size"]),
    "arguments-not-a-table": (replace("^class", "arguments = 3\nclass"), MANIFEST, ["arguments"]),
    "datatype": (replace("FP32", "FP31"), MANIFEST, ["inputs.0.datatype", "FP31", "FP64"]),
    "shape-not-a-list": (replace(r"\[-1, 1, 3\]", "3"), MANIFEST, ["inputs.0.shape"]),
    "shape-minus-two": (replace(r"\[-1, 1, 3\]", "[-2, 1, 3]"), MANIFEST, ["inputs.0.shape.0"]),
    "shape-of-text": (replace(r"\[-1, 1, 3\]", '["n", 1, 3]'), MANIFEST, ["inputs.0.shape.0"]),
    "batch-dim-no-axis": (replace("batch_dim = 1", "batch_dim = 3"), MANIFEST, ["inputs.0", "batch_dim = 3"]),
    "batch-dim-negative": (replace("batch_dim = 1", "batch_dim = -1"), MANIFEST, ["inputs.0.batch_dim"]),
    "batch-dim-for-some": (replace("batch_dim = 1", ""), MANIFEST, ["batch_dim", "every"]),
    "batch-dim-wrong-axis": (
        replace("(?s)batch_dim = 1(.*)batch_dim = 1", r"batch_dim = 0\1batch_dim = 0"),
        MANIFEST,
        [],
    ),
    "state-batch-dim-no-axis": (replace(r"(hidden\]\n)batch_dim = 1", r"\1batch_dim = 3"), MANIFEST, ["hidden"]),
    "state-batch-dim-wrong-axis": (replace(r"(hidden\]\n)batch_dim = 1", r"\1batch_dim = 2"), MANIFEST, ["batch_dim"]),
    "no-such-state": (replace("state.hidden", "state.hiden"), MANIFEST, ["hiden", "'hidden'"]),
    "state-that-is-a-parameter": (replace("state.hidden", 'state."rnn.weight_ih_l0"'), MANIFEST, ["rnn.weight_ih_l0"]),
    "labels-too-few": (replace("^class", 'labels = ["a", "b"]\nclass'), MANIFEST, ["labels", "2"]),
    "labels-not-text": (replace("^class", "labels = [1, 2, 3, 4, 5]\nclass"), MANIFEST, ["labels"]),
    "same-name-twice": (
        append('[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1]\nbatch_dim = 0\n'),
        MANIFEST,
        ["x"],
    ),
    "wrong-input-width": (replace(r"\[-1, 1, 3\]", "[-1, 1, 4]"), MANIFEST, ["forward", "[1, 1, 4]"]),
    "wrong-input-datatype": (replace("FP32", "INT64"), MANIFEST, ["forward"]),
    "wrong-output-width": (replace(r"\[-1, 1, 5\]", "[-1, 1, 6]"), MANIFEST, ["outputs", "'y'"]),
    "wrong-output-dimensions": (replace(r"\[-1, 1, 5\]", "[-1, 5]"), MANIFEST, ["outputs", "'y'"]),
    "wrong-output-datatype": (replace(r'(name = "y"\ndatatype = )"FP32"', r'\1"FP64"'), MANIFEST, ["outputs", "FP64"]),
    "an-output-too-many": (
        replace(r"\[state", '[[outputs]]\nname = "z"\ndatatype = "FP32"\nshape = [-1]\nbatch_dim = 0\n\n[state'),
        MANIFEST,
        ["outputs"],
    ),
    "no-version": (rename("m/1", "m/first"), "m", ["version", "m/1"]),
    "bad-name": (rename("m", "-m"), "-m", ["name"]),
    "no-weights": (no_weights, "m/1", ["weights.safetensors"]),
    "weights-of-another-kind": (other_file("weights.bin", b"x"), "m/1", ["weights.safetensors"]),
    "weights-damaged": (other_file("weights.safetensors", b"\x10\0\0\0\0\0\0\0{}"), SAFETENSORS, ["readable"]),
    "weights-empty": (other_file("weights.safetensors", b""), SAFETENSORS, ["readable"]),
    "pt-damaged": (other_file("weights.pt", b"\x80\x02x"), "m/1/weights.pt", []),
    "pt-empty": (other_file("weights.pt", b""), "m/1/weights.pt", ["readable"]),
    "pt-not-tensors": (other_file("weights.pt", pickle.dumps({"a": 1}, protocol=2)), "m/1/weights.pt", []),
    "missing-names": (weights(delete_two), SAFETENSORS, ["missing rnn.bias_hh_l0"]),
    "unexpected-name": (weights(add_unknown), SAFETENSORS, ["unexpected surplus"]),
    "other-shape": (weights(other_shape), SAFETENSORS, ["rnn.weight_ih_l0", "[5, 4]", "[5, 3]"]),
}


@pytest.mark.parametrize(("edit", "file", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_fault_is_one_sentence_that_says_which_file_and_what(
    models: Path, edit: Edit, file: str, words: list[str]
) -> None:
    Repository.load([models])
    edit(models)
    with pytest.raises(ConfigurationError) as caught:
        Repository.load([models])
    said = str(caught.value)
    assert said.startswith(str(models / file))
    assert "\n" not in said
    for word in words:
        assert word in said.removeprefix(str(models / file))


def test_a_state_buffer_that_the_checkpoint_lacks_starts_as_the_class_has_it(models: Path) -> None:
    before = Repository.load([models]).model("m").default
    weights(delete_hidden)(models)
    after = Repository.load([models]).model("m").default
    assert after.initial_state == bytes(before.layout.nbytes)
    assert after.fingerprint == before.fingerprint


def test_a_missing_buffer_of_batchnorm_is_rejected_by_name(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m", plain.PlainBatchNorm(), [spec((-1, 3), batch_dim=0)])
    path = tmp_path / "models" / SAFETENSORS
    tensors = load_file(path)
    del tensors["running_var"]
    save_file(tensors, path)
    with pytest.raises(ConfigurationError, match=r"weights.safetensors: .* missing running_var$"):
        Repository.load([tmp_path / "models"])


def test_a_checkpoint_that_would_run_code_is_rejected_and_does_not_run(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("CARRYOVER_TOUCH", str(trace))
    no_weights(models)
    torch.save({"hidden": Touch()}, models / "m/1/weights.pt")
    with pytest.raises(ConfigurationError, match=re.escape(str(models / "m/1/weights.pt"))):
        Repository.load([models])
    assert not trace.exists()


def test_one_bad_version_among_good_ones_is_rejected(models: Path) -> None:
    (models / "m/2").mkdir()
    with pytest.raises(ConfigurationError, match=r"m/2: holds no weights"):
        Repository.load([models])


def test_a_model_of_which_no_version_loads_has_one_reason(models: Path) -> None:
    before = Repository.load([models])
    shutil.copytree(models / "m", models / "n")
    (models / "n/1/weights.safetensors").unlink()
    after = before.reloaded()
    sentence = "n/1: holds no weights: expected weights.safetensors or weights.pt"
    assert after.reasons() == {"n": sentence}
    assert after.failures == (f"{models}/{sentence}",)
    assert [model.name for model in after] == ["m"]


def test_what_is_no_model_is_left_alone(models: Path) -> None:
    (models / ".git").mkdir()
    (models / "__pycache__").mkdir()
    (models / "README.md").write_text("Models.\n")
    (models / "m/notes").mkdir()
    assert [model.name for model in Repository.load([models])] == ["m"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("SESSION_TTL", "-5"),
        ("SESSION_TTL", "1.5"),
        ("REDIS_TIMEOUT", "0"),
        ("REDIS_TIMEOUT", "inf"),
        ("REQUEST_TIMEOUT", "0"),
        ("REQUEST_TIMEOUT", "inf"),
        ("IDEMPOTENCY_TTL", "999999999999999999999"),
        ("BIND", "127.0.0.1:65536"),
        ("MAX_BATCH", "0"),
        ("MAX_BATCH", "99999999999999999999"),
        ("MAX_QUEUE", "none"),
        ("MAX_QUEUE", "99999999999999999999"),
        ("MAX_BODY_BYTES", "99999999999999999999"),
        ("MAX_STATE_BYTES", "99999999999999999999"),
        ("GRACEFUL_TIMEOUT", "99999999999999999999"),
        ("MAX_BODY_BYTES", "16MB"),
        ("GRACEFUL_TIMEOUT", "-1"),
        ("LOG_FORMAT", "xml"),
        ("REQUEST_LOG", "some"),
        ("CORS_ORIGINS", "example.com"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("TRUST_PT2", "maybe"),
    ],
)
def test_a_bad_setting_is_one_sentence_that_says_which(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        settings.read()
    assert str(caught.value).startswith(f"{variable}={value}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", [name.upper() for name in settings.Settings.model_fields])
def test_an_empty_setting_is_not_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable, raising=False)
    without = settings.read()
    monkeypatch.setenv(variable, "")
    assert settings.read() == without


def test_a_repository_without_models_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        Repository.load([tmp_path])
