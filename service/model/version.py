"""One version of a model, ready to run: the module, its buffers told apart, and its forward pass on named arrays."""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.errors import ConfigurationError, ModelFailedError
from service.model import buffers, classes, weights
from service.model.datatypes import Datatype, of_tensor
from service.model.manifest import Manifest, StateSpec, TensorSpec
from service.model.state import Layout, StateBuffer
from service.model.tensors import Array


@dataclass(slots=True)
class Call:
    """What one caller gives to a forward: arrays by input name, and a session's bytes (empty for a stateless model)."""

    inputs: Mapping[str, Array]
    state: bytes


@dataclass(slots=True)
class Result:
    """What one caller gets back: arrays by output name, and the session's new bytes.

    `poisoned` names a state buffer that became NaN or infinite in this call.
    """

    outputs: dict[str, Array]
    state: bytes
    poisoned: str | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A parameter or buffer as the model listing shows it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelVersion:
    """A loaded checkpoint.

    Not re-entrant: a forward puts the callers' state into the module, so one runs at a time.

    Raises:
        ConfigurationError: on construction, where class, weights, manifest and dry run do not agree.

    """

    def __init__(self, name: str, version: str, manifest: Manifest, manifest_path: Path, folder: Path) -> None:
        self.name = name
        self.version = version
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self.labels = manifest.labels
        self._where = f"{manifest_path} (version {version})"
        self._module = classes.build(manifest.target, manifest.arguments, manifest_path)
        weights.load(self._module, weights.find(folder))
        self._module.eval().requires_grad_(False)
        state = self._find_state()
        places = buffers.slots(self._module)
        self._slots = [place for place in places if place.name in state]
        self.layout = Layout([self._describe(slot) for slot in self._slots])
        initial = [slot.registered for slot in self._slots]
        self.initial_state = self.layout.split(initial, 1)[0][0] if state else b""
        self._frozen = [buffers.Watched(place) for place in places if place.name not in state]
        self.batched = self.inputs[0].batch_dim is not None and (self.layout.batched or not self.stateful)
        self.fingerprint = self._digest(
            [*self._module.named_parameters(), *((w.slot.name, w.tensor) for w in self._frozen)]
        )

    @property
    def stateful(self) -> bool:
        """Whether any buffer is state."""
        return bool(self._slots)

    def example(self) -> Call:
        """The dry run's input: zeros of the manifest's shapes with 1 for -1, from the initial state."""
        inputs = {spec.name: np.zeros(spec.example_shape, spec.datatype.numpy) for spec in self.inputs}
        return Call(inputs, self.initial_state)

    def group(self, call: Call) -> Hashable:
        """Calls of the same group may share a forward; None shares with none."""
        if not self.batched:
            return None
        return tuple(
            (*shape[:dim], *shape[dim + 1 :])
            for spec in self.inputs
            if (dim := spec.batch_dim) is not None and (shape := call.inputs[spec.name].shape)
        )

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """Run one forward for all the calls, side by side along `batch_dim`.

        The calls are of one `group`; a call of group None is alone.

        Raises:
            ModelFailedError: the module raised, wrote to a frozen buffer, or returned what the manifest does not say.

        """
        counts = [1] if len(calls) == 1 else [self._rows(call) for call in calls]
        arguments = [self._join(spec, calls) for spec in self.inputs]
        with torch.inference_mode():
            try:
                if self._slots:
                    for slot, tensor in zip(self._slots, self.layout.join([call.state for call in calls]), strict=True):
                        slot.put(tensor)
                outputs = self._named_outputs(self._module(*arguments))
                if self._slots:
                    after = [slot.get() for slot in self._slots]
                    states, finite = self.layout.split(after, len(calls))
                else:
                    states, finite = [b""] * len(calls), True
            except ModelFailedError:
                raise
            except Exception as error:
                # The text may tell a client about paths and weights: it goes to the log, by way of the cause.
                raise ModelFailedError(f"the forward of model {self.name!r} raised {type(error).__name__}") from error
            finally:
                for slot in self._slots:
                    slot.put(slot.registered)
                self._check_frozen()
        columns = [self._split(spec, outputs[spec.name], counts) for spec in self.outputs]
        names = [spec.name for spec in self.outputs]
        return [
            Result(
                dict(zip(names, row, strict=True)),
                state,
                None if finite else self.layout.poisoned(call.state, state),
            )
            for call, state, row in zip(calls, states, zip(*columns, strict=True), strict=True)
        ]

    def parameters(self) -> list[TensorInfo]:
        """Every parameter."""
        return [_info(name, tensor) for name, tensor in self._module.named_parameters()]

    def frozen_buffers(self) -> list[TensorInfo]:
        """Every buffer that inference only reads."""
        return [_info(watched.slot.name, watched.tensor) for watched in self._frozen]

    def state_buffers(self) -> list[TensorInfo]:
        """Every buffer that belongs to a session, with one session's shape."""
        return [TensorInfo(buffer.name, buffer.datatype.name, buffer.shape) for buffer in self.layout.buffers]

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of each frozen buffer's bytes: the same after any number of predictions."""
        return {watched.slot.name: hashlib.sha256(_bytes(watched.tensor)).hexdigest() for watched in self._frozen}

    def _find_state(self) -> frozenset[str]:
        """The names of the state buffers: those that a dry run changes, and those that the manifest lists."""
        arguments = [torch.zeros(spec.example_shape, dtype=spec.datatype.torch) for spec in self.inputs]
        with torch.no_grad():
            try:
                found = buffers.discover(self._module, lambda: self._named_outputs(self._module(*arguments)))
            except ModelFailedError as error:
                raise ConfigurationError(f"{self._where}: outputs: {error}") from error
            except Exception as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                shapes = ", ".join(f"{spec.name} {list(spec.example_shape)}" for spec in self.inputs)
                raise ConfigurationError(f"{self._where}: forward failed on zeros of {shapes}: {first}") from error
        listed = (self.manifest.state or {}).keys()
        known = {slot.name for slot in buffers.slots(self._module)}
        if listed - known:
            raise ConfigurationError(
                f"{self._where}: state: the module has no buffer {min(listed - known)!r}; it has {sorted(known)}"
            )
        return found | listed

    def _describe(self, slot: buffers.Slot) -> StateBuffer:
        tensor = slot.registered
        dim = (self.manifest.state or {}).get(slot.name, StateSpec()).batch_dim
        if dim is not None and dim >= tensor.ndim:
            raise ConfigurationError(
                f"{self._where}: state.{slot.name}: batch_dim = {dim} is not an axis of shape {list(tensor.shape)}"
            )
        try:
            datatype = of_tensor(tensor)
        except KeyError:
            raise ConfigurationError(f"{self._where}: state.{slot.name}: cannot store {tensor.dtype}") from None
        return StateBuffer(slot.name, datatype, tuple(tensor.shape), dim, tensor.nbytes)

    def _digest(self, tensors: Sequence[tuple[str, Tensor]]) -> bytes:
        """16 bytes of SHA-256 over class, weights and state layout."""
        layout = [(b.name, b.datatype.name, b.shape) for b in self.layout.buffers]
        head = [self.name, self.manifest.target, self.manifest.arguments, layout]
        digest = hashlib.sha256(json.dumps(head, sort_keys=True, default=str).encode())
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
        return digest.digest()[:16]

    def _rows(self, call: Call) -> int:
        """How much of the output's batch axis belongs to the call."""
        spec = self.inputs[0]
        rows: int = call.inputs[spec.name].shape[spec.batch_dim or 0]
        return rows

    def _join(self, spec: TensorSpec, calls: Sequence[Call]) -> Tensor:
        arrays = [call.inputs[spec.name] for call in calls]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=spec.batch_dim or 0)
        tensor = torch.from_numpy(joined)
        return tensor if spec.datatype is not Datatype.BF16 else tensor.to(torch.bfloat16)

    def _split(self, spec: TensorSpec, output: Tensor, counts: Sequence[int]) -> list[Array]:
        array = (output.float() if output.dtype is torch.bfloat16 else output).numpy()
        if len(counts) == 1:
            return [array]
        dim = spec.batch_dim or 0
        if array.shape[dim] != sum(counts):
            raise ModelFailedError(
                f"the output {spec.name!r} has {array.shape[dim]} rows along batch_dim {dim}; {sum(counts)} came in"
            )
        if spec.batch_dim == 0:
            ends = np.cumsum(counts).tolist()
            return [array[end - count : end] for end, count in zip(ends, counts, strict=True)]
        return np.split(array, np.cumsum(counts)[:-1], axis=dim)

    def _named_outputs(self, returned: Any) -> dict[str, Tensor]:
        """What `forward` returned, by the manifest's names: by key for a dict, else in order."""
        specs = self.outputs
        if isinstance(returned, Tensor):
            returned = (returned,)
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
            if len(value.shape) != len(spec.shape):
                raise ModelFailedError(
                    f"the output {spec.name!r} has shape {list(value.shape)} where the manifest says {list(spec.shape)}"
                )
        return values

    def _check_frozen(self) -> None:
        for watched in self._frozen:
            if watched.changed():
                watched.restore()
                raise ModelFailedError(
                    f"forward changed the buffer {watched.slot.name!r}, which the dry run found to be frozen; "
                    "list it under [state] in the manifest if it is meant to change"
                )


def _info(name: str, tensor: Tensor) -> TensorInfo:
    try:
        datatype = of_tensor(tensor).name
    except KeyError:
        datatype = str(tensor.dtype)
    return TensorInfo(name, datatype, tuple(tensor.shape))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
