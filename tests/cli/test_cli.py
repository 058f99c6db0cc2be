"""`flask --app carryover models`, `inspect` and `new`."""

import json
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import nn

from carryover import create_app
from carryover.api.routes import ROUTES
from carryover.api.v1.models import describe
from carryover.runtime.repository import Repository
from carryover.runtime.version import Call, ModelVersion
from tests.support.sources import carried, cli_models
from tests.support.sources.cli_models import Causal, Streams, Words

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
MODULES = Path(cli_models.__file__)
SCRIPTED = "tests/support/sources/scripted.py"
CARRIED = "tests/support/sources/carried.py"
FLASK = Path(sys.executable).with_name("flask")

ONE = torch.ones(1)

Run = Callable[..., Result]


def flask(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real executable, as a user would in the repository's root."""
    command = [str(FLASK), "--app", "carryover", *map(str, arguments)]
    inherited = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command of the same application in this process, which is quicker."""
    monkeypatch.chdir(ROOT)
    app = create_app()

    def invoke(*arguments: object) -> Result:
        return app.test_cli_runner().invoke(args=[str(argument) for argument in arguments])

    return invoke


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with parameters and frozen statistics that no constructor makes, and its state as it begins."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("weight", "bias", "running_mean")):
                tensor.normal_(generator=generator)
    return module.eval()


def load(folder: Path) -> ModelVersion:
    """The model as the service loads it, from its repository."""
    return Repository.load([folder.parent]).model(folder.name).default


def manifest(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "model.toml").read_text())


def shapes(specs: list[Mapping[str, Any]]) -> dict[str, tuple[str, list[int], int | None]]:
    return {spec["name"]: (spec["datatype"], spec["shape"], spec.get("batch_dim")) for spec in specs}


def assert_serves(folder: Path, module: nn.Module, *calls: dict[str, torch.Tensor]) -> None:
    """Sessions of the written model go step by step where the module goes by itself, alone and batched."""
    version = load(folder)
    state = version.initial_state
    for call in calls:
        arrays = {name: given.numpy() for name, given in call.items()}
        result = version.run([Call(arrays, state)])[0]
        with torch.no_grad():
            returned = module(**call)
        expected = returned if isinstance(returned, dict) else {"output": returned}
        for name, tensor in expected.items():
            np.testing.assert_allclose(result.outputs[name], tensor.numpy(), rtol=1e-5, atol=1e-5)
        if version.batched:
            for twin in version.run([Call(arrays, state), Call(arrays, state)]):
                assert len(twin.state) == len(result.state)
        state = result.state


class TestModels:
    """`models`: what MODEL_REPOSITORY serves."""

    def test_it_lists_what_the_interface_lists(self) -> None:
        done = flask("models", "--json")
        assert done.returncode == 0
        served = [describe(model) for model in Repository.load([CHECKPOINTS])]
        assert json.loads(done.stdout) == json.loads(json.dumps({"models": served}))

    def test_it_lists_buffers_and_versions_to_be_read(self, run: Run) -> None:
        shown = " ".join(run("models").stdout.split())
        assert "digits-rnn versions 1 (serves) fingerprint" in shown
        assert "inputs rows FP32 [-1, 1, 8] outputs probabilities FP32 [-1, 1, 10] frozen none" in shown
        assert "state hidden FP32 [1, 1, 64]" in shown
        assert "frozen layers.1.running_mean FP32 [128] layers.1.running_var FP32 [128]" in shown

    def test_what_does_not_load_is_one_sentence(self, tmp_path: Path) -> None:
        shutil.copytree(CHECKPOINTS, tmp_path / "models")
        (tmp_path / "models/digits-rnn/model.toml").write_text("class = 3")
        done = flask("models", MODEL_REPOSITORY=str(tmp_path / "models"))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"Error: {tmp_path}/models/digits-rnn/model.toml: class: Input should be")

    def test_what_nobody_foresaw_is_one_sentence(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "models/exits"
        folder.mkdir(parents=True)
        (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")
        (folder / "model.toml").write_text(
            'class = "exits.py:Exits"\ninputs = [{ name = "x", datatype = "FP32", shape = [-1] }]\n'
            'outputs = [{ name = "y", datatype = "FP32", shape = [-1] }]\n'
        )
        (folder / "1").mkdir()
        save_file({}, folder / "1/weights.safetensors")
        done = run("inspect", folder)
        assert done.exit_code == 1
        assert "exits.py cannot be imported: 3" in done.stdout


class TestInspect:
    """`inspect`: every tensor, what discovery found, and what would go wrong."""

    def test_it_shows_a_model_as_a_table(self) -> None:
        done = flask("inspect", "checkpoints/digits-rnn")
        assert (done.returncode, done.stderr) == (0, "")
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        fingerprint = load(CHECKPOINTS / "digits-rnn").fingerprint.hex()
        assert f"fingerprint {fingerprint}" in lines
        assert "input rows FP32 [-1, 1, 8] batch_dim 1" in lines
        assert "batching proved: sessions in one batch get what each gets alone" in lines
        assert "hidden state FP32 [1, 1, 64] 256 0 0 … 0 rebound by forward, listed in the manifest" in lines
        weights = load_file(CHECKPOINTS / "digits-rnn/1/weights.safetensors")["rnn.weight_hh_l0"].double()
        figures = f"{weights.mean():.4g} {weights.min():.4g} … {weights.max():.4g}"
        assert f"rnn.weight_hh_l0 parameter FP32 [64, 64] 16,384 {figures}" in lines
        assert lines[-1] == "No problems were found."
        table = [line for line in done.stdout.splitlines() if " FP32 " in line and " parameter " in line]
        assert len({line.index("FP32") for line in table}) == 1

    def test_json_says_the_same_of_a_versions_folder(self, run: Run) -> None:
        done = run("inspect", "checkpoints/accumulator/1", "--json")
        assert done.exit_code == 0
        found = json.loads(done.stdout)
        assert found["fingerprint"] == load(CHECKPOINTS / "accumulator").fingerprint.hex()
        tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
        assert list(tensors) == ["sum", "compensation", "count", "minimum", "maximum"]
        assert {tensor["kind"] for tensor in tensors.values()} == {"state"}
        assert tensors["sum"]["figures"] == {
            "datatype": "FP64", "shape": [], "nbytes": 8, "mean": 0, "minimum": 0, "maximum": 0, "finite": True
        }  # fmt: skip
        assert tensors["minimum"]["figures"]["mean"] is None
        assert not tensors["minimum"]["figures"]["finite"]
        sentences = [problem["sentence"] for problem in found["problems"]]
        assert any(s.startswith("no batch_dim is given for state buffer 'sum'") for s in sentences)
        assert any("'minimum' starts at infinity" in s for s in sentences)
        assert not any(problem["refused"] for problem in found["problems"])

    def test_frozen_buffers_are_distinguished_from_state(self, run: Run) -> None:
        found = json.loads(run("inspect", "checkpoints/digits-batchnorm", "--json").stdout)
        kinds = {tensor["name"]: (tensor["kind"], tensor["why"]) for tensor in found["tensors"]}
        assert kinds["layers.1.running_mean"] == ("frozen", "not changed by the dry run")
        assert kinds["layers.0.weight"] == ("parameter", "")
        assert found["problems"] == []

    def test_everything_that_is_wrong_is_reported_at_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "broken"
        (folder / "1").mkdir(parents=True)
        shutil.copy(MODULES, folder)
        weights = dict(trained(Streams(5, 7)).state_dict())
        del weights["h"]
        weights |= {"extra": torch.zeros(2), "head.bias": torch.zeros(9), "c": torch.full((1, 1, 7), torch.nan)}
        weights["norm.running_mean"] = torch.full((7,), torch.inf)
        weights["head.weight"] = weights["head.weight"].half()
        save_file(weights, folder / "1/weights.safetensors")
        (folder / "model.toml").write_text(
            'class = "cli_models.py:Streams"\narguments = { features = 5, hidden_size = 7 }\n'
            'inputs = [{ name = "frames", datatype = "FP32", shape = [-1, 1, 5], batch_dim = 1 }]\n'
            'outputs = [{ name = "y", datatype = "FP64", shape = [-1, 1, 4], batch_dim = 1 }]\n'
            "state = { h.batch_dim = 5, nothing = {} }\n"
        )
        done = flask("inspect", folder)
        assert (done.returncode, done.stderr) == (1, "")
        refused = [line for line in done.stdout.splitlines() if line.startswith("  error")]
        beware = [line for line in done.stdout.splitlines() if line.startswith("  warning")]
        for sentence in (
            "does not fit Streams: missing h",
            "does not fit Streams: unexpected extra",
            "head.bias has shape [9] where the class has [3]",
            "state.h: batch_dim = 5 is not an axis of shape [1, 1, 7]",
            "state: the module has no buffer 'nothing'; its buffers are 'h', 'c', 'norm.running_mean'",
            "outputs: the output 'y' has another datatype; expected FP64, got FP32",
        ):
            assert sum(sentence in line for line in refused) == 1, sentence
        for sentence in (
            "the state buffer 'c' starts as NaN",
            "the state buffer 'c' of the checkpoint is not what the class starts with",
            "the frozen buffer 'norm.running_mean' holds NaN or infinity",
            "the checkpoint holds 'head.weight' as FP16, the class as FP32",
        ):
            assert sum(sentence in line for line in beware) == 1, sentence
        assert "fingerprint  none: it does not load" in done.stdout

    @pytest.mark.parametrize(
        ("manifest", "sentences"),
        [
            ("class =", ["not TOML"]),
            ('class = "x"\nsize = 1', ["class: ", "size: unknown key", "inputs: missing", "outputs: missing"]),
            ("", ["inputs: missing", "outputs: missing"]),
        ],
    )
    def test_every_fault_of_a_manifest_is_reported(
        self, tmp_path: Path, run: Run, manifest: str, sentences: list[str]
    ) -> None:
        folder = tmp_path / "model"
        shutil.copytree(CHECKPOINTS / "digits-rnn", folder)
        (folder / "model.toml").write_text(manifest)
        done = run("inspect", folder)
        assert done.exit_code == 1
        assert all(f"error    {folder}/model.toml: {sentence}" in done.stdout for sentence in sentences)
        assert "rnn.weight_ih_l0  tensor" in done.stdout

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("[-1, 1, 8]", "[-1, 1, 9]", "forward failed on zeros of rows [1, 1, 9]: input.size(-1) must be equal to"),
            ('"0", "1"', '"0"', "labels: a classifier has one output whose last axis has the size of its 9 labels"),
            (
                "hidden_size = 64",
                "hidden_size = 32",
                "rnn.weight_hh_l0 has shape [64, 64] where the class has [32, 32]",
            ),
            ("models.rnn:RNN", "models.rnn:Rnn", "class: models.rnn has no nn.Module named RnnClassifier"),
            (
                "\nbatch_dim = 1\n\n[[out",
                '\n\n[[inputs]]\nname = "b"\ndatatype = "FP32"\nshape = []\n[[out',
                "batch_dim",
            ),
            ('class = "', 'device = "cuda:99"\nclass = "', 'device = "cuda:99"'),
            ("[state.hidden]\nbatch_dim = 1", "", "no batch_dim is given for state buffer 'hidden'"),
            ("[state.hidden]\nbatch_dim = 1", "[state.hidden]\nbatch_dim = 0", "batch_dim: a forward of one session"),
        ],
    )
    def test_a_fault_is_one_sentence(self, tmp_path: Path, run: Run, old: str, new: str, sentence: str) -> None:
        folder = tmp_path / "model"
        shutil.copytree(CHECKPOINTS / "digits-rnn", folder)
        before = (folder / "model.toml").read_text()
        assert old in before
        (folder / "model.toml").write_text(before.replace(old, new, 1))
        done = run("inspect", folder)
        assert sentence in done.stdout
        assert done.exit_code == (0 if "  warning  " in done.stdout and "  error  " not in done.stdout else 1)

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("Nudged", "fails on random numbers: forward changed the parameter 'weight'"),
            ("Growing", "the state grows by 16 bytes a step"),
        ],
    )
    def test_what_a_user_would_stumble_over_is_reported(
        self, tmp_path: Path, run: Run, name: str, sentence: str
    ) -> None:
        done = run("new", tmp_path / name, "--from", f"{MODULES}:{name}", "--json")
        assert done.exit_code == 0
        assert any(sentence in problem for problem in json.loads(done.stdout)["problems"])
        assert sentence in run("inspect", tmp_path / name).stdout

    def test_state_that_is_no_buffer_is_rejected_unless_it_is_named(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "new"
        assert run("new", folder, "--from", f"{MODULES}:Attribute").exit_code == 0
        assert manifest(folder)["state"] == {"hidden": {"attribute": "hidden", "batch_dim": 1}}
        text = (folder / "model.toml").read_text()
        (folder / "model.toml").write_text(text[: text.index("[state]")])
        done = run("inspect", folder)
        assert done.exit_code == 1
        assert "forward keeps 'hidden' where all sessions share it" in done.stdout
        assert 'under [state.hidden] attribute = "hidden" in the manifest' in done.stdout

    def test_a_buffer_that_changes_only_now_and_then_is_reported(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "seldom"
        assert run("new", folder, "--from", f"{MODULES}:Seldom").exit_code == 0
        assert manifest(folder)["state"] == {"hits": {"batch_dim": 0}}
        text = (folder / "model.toml").read_text()
        (folder / "model.toml").write_text(text[: text.index("[state]")])
        assert (
            "fails on random numbers: forward changed the buffer 'hits', which the dry run found to be frozen"
            in run("inspect", folder).stdout
        )

    @pytest.mark.parametrize(("name", "stateful"), [("digits-rnn", True), ("digits-batchnorm", False)])
    def test_json_says_whether_a_model_is_stateful(self, run: Run, name: str, *, stateful: bool) -> None:
        assert json.loads(run("inspect", f"checkpoints/{name}", "--json").stdout)["stateful"] is stateful

    def test_after_an_error_there_is_no_second_false_one(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "models/model"
        shutil.copytree(CHECKPOINTS / "digits-rnn", folder)
        text = (folder / "model.toml").read_text()
        for edit, sentences in (
            (text.replace("FP32", "FP31"), ["inputs.0.datatype: ", "outputs.0.datatype: "]),
            (f'version = "1"\n{text}', ["holds no weights: "]),
        ):
            (folder / "model.toml").write_text(edit)
            problems = json.loads(run("inspect", folder, "--json").stdout)["problems"]
            assert [problem["severity"] for problem in problems] == ["error"] * len(sentences)
            for problem, sentence in zip(problems, sentences, strict=True):
                assert sentence in problem["sentence"]
            (folder / "1/weights.safetensors").unlink(missing_ok=True)

    def test_inputs_that_forward_takes_are_told(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "model"
        shutil.copytree(CHECKPOINTS / "digits-rnn", folder)
        text = (folder / "model.toml").read_text()
        (folder / "model.toml").write_text(text.replace("[-1, 1, 8]", "[-1, 1, 9]"))
        assert "warning  forward works on zeros of rows FP32 [1, 1, 8]; " in run("inspect", folder).stdout

    def test_a_bare_checkpoint_is_shown_however_it_is_nested(self, tmp_path: Path, run: Run) -> None:
        module = Streams(5, 7)
        held = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        torch.save({"epoch": 3, "model": held}, tmp_path / "nested.pt")
        done = run("inspect", tmp_path / "nested.pt")
        assert done.exit_code == 0
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert "model > module.head.bias FP32 [3] 12" in " ".join(lines)
        assert any("running_mean" in line and line.endswith("of a BatchNorm: a frozen buffer") for line in lines)
        assert "epoch: 3" in lines
        assert any('a manifest says [weights] key = "model"' in line for line in lines)
        assert any('a manifest says [weights] prefix = "module."' in line for line in lines)
        assert any(line.startswith("A bare checkpoint does not say which of its tensors are buffers") for line in lines)
        found = json.loads(run("inspect", tmp_path / "nested.pt", "--json").stdout)
        assert [(t["path"], t["name"]) for t in found["tensors"]] == [(["model"], name) for name in held]

    @pytest.mark.parametrize(
        ("saved", "sentence"),
        [
            (lambda held: held, "It fits Causal as the manifest is."),
            (
                lambda held: {"net": {f"trunk.{name}": value for name, value in held.items()}},
                'It fits Causal if the manifest says weights = { key = "net", prefix = "trunk." }.',
            ),
            (
                lambda held: (
                    {name.replace("convolution", "causal"): value for name, value in held.items()} | {"loss.w": ONE}
                ),
                'manifest says weights = { rename = { causal = "convolution" }, ignore = ["loss"] }.',
            ),
            (lambda _: {"other": ONE}, "It does not fit Causal: "),
        ],
    )
    def test_a_checkpoint_is_compared_with_the_class_of_its_model(
        self, tmp_path: Path, run: Run, saved: Callable[[dict[str, Any]], Any], sentence: str
    ) -> None:
        done = run("new", tmp_path / "causal", "--from", f"{MODULES}:Causal")
        assert done.exit_code == 0, done.stderr
        torch.save(saved(load_file(tmp_path / "causal/1/weights.safetensors")), tmp_path / "other.pt")
        beside, bare = tmp_path / "causal/1/weights.pt", tmp_path / "other.pt"
        shutil.copy(bare, beside)
        for arguments in ((beside,), (bare, "--model", tmp_path / "causal")):
            assert sentence in run("inspect", *arguments).stdout
        assert "It fits" not in run("inspect", bare).stdout

    @pytest.mark.parametrize(
        ("make", "sentence"),
        [
            (lambda _: None, "there is no such file or folder"),
            (lambda path: path.mkdir(), "is neither a checkpoint nor a model's folder"),
            (lambda path: path.write_bytes(b"nonsense"), "or is damaged"),
            (
                lambda path: torch.save(nn.Linear(1, 1), path),
                "holds an object of torch.nn.modules.linear.Linear, which",
            ),
        ],
    )
    def test_what_cannot_be_read_is_one_sentence(
        self, tmp_path: Path, run: Run, make: Callable[[Path], object], sentence: str
    ) -> None:
        make(tmp_path / "thing.pt")
        done = run("inspect", tmp_path / "thing.pt")
        assert (done.exit_code, done.stdout) == (1, "")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


class TestNew:
    """`new`: a first manifest from a class and its checkpoint, that the service serves."""

    def test_a_training_scripts_lstm(self, tmp_path: Path) -> None:
        module = trained(Streams(5, 7, 4))
        held = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"epoch": 3, "model": held, "optimizer": optimizer}, tmp_path / "last.pt")
        folder = tmp_path / "models/streams"
        done = flask("new", folder, "--from", f"{MODULES}:Streams", "--weights", tmp_path / "last.pt")
        assert (done.returncode, done.stderr) == (0, "")
        written = manifest(folder)
        assert written["class"] == "cli_models.py:Streams"
        assert written["arguments"] == {"features": 5, "hidden_size": 7, "classes": 4}
        assert shapes(written["inputs"]) == {"frames": ("FP32", [-1, 1, 5], 1)}
        assert shapes(written["outputs"]) == {"output": ("FP32", [-1, 1, 4], 1)}
        assert written["state"] == {"h": {"batch_dim": 1}, "c": {"batch_dim": 1}}
        text = (folder / "model.toml").read_text()
        for comment in ("under 'model' without the prefix 'module.'", "the only sizes", "axis 0 holds steps",
                        "state h: rebound by forward", "frozen: norm.running_mean", "labels = "):  # fmt: skip
            assert any(comment in line for line in text.splitlines() if line.startswith("#")), comment
        for file in ("model.toml", "cli_models.py", "1/weights.safetensors"):
            assert stat.S_IMODE((folder / file).stat().st_mode) == 0o644
        assert_serves(folder, module, *({"frames": torch.randn(rows, 1, 5)} for rows in (1, 4, 2)))

    def test_a_causal_convolution(self, tmp_path: Path, run: Run) -> None:
        module = trained(Causal())
        save_file(module.state_dict(), tmp_path / "causal.safetensors")
        folder = tmp_path / "models/causal"
        done = run("new", folder, "--from", f"{MODULES}:Causal", "--weights", tmp_path / "causal.safetensors", "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert told["manifest"] == manifest(folder)
        assert told["fingerprint"] == load(folder).fingerprint.hex()
        assert told["written"] == [
            str(folder / name) for name in ("cli_models.py", "1/weights.safetensors", "model.toml")
        ]
        assert shapes(told["manifest"]["inputs"]) == {"signal": ("FP32", [1, 4, -1], 0)}
        assert shapes(told["manifest"]["outputs"]) == {"output": ("FP32", [1, 6, -1], 0)}
        assert told["manifest"]["state"] == {"past": {"batch_dim": 0}}
        assert_serves(folder, module, *({"signal": torch.randn(1, 4, length)} for length in (1, 5, 2)))

    def test_an_embedding_and_a_gru(self, tmp_path: Path, run: Run) -> None:
        module = trained(Words())
        torch.save(module.state_dict(), tmp_path / "words.pt")
        folder = tmp_path / "models/words"
        done = run("new", folder, "--from", f"{MODULES}:Words", "--weights", tmp_path / "words.pt")
        assert (done.exit_code, done.stderr) == (0, "")
        written = manifest(folder)
        assert shapes(written["inputs"]) == {"tokens": ("INT64", [1, -1], 0)}
        assert shapes(written["outputs"]) == {"logits": ("FP32", [1, -1, 20], 0), "last": ("FP32", [1, 16], 0)}
        assert written["state"] == {"hidden": {"batch_dim": 1}}
        assert_serves(folder, module, *({"tokens": torch.randint(0, 20, (1, length))} for length in (1, 5, 2)))

    @pytest.mark.parametrize(
        ("target", "state"),
        [
            ("torch.nn:GRU", 'hx = { input = "hx", output = 1, batch_dim = 1 }'),
            ("torch.nn:LSTM", 'hx = { input = "hx", output = 1, batch_dim = 1 }'),
            ("torch.nn:RNN", 'hx = { input = "hx", output = 1, batch_dim = 1 }'),
            ("torch.nn:GRUCell", 'hx = { input = "hx", output = "", batch_dim = 0 }'),
            ("torch.nn:LSTMCell", 'hx = { input = "hx", output = "", batch_dim = 0 }'),
            (f"{CARRIED}:Remembers", 'memory = { input = "memory", output = "memory", batch_dim = 0 }'),
            (
                f"{CARRIED}:Decay",
                """
                h = { input = "h", output = 1, initial = "zeros", shape = [1, 5], batch_dim = 0 }
                c = { input = "c", output = 2, initial = "zeros", shape = [1, 5], batch_dim = 0 }
                """,
            ),
            (f"{CARRIED}:Attends", 'cache = { input = "cache", output = "cache", batch_dim = 0 }'),
            (
                f"{CARRIED}:Gated",
                """
                h = { input = "h", output = 0, initial = "zeros", shape = [1, 5], batch_dim = 0 }
                c = { input = "c", output = 1, initial = "zeros", shape = [1, 5], batch_dim = 0 }
                """,
            ),
            (
                f"{CARRIED}:Joined",
                'hidden = { input = "hidden", output = 1, initial = "zeros", shape = [1, 6], batch_dim = 0 }',
            ),
            *(
                (
                    f"{CARRIED}:{name}",
                    """
                    h = { input = "h", output = 0, batch_dim = 0 }
                    c = { input = "c", output = 1, batch_dim = 0 }
                    """,
                )
                for name in ("Pair", "compiled")
            ),
            (f"{CARRIED}:Leaks", 'h = { input = "h", output = 1, batch_dim = 0 }'),
            (f"{CARRIED}:Starts", 'h = { input = "h", output = 1, batch_dim = 0 }'),
            (f"{CARRIED}:First", 'state = { input = "state", output = 0, batch_dim = 0 }'),
            (f"{CARRIED}:Listed", 'hidden = { input = "hidden", output = 1, batch_dim = 0 }'),
            (f"{CARRIED}:Saves", 'hx = { input = "hx", output = 1, batch_dim = 0 }'),
            (f"{CARRIED}:Resets", 'hx = { input = "hx", output = 1, batch_dim = 0 }'),
        ],
    )
    def test_state_in_arguments_is_found(self, tmp_path: Path, run: Run, target: str, state: str) -> None:
        folder = tmp_path / "model"
        given = ("--arguments", "input_size=3", "hidden_size=5") if target.startswith("torch") else ()
        done = run("new", folder, "--from", target, *given, "--json")
        assert done.exit_code == 0, done.stderr
        assert manifest(folder)["state"] == tomllib.loads(state)
        assert manifest(folder).get("call") == ({"use_cache": True} if target.endswith("Attends") else None)
        version = load(folder)
        assert version.stateful
        assert version.batched

    @pytest.mark.parametrize(
        ("name", "inputs", "state"),
        [
            ("Layered", {"x": ("FP32", [1, -1, 4], 0)}, {"batch_dim": 0}),
            ("Seldoms", {"x": ("FP32", [1, 4], 0)}, {"batch_dim": 0, **{f"hits{i}": {} for i in range(7)}}),
            ("Counts", {"ids": ("INT64", [-1, -1], 0)}, None),
            ("Roots", {"x": ("FP32", [-1, 1, 4], 1)}, {"level": {"batch_dim": 0}}),
            ("Drops", {"x": ("FP32", [-1, 1, 4], 1)}, {"hx": {"input": "hx", "output": 1, "batch_dim": 1}}),
        ],
    )
    def test_a_manifest_is_short(
        self, tmp_path: Path, run: Run, name: str, inputs: object, state: dict[str, Any] | None
    ) -> None:
        folder = tmp_path / name
        done = run("new", folder, "--from", f"{MODULES}:{name}")
        assert done.exit_code == 0, done.stderr
        written = manifest(folder)
        assert shapes(written["inputs"]) == inputs
        assert written.get("state") == state
        text = (folder / "model.toml").read_text()
        assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 12
        assert all(len(line) <= 120 or line.startswith("#") for line in text.splitlines())
        assert load(folder).batched

    def test_what_a_manifest_leaves_out_is_found_when_it_is_loaded(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "model"
        assert (
            run("new", folder, "--from", "torch.nn:GRU", "--arguments", "input_size=3", "hidden_size=5").exit_code == 0
        )
        text = (folder / "model.toml").read_text()
        (folder / "model.toml").write_text(text[: text.index("[state]")])
        version = load(folder)
        assert [buffer.name for buffer in version.layout.buffers] == ["hx"]
        assert not version.batched
        shown = run("inspect", folder).stdout
        assert "the argument 'hx', from the result 1" in shown
        assert "no batch_dim is given for state buffer 'hx'" in shown

    def test_state_that_is_dropped_is_reported(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "model"
        assert run("new", folder, "--from", f"{CARRIED}:Attends").exit_code == 0
        text = (folder / "model.toml").read_text().replace("call = { use_cache = true }\n", "")
        (folder / "model.toml").write_text(text[: text.index("[state]")])
        shown = run("inspect", folder).stdout
        assert "forward takes 'cache', and nothing that it returns is passed to it" in shown
        assert '[state.cache] input = "cache", output = …, and call = { use_cache = true }' in shown

    @pytest.mark.parametrize(
        ("name", "state"),
        [
            ("Crossed", {"c": {"input": "c", "output": 2}, "h": {"input": "h", "output": 1}}),
            ("Stack", {"states": {"input": "states", "output": 1}}),
        ],
    )
    def test_each_parameter_takes_the_result_that_is_its_own(
        self, tmp_path: Path, run: Run, name: str, state: dict[str, Any]
    ) -> None:
        folder = tmp_path / "model"
        assert run("new", folder, "--from", f"{CARRIED}:{name}", "--input", "x:FP32:-1,3").exit_code == 0
        assert manifest(folder)["state"] == {key: one | {"batch_dim": 0} for key, one in state.items()}

    @pytest.mark.parametrize(("name", "parameter"), [("Writes", "cache"), ("Offset", "inference_params")])
    def test_a_parameter_that_is_written_to_and_not_returned_is_reported(
        self, tmp_path: Path, run: Run, name: str, parameter: str
    ) -> None:
        done = run("new", tmp_path / "model", "--from", f"{CARRIED}:{name}", "--input", "x:FP32:-1,3")
        assert f"forward takes {parameter!r}, and nothing that it returns is passed to it: each call" in done.stdout

    def test_a_flag_is_boolean(self, tmp_path: Path, run: Run) -> None:
        assert run("new", tmp_path / "model", "--from", f"{CARRIED}:Resets").exit_code == 0
        assert [spec["datatype"] for spec in manifest(tmp_path / "model")["inputs"]] == ["FP32", "BOOL"]

    def test_another_method_is_called_where_it_is_named(self, tmp_path: Path, run: Run) -> None:
        command = ("new", tmp_path / "cell", "--from", f"{CARRIED}:Cell", "--input", "x:FP32:-1,3")
        done = run(*command)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert 'method: Cell has no forward; expected method = "step"' in done.stderr
        done = run(*command, "--method", "step")
        assert done.exit_code == 0, done.stderr
        written = manifest(tmp_path / "cell")
        assert written["method"] == "step"
        assert {key: spec["output"] for key, spec in written["state"].items()} == {"h": "0.0", "c": "0.1"}
        assert load(tmp_path / "cell").batched

    def test_a_buffer_may_be_empty_at_first(self, tmp_path: Path, run: Run) -> None:
        done = run("new", tmp_path / "fills", "--from", f"{CARRIED}:Fills", "--input", "x:FP32:1,3")
        assert done.exit_code == 0, done.stderr
        assert [buffer.name for buffer in load(tmp_path / "fills").layout.buffers] == ["past"]

    def test_lazy_parameters_have_the_shapes_of_a_checkpoint(self, tmp_path: Path, run: Run) -> None:
        module = carried.Lazy()
        done = run("new", tmp_path / "lazy", "--from", f"{CARRIED}:Lazy")
        assert "no shape before the first forward: run the module once, save its state_dict(), and pass" in done.stderr
        module(torch.zeros(1, 3))
        torch.save(module.state_dict(), tmp_path / "lazy.pt")
        done = run("new", tmp_path / "lazy", "--from", f"{CARRIED}:Lazy", "--weights", tmp_path / "lazy.pt")
        assert done.exit_code == 0, done.stderr
        assert shapes(manifest(tmp_path / "lazy")["inputs"]) == {"x": ("FP32", [1, 3], 0)}
        assert done.stdout.endswith("It loads and runs.\n")

    def test_attention_weights_are_no_state(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "model"
        given = ("--arguments", "embed_dim=8", "num_heads=2")
        assert run("new", folder, "--from", "torch.nn:MultiheadAttention", *given).exit_code == 0
        assert "state" not in manifest(folder)
        assert not load(folder).stateful

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("accumulator", "models.accumulator:Accumulator"),
            ("digits-batchnorm", "models.batchnorm:BatchNormClassifier"),
            ("digits-rnn", "models.rnn:RNNClassifier"),
        ],
    )
    def test_it_finds_what_the_shipped_manifests_say(self, tmp_path: Path, run: Run, name: str, target: str) -> None:
        weights = CHECKPOINTS / name / "1/weights.safetensors"
        assert run("new", tmp_path / name, "--from", target, "--weights", weights).exit_code == 0
        by_hand, written = manifest(CHECKPOINTS / name), manifest(tmp_path / name)
        assert shapes(written["inputs"]) == shapes(by_hand["inputs"])
        assert list(shapes(written["outputs"]).values()) == list(shapes(by_hand["outputs"]).values())
        assert written.get("state") == by_hand.get("state")
        assert load_file(tmp_path / name / "1/weights.safetensors").keys() == load_file(weights).keys()

    @pytest.mark.parametrize(
        ("name", "inputs", "batched"),
        [
            ("Ring", {"sample": ("FP32", [1, 4], None)}, False),
            ("Pooled", {"features": ("FP32", [-1, 4], 0), "kind": ("INT64", [-1], 0)}, True),
            ("Digits", {"images": ("FP32", [-1, 1, 28, 28], 0)}, True),
            ("Positions", {"x": ("FP32", [1, 4], None)}, False),
            ("Growing", {"x": ("FP32", [1, -1, 4], 0)}, True),
        ],
    )
    def test_other_kinds(self, tmp_path: Path, run: Run, name: str, inputs: object, *, batched: bool) -> None:
        folder = tmp_path / "models" / name
        done = run("new", folder, "--from", f"{MODULES}:{name}")
        assert done.exit_code == 0, done.stderr
        assert shapes(manifest(folder)["inputs"]) == inputs
        assert load(folder).batched is batched
        assert "the module's own initial values; no checkpoint was given" in done.stdout

    def test_a_size_that_fits_by_broadcasting_only_is_not_chosen(self, tmp_path: Path, run: Run) -> None:
        done = run("new", tmp_path / "codebook", "--from", f"{MODULES}:Codebook")
        assert done.exit_code == 0, done.stderr
        assert done.stderr == ""
        (spec,) = manifest(tmp_path / "codebook")["inputs"]
        assert spec["shape"][-1] == 8

    def test_a_list_that_grows_is_named(self, tmp_path: Path, run: Run) -> None:
        done = run("new", tmp_path / "list", "--from", f"{MODULES}:Lists", "--input", "x:FP32:1,4")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: state.past: its structure is another after each of 40 steps")
        assert not (tmp_path / "list").exists()

    @pytest.mark.parametrize(
        ("name", "state"),
        [
            ("Ring3", {"place": {"attribute": "place"}}),
            ("Layers", {"hidden": {"attribute": "layers.*.hidden", "batch_dim": 0}}),
            (
                "Everywhere",
                {
                    "trace": {"batch_dim": 0},
                    "hx": {"input": "hx", "output": 1, "batch_dim": 0},
                    "steps": {"attribute": "steps", "shared": True},
                },
            ),
            ("Slotted", {"memory": {"attribute": "memory", "batch_dim": 0}}),
        ],
    )
    def test_state_in_attributes_is_found(
        self, tmp_path: Path, run: Run, name: str, state: dict[str, dict[str, Any]]
    ) -> None:
        source = MODULES if hasattr(cli_models, name) else CARRIED
        done = run("new", tmp_path / "model", "--from", f"{source}:{name}", "--input", "x:FP32:1,3")
        assert done.exit_code == 0, done.stderr
        assert manifest(tmp_path / "model")["state"] == state

    def test_what_is_given_is_not_guessed(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "streams"
        options = ("--arguments", "features=5", "hidden_size=7", "--input", "frames:FP32:-1,1,5", "--json")
        done = run("new", folder, "--from", f"{MODULES}:Streams", *options)
        assert done.exit_code == 0, done.stderr
        written = json.loads(done.stdout)["manifest"]
        assert written["arguments"] == {"features": 5, "hidden_size": 7}
        assert shapes(written["inputs"]) == {"frames": ("FP32", [-1, 1, 5], 1)}
        assert shapes(written["outputs"]) == {"output": ("FP32", [-1, 1, 3], 1)}
        done = run("new", tmp_path / "any", "--from", f"{MODULES}:Anything", "--input", "a:FP32:-1,2", "b:INT8:[-1]")
        assert done.exit_code == 0, done.stderr
        assert shapes(manifest(tmp_path / "any")["outputs"]) == {"output": ("FP32", [-1, 2], 0)}

    @pytest.mark.parametrize("imports", ["layers", "net.layers"])
    def test_a_files_neighbours_are_copied_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, imports: str
    ) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "layers.py").write_text("from torch.nn import GRUCell\n")
        (tmp_path / "net" / "unused.py").write_text("")
        (tmp_path / "net" / "model.py").write_text(f"from {imports} import GRUCell\nclass Net(GRUCell):\n    pass\n")
        monkeypatch.chdir(tmp_path)
        folder, sizes = tmp_path / "models" / "m", ("--arguments", "input_size=3", "hidden_size=4")
        done = run("new", folder, "--from", "net/model.py:Net", *sizes)
        assert done.exit_code == 0, done.stderr
        file = "model.py" if imports == "layers" else "net/model.py"
        assert manifest(folder)["class"] == f"{file}:Net"
        copied = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
        assert copied == {file, file.replace("model", "layers")}
        assert load(folder).stateful

    def test_weights_that_lie_there_already_are_left_as_they_are(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "models/streams"
        (folder / "3").mkdir(parents=True)
        shutil.copy(MODULES, folder)
        module = trained(Streams(5, 7))
        torch.save(
            {"state_dict": {f"_orig_mod.{k}": v for k, v in module.state_dict().items()}}, folder / "3/weights.pt"
        )
        before = (folder / "3/weights.pt").read_bytes()
        assert run("new", folder, "--from", "cli_models.py:Streams").exit_code == 0
        assert manifest(folder)["weights"] == {"key": "state_dict", "prefix": "_orig_mod."}
        assert (folder / "3/weights.pt").read_bytes() == before
        assert sorted(path.name for path in folder.iterdir() if "__" not in path.name) == [
            "3", "cli_models.py", "model.toml"
        ]  # fmt: skip
        assert_serves(folder, module, {"frames": torch.randn(2, 1, 5)})

    def test_nothing_is_written_over(self, tmp_path: Path, run: Run) -> None:
        folder = tmp_path / "model"
        shutil.copytree(CHECKPOINTS / "digits-rnn", folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        done = run("new", folder, "--from", "models.rnn:RNNClassifier")
        assert done.exit_code == 1
        assert "model.toml: is there already, and is not written over" in done.stderr
        (folder / "model.toml").unlink()
        weights = CHECKPOINTS / "digits-rnn/1/weights.safetensors"
        done = run("new", folder, "--from", "models.rnn:RNNClassifier", "--weights", weights)
        assert "weights.safetensors: is there already, and is not written over; leave --weights out" in done.stderr
        del before[folder / "model.toml"]
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("target", "options", "sentence"),
        [
            ("Streams", [], "Streams needs features, hidden_size: pass --arguments features=… hidden_size=…"),
            ("Streams", ["--arguments", "size=3"], "Streams has no argument 'size'; its arguments are features,"),
            ("Streams", ["--arguments", "features"], "--arguments features: expected name=value"),
            ("Valid", [], "(5 and 10), but not 1: say which, as in --input x:FP32:-1,3,SIZE"),
            ("Anything", [], "forward's signature does not name its inputs: pass each, as in --input"),
            ("Words", ["--input", "tokens:FP8:1"], "--input tokens:FP8:1: 'FP8' is not one of FP64, FP32"),
            ("Words", ["--input", "tokens"], "--input tokens: expected name:DATATYPE:sizes"),
            ("Words", ["--input", "tokens:FP32:1,-1"], "forward does not take zeros of the shapes given with --input"),
            ("Critic", [], "no input was found for state, action that forward takes, in"),
            ("Nothing", [], "has no nn.Module named Nothing"),
            ("scripted", [], "scripted returned TorchScript; expected an nn.Module that holds it, and whose forward"),
            ("Rotated", ["--input", "x:FP32:1,3"], "state.wave: a complex64 buffer cannot be stored; complex numbers"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_inferred_is_reported_and_nothing_is_left(
        self, tmp_path: Path, run: Run, target: str, options: list[str], sentence: str
    ) -> None:
        source = CARRIED if hasattr(carried, target) else MODULES
        done = run("new", tmp_path / "models/new", "--from", f"{source}:{target}", *options)
        assert (done.exit_code, done.stdout) == (1, "")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("Scripted", ""),
            ("Remembers", "forward keeps state in the TorchScript module 'net', where all sessions share"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript_is_served_if_its_state_is_passed(
        self, tmp_path: Path, run: Run, name: str, sentence: str
    ) -> None:
        done = run("new", tmp_path / "scripted", "--from", f"{SCRIPTED}:{name}", "--input", "x:FP32:-1,4")
        assert done.exit_code == bool(sentence), done.stderr
        assert sentence in done.stderr
        if not sentence:
            assert load(tmp_path / "scripted").batched

    def test_arguments_that_no_shape_tells_are_asked_for(self, tmp_path: Path, run: Run) -> None:
        torch.save(cli_models.Heads(8, 4, 0.1).state_dict(), tmp_path / "heads.pt")
        command = ("new", tmp_path / "heads", "--from", f"{MODULES}:Heads", "--weights", tmp_path / "heads.pt")
        done = run(*command)
        assert "Heads needs heads, dropout, as the checkpoint leaves more than one choice: pass" in done.stderr
        done = run(*command, "--arguments", "heads=4", "dropout=0.1")
        assert done.exit_code == 0, done.stderr
        assert manifest(tmp_path / "heads")["arguments"] == {"heads": 4, "dropout": 0.1, "size": 8}
        assert shapes(manifest(tmp_path / "heads")["inputs"]) == {"x": ("FP32", [-1, -1, 8], 0)}

    def test_a_checkpoint_of_another_class_is_reported(self, tmp_path: Path, run: Run) -> None:
        torch.save({"model": Words().state_dict(), "epoch": 1}, tmp_path / "words.pt")
        done = run("new", tmp_path / "new", "--from", f"{MODULES}:Causal", "--weights", tmp_path / "words.pt")
        assert done.exit_code == 1
        assert "words.pt: does not fit Causal: missing convolution.bias" in done.stderr
        assert not (tmp_path / "new").exists()


def test_an_application_for_the_commands_loads_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path / "nowhere"))
    app = create_app()
    assert {"models", "inspect", "new"} <= app.cli.commands.keys()
    with app.test_client() as client:
        response = client.get("/v1/models")
    assert response.status_code == 503
    assert "carryover serve" in response.get_json()["error"]


def test_flask_lists_the_routes_and_says_what_to_run_instead() -> None:
    listed = flask("routes")
    assert listed.returncode == 0, listed.stderr
    for route in ROUTES:
        assert route.name in listed.stdout
    run = flask("run")
    assert run.returncode != 0
    assert "carryover serve" in run.stderr
    assert "Traceback" not in run.stderr
