"""Everything that can be said of a model's version, and every problem in it, not only the first."""

import copy
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from carryover import settings
from carryover.cli import cautions
from carryover.cli.cautions import Subject
from carryover.cli.checkpoint import groups, hint
from carryover.cli.figures import Figures, figures
from carryover.cli.trial import Outcome, Trial, example, first_line
from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import classes, manifest, programs, weights
from carryover.runtime.buffers import named
from carryover.runtime.manifest import Manifest, StateSpec, WeightsSpec, by_example_length
from carryover.runtime.programs import Program
from carryover.runtime.selfcheck import prove, prove_batching
from carryover.runtime.version import ModelVersion

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would go wrong: the service refuses to load the version, or serves it and disappoints."""

    sentence: str
    refused: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor: `kind` is parameter, frozen, state, or tensor where the class is not known; `why` says it of buffers.

    `figures` is None for a buffer that holds nothing yet.
    """

    name: str
    kind: str
    figures: Figures | None
    why: str = ""


@dataclass(slots=True)
class Examination:
    """What was found; `fingerprint` only where the version loads."""

    path: str
    model: str
    version: str | None = None
    versions: list[str] = field(default_factory=list)
    target: str | None = None
    weights: str | None = None
    fingerprint: str | None = None
    stateful: bool | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    batching: str = "not tried"
    tensors: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether the service would not load it."""
        return any(problem.refused for problem in self.problems)

    def refuse(self, sentence: str) -> None:
        """Note a problem with which the service would not load the version."""
        self.problems.append(Problem(sentence, refused=True))

    def beware(self, sentence: str) -> None:
        """Note a problem with which it would."""
        self.problems.append(Problem(sentence, refused=False))

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do something that may find a problem; None where it did."""
        try:
            return work()
        except ConfigurationError as error:
            self.refuse(str(error))
        except Exception as error:  # noqa: BLE001 - a model's code may raise anything, and the service end with it
            self.refuse(f"loading ends with {type(error).__name__}: {first_line(error)}")
        except SystemExit:
            self.refuse("loading ends the whole process: the model's code calls sys.exit()")
        return None


def examine(folder: Path, version: str | None) -> Examination:
    """Examine one version of a model: the one named, or the one that serves, and then briefly all others."""
    path = folder / "model.toml"
    found = Examination(path=str(folder if version is None else folder / version), model=folder.resolve().name)
    if not re.fullmatch(manifest.MODEL_NAME, found.model):
        found.refuse(f"{folder}: a model's name must match {manifest.MODEL_NAME}")
    described, faults = found.attempt(lambda: manifest.check(path)) or (None, [])
    for fault in faults:
        found.refuse(fault)
    found.target = described.target if described else None
    found.versions = sorted((p.name for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()), key=int)
    found.version = version or (described and described.version) or (found.versions or ["1"])[-1]
    if found.version not in found.versions:
        found.refuse(f"{folder}: there is no version {found.version}: expected a numbered folder, such as {folder}/1")
        return found
    held = folder / str(found.version)
    if described is not None and described.target is None:
        program = found.attempt(lambda: programs.load(programs.find(held, path), trusted=settings.read().trust_pt2))
        if program is not None:
            found.weights = str(held / programs.FILE)
            _Examiner(found, described, path, program.module, program).examine()
    else:
        file = found.attempt(lambda: weights.find(held))
        found.weights = str(file) if file else None
        module = found.attempt(partial(_build, described, path)) if described else None
        if described is not None and module is not None:
            _Examiner(found, described, path, module, file).examine()
        elif file is not None:
            found.tensors = found.attempt(lambda: _bare(file)) or []
    if described is not None and version is None:
        for other in (folder / name for name in found.versions if name != found.version):
            found.attempt(partial(_load, described, path, other))
    return found


def _bare(file: Path) -> list[Row]:
    """The rows of a checkpoint of which nothing more is known."""
    return [
        Row(".".join((*group.path, name)), "tensor", figures(tensor), hint(name))
        for group in groups(weights.contents(file))
        for name, tensor in group.tensors.items()
    ]


def _build(described: Manifest, path: Path) -> nn.Module:
    return classes.build(str(described.target), described.arguments, path)


def _load(described: Manifest, path: Path, folder: Path) -> ModelVersion:
    """Load a version as the service does, with the proof of its batching."""
    version = ModelVersion(
        path.parent.resolve().name, folder.name, described, path, folder, trust_pt2=settings.read().trust_pt2
    )
    where = f"{path} (version {folder.name})"
    prove(version, where)
    prove_batching(version, where)
    return version


class _Examiner:
    """Takes a version whose manifest and class are sound in themselves through everything else.

    What the service would refuse is noted, and then mended as far as it takes to look further.
    """

    def __init__(
        self, found: Examination, described: Manifest, path: Path, module: nn.Module, held: Path | Program | None
    ) -> None:
        self._mutated = held.mutated if isinstance(held, Program) else frozenset[str]()
        self._program = isinstance(held, Program)
        self._found = found
        self._path = path
        self._fresh = {name: copy.deepcopy(tensor) for name, _, _, tensor in named(module)}
        self._given = (
            module.state_dict() if isinstance(held, Program) else self._weights(module, described.weights, held)
        )
        self._trial = Trial(module)
        self._manifest = self._mended(described)

    def examine(self) -> None:
        """Fill in everything from the dry run on."""
        found, described = self._found, self._manifest
        zeros = self._dry_run()
        state = {**dict.fromkeys((*described.state, *self._mutated)), **(zeros.changes if zeros else {})}
        inputs, outputs = (
            [spec.of_one_session() if state else spec for spec in specs]
            for specs in (described.inputs, described.outputs)
        )
        found.inputs, found.outputs = (
            [spec.model_dump() | {"datatype": spec.datatype.name} for spec in specs] for specs in (inputs, outputs)
        )
        found.tensors = self._rows(zeros)
        subject = Subject(self._trial, inputs, outputs, state, self._fresh, self._given)
        if zeros is not None:
            self._serve(zeros)
        for sentence in cautions.of_values(subject):
            found.beware(sentence)
        if zeros is not None:
            for sentence in cautions.of_behaviour(subject, settings.read().max_state_bytes):
                found.beware(sentence)

    def _weights(self, module: nn.Module, spec: WeightsSpec, file: Path | None) -> dict[str, Tensor]:
        """Load what fits of the checkpoint, and note what does not."""
        given = self._found.attempt(lambda: weights.read(file, spec)) if file else None
        if given is None:
            return {}
        expected = module.state_dict()
        for fault in weights.faults(expected, given):
            self._found.refuse(f"{file}: does not fit {type(module).__name__}: {fault}")
        fitting = {
            name: tensor
            for name, tensor in given.items()
            if name in expected and (is_lazy(expected[name]) or expected[name].shape == tensor.shape)
        }
        module.load_state_dict(fitting, strict=False)
        return given

    def _mended(self, described: Manifest) -> Manifest:
        """The manifest without what it says of state and device that cannot be."""
        registered = {name: tensor for name, _, _, tensor in named(self._trial.module)}
        state = {}
        for name, spec in described.state.items():
            held = registered.get(name)
            if name not in registered:
                known = ", ".join(registered) or "none"
                self._found.refuse(f"{self._path}: state: the module has no buffer {name!r}; its buffers are {known}")
            elif spec.batch_dim is not None and held is not None and spec.batch_dim >= held.ndim:
                self._found.refuse(
                    f"{self._path}: state.{name}: batch_dim = {spec.batch_dim} is not an axis of shape "
                    f"{list(held.shape)}"
                )
                state[name] = StateSpec()
            else:
                state[name] = spec
        if described.device.startswith("cuda") and not torch.cuda.is_available():
            self._found.refuse(f'{self._path}: device = "{described.device}": torch finds no such GPU on this machine')
        return described.model_copy(update={"state": state, "device": "cpu"})

    def _dry_run(self) -> Outcome | None:
        failure: ModelFailedError | None = None
        for specs in by_example_length(self._manifest.inputs):
            try:
                zeros = self._trial.run({spec.name: example(spec.datatype, spec.example_shape) for spec in specs})
            except ModelFailedError as error:
                failure = failure or error
            else:
                self._manifest = self._manifest.model_copy(update={"inputs": specs})
                return zeros
        shapes = ", ".join(f"{spec.name} {list(spec.example_shape)}" for spec in self._manifest.inputs)
        self._found.refuse(f"{self._path}: forward failed on zeros of {shapes}: {failure}")
        return None

    def _rows(self, zeros: Outcome | None) -> list[Row]:
        saved = self._trial.module.state_dict().keys()
        rows = [Row(name, "parameter", figures(parameter)) for name, parameter in self._trial.module.named_parameters()]
        for name, held in self._trial.initial().items():
            change = zeros.changes.get(name) if zeros else None
            listed = name in self._manifest.state
            kind = "state" if change or listed or name in self._mutated else "frozen" if zeros else "buffer"
            whys = [
                change.value if change else "not changed by the dry run" if zeros else "the dry run failed",
                *(["mutated, says the program's graph signature"] if name in self._mutated else []),
                *(["listed in the manifest"] if listed else []),
                *(["not in the checkpoint (persistent=False)"] if name not in saved else []),
            ]
            rows.append(Row(name, kind, figures(held) if held is not None else None, ", ".join(whys)))
        return rows

    def _serve(self, zeros: Outcome) -> None:
        """Load the version as the service does, and run it; mended weights are read from a copy."""
        found = self._found
        if faults := list(self._output_faults(zeros)):
            for fault in faults:
                found.refuse(f"{self._path}: outputs: {fault}")
            return
        version = found.attempt(self._load_mended if found.refused and not self._program else self._load)
        if version is None:
            return
        if not found.refused:
            found.fingerprint = version.fingerprint.hex()
        self._batching(version)
        try:
            prove(version, f"{self._path} (version {found.version})")
        except ConfigurationError as error:
            found.refuse(str(error))
            found.fingerprint = None

    def _load(self) -> ModelVersion:
        found = self._found
        folder = Path(str(found.weights)).parent
        return ModelVersion(
            found.model,
            str(found.version),
            self._manifest,
            self._path,
            folder,
            trust_pt2=settings.read().trust_pt2,
        )

    def _load_mended(self) -> ModelVersion:
        found = self._found
        described = self._manifest.model_copy(update={"weights": WeightsSpec()})
        held = {name: tensor.clone() for name, tensor in self._trial.module.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            save_file(held, Path(folder) / weights.FILES[0])
            return ModelVersion(found.model, str(found.version), described, self._path, Path(folder))

    def _batching(self, version: ModelVersion) -> None:
        found = self._found
        who = "sessions" if version.stateful else "requests"
        if version.batched:
            try:
                prove_batching(version, str(self._path))
            except (ConfigurationError, ModelFailedError) as error:
                found.refuse(str(error))
                found.batching, found.fingerprint = "claimed with batch_dim, and refuted", None
            else:
                found.batching = f"proved: {who} side by side get what each gets alone"
            return
        found.batching = f"not claimed: {who} run one at a time"
        missing = [f"state buffer {buffer.name!r}" for buffer in version.layout.buffers if buffer.batch_dim is None]
        missing += ["inputs", "outputs"] if version.inputs[0].batch_dim is None else []
        found.beware(f"no batch_dim is given for {', '.join(missing)}: {who} run one at a time")

    def _output_faults(self, zeros: Outcome) -> Iterator[str]:
        specs = self._manifest.outputs
        for spec, output in zip(specs, cautions.matched(specs, zeros.returned), strict=True):
            if not isinstance(output, Tensor):
                yield f"forward returned no tensor for the output {spec.name!r}"
            elif output.dtype is not spec.datatype.torch:
                yield f"{spec.name!r} is {output.dtype} where the manifest says {spec.datatype.name}"
            elif not cautions.fits(spec, output):
                yield f"{spec.name!r} has shape {list(output.shape)}; the manifest says {list(spec.shape)}"
