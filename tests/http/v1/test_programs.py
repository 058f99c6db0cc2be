"""`.pt2` archives of `torch.export`: served as the module they were exported from, once an operator trusts them."""

import io
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from carryover import create_app
from carryover.errors import ConfigurationError
from carryover.runtime.repository import Repository, load_model
from carryover.runtime.version import Call
from tests.support.client import Client
from tests.support.service import Launch, Service

TOUCHED = "CARRYOVER_TOUCHED"


class Gru(nn.Module):
    """(1, 1, 3) to (1, 1, 5), with its hidden state copied in place, and a frozen scale that no state dict holds."""

    hidden: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5)
        self.register_buffer("hidden", torch.zeros(1, 1, 5))
        self.register_buffer("scale", torch.full((5,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        output, hidden = self.gru(x, self.hidden)
        self.hidden.copy_(hidden)
        scaled: Tensor = output * self.scale
        return scaled


class Sums(nn.Module):
    """Running sums, written in place: of a buffer that a submodule rebinds, `torch.export` keeps nothing."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.full((2,), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        total = x.cumsum(0) + self.total
        self.total.add_(x.sum(0))
        return total


class Ledger(nn.Module):
    """(T, 2), and a keyword-only (T, 1), to running sums, in a submodule, and a count, rebound."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor, *, weight: Tensor) -> dict[str, Tensor]:
        self.count = self.count + x.shape[0]
        return {"total": self.sums(x * weight), "count": self.count.clone()}


class Adaptive(nn.Module):
    """(T, 2) to (T, 2): normalises in training mode, which moves its statistics without a trace at run time."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("variance", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((x, x + 1))
        torch.batch_norm(both, None, None, self.mean, self.variance, True, 0.1, 1e-5, False)
        return x - self.mean


class Aliased(nn.Module):
    """(T,) to (): one buffer under two names."""

    first: Tensor
    second: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.tensor(0.0))
        self.register_buffer("second", self.first)

    def forward(self, x: Tensor) -> Tensor:
        self.first += x.sum()
        return self.second.clone()


class Classify(nn.Module):
    """(N, 4) to (N, 2), without state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.out(self.norm(x)).softmax(-1)
        return probabilities


TIME = {0: Dim.DYNAMIC}


@dataclass(frozen=True, eq=False)
class Case:
    """A module with examples of its inputs by name, what varies in them, and what of it is to be found as state."""

    cls: Callable[[], nn.Module]
    manifest: str
    example: dict[str, Tensor]
    dynamic: Any
    state: set[str]
    by_name: tuple[str, ...] = ()
    functional: bool = False

    def module(self) -> nn.Module:
        torch.manual_seed(7)
        return self.cls().eval().requires_grad_(False)

    def write(self, folder: Path) -> Path:
        """Write a model's folder: a manifest, and version 1 as `torch.export` saves it."""
        (folder / "1").mkdir(parents=True)
        (folder / "model.toml").write_text(self.manifest)
        (folder / "1" / "model.pt2").write_bytes(_exported(self))
        return folder


@cache
def _exported(case: Case) -> bytes:
    """What `torch.export` saves of a case; an export takes seconds."""
    positional = tuple(value for name, value in case.example.items() if name not in case.by_name)
    named = {name: case.example[name] for name in case.by_name}
    exported = torch.export.export(case.module(), positional, named, dynamic_shapes=case.dynamic)
    if case.functional:
        exported = exported.run_decompositions({})
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def same_axes(shape: str, rest: str = "") -> str:
    tensor = f'datatype = "FP32", shape = {shape}{rest}'
    return f'inputs = [{{ name = "x", {tensor} }}]\noutputs = [{{ name = "y", {tensor} }}]\n'


GRU = """
inputs = [{ name = "x", datatype = "FP32", shape = [1, 1, 3] }]
outputs = [{ name = "y", datatype = "FP32", shape = [1, 1, 5] }]
"""
LEDGER = """
inputs = [
    { name = "weight", datatype = "FP32", shape = [-1, 1] },
    { name = "x", datatype = "FP32", shape = [-1, 2] },
]
outputs = [
    { name = "total", datatype = "FP32", shape = [-1, 2] },
    { name = "count", datatype = "INT64", shape = [] },
]
"""
CLASSIFY = """
labels = ["no", "yes"]
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 4], batch_dim = 0 }]
outputs = [{ name = "p", datatype = "FP32", shape = [-1, 2], batch_dim = 0 }]
"""

CASES = {
    "gru": Case(Gru, GRU, {"x": torch.zeros(1, 1, 3)}, None, {"hidden"}),
    "gru-functional": Case(Gru, GRU, {"x": torch.zeros(1, 1, 3)}, None, {"hidden"}, functional=True),
    "ledger": Case(
        Ledger,
        LEDGER,
        {"x": torch.zeros(3, 2), "weight": torch.zeros(3, 1)},
        {"x": TIME, "weight": TIME},
        {"sums.total", "count"},
        by_name=("weight",),
    ),
    "adaptive": Case(
        Adaptive,
        same_axes("[-1, 2]"),
        {"x": torch.zeros(3, 2)},
        {"x": TIME},
        {"mean", "variance"},
    ),
    "aliased": Case(
        Aliased,
        'inputs = [{ name = "x", datatype = "FP32", shape = [-1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [] }]\n',
        {"x": torch.zeros(3)},
        {"x": TIME},
        {"first", "second"},
    ),
    "classify": Case(Classify, CLASSIFY, {"x": torch.zeros(3, 4)}, {"x": TIME}, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_what_its_module_gives(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    version = load_model(case.write(tmp_path / name), trust_pt2=True).default
    assert {buffer.name for buffer in version.state_buffers()} == case.state
    module = case.module()
    frozen = {buffer for buffer, _ in module.named_buffers(remove_duplicate=False)} - case.state
    assert {buffer.name for buffer in version.frozen_buffers()} == frozen
    assert {parameter.name for parameter in version.parameters()} == {name for name, _ in module.named_parameters()}
    digests, state = version.frozen_digests(), version.initial_state
    for count in (1, 1, 3, 2):
        given = {
            input_: torch.randn([count if size == -1 else size for size in spec.shape])
            for input_, spec in ((spec.name, spec) for spec in version.inputs)
        }
        positional = [value for key, value in given.items() if key not in case.by_name]
        expected = module(*positional, **{key: given[key] for key in case.by_name})
        result = version.run([Call({key: value.numpy() for key, value in given.items()}, state)])[0]
        outputs = expected if isinstance(expected, dict) else {version.outputs[0].name: expected}
        for output, wanted in outputs.items():
            torch.testing.assert_close(torch.tensor(result.outputs[output]), wanted, rtol=1e-5, atol=1e-5)
        state = result.state
    assert version.frozen_digests() == digests


def test_a_served_program_keeps_its_sessions_apart(launch: Launch, tmp_path: Path) -> None:
    for name in ("gru", "ledger", "classify"):
        CASES[name].write(tmp_path / "models" / name)
    service = launch(MODEL_REPOSITORY=tmp_path / "models", TRUST_PT2="true")
    with service.one_client_a_worker() as (one, other):
        addresses, modules = [one.create("gru") for _ in range(2)], [CASES["gru"].module() for _ in range(2)]
        for client in (one, other, other, one):
            for address, module in zip(addresses, modules, strict=True):
                x = torch.randn(1, 1, 3)
                assert_near(client.step(address, x.tolist())["predictions"], module(x))
        fork = f"{addresses[0]}-fork"
        other.post(f"{addresses[0]}:fork", {"session": fork.rpartition("/")[2]}).expect(201)
        x = torch.randn(1, 1, 3)
        assert_near(one.step(fork, x.tolist())["predictions"], modules[0](x))
        listed = one.get("/v1/models/gru").expect()
        assert listed["state_buffers"] == [{"name": "hidden", "datatype": "FP32", "shape": [1, 1, 5]}]
        assert [buffer["name"] for buffer in listed["frozen_buffers"]] == ["scale"]
        check_ledger(one, other)
        rows = torch.randn(5, 4)
        answers = [answer["probabilities"] for answer in one.predict("classify", rows.tolist())]
        assert_near(answers, CASES["classify"].module()(rows))


def check_ledger(one: Client, other: Client) -> None:
    address = one.create("ledger")
    instances = [{"x": [1, 2], "weight": [1]}, {"x": [1, 2], "weight": [10]}]
    assert one.step(address, instances)["predictions"][-1] == {"total": [21, 32], "count": 2}
    assert other.step(address, instances[:1])["predictions"] == [{"total": [22, 34], "count": 3}]
    assert other.predict("ledger", instances[:1]) == [{"total": [11, 12], "count": 1}]


def assert_near(found: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found).reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)


def test_a_broken_new_program_leaves_the_old_one_serving(tmp_path: Path) -> None:
    folder = CASES["ledger"].write(tmp_path / "ledger")
    before = Repository.load([tmp_path], trust_pt2=True)
    (folder / "2").mkdir()
    (folder / "2/model.pt2").write_bytes((folder / "1/model.pt2").read_bytes()[:1000])
    after = before.reloaded()
    assert after.reasons() == {"ledger": "ledger/2/model.pt2: is not a readable program: File is not a zip file"}
    assert after.model("ledger").default.fingerprint == before.model("ledger").default.fingerprint
    (folder / "2/model.pt2").write_bytes((folder / "1/model.pt2").read_bytes())
    assert after.reloaded().failures == ()
    assert list(after.reloaded().model("ledger").versions) == ["1", "2"]


def test_another_program_with_the_same_weights_has_another_fingerprint(tmp_path: Path) -> None:
    case = CASES["ledger"]
    doubled = Case(type("Doubled", (Ledger,), {"forward": _doubled}), case.manifest, case.example, case.dynamic,
                   case.state, case.by_name)  # fmt: skip
    one, other = (load_model(c.write(tmp_path / n / "m"), trust_pt2=True).default for n, c in
                  (("one", case), ("other", doubled)))  # fmt: skip
    assert one.layout_fingerprint == other.layout_fingerprint
    assert one.fingerprint != other.fingerprint


def _doubled(self: Ledger, x: Tensor, *, weight: Tensor) -> dict[str, Tensor]:
    return Ledger.forward(self, 2 * x, weight=weight)


class Touch:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ[TOUCHED],)


def hostile(file: Path) -> None:
    """Put a pickle that does something into the archive, in the place of a harmless one."""
    with zipfile.ZipFile(file) as archive:
        held = {entry: archive.read(entry) for entry in archive.namelist()}
    (inner,) = (entry for entry in held if "sample_inputs" in entry)
    held[inner] = pickle.dumps(Touch())
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in held.items():
            archive.writestr(entry, data)


def test_a_program_is_not_even_opened_unless_an_operator_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOUCHED, str(tmp_path / "touched"))
    folder = CASES["gru"].write(tmp_path / "models" / "gru")
    hostile(folder / "1" / "model.pt2")
    service = Service(tmp_path / "service", MODEL_REPOSITORY=tmp_path / "models")
    assert service.launch().wait(60) != 0
    (said,) = [line for line in service.log().splitlines() if line.startswith("carryover: ")]
    assert said == (
        f"carryover: {folder}/1/model.pt2: a program can run any code when it is loaded; TRUST_PT2=true says it may"
    )
    assert "Traceback" not in service.log()
    assert not (tmp_path / "touched").exists()
    with pytest.raises(ConfigurationError):
        load_model(folder, trust_pt2=True)
    assert (tmp_path / "touched").exists()


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / "1/model.pt2").write_bytes(change((folder / "1/model.pt2").read_bytes()))


def in_manifest(line: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.toml").write_text(f"{line}\n{(folder / 'model.toml').read_text()}")


def elsewhere(folder: Path) -> None:
    """Put a program there that was exported on another device."""
    exported = torch.export.export(Classify().eval().to("meta"), (torch.zeros(3, 4, device="meta"),))
    torch.export.save(exported, folder / "1/model.pt2")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damaged(lambda _: b""), "1/model.pt2: is not a readable program: "),
        (damaged(lambda _: b"nonsense" * 1000), "1/model.pt2: is not a readable program: "),
        (damaged(lambda data: data[: len(data) // 2]), "1/model.pt2: is not a readable program: "),
        (damaged(lambda data: data.replace(b"torch.ops.aten", b"torch.ops.nota")), "1/model.pt2: is not a readable "),
        (lambda folder: (folder / "1/model.pt2").unlink(), "model.toml: class: is required, as "),
        (in_manifest('class = "torch.nn:GRU"\narguments = { input_size = 3, hidden_size = 5 }'),
         "1: holds no weights: expected weights.safetensors or weights.pt; model.pt2 is loaded where "),
        (in_manifest("arguments = { size = 3 }"),
         "model.toml: the file as a whole: arguments, weights, method and train are those of a class, and there is "),
        (in_manifest('device = "cuda:0"'),
         "model.toml: the file as a whole: device = 'cuda:0': without a class it is a program, which runs on the CPU"),
        (elsewhere, "1/model.pt2: is not a readable program: it was exported for meta; export it for the CPU"),
        (lambda folder: (folder / "model.toml").write_text(
             GRU.replace("] }", "], batch_dim = 1 }") + "state.hidden.batch_dim = 1"),
         "model.toml (version 1): batch_dim: a forward of one session works, a batch of 3 does not: the "),
        (in_manifest("state.cell = {}"), "model.toml (version 1): state: the module has no buffer 'cell'"),
        (lambda folder: (folder / "model.toml").write_text(GRU.replace("[1, 1, 3]", "[-1, 3, 3]")),
         "model.toml (version 1): forward failed on zeros of x [1, 3, 3]: Guard failed: x.size()[1] == 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_program_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object], sentence: str
) -> None:
    folder = CASES["gru"].write(tmp_path / "gru")
    spoil(folder)
    caplog.clear()
    with pytest.raises(ConfigurationError) as caught:
        load_model(folder, trust_pt2=True)
    assert str(caught.value).startswith(f"{folder}/{sentence}")
    assert "\n" not in str(caught.value)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestCommands:
    """`models` and `inspect` on programs; neither opens one that is not trusted."""

    @pytest.mark.parametrize("name", CASES)
    def test_inspect_shows_a_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("TRUST_PT2", "true")
        folder = CASES[name].write(tmp_path / name)
        done = create_app().test_cli_runner().invoke(args=["inspect", str(folder)])
        assert done.exit_code == 0, done.output
        kinds = {words[0]: words[1] for line in done.output.splitlines() if len(words := line.split()) > 2}
        assert {tensor for tensor, kind in kinds.items() if kind == "state"} == CASES[name].state
        assert load_model(folder, trust_pt2=True).default.fingerprint.hex() in done.output
        bare = create_app().test_cli_runner().invoke(args=["inspect", str(folder / "1/model.pt2")])
        assert bare.exit_code == 0, bare.output
        assert all(tensor in bare.output for tensor in CASES[name].module().state_dict())

    def test_models_lists_a_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        CASES["gru"].write(tmp_path / "gru")
        monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path))
        for arguments in (["models"], ["models", "--json"], ["inspect", str(tmp_path / "gru")]):
            done = create_app().test_cli_runner().invoke(args=arguments)
            assert done.exit_code == 1
            assert "TRUST_PT2=true" in done.output
        monkeypatch.setenv("TRUST_PT2", "true")
        for arguments in (["models"], ["models", "--json"]):
            done = create_app().test_cli_runner().invoke(args=arguments)
            assert done.exit_code == 0
            assert "hidden" in done.output
