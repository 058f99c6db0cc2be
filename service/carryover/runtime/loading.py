"""From a model's folder to versions that can be served: each stage reports what is wrong, and later stages go on.

A stage is left out where an earlier one has left nothing that it could say something true about.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import buffers, classes, initial, manifest, programs, time_steps, weights, weights_advice
from carryover.runtime.discovery import Outcome, changes_on_random, discover, learn_structures, optional_inputs
from carryover.runtime.forward import Forward, Saved, match_outputs, output_faults, result_paths
from carryover.runtime.manifest import Manifest, StateSpec, TensorSpec
from carryover.runtime.report import Report
from carryover.runtime.selfcheck import prove, prove_batching, settle_attributes, settle_gradients, try_stacking
from carryover.runtime.state_guesses import doubt, find_arguments
from carryover.runtime.state_sources import entries
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
        path = self.folder / number / self.path.name
        described, path = (self._own(path), path) if path.exists() else (self.manifest, self.path)
        if described is None:
            return None
        loading = Loading(described, path, self.folder / number, trust_pt2=trust_pt2)
        self.report.problems += loading.report.problems
        return loading

    def _own(self, path: Path) -> Manifest | None:
        """The manifest of a version that has one."""
        found: Manifest | None = None
        with self.report.stage(str(path)):
            found, faults = manifest.read(path)
            for fault in faults:
                self.report.error(fault)
        if found is None:
            return None
        if found.version is not None:
            self.report.error(f"{path}: version: which version serves is said in {self.path}")
            return None
        return found


class Loading:
    """One version, taken from its files as far as they lead.

    `weights` is its checkpoint or program, `outcome` what the dry run did, `state` the names of the state buffers.
    `tried` is the version where it could be constructed; `version` is the same, and None where there is any error.
    """

    def __init__(self, described: Manifest, path: Path, folder: Path, *, trust_pt2: bool) -> None:
        self.manifest = initial.located(described, folder, folder.parent)
        self.report = Report()
        self.weights: Path | None = None
        self.forward: Forward | None = None
        self.outcome: Outcome | None = None
        self.state: frozenset[str] = frozenset()
        self.tried: ModelVersion | None = None
        self._batching_proved = False
        self._missing_buffers: frozenset[str] = frozenset()
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
        if self.tried.stacked:
            return f"proved: {who} of one shape run together, as torch.func.vmap gives what each gets alone"
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
        for entry in self.forward.entries:
            for leaf in entry.leaves:
                yield leaf.name, "state", leaf.registered, entry.place

    def _run(self) -> None:
        report = self.report
        with report.stage(self._where):
            self._device = _device(self.manifest.device if self.manifest.target else "cpu")
        with report.stage(self._where):
            self.forward = self._program() if self.manifest.target is None else self._class(self.manifest.target)
        if self.forward is None:
            return
        with report.stage(self._where):
            self.forward.entries = entries(self.manifest.state, self.forward.module, self.forward.method)
            inputs, outcome = discover(self.forward, self.manifest.inputs)
            if self.manifest.train:  # what collects statistics may not move on zeros
                outcome = replace(outcome, changes=changes_on_random(self.forward, inputs) | outcome.changes)
            self._find_arguments(self.forward, inputs, outcome)
            learn_structures(self.forward, inputs)
            self.outcome = outcome
            if self.forward.attributes is not None:
                self.forward.attributes.note_first_call()
            self.manifest = self.manifest.model_copy(update={"inputs": inputs})
            self._find_optional(self.forward)
        self._find_state(self.forward)
        if self.outcome is None or not self._outputs_fit(self.outcome):
            return
        with report.stage(self._where):
            name, number = self.folder.parent.name, self.folder.name
            self.tried = ModelVersion(name, number, self.manifest, self.forward, self.state, device=self._device)
            settle_gradients(self.tried)
            prove(self.tried)
            prove_batching(self.tried)
            self._batching_proved = True
            settle_attributes(self.tried)
            try_stacking(self.tried)
            time_steps.settle(self.tried)
            self.tried.construct = self._construct

    def _class(self, target: str) -> Forward | None:
        """Construct the class and load its checkpoint."""
        module, names = None, [spec.name for spec in self.manifest.inputs]
        saved: Saved | None = None
        with self.report.stage(self._where):
            # The class as it is now, as its file may change.
            cls = classes.find(target, self.path)
            self._construct = partial(classes.construct, cls, self.manifest.arguments, self.path)
            module = self._construct()
        with self.report.stage(self._where):
            self.weights = weights.find(self.folder)
            read = partial(weights.read, self.weights, self.manifest.weights)
            saved = read
            if module is None:
                read()
            else:
                saved = fitted = partial(self._saved, read, module.state_dict().keys())
                self._load(module, fitted)
                self._start(module)
        if module is None:
            return None
        saved = saved or module.state_dict
        with self.report.stage(self._where):
            optional = any(spec.optional for spec in self.manifest.inputs)
            return Forward(
                module,
                names,
                saved,
                method=self.manifest.method,
                call=self.manifest.call,
                optional=optional,
                train=self.manifest.train,
            )
        return None

    def _saved(self, read: Callable[[], weights.Tensors], expected: Collection[str]) -> weights.Tensors:
        """The checkpoint by the names that the class has, without what starts as the class has it."""
        given = weights.adapt(expected, read())
        for name, spec in self.manifest.state.items():
            if spec.buffer and spec.initial is not None:
                given.pop(name, None)
        return given

    def _load(self, module: nn.Module, saved: Callable[[], weights.Tensors]) -> None:
        named = {name for name, _ in module.named_buffers()}
        advice = partial(self._advice, module.state_dict(), named)
        try:
            fit = weights.load(module, saved())
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}{advice()}") from None
        # Of a buffer that is missing it is not known yet whether it is state, which starts as the class has it.
        self._missing_buffers = fit.missing & named
        for number, sentence in enumerate(fit.sentences(self._missing_buffers)):
            name, shaped, _ = sentence.partition(" has shape ")
            hint = f'; if it is state, [state.{name}] initial = "class" starts it as the class does'
            self._misfit(module, sentence + (hint if shaped and name in named else "" if number else advice()))

    def _advice(self, expected: weights.Tensors, named: Collection[str]) -> str:
        """What the manifest is to say of the checkpoint, if there is a way to say it."""
        line = weights_advice.advise(self.weights, expected, named) if self.weights else None
        return f"; it fits if the manifest says {line}" if line else ""

    def _start(self, module: nn.Module) -> None:
        """Let buffers start from zeros, or from a file, where the manifest says so."""
        slots = {slot.name: slot for slot in buffers.slots(module)}
        for name, spec in self.manifest.state.items():
            if spec.buffer and spec.initial not in (None, "class") and name in slots:
                slots[name].put(initial.buffer(name, spec.initial, slots[name].registered))

    def _misfit(self, module: nn.Module, sentence: str) -> None:
        self.report.error(f"{self.weights}: does not fit {type(module).__name__}: {sentence}")

    def _program(self) -> Forward:
        found = programs.find(self.folder, self.path)
        program = programs.load(found, trusted=self._trust_pt2)
        self.weights = found
        self._construct = partial(programs.again, found, program.digest)
        names = [spec.name for spec in self.manifest.inputs]
        return Forward(program.module, names, program.module.state_dict, program, call=self.manifest.call)

    def _find_arguments(self, forward: Forward, inputs: Sequence[TensorSpec], outcome: Outcome) -> None:
        """Add the parameters that take a result, as entries that the manifest leaves out."""
        taken = result_paths(self.manifest.outputs, outcome.returned)
        if found := find_arguments(forward, inputs, taken):
            forward.entries = entries(found, forward.module, forward.method)
            self.manifest = self.manifest.model_copy(update={"state": {**self.manifest.state, **found}})
            if (sentence := doubt(forward, inputs, found)) is not None:
                self.report.warn(sentence)

    def _find_optional(self, forward: Forward) -> None:
        """Let inputs be left out that forward has a default for."""
        inputs = optional_inputs(forward, self.manifest)
        if inputs != self.manifest.inputs:
            self.manifest = self.manifest.model_copy(update={"inputs": inputs})
            self.forward = forward.with_defaults()

    def _find_state(self, forward: Forward) -> None:
        """The buffers that the dry run changed, those that a program says it mutates, and those that are listed."""
        slots = {slot.name: slot.registered for slot in forward.slots()}
        listed = {name: spec for name, spec in self.manifest.state.items() if spec.buffer}
        others = {name: spec for name, spec in self.manifest.state.items() if not spec.buffer}
        for leaf in forward.leaves():
            if leaf.name in slots:
                self.report.error(
                    f"{self._where}: state.{leaf.name}: the module has a buffer of this name; call the entry otherwise"
                )
        for name, spec in tuple(listed.items()):
            if name not in slots:
                known = ", ".join(map(repr, slots)) or "none"
                self.report.error(f"{self._where}: state: the module has no buffer {name!r}; its buffers are {known}")
                del listed[name]
            elif (dim := spec.dim_of("")) is not None and (held := slots[name]) is not None and dim >= held.ndim:
                self.report.error(
                    f"{self._where}: state.{name}: batch_dim = {dim} is not an axis of shape {list(held.shape)}"
                )
                listed[name] = StateSpec()
        self.manifest = self.manifest.model_copy(update={"state": listed | others})
        changed = self.outcome.changes.keys() if self.outcome else frozenset[str]()
        mutated = forward.program.mutated if forward.program else frozenset[str]()
        self.state = frozenset(slots) & (changed | mutated | listed.keys())
        if missing := self._missing_buffers - (self.state if self.outcome else set()):
            self._misfit(forward.module, f"missing {', '.join(sorted(missing))}")
        self.state |= {leaf.name for leaf in forward.leaves()}

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
