"""A module's forward on named tensors: how it takes its inputs, and which outputs it returned."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from copy import copy
from dataclasses import is_dataclass
from itertools import takewhile
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from carryover.errors import ModelFailedError
from carryover.runtime import buffers, lazy
from carryover.runtime.attributes import Attributes
from carryover.runtime.datatypes import Datatype, of_tensor
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.programs import Program
from carryover.runtime.state_sources import Leaf, StateEntry, path_of
from carryover.runtime.structure import Kind, UnsupportedValueError, fields, flatten, pick, vars_of

Saved = Callable[[], Mapping[str, Tensor]]
_MOST_NAMED = 4
"""Methods of a class that an error names."""


class Forward:
    """A module in eval mode, with its weights loaded.

    `buffers` are the names that are registered before anything runs. `saved` reads the weights again. `entries` are the
    state that is not in buffers. `method` is what is called, with the constant keyword arguments of `call`; `optional`
    says whether inputs may be left out. The parts named by `train` stay in train mode. `context` is what it runs in:
    without inference mode, or with gradients, where it differentiates something itself.
    """

    def __init__(  # noqa: PLR0913 - a module, what it is called with, and where it came from
        self,
        module: nn.Module,
        inputs: Sequence[str],
        saved: Saved,
        program: Program | None = None,
        *,
        method: str = "forward",
        call: Mapping[str, Any] | None = None,
        optional: bool = False,
        train: Sequence[str] = (),
    ) -> None:
        lazy.settle(module)
        self.module = module.eval().requires_grad_(False)
        self.context: Callable[[], AbstractContextManager[object]] = torch.inference_mode
        self._train = tuple(train)
        for part in self._train:
            _part(module, part).train()
        self.saved = saved
        self.program = program
        self.buffers = frozenset(name for name, *_ in buffers.named(module))
        self.parameters = buffers.Parameters(module)
        self.attributes = None if program else Attributes(module, self.buffers)
        self.inputs = tuple(inputs)
        self.entries: Sequence[StateEntry] = ()
        self._name, self._optional = method, optional
        self.method = method_of(module, method)
        self.call = dict(call or {})
        # Not the method: a module's own __call__ runs its hooks.
        self._run = module if method == "forward" else self.method
        self._keywords = keywords(self.method, self.inputs)
        self._positional = positional(self.method)
        self._by_name = self._keywords == frozenset(self.inputs) and not self.call and not optional

    def calling(self, flags: Mapping[str, Any]) -> "Forward":
        """Return the same forward with more constant arguments."""
        other = copy(self)
        other.call = {**self.call, **flags}
        other._by_name = False  # noqa: SLF001 - of its own class
        return other

    def with_defaults(self) -> "Forward":
        """Return the same forward, whose inputs may be left out where it has a default for them."""
        other = copy(self)
        other._optional, other._by_name = True, False  # noqa: SLF001 - of its own class
        return other

    def taking(self, inputs: Sequence[str]) -> "Forward":
        """Return the same forward with other inputs."""
        return self._again(self.module, inputs)

    def on(self, module: nn.Module) -> "Forward":
        """Return the same forward of another module; its state is what is in its buffers."""
        return self._again(module, self.inputs)

    def _again(self, module: nn.Module, inputs: Sequence[str]) -> "Forward":
        other = Forward(
            module,
            inputs,
            self.saved,
            self.program,
            method=self._name,
            call=self.call,
            optional=self._optional,
            train=self._train,
        )
        other.context = self.context
        return other

    def slots(self) -> list[buffers.Slot]:
        """Return the registered buffers; two names of one tensor may become two buffers in a dry run."""
        return [slot for slot in buffers.slots(self.module) if slot.name in self.buffers]

    def leaves(self) -> list[Leaf]:
        """Return the tensors and numbers of the state that is not in buffers."""
        return [leaf for entry in self.entries for leaf in entry.leaves]

    def __call__(self, arguments: Sequence[Tensor | None]) -> Any:
        """Run on tensors in the order of the inputs; None where an optional one is not given."""
        if self.entries:
            return self._with_state(arguments)
        if self._by_name:
            return self._run(**dict(zip(self.inputs, arguments, strict=True)))
        return self._on(arguments, self.call)

    def _with_state(self, arguments: Sequence[Tensor | None]) -> Any:
        """Run with the leaves as they were put, and read them again."""
        given = dict(self.call)
        try:
            for entry in self.entries:
                entry.enter(given)
            returned = self._on(arguments, given)
            for entry in self.entries:
                entry.leave(returned)
        finally:
            for entry in self.entries:
                entry.restore()
        return returned

    def _on(self, arguments: Sequence[Tensor | None], others: Mapping[str, Any]) -> Any:
        if self._positional and others:
            return self._by_position(arguments, others)
        if not self._keywords:
            return self._run(*arguments, **others)
        given = dict(zip(self.inputs, arguments, strict=True))
        in_order = [argument for name, argument in given.items() if name not in self._keywords]
        by_name = {name: given[name] for name in self._keywords if given[name] is not None}
        return self._run(*in_order, **by_name, **others)

    def _by_position(self, arguments: Sequence[Tensor | None], others: Mapping[str, Any]) -> Any:
        """Run with what cannot be passed by name in its place, among the inputs; what is left out is as by default."""
        inputs = dict(zip(self.inputs, arguments, strict=True))
        named = {name: x for name, x in inputs.items() if name in self._keywords or name in self._positional}
        given = {name: x for name, x in named.items() if x is not None} | dict(others)
        free = (name for name in self._positional if name not in given and name not in named)
        given |= dict(zip(free, (x for name, x in inputs.items() if name not in named), strict=False))
        in_order = [given.pop(name, default) for name, default in self._positional.items()]
        while in_order and in_order[-1] is inspect.Parameter.empty:
            in_order.pop()  # Python says which is missing
        return self._run(*in_order, **given)


def _part(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        known = ", ".join(repr(part) for part, _ in module.named_children()) or "none"
        raise ModelFailedError(
            f"train: {type(module).__name__} has no part {name!r:.80}; its parts are {known}"
        ) from None


def method_of(module: nn.Module, name: str) -> Callable[..., Any]:
    """Return what is called. Of a compiled module it is the original's, whose signature names the inputs.

    Raises:
        ModelFailedError: the module has no such method; the sentence names those that it has.

    """
    module = getattr(module, "_orig_mod", module)
    method = getattr(module, name, None)
    if callable(method) and getattr(method, "__func__", None) is not nn.Module.forward:
        return cast(Callable[..., Any], method)
    lacks = "no forward" if name == "forward" else f"no method {name!r}"
    known = " or ".join(f'method = "{own}"' for own in _own_methods(type(module))[:_MOST_NAMED])
    raise ModelFailedError(
        f"method: {type(module).__name__} has {lacks}; expected {known or 'a module that takes a tensor'}"
    )


def _own_methods(cls: type[nn.Module]) -> list[str]:
    """The public methods that a class has beside those of every module, and that cannot do without an argument."""
    own = [held for one in cls.__mro__ if one not in nn.Module.__mro__ for held in vars(one).items()]
    return list(
        dict.fromkeys(
            name
            for name, held in own
            if not (name.startswith("_") or hasattr(nn.Module, name))
            and isinstance(held, FunctionType)
            and len(required_inputs(held) or ()) > 1
        )
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


def positional(forward: Any) -> dict[str, Any]:
    """Return the parameters that `forward` takes by position only, and their defaults."""
    return {p.name: p.default for p in parameters_of(forward) if p.kind is p.POSITIONAL_ONLY}


def parameters_of(method: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a method; none where it has no signature that can be read."""
    try:
        return tuple(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return ()


def with_default(forward: Forward) -> list[str]:
    """Return the inputs that go to forward by name, and that it has a default for."""
    try:
        parameters = inspect.signature(forward.method).parameters
    except (TypeError, ValueError):
        return []
    by_name = keywords(forward.method, forward.inputs)
    return [
        n
        for n in forward.inputs
        if n in by_name and n in parameters and parameters[n].default is not parameters[n].empty
    ]


def required_inputs(forward: Any) -> list[str] | None:
    """Return the names of the parameters that `forward` cannot do without; None where its signature does not say."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return None
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    if not required and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return required


def name_outputs(returned: Any, state: Collection[str] = ()) -> dict[str, tuple[Tensor, str | None]]:
    """Return the tensors that a forward returned and a manifest can name, by the names they have or get.

    With each comes the path that its `result` must name; None where it is found without. `state` are the paths of
    results that are state, which are left out, unless nothing else is left.
    """
    others = {str(key): value for key, value in fields(returned) if str(key) not in state and _is_output(value)}
    if not state or isinstance(returned, Tensor) or not others:
        named = _named(returned) or _named(dict(others))
        return {name: (value, None) for name, value in named.items()} or _first_inside(returned, state)
    if isinstance(returned, (tuple, list)) and not hasattr(returned, "_fields"):
        in_order = list(others) == [str(index) for index in range(len(others))]
        names = {key: "output" if len(others) == 1 else f"output_{i}" for i, key in enumerate(others)}
        return {names[key]: (value, None if in_order else key) for key, value in others.items()}
    return {name: (value, None) for name, value in others.items()}


def _first_inside(returned: Any, state: Collection[str]) -> dict[str, tuple[Tensor, str | None]]:
    """Return the first tensor in the containers that a forward returned, such as lists by layer, but for its state."""
    with suppress(UnsupportedValueError):
        for part in flatten(returned)[0]:
            path = ".".join(part.path)
            held = any(path == one or path.startswith(f"{one}.") for one in state)
            if part.kind is Kind.TENSOR and _is_output(part.tensor) and not held:
                return {"output": (part.tensor, path)}
    return {}


def result_paths(specs: Sequence[TensorSpec], returned: Any) -> list[str]:
    """Return the paths of the outputs in what a forward returned."""
    by_order = isinstance(returned, (tuple, list)) and not {s.name for s in specs} <= set(
        getattr(returned, "_fields", ())
    )
    named = any(spec.result is not None for spec in specs)
    return [
        str(spec.result) if spec.result is not None else str(index) if by_order and not named else spec.name
        for index, spec in enumerate(specs)
    ]


def _named(returned: Any) -> dict[str, Tensor]:
    named: Mapping[Any, Any] = {}
    if isinstance(returned, Tensor):
        named = {"output": returned}
    elif isinstance(returned, Mapping):
        named = returned
    elif isinstance(returned, tuple) and hasattr(returned, "_fields"):
        named = dict(zip(returned._fields, returned, strict=True))
    elif is_dataclass(returned) and not isinstance(returned, type):
        named = vars_of(returned)
    elif isinstance(returned, (tuple, list)):
        # A manifest names what a tuple starts with: (output, (h, c)) has one output.
        leading = list(takewhile(_is_output, returned))
        named = {"output" if len(leading) == 1 else f"output_{i}": value for i, value in enumerate(leading)}
    return {key: value for key, value in named.items() if isinstance(key, str) and _is_output(value)}


def _is_output(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in {datatype.torch for datatype in Datatype}


def match_outputs(specs: Sequence[TensorSpec], returned: Any) -> dict[str, Any]:
    """Return what `forward` returned, by the manifest's names: by key or field where it has them, else in order.

    Raises:
        ModelFailedError: it returned fewer values than the manifest names.

    """
    if any(spec.result is not None for spec in specs):
        return {spec.name: _result(spec, returned) for spec in specs}
    if isinstance(returned, Tensor):
        returned = (returned,)
    elif isinstance(returned, tuple) and {spec.name for spec in specs} <= set(getattr(returned, "_fields", ())):
        returned = dict(zip(returned._fields, returned, strict=True))  # type: ignore[attr-defined]
    elif is_dataclass(returned) and not isinstance(returned, type):
        returned = vars_of(returned)
    if isinstance(returned, Mapping):
        return {spec.name: returned.get(spec.name) for spec in specs}
    if isinstance(returned, (tuple, list)) and len(returned) >= len(specs):
        return {spec.name: value for spec, value in zip(specs, returned, strict=False)}
    count = len(returned) if isinstance(returned, (tuple, list)) else 0
    raise ModelFailedError(
        f"forward returned {type(returned).__name__} with {count} tensors where the manifest names {len(specs)}"
    )


def _result(spec: TensorSpec, returned: Any) -> Any:
    try:
        return pick(returned, path_of(spec.name if spec.result is None else spec.result))
    except LookupError as error:
        raise ModelFailedError(
            f"the output {spec.name!r}: result = {spec.result!r}: forward returned no such result: {error}"
        ) from None


def output_faults(specs: Sequence[TensorSpec], values: Mapping[str, Any], *, sizes: bool = False) -> list[str]:
    """Say which outputs are not what the manifest says; `sizes`: also where the sizes of their axes differ."""
    faults = []
    for spec in specs:
        value = values[spec.name]
        if not isinstance(value, Tensor):
            faults.append(f"forward returned no tensor for the output {spec.name!r}")
        elif value.dtype is not spec.datatype.torch:
            faults.append(
                f"the output {spec.name!r} has another datatype; expected {spec.datatype.name}, got {called(value)}"
            )
        elif value.ndim != len(spec.shape) or (
            sizes and any(size not in (-1, found) for size, found in zip(spec.shape, value.shape, strict=True))
        ):
            faults.append(
                f"the output {spec.name!r} has another shape; expected {list(spec.shape)}, got {list(value.shape)}"
            )
    return faults


def called(tensor: Tensor) -> str:
    """Return the Open Inference Protocol's name of a tensor's datatype, or torch's where that has none."""
    try:
        return of_tensor(tensor).name
    except KeyError:
        return str(tensor.dtype).removeprefix("torch.")


def zeros(specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Return the dry run's inputs: zeros, or the manifest's examples."""
    return {
        spec.name: torch.zeros(spec.example_shape, dtype=spec.datatype.torch)
        if spec.example is None
        else torch.from_numpy(spec.filled(spec.example_shape)).to(spec.datatype.torch)
        for spec in specs
    }
