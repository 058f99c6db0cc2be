"""One version of a model, ready to run: a batch of callers in, each caller's outputs and new state out."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import buffers, process, stacked
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.deep_stack import deep
from carryover.runtime.forward import Forward, match_outputs, output_faults
from carryover.runtime.layout import Contents, Layout, StateBuffer, describe
from carryover.runtime.manifest import Manifest, StateSpec, TensorSpec
from carryover.runtime.state_sources import Leaf

log = logging.getLogger(__name__)

_Ran = tuple[Sequence[bytes], bool, Sequence[Sequence[Array]]]
"""The new state of each call, whether all states are finite, and by output the array of each call."""


class Invocation(Protocol):
    """What one caller gives to a forward: arrays by input name, and a session's bytes (empty for a stateless model).

    `requests` is of how many requests it is, `sessions` of how many sessions, where it is alone: then their states are
    one after another.
    """

    @property
    def inputs(self) -> Mapping[str, Array]: ...  # noqa: D102 - as described above

    @property
    def state(self) -> bytes: ...  # noqa: D102

    @property
    def requests(self) -> int: ...  # noqa: D102

    @property
    def sessions(self) -> int: ...  # noqa: D102


@dataclass(slots=True)
class Call:
    """An invocation by itself."""

    inputs: Mapping[str, Array]
    state: bytes
    requests: ClassVar[int] = 1
    sessions: ClassVar[int] = 1


@dataclass(slots=True)
class Result:
    """What one caller gets back: arrays by output name, and the session's new bytes.

    `non_finite` names a state buffer that became NaN or infinite in this call.
    """

    outputs: dict[str, Array]
    state: bytes
    non_finite: str | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A parameter or buffer as the model listing shows it; no datatype and shape for a buffer that is None."""

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None


class ModelVersion:
    """A loaded checkpoint; `state` names its state buffers, `device`, None for the CPU, is where `move` takes it.

    `stacked` says that many calls may run in one forward although the module has no axis for that, `time_steps` that
    consecutive calls of a session may, as rows of one. `reseeds` seed those
    of Python's and numpy's generators that forward seeds, so that others do not draw what follows; `construct` makes
    its module again, without the checkpoint.

    Not re-entrant: a forward puts the callers' state into the module, so one runs at a time.

    Raises:
        ModelFailedError: on construction, where a state buffer is of a datatype that cannot be stored.

    """

    def __init__(  # noqa: PLR0913 - what it is called, what it says, what it does, and where
        self,
        name: str,
        version: str,
        manifest: Manifest,
        forward: Forward,
        state: Collection[str],
        *,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.number = int(version)
        self.manifest = manifest
        self.labels = manifest.labels
        self.forward = forward
        self.reseeds: Sequence[Callable[[], None]] = ()
        self.construct: Callable[[], nn.Module] | None = None
        self._destination = device
        self._device: torch.device | None = None
        slots = forward.slots()
        self._slots: list[buffers.Slot | Leaf] = [slot for slot in slots if slot.name in state]
        self._slots += forward.leaves()
        self._frozen = [buffers.FrozenBuffer(slot) for slot in slots if slot.name not in state]
        self._watch = self._watched()
        self.layout = Layout([self._state_buffer(slot) for slot in self._slots])
        self.initial_state = self.layout.split([slot.registered for slot in self._slots], 1)[0][0]
        of = TensorSpec.of_one_session if self.stateful else _unchanged
        self.inputs, self.outputs = tuple(map(of, manifest.inputs)), tuple(map(of, manifest.outputs))
        self._required = next(spec for spec in self.inputs if not spec.optional)
        self.batched = self.inputs[0].batch_dim is not None and (self.layout.batched or not self.stateful)
        self._buffers = [slot for slot in self._slots if isinstance(slot, buffers.Slot)]
        self.stacked = False
        self.time_steps = False
        self.layout_fingerprint = self._layout_digest()

    def refined(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: Mapping[str, StateSpec]
    ) -> "ModelVersion":
        """Return the same version with another manifest."""
        said = {"inputs": tuple(inputs), "outputs": tuple(outputs), "state": dict(state)}
        names = [slot.name for slot in self._slots if isinstance(slot, buffers.Slot)]
        return ModelVersion(self.name, self.version, self.manifest.model_copy(update=said), self.forward, names)

    def zeros(self) -> dict[str, Array]:
        """Return zeros as inputs, which the dry run has shown forward to take."""
        return {spec.name: spec.filled(spec.example_shape) for spec in self.inputs}

    @property
    def stateful(self) -> bool:
        """Whether it has any state."""
        return bool(self._slots)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes of SHA-256 over class, or program, weights and state layout."""
        program = self.forward.program
        head: list[object] = [self.name, self.manifest.target, self.manifest.arguments]
        if self.manifest.method != "forward" or self.manifest.call:
            head += [self.manifest.method, self.manifest.call]
        if self.manifest.train:
            head += ["train", *sorted(self.manifest.train)]
        digest = hashlib.sha256(self.layout_fingerprint + json.dumps(head, sort_keys=True, default=str).encode())
        digest.update(program.digest if program else b"")
        frozen = ((watched.slot.name, watched.tensor) for watched in self._frozen)
        for name, tensor in (*self.forward.module.named_parameters(), *frozen):
            digest.update(name.encode())
            digest.update(b"None" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(buffers.raw(tensor))
        return digest.digest()[:8]

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU."""
        return self._destination is None

    def group(self, call: Invocation) -> Hashable:
        """Calls of the same group may share a forward; None shares with none."""
        if not self.batched:
            return self._stacking_group(call) if self.stacked else None
        group: list[Hashable] = [self.layout.signature(call.state)]
        for spec in self.inputs:
            if spec.optional and spec.name not in call.inputs:
                group.append(None)
                continue
            shape, dim = call.inputs[spec.name].shape, spec.batch_dim or 0
            group.append((*shape[:dim], *shape[dim + 1 :]))
        return tuple(group)

    def _stacking_group(self, call: Invocation) -> Hashable:
        if len(call.state) != self.layout.nbytes or len(call.inputs) != len(self.inputs):
            return None
        return tuple(call.inputs[spec.name].shape for spec in self.inputs)

    @deep
    def run(self, calls: Sequence[Invocation]) -> list[Result]:
        """Run one forward for all the calls, batched along `batch_dim` or stacked.

        The calls are of one `group`; a call of group None is alone.

        Raises:
            ModelFailedError: the module raised, changed a frozen buffer or a parameter, or returned what the
                manifest does not say.

        """
        stack = self.stacked and len(calls) > 1
        if stack and len(calls) < stacked.FEW:
            return [result for call in calls for result in self.run([call])]
        arguments = [self._stack(spec, calls) if stack else self._join(spec, calls) for spec in self.inputs]
        work = self._run_stacked if stack else self._run_joined
        settings = process.default_dtype(), process.initial_seed()
        with self.forward.context():
            try:
                states, finite, columns = work(calls, arguments)
            except ModelFailedError:
                raise
            except BaseException as error:  # a forward that calls sys.exit ends no worker, and no other caller's call
                # The text may tell a client about paths and weights: it goes to the log, through the cause.
                raise ModelFailedError(f"the forward of model {self.name!r} raised {type(error).__name__}") from error
            finally:
                self._put_back(settings)
        return self._results(calls, states, finite, columns)

    def _run_joined(self, calls: Sequence[Invocation], arguments: Sequence[Tensor | None]) -> _Ran:
        """Run a forward on a batch along `batch_dim`, or on the input of one call."""
        count = len(calls)
        sessions = calls[0].sessions if count == 1 else count
        if self._slots:
            held = self.layout.join([call.state for call in calls], sessions)
            for slot, tensor in zip(self._slots, held, strict=True):
                slot.put(tensor if tensor is None or self._device is None else tensor.to(self._device))
        outputs = match_outputs(self.outputs, self.forward(arguments))
        if faults := output_faults(self.outputs, outputs):
            raise ModelFailedError(faults[0])
        states, finite = [b""] * count, True
        if self._slots:
            after = [slot.get() for slot in self._slots]
            if self._device is not None:
                after = [tensor if tensor is None else tensor.cpu() for tensor in after]
            states, finite = self.layout.split(after, sessions)
            states = states if sessions == count else [b"".join(states)]
        rows = [1] if count == 1 else [self._rows(call) for call in calls]
        return states, finite, [self._split(spec, outputs[spec.name], rows) for spec in self.outputs]

    def _run_stacked(self, calls: Sequence[Invocation], inputs: Sequence[Any]) -> _Ran:
        """Run a forward on a batch along an axis of its own."""
        states = stacked.join(self.layout, [call.state for call in calls])
        after, outputs = stacked.run(self.forward, self._buffers, self.outputs, states, inputs)
        ended, finite = stacked.split(self.layout, after, len(calls))
        return ended, finite, [list(self._unstack(output)) for output in outputs]

    def _stack(self, spec: TensorSpec, calls: Sequence[Invocation]) -> Tensor:
        arrays = [call.inputs[spec.name] for call in calls]
        if spec.datatype is Datatype.BF16:
            return torch.stack([_bfloat16(array) for array in arrays])
        return torch.from_numpy(np.stack(arrays))

    @staticmethod
    def _unstack(output: Tensor) -> Array:
        output = output.float() if output.dtype is torch.bfloat16 else output
        return output.detach().clone(memory_format=torch.contiguous_format).numpy(force=True)

    def _results(
        self, calls: Sequence[Invocation], states: Sequence[bytes], finite: bool, columns: Sequence[Sequence[Array]]
    ) -> list[Result]:
        names = [spec.name for spec in self.outputs]
        return [
            Result(
                dict(zip(names, row, strict=True)),
                state,
                None if finite else self.layout.non_finite(call.state, state, call.sessions),
            )
            for call, state, row in zip(calls, states, zip(*columns, strict=True), strict=True)
        ]

    def move(self) -> None:
        """Move the module to its device. A worker does this for itself: CUDA does not survive a fork."""
        if self._destination is not None:
            self._device = self._destination
            self.forward.module.to(self._device)
            self.forward.parameters.accept()
            if self.forward.attributes is not None:
                self.forward.attributes.accept()
            frozen = {watched.slot.name for watched in self._frozen}
            self._frozen = [
                buffers.FrozenBuffer(slot) for slot in buffers.slots(self.forward.module) if slot.name in frozen
            ]
            self._watch = self._watched()

    def check(self) -> None:
        """Compare parameters and frozen buffers with what they were at first, value by value.

        Raises:
            ModelFailedError: forward has changed one in a way that leaves no trace, which no request would notice.

        """
        if names := [watched.slot.name for watched in self._frozen if watched.value_changed()]:
            raise ModelFailedError(
                f"forward changed the buffer {names[0]!r} without a trace, as .data and batch_norm do; "
                "list it under [state] in the manifest if it is meant to change"
            )
        if (name := self.forward.parameters.value_changed()) is not None:
            raise ModelFailedError(f"forward changed the parameter {name!r} without a trace, as .data does")

    def attributes(self) -> dict[str, object]:
        """What tells, for everything that the module holds beside parameters and buffers, whether it has changed."""
        return {} if self.forward.attributes is None else self.forward.attributes.marks()

    def parameters(self) -> list[TensorInfo]:
        """Every parameter."""
        return [_info(name, tensor) for name, tensor in self.forward.module.named_parameters()]

    def frozen_buffers(self) -> list[TensorInfo]:
        """Every buffer that inference only reads."""
        return [_info(watched.slot.name, watched.tensor) for watched in self._frozen]

    def state_buffers(self, state: bytes | None = None) -> list[TensorInfo]:
        """Every buffer that belongs to a session, as it is at step 0 or in a session's bytes."""
        contents = self.layout.contents(self.initial_state if state is None else state)
        return [_held(buffer.name, held) for buffer, held in zip(self.layout.buffers, contents, strict=True)]

    def state_values(self, state: bytes) -> dict[str, Any]:
        """Return what a session's bytes hold: an array by buffer name, or a number, or None."""
        found: dict[str, Any] = {}
        for buffer, tensor in zip(self.layout.buffers, self.layout.join([state]), strict=True):
            if tensor is None:
                found[buffer.name] = None
                continue
            array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
            found[buffer.name] = np.ascontiguousarray(array) if array.ndim else array.item()
        return found

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of each frozen buffer's bytes: the same after any number of predictions."""
        return {watched.slot.name: hashlib.sha256(buffers.raw(watched.tensor)).hexdigest() for watched in self._frozen}

    def _state_buffer(self, slot: buffers.Slot | Leaf) -> StateBuffer:
        try:
            registered = describe(slot.registered)
        except KeyError:
            kind = str(getattr(slot.registered, "dtype", "")).removeprefix("torch.")
            raise ModelFailedError(
                f"state.{slot.name}: a {kind} buffer cannot be stored; complex numbers can in an argument or attribute"
            ) from None
        if isinstance(slot, Leaf):
            return self._state_of(slot, registered)
        spec = self.manifest.state.get(slot.name, StateSpec())
        dim = spec.dim_of("")
        if dim is None and not spec.shared and (dim := self.manifest.state_batch_dim) is not None:
            scalar = registered is not None and not registered.shape
            return StateBuffer(slot.name, registered, None if scalar else dim, scalar)
        return StateBuffer(slot.name, registered, dim, spec.shared)

    def _state_of(self, leaf: Leaf, registered: Contents | None) -> StateBuffer:
        """What lies along no axis, a number, is shared by the sessions of a batch."""
        spec = self.manifest.state[next(entry.name for entry in self.forward.entries if leaf in entry.leaves)]
        dim = spec.dim_of(leaf.path)
        if dim is None and spec.batch_dim is None and not spec.shared:
            dim = self.manifest.state_batch_dim
        scalar = leaf.kind.number or () in leaf.shapes
        shared = spec.shared or (scalar and (spec.batch_dim, self.manifest.state_batch_dim) != (None, None))
        return StateBuffer(leaf.name, registered if leaf.fixed else None, None if shared else dim, shared)

    def _layout_digest(self) -> bytes:
        """8 bytes of SHA-256 over the names, datatypes and shapes of the state buffers."""
        layout: list[object] = [
            (b.name, b.registered and (b.registered.datatype.name, b.registered.shape)) for b in self.layout.buffers
        ]
        # What is not there at step 0 still has a size, unless it grows.
        layout += [
            (leaf.name, leaf.kind.value, sorted(map(str, leaf.dtypes)), *list(leaf.shapes)[:1])
            for leaf in self.forward.leaves()
            if len(leaf.shapes) == 1
        ]
        return hashlib.sha256(json.dumps(layout).encode()).digest()[:8]

    def _rows(self, call: Invocation) -> int:
        """How much of the output's batch axis belongs to the call."""
        spec = self._required
        rows: int = call.inputs[spec.name].shape[spec.batch_dim or 0]
        return rows

    def _join(self, spec: TensorSpec, calls: Sequence[Invocation]) -> Tensor | None:
        if spec.optional and spec.name not in calls[0].inputs:
            return None
        arrays = [call.inputs[spec.name] for call in calls]
        if spec.datatype is Datatype.BF16:
            tensors = [_bfloat16(array) for array in arrays]
            tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=spec.batch_dim or 0)
            tensor = tensor.contiguous()
        else:
            # Always a copy: forward may write to its input, and the caller may need it again, or not own it.
            joined = arrays[0].copy() if len(arrays) == 1 else np.concatenate(arrays, axis=spec.batch_dim or 0)
            tensor = torch.from_numpy(np.ascontiguousarray(joined).reshape(joined.shape))
        return tensor if self._device is None else tensor.to(self._device)

    def _split(self, spec: TensorSpec, output: Tensor, counts: Sequence[int]) -> list[Array]:
        output = output.cpu().float() if output.dtype is torch.bfloat16 else output
        # Always a copy: forward may write to its output again, or resize it, in the next call.
        array = output.detach().clone(memory_format=torch.contiguous_format).numpy(force=True)
        if len(counts) == 1:
            return [array]
        dim = spec.batch_dim or 0
        if array.shape[dim] != sum(counts):
            raise ModelFailedError(
                f"the output {spec.name!r} has {array.shape[dim]} rows along batch_dim {dim}; {sum(counts)} came in"
            )
        before = (slice(None),) * dim
        return [
            array[(*before, slice(end - count, end))] for end, count in zip(accumulate(counts), counts, strict=True)
        ]

    def _put_back(self, settings: process.Settings) -> None:
        """Put back all that forward may have changed, and no call may see of another."""
        for slot in self._slots:
            slot.put(slot.registered)
        if (process.default_dtype(), process.initial_seed()) != settings:
            process.restore(settings)
        for reseed in self.reseeds:
            reseed()
        if self.forward.context is not torch.inference_mode:
            self.forward.parameters.drop_gradients()
        try:
            if self.forward.attributes is not None:
                self._tell(self.forward.attributes.put_back())
        finally:
            self._check_frozen()

    def _tell(self, attributes: Sequence[str]) -> None:
        """Log what forward has changed, if it is loaded: until then it may be tried on anything."""
        for name in attributes if self.construct is not None else ():
            log.warning(
                "%s version %s: forward has changed the attribute %r, which it did not when it was tried at load; it "
                "is put back after each call, unless the manifest has it under [state]", self.name, self.version, name,
            )  # fmt: skip

    def _watched(self) -> buffers.Watch:
        return buffers.Watch(self.forward.module, [frozen.tensor for frozen in self._frozen])

    def _check_frozen(self) -> None:
        """Put back what inference only reads, where forward has changed it: all of it, or the next call would fail."""
        if self._watch.unchanged():
            return
        written = [watched for watched in self._frozen if watched.changed()]
        parameter = self.forward.parameters.changed()
        for watched in written:
            watched.restore()
        if parameter is not None:
            try:
                self.forward.parameters.restore(self.forward.saved())
            except (ConfigurationError, RuntimeError) as error:
                log.error("model %s version %s: its parameters cannot be restored: %s", self.name, self.version, error)  # noqa: TRY400
        if self.forward.parameters.changed() is None:
            self._watch = self._watched()
        if written:
            raise ModelFailedError(
                f"forward changed the buffer {written[0].slot.name!r}, which the dry run found to be frozen; "
                "list it under [state] in the manifest if it is meant to change"
            )
        if parameter is not None:
            raise ModelFailedError(
                f"forward changed the parameter {parameter!r}; what is to change belongs in a buffer (register_buffer)"
            )


def _unchanged(spec: TensorSpec) -> TensorSpec:
    return spec


def _bfloat16(array: Array) -> Tensor:
    """A tensor of values in float32, or of bit patterns in uint16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array).to(torch.bfloat16)


def _info(name: str, tensor: Tensor | None) -> TensorInfo:
    try:
        return _held(name, describe(tensor))
    except KeyError:
        return TensorInfo(name, str(tensor.dtype), tuple(tensor.shape)) if tensor is not None else _held(name, None)


def _held(name: str, contents: Contents | None) -> TensorInfo:
    return TensorInfo(name, contents.datatype.name, contents.shape) if contents else TensorInfo(name, None, None)
