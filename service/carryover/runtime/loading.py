"""From a model's folder to versions that can be served: each stage reports what is wrong, and later stages go on.

A stage is left out where an earlier one has left nothing that it could say something true about.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import classes, manifest, programs, weights
from carryover.runtime.discovery import Outcome, discover
from carryover.runtime.forward import Forward, match_outputs, output_faults
from carryover.runtime.manifest import Manifest, StateSpec
from carryover.runtime.report import Report
from carryover.runtime.selfcheck import prove, prove_batching, settle_attributes
from carryover.runtime.version import ModelVersion

_FSCK = "lost+found"
"""What a fresh volume of ext4 holds."""


class ModelFolder:
    """A model's folder: its manifest, None where it is invalid, and the numbers of its versions."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.toml"
        self.name = folder.name
        self.folder = folder
        self.report = Report()
        self.manifest: Manifest | None = None
        self.numbers = sorted((path.name for path in subfolders(folder) if path.name.isdecimal()), key=int)
        with self.report.stage(str(self.path)):
            if not re.fullmatch(manifest.MODEL_NAME, folder.name):
                raise ConfigurationError(f"{folder}: a model's name must match {manifest.MODEL_NAME}")
            self.manifest, faults = manifest.read(self.path)
            for fault in faults:
                self.report.error(fault)
        if self.manifest is None:
            return
        if not self.numbers:
            self.report.error(f"{folder}: there is no version; expected a numbered folder, such as {folder}/1")
        elif self.manifest.version not in (None, *self.numbers):
            known = ", ".join(self.numbers)
            self.report.error(f"{self.path}: version: there is no version {self.manifest.version}; there are {known}")

    def load(self, number: str, *, trust_pt2: bool) -> "Loading | None":
        """Load a version; None where the manifest is invalid."""
        if self.manifest is None:
            return None
        loading = Loading(self.manifest, self.path, self.folder / number, trust_pt2=trust_pt2)
        self.report.problems += loading.report.problems
        return loading


class Loading:
    """One version, taken from its files as far as they lead.

    `weights` is its checkpoint or program, `outcome` what the dry run did, `state` the names of the state buffers.
    `tried` is the version where it could be constructed; `version` is the same, and None where there is any error.
    """

    def __init__(self, described: Manifest, path: Path, folder: Path, *, trust_pt2: bool) -> None:
        self.manifest = described
        self.report = Report()
        self.weights: Path | None = None
        self.forward: Forward | None = None
        self.outcome: Outcome | None = None
        self.state: frozenset[str] = frozenset()
        self.tried: ModelVersion | None = None
        self._batching_proved = False
        self.path = path
        self.folder = folder
        self._trust_pt2 = trust_pt2
        self._where = f"{path} (version {folder.name})"
        self._device: torch.device | None = None
        self._construct: Callable[[], nn.Module] | None = None
        self._run()

    @property
    def version(self) -> ModelVersion | None:
        """The version, if it can be served."""
        return None if self.report.errors else self.tried

    @property
    def batching(self) -> str:
        """Whether sessions are batched, as a sentence."""
        if self.tried is None:
            return "not tried"
        who = "sessions" if self.tried.stateful else "requests"
        if not self.tried.batched:
            return f"not claimed: {who} run one at a time"
        proved = f"proved: {who} in one batch get what each gets alone"
        return proved if self._batching_proved else "claimed with batch_dim, and not proved"

    def fresh(self) -> nn.Module | None:
        """Construct the class again, without the checkpoint; None for a program."""
        if self.manifest.target is None:
            return None
        return classes.build(self.manifest.target, self.manifest.arguments, self.path)

    def tensors(self) -> Iterator[tuple[str, str, Tensor | None, str]]:
        """Yield each parameter and buffer: its name, its kind (parameter, state, frozen), its values, and why."""
        if self.forward is None:
            return
        module, program, outcome = self.forward.module, self.forward.program, self.outcome
        yield from ((name, "parameter", parameter, "") for name, parameter in module.named_parameters())
        saved = module.state_dict().keys()
        for slot in self.forward.slots():
            name, change = slot.name, outcome.changes.get(slot.name) if outcome else None
            whys = [
                change.value if change else "not changed by the dry run" if outcome else "the dry run failed",
                "mutated, says the program's graph signature" if program and name in program.mutated else "",
                "listed in the manifest" if name in self.manifest.state else "",
                "" if name in saved else "not in the checkpoint (persistent=False)",
            ]
            kind = "state" if name in self.state else "frozen" if outcome else "buffer"
            yield name, kind, slot.registered, ", ".join(filter(None, whys))

    def _run(self) -> None:
        report = self.report
        with report.stage(self._where):
            self._device = _device(self.manifest.device if self.manifest.target else "cpu")
        with report.stage(self._where):
            self.forward = self._program() if self.manifest.target is None else self._class(self.manifest.target)
        if self.forward is None:
            return
        with report.stage(self._where):
            inputs, self.outcome = discover(self.forward, self.manifest.inputs)
            if self.forward.attributes is not None:
                self.forward.attributes.note_first_call()
            self.manifest = self.manifest.model_copy(update={"inputs": inputs})
        self._find_state(self.forward)
        if self.outcome is None or not self._outputs_fit(self.outcome):
            return
        with report.stage(self._where):
            name, number = self.path.parent.name, self.folder.name
            self.tried = ModelVersion(name, number, self.manifest, self.forward, self.state, device=self._device)
            prove(self.tried)
            prove_batching(self.tried)
            self._batching_proved = True
            settle_attributes(self.tried)
            self.tried.construct = self._construct

    def _class(self, target: str) -> Forward | None:
        """Construct the class and load its checkpoint."""
        module, names = None, [spec.name for spec in self.manifest.inputs]
        with self.report.stage(self._where):
            # The class as it is now, as its file may change.
            cls = classes.find(target, self.path)
            self._construct = partial(classes.construct, cls, self.manifest.arguments, self.path)
            module = self._construct()
        with self.report.stage(self._where):
            self.weights = weights.find(self.folder)
            saved = partial(weights.read, self.weights, self.manifest.weights)
            if module is not None:
                for fault in weights.load(module, saved()):
                    self.report.error(f"{self.weights}: does not fit {type(module).__name__}: {fault}")
                return Forward(module, names, saved)
        return module if module is None else Forward(module, names, module.state_dict)

    def _program(self) -> Forward:
        found = programs.find(self.folder, self.path)
        program = programs.load(found, trusted=self._trust_pt2)
        self.weights = found
        self._construct = partial(programs.again, found, program.digest)
        return Forward(program.module, [spec.name for spec in self.manifest.inputs], program.module.state_dict, program)

    def _find_state(self, forward: Forward) -> None:
        """The buffers that the dry run changed, those that a program says it mutates, and those that are listed."""
        slots = {slot.name: slot.registered for slot in forward.slots()}
        listed = dict(self.manifest.state)
        for name, spec in self.manifest.state.items():
            if name not in slots:
                known = ", ".join(map(repr, slots)) or "none"
                self.report.error(f"{self._where}: state: the module has no buffer {name!r}; its buffers are {known}")
                del listed[name]
            elif spec.batch_dim is not None and (held := slots[name]) is not None and spec.batch_dim >= held.ndim:
                self.report.error(
                    f"{self._where}: state.{name}: batch_dim = {spec.batch_dim} is not an axis of shape "
                    f"{list(held.shape)}"
                )
                listed[name] = StateSpec()
        self.manifest = self.manifest.model_copy(update={"state": listed})
        changed = self.outcome.changes.keys() if self.outcome else frozenset[str]()
        mutated = forward.program.mutated if forward.program else frozenset[str]()
        self.state = frozenset(slots) & (changed | mutated | listed.keys())

    def _outputs_fit(self, outcome: Outcome) -> bool:
        faults = ["unknown"]
        with self.report.stage(f"{self._where}: outputs"):
            values = match_outputs(self.manifest.outputs, outcome.returned)
            faults = output_faults(self.manifest.outputs, values, sizes=True)
            for fault in faults:
                self.report.error(f"{self._where}: outputs: {fault}")
        return not faults


def _device(wanted: str) -> torch.device | None:
    """The device to run on; None for the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return None
    device = torch.device("cuda:0" if wanted == "auto" else wanted)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ModelFailedError(f'device = "{wanted}": this machine has no such GPU, or torch cannot use it')
    return device


def models_in(folder: Path) -> list[Path]:
    """Return the folders of the models in a repository; it may be the folder of its only model."""
    if (folder / "model.toml").is_file():
        return [folder.absolute()]
    return subfolders(folder)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without those whose names say that they are not for everyone."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_", _FSCK)))
