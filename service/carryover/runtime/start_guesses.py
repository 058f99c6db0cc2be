"""What a state may start from that forward cannot do without, and that is several tensors: by how forward uses it."""

import ast
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch import nn

from carryover.runtime.forward import Forward, parameters_of
from carryover.runtime.state_guesses import likely, parsed

Form = tuple["Form", ...] | dict[str, "Form"] | None
"""How tensors are nested; None is one of them."""
_MOST = 64
"""Tensors of a state that are tried."""


def used(forward: Forward, name: str) -> list[Form]:
    """Return the forms in which forward takes its parameter apart, and parts of the module take such ones of theirs."""
    kinds = {type(part): part.forward for part in forward.module.modules()}
    inner = {method: [p.name for p in parameters_of(method) if likely(p.name)] for method in kinds.values()}
    methods: dict[Callable[..., Any], list[str]] = {forward.method: [name], **inner}
    found = [form for method, names in methods.items() for one in names for form in _taken_apart(parsed(method), one)]
    return [form for at, form in enumerate(found) if form not in found[:at]]


def _taken_apart(tree: ast.AST, name: str) -> list[Form]:
    """The forms in which a function takes a variable apart: `h, c = state`, `state[1]`, `state["h"]`."""
    unpacked, keys, last = list[Form](), dict[str, Form](), -1
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Tuple() | ast.List() as target], value=ast.Name(id=found)) if found == name:
                unpacked.append(_form(target))
            case ast.Subscript(value=ast.Name(id=found), slice=ast.Constant(value=str(key))) if found == name:
                keys[key] = None
            case ast.Subscript(value=ast.Name(id=found), slice=ast.Constant(value=int(index))) if found == name:
                last = max(last, index)
    indexed: list[Form] = [(None,) * (last + 1)] if 0 < last < _MOST else []
    return [*unpacked, *([keys] if keys else ()), *indexed]


def usual(module: nn.Module) -> list[Form]:
    """Return the forms that are usual: two tensors, as of an LSTM, or one or two for each layer in a list of them."""
    counts = dict.fromkeys(len(part) for part in module.modules() if isinstance(part, (nn.ModuleList, nn.Sequential)))
    layers = [count for count in counts if 0 < count <= _MOST]
    return [(None, None), *chain.from_iterable([(None,) * count, ((None, None),) * count] for count in layers)]


def filled(form: Form, shape: Sequence[int]) -> Any:
    """Return a form with the shape of each tensor in it, as a manifest says it."""
    if form is None:
        return list(shape)
    if isinstance(form, dict):
        return {key: filled(inner, shape) for key, inner in form.items()}
    return [filled(inner, shape) for inner in form]


def _form(target: ast.expr) -> Form:
    return tuple(map(_form, target.elts)) if isinstance(target, (ast.Tuple, ast.List)) else None
