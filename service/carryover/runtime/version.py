"""One version of a model, ready to run: the module, its buffers told apart, and its forward pass on named arrays."""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime import buffers, classes, guard, programs, weights
from carryover.runtime.datatypes import Array, Datatype
from carryover.runtime.deep_stack import deep
from carryover.runtime.layout import Contents, Layout, StateBuffer, describe
from carryover.runtime.manifest import Manifest, StateSpec, TensorSpec, by_example_length

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """What one caller gives to a forward: arrays by input name, and a session's bytes (empty for a stateless model)."""

    inputs: Mapping[str, Array]
    state: bytes


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
    """A loaded checkpoint.

    Not re-entrant: a forward puts the callers' state into the module, so one runs at a time.

    Raises:
        ConfigurationError: on construction, where class, weights, manifest and dry run do not agree.

    """

    def __init__(  # noqa: PLR0913 - what it is, where it lies, and what it may do
        self, name: str, version: str, manifest: Manifest, manifest_path: Path, folder: Path, *, trust_pt2: bool = False
    ) -> None:
        self.name = name
        self.version = version
        self.manifest = manifest
        self.labels = manifest.labels
        self._where = f"{manifest_path} (version {version})"
        self._device = _device(manifest.device if manifest.target else "cpu", self._where)
        self._program = (
            None if manifest.target else programs.load(programs.find(folder, manifest_path), trusted=trust_pt2)
        )
        if self._program is not None:
            self._module = self._program.module
            self._saved: Callable[[], Mapping[str, Tensor]] = self._module.state_dict
        else:
            self._module = classes.build(str(manifest.target), manifest.arguments, manifest_path)
            weights.load(self._module, file := weights.find(folder), manifest.weights)
            self._saved = partial(weights.read, file, manifest.weights)
        self._module.eval().requires_grad_(False)
        self._keywords = keywords(self._module.forward, [spec.name for spec in manifest.inputs])
        self._parameters = buffers.Parameters(self._module)
        registered = {name for name, *_ in buffers.named(self._module)}
        state = self._find_state()
        places = [place for place in buffers.slots(self._module) if place.name in registered]
        self._buffers = frozenset(place.name for place in places)
        if unknown := self.manifest.state.keys() - self._buffers:
            raise ConfigurationError(
                f"{self._where}: state: the module has no buffer {min(unknown)!r}; it has {sorted(self._buffers)}"
            )
        given = self.manifest.inputs
        self.inputs = given if not state else tuple(spec.of_one_session() for spec in given)
        self.outputs = manifest.outputs if not state else tuple(spec.of_one_session() for spec in manifest.outputs)
        self._slots = [place for place in places if place.name in state]
        self.layout = Layout([self._describe(slot) for slot in self._slots])
        self.initial_state = self.layout.split([slot.registered for slot in self._slots], 1)[0][0] if state else b""
        self._frozen = [buffers.FrozenBuffer(place) for place in places if place.name not in state]
        self.batched = self.inputs[0].batch_dim is not None and (self.layout.batched or not self.stateful)
        self.layout_fingerprint = self._layout_digest()
        self.fingerprint = self._digest()

    @property
    def stateful(self) -> bool:
        """Whether any buffer is state."""
        return bool(self._slots)

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU."""
        return self._device is None

    def group(self, call: Call) -> Hashable:
        """Calls of the same group may share a forward; None shares with none."""
        if not self.batched:
            return None
        shapes = [(spec.batch_dim or 0, call.inputs[spec.name].shape) for spec in self.inputs]
        return (*((*shape[:dim], *shape[dim + 1 :]) for dim, shape in shapes), self.layout.signature(call.state))

    @deep
    def run(self, calls: Sequence[Call]) -> list[Result]:
        """Run one forward for all the calls, side by side along `batch_dim`.

        The calls are of one `group`; a call of group None is alone.

        Raises:
            ModelFailedError: the module raised, changed a frozen buffer or a parameter, or returned what the
                manifest does not say.

        """
        counts = [1] if len(calls) == 1 else [self._rows(call) for call in calls]
        arguments = [self._join(spec, calls) for spec in self.inputs]
        with torch.inference_mode():
            try:
                if self._slots:
                    for slot, tensor in zip(self._slots, self.layout.join([call.state for call in calls]), strict=True):
                        slot.put(tensor if tensor is None or self._device is None else tensor.to(self._device))
                outputs = self._named_outputs(self._call(arguments))
                states, finite = [b""] * len(calls), True
                if self._slots:
                    after = [slot.get() for slot in self._slots]
                    if self._device is not None:
                        after = [tensor if tensor is None else tensor.cpu() for tensor in after]
                    states, finite = self.layout.split(after, len(calls))
                columns = [self._split(spec, outputs[spec.name], counts) for spec in self.outputs]
            except ModelFailedError:
                raise
            except BaseException as error:  # a forward that calls sys.exit ends no worker, and no neighbour's call
                # The text may tell a client about paths and weights: it goes to the log, by way of the cause.
                raise ModelFailedError(f"the forward of model {self.name!r} raised {type(error).__name__}") from error
            finally:
                for slot in self._slots:
                    slot.put(slot.registered)
                self._check_frozen()
        names = [spec.name for spec in self.outputs]
        return [
            Result(
                dict(zip(names, row, strict=True)),
                state,
                None if finite else self.layout.non_finite(call.state, state),
            )
            for call, state, row in zip(calls, states, zip(*columns, strict=True), strict=True)
        ]

    def move(self) -> None:
        """Bring the module to its device. A worker does this for itself: CUDA does not survive a fork."""
        if self._device is not None:
            self._module.to(self._device)
            self._parameters.accept()
            frozen = {watched.slot.name for watched in self._frozen}
            self._frozen = [buffers.FrozenBuffer(slot) for slot in buffers.slots(self._module) if slot.name in frozen]

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
        if (name := self._parameters.value_changed()) is not None:
            raise ModelFailedError(f"forward changed the parameter {name!r} without a trace, as .data does")

    def attributes(self) -> dict[str, object]:
        """What tells, for everything that the module holds beside parameters and buffers, whether it has changed."""
        return {} if self._program else guard.marks(self._module, self._buffers)

    def parameters(self) -> list[TensorInfo]:
        """Every parameter."""
        return [_info(name, tensor) for name, tensor in self._module.named_parameters()]

    def frozen_buffers(self) -> list[TensorInfo]:
        """Every buffer that inference only reads."""
        return [_info(watched.slot.name, watched.tensor) for watched in self._frozen]

    def state_buffers(self, state: bytes | None = None) -> list[TensorInfo]:
        """Every buffer that belongs to a session, as it is at step 0 or in a session's bytes."""
        contents = self.layout.contents(self.initial_state if state is None else state)
        return [_held(buffer.name, held) for buffer, held in zip(self.layout.buffers, contents, strict=True)]

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of each frozen buffer's bytes: the same after any number of predictions."""
        return {watched.slot.name: hashlib.sha256(buffers.raw(watched.tensor)).hexdigest() for watched in self._frozen}

    def _find_state(self) -> frozenset[str]:
        """The names of the state buffers: those that a dry run changes, a program's own, and those that are listed."""
        failure: BaseException | None = None
        for specs in by_example_length(self.manifest.inputs):
            try:
                found = self._dry_run(specs)
            except ConfigurationError:
                raise
            except ModelFailedError as error:
                raise ConfigurationError(f"{self._where}: outputs: {error}") from error
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it may be that this is too short
                failure = failure or error
            else:
                self.manifest = self.manifest.model_copy(update={"inputs": specs})
                return found | (self._program.mutated if self._program else frozenset()) | self.manifest.state.keys()
        first = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        shapes = ", ".join(f"{spec.name} {list(spec.example_shape)}" for spec in self.manifest.inputs)
        raise ConfigurationError(f"{self._where}: forward failed on zeros of {shapes}: {first}") from failure

    def _dry_run(self, specs: Sequence[TensorSpec]) -> frozenset[str]:
        """The names of the buffers that a forward on zeros changes."""
        arguments = [torch.zeros(spec.example_shape, dtype=spec.datatype.torch) for spec in specs]

        def forward() -> None:
            for spec, output in zip(
                self.manifest.outputs, self._named_outputs(self._call(arguments)).values(), strict=True
            ):
                shape = tuple(output.shape)
                if any(size not in (-1, found) for size, found in zip(spec.shape, shape, strict=True)):
                    raise ModelFailedError(
                        f"{spec.name!r} has shape {list(shape)}; the manifest says {list(spec.shape)}"
                    )

        self.outputs = self.manifest.outputs
        with torch.no_grad():
            changes = buffers.discover(self._module, forward)
        # A program writes to all that share memory by itself.
        if self._program is None and (pair := buffers.overlap(self._module, changes)) is not None:
            raise ConfigurationError(
                f"{self._where}: forward writes to the buffer {pair[0]!r}, and the buffer {pair[1]!r} is a view of the "
                "same memory; register one of them, and take the other from it in forward"
            )
        return frozenset(changes)

    def _describe(self, slot: buffers.Slot) -> StateBuffer:
        dim = self.manifest.state.get(slot.name, StateSpec()).batch_dim
        try:
            registered = describe(slot.registered)
        except KeyError:
            raise ConfigurationError(f"{self._where}: state.{slot.name}: its dtype cannot be stored") from None
        if dim is not None and registered is not None and dim >= len(registered.shape):
            raise ConfigurationError(
                f"{self._where}: state.{slot.name}: batch_dim = {dim} is not an axis of shape {list(registered.shape)}"
            )
        return StateBuffer(slot.name, registered, dim)

    def _layout_digest(self) -> bytes:
        """8 bytes of SHA-256 over the names, datatypes and shapes of the state buffers."""
        layout = [
            (b.name, b.registered and (b.registered.datatype.name, b.registered.shape)) for b in self.layout.buffers
        ]
        return hashlib.sha256(json.dumps(layout).encode()).digest()[:8]

    def _digest(self) -> bytes:
        """8 bytes of SHA-256 over class, or program, weights and state layout."""
        head = [self.name, self.manifest.target, self.manifest.arguments]
        digest = hashlib.sha256(self.layout_fingerprint + json.dumps(head, sort_keys=True, default=str).encode())
        digest.update(self._program.digest if self._program else b"")
        frozen = ((watched.slot.name, watched.tensor) for watched in self._frozen)
        for name, tensor in (*self._module.named_parameters(), *frozen):
            digest.update(name.encode())
            digest.update(b"None" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(buffers.raw(tensor))
        return digest.digest()[:8]

    def _rows(self, call: Call) -> int:
        """How much of the output's batch axis belongs to the call."""
        spec = self.inputs[0]
        rows: int = call.inputs[spec.name].shape[spec.batch_dim or 0]
        return rows

    def _call(self, arguments: Sequence[Tensor]) -> Any:
        if not self._keywords:
            return self._module(*arguments)
        given = {spec.name: argument for spec, argument in zip(self.manifest.inputs, arguments, strict=True)}
        in_order = [argument for name, argument in given.items() if name not in self._keywords]
        return self._module(*in_order, **{name: given[name] for name in self._keywords})

    def _join(self, spec: TensorSpec, calls: Sequence[Call]) -> Tensor:
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
        # Always a copy: forward may write to its output again, in the next call.
        array = output.numpy(force=True).copy()
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

    def _named_outputs(self, returned: Any) -> dict[str, Tensor]:
        """What `forward` returned, by the manifest's names: by key or field where they have them, else in order."""
        specs = self.outputs
        if isinstance(returned, Tensor):
            returned = (returned,)
        elif isinstance(returned, tuple) and {spec.name for spec in specs} <= set(getattr(returned, "_fields", ())):
            returned = dict(zip(returned._fields, returned, strict=True))  # type: ignore[attr-defined]
        if isinstance(returned, Mapping):
            values: dict[str, Any] = {spec.name: returned.get(spec.name) for spec in specs}
        elif isinstance(returned, (tuple, list)) and len(returned) >= len(specs):
            values = {spec.name: value for spec, value in zip(specs, returned, strict=False)}
        else:
            count = len(returned) if isinstance(returned, (tuple, list)) else 0
            raise ModelFailedError(
                f"forward returned {type(returned).__name__} with {count} tensors where the manifest names {len(specs)}"
            )
        for spec in specs:
            value = values[spec.name]
            if not isinstance(value, Tensor):
                raise ModelFailedError(f"forward returned no tensor for the output {spec.name!r}")
            if value.dtype is not spec.datatype.torch:
                raise ModelFailedError(
                    f"the output {spec.name!r} is {value.dtype} where the manifest says {spec.datatype.name}"
                )
            if value.ndim != len(spec.shape):
                raise ModelFailedError(
                    f"the output {spec.name!r} has shape {list(value.shape)} where the manifest says {list(spec.shape)}"
                )
        return values

    def _check_frozen(self) -> None:
        """Put back what inference only reads, where forward has changed it: all of it, or the next call would fail."""
        written = [watched for watched in self._frozen if watched.changed()]
        parameter = self._parameters.changed()
        for watched in written:
            watched.restore()
        if parameter is not None:
            try:
                self._parameters.restore(self._saved())
            except (ConfigurationError, RuntimeError) as error:
                log.error("%s: its parameters cannot be put back: %s", self._where, error)  # noqa: TRY400
        if written:
            raise ModelFailedError(
                f"forward changed the buffer {written[0].slot.name!r}, which the dry run found to be frozen; "
                "list it under [state] in the manifest if it is meant to change"
            )
        if parameter is not None:
            raise ModelFailedError(
                f"forward changed the parameter {parameter!r}; what is to change belongs in a buffer (register_buffer)"
            )


def keywords(forward: Any, names: Sequence[str]) -> frozenset[str]:
    """Return which inputs go to `forward` by name: all, where it takes each by its name; else those that must."""
    try:
        parameters = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return frozenset()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    kinds = {parameter.kind for parameter in parameters.values()}
    any_name = inspect.Parameter.VAR_KEYWORD in kinds and kinds <= {*by_name, inspect.Parameter.VAR_KEYWORD}
    if any_name or all(name in parameters and parameters[name].kind in by_name for name in names):
        return frozenset(names)
    return frozenset(
        name for name in names if name in parameters and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    )


def _bfloat16(array: Array) -> Tensor:
    """A tensor of values in float32, or of bit patterns in uint16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array).to(torch.bfloat16)


def _device(wanted: str, where: str) -> torch.device | None:
    """The device to run on; None for the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return None
    device = torch.device("cuda:0" if wanted == "auto" else wanted)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f'{where}: device = "{wanted}": this machine has no such GPU, or torch cannot use it')
    return device


def _info(name: str, tensor: Tensor | None) -> TensorInfo:
    try:
        return _held(name, describe(tensor))
    except KeyError:
        return TensorInfo(name, str(tensor.dtype), tuple(tensor.shape)) if tensor is not None else _held(name, None)


def _held(name: str, contents: Contents | None) -> TensorInfo:
    return TensorInfo(name, contents.datatype.name, contents.shape) if contents else TensorInfo(name, None, None)
