"""Finding state that is not in buffers, by running a module: optional parameters that take results, and attributes."""

import ast
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, permutations, product
from textwrap import dedent
from typing import Any

import torch
from torch import Tensor, nn

from carryover.errors import ModelFailedError
from carryover.runtime import initial
from carryover.runtime.attributes import Attributes, Snapshot
from carryover.runtime.discovery import dry_loop, dry_run
from carryover.runtime.forward import Forward, parameters_of, required_inputs, zeros
from carryover.runtime.manifest import StateSpec, TensorSpec
from carryover.runtime.state_sources import StateEntry, entries, path_of, places
from carryover.runtime.structure import UnsupportedValueError, fields, flatten, pick

_STATE = re.compile(
    r"^(h|c|s|z|hx|cx|hc|h_?0|c_?0|h[yz]|hn?s?|mem)$|^[hc](\d|_\w+)$|hidden|state|cache|memory|memories|past|prev|carry|hx|inference_params"
)
"""Names of parameters that are likely to be state."""
_NO_STATE = re.compile(
    r"mask|padding|weight|bias|label|target|length|lens|position|index|indices|return|use_|need|embed"
)
"""Names of parameters that some result may be given for, and that are no state."""
_CHOSEN = re.compile(r"action|reward|mask")
"""Names of what a client sends, such as `prev_action` and `memory_mask`, which are likely to be no state."""
_OLD_OR_NEW = re.compile(r"^(new|next|updated|prev|previous|last|old)_?|_?(new|next|out|prev|old|in|n|t|tm1|\d+|_)$")
"""What names of a state before and after a step differ in."""
_FLAG = re.compile(r"return|cache|state|stateful|next|intermediate|output")
"""Names of flags that may be needed so that forward returns its state."""
_INITIALISER = re.compile(r"(init|zero|begin|start|empty|default)\w*(state|hidden|cache|carry|memor)|^(get_)?initial$")
"""Names of methods that make what a state starts from."""
_STREAMING = re.compile(r"inference|stream|incremental|online")
"""Names of flags that may be needed so that forward keeps its state in buffers."""
_USUAL = ("hx", "state", "states", "hidden", "hidden_state", "h", "cache", "past_key_values", "memory")
"""Names of state that are tried where forward takes any name."""
_STEPS = 6
"""Steps that are compared with as many without the state: some modules give nothing until a frame is full."""
_MANY_STEPS = 40
"""As many, where attributes depend on the calls before and results do not yet: spikes, alarms, a warm-up."""
_MOST_TRIALS = 60
_TOLERANCE = 1e-6
_MOST_PAIRED = 5
"""Parameters of which it is told by running which result is passed to which."""
_DRAWS = 8
"""Results of one input that are compared: of few numbers, dropout may well leave the same ones twice."""
_MANY = 3
"""Attributes of one name that become one entry."""

Inputs = Mapping[str, Tensor]


def likely(name: str) -> bool:
    """Whether a parameter's name alone suggests that it is state."""
    return _STATE.search(name.lower()) is not None and _CHOSEN.search(name.lower()) is None


def optional_parameters(forward: Forward) -> list[str]:
    """Return the parameters that hold nothing unless they are given, and are not given; the likeliest first.

    Those that are likely to be state may hold zero, or a tensor.
    """
    parameters = parameters_of(forward.method)
    taken = {*forward.inputs, *forward.call}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [
        p.name
        for p in parameters
        if (_nothing(p.default) or (likely(p.name) and _start(p.default))) and p.kind not in variable
    ]
    if (keywords := next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)) is not None:
        names += _keys(forward.method, keywords)
    names = [name for name in dict.fromkeys(names) if name not in taken]
    return sorted((name for name in names if likely(name) or not _NO_STATE.search(name)), key=lambda n: not likely(n))


def _nothing(default: object) -> bool:
    """Whether a default is None, an empty container, or holds None alone, as in `states=(None, None)`."""
    if isinstance(default, (tuple, list)):
        return all(map(_nothing, default))
    return default is None or default == {}


def _start(default: object) -> bool:
    """Whether a default is what a state may start from: zero, or a tensor."""
    return isinstance(default, Tensor) or (isinstance(default, float) and default == 0)


def find_arguments(
    forward: Forward, specs: Sequence[TensorSpec], outputs: Collection[str] = ()
) -> dict[str, StateSpec]:
    """Return the parameters that take a result and change the next ones with it, as entries of `[state]`.

    `outputs` are the paths of results that are outputs, and so no state.
    """
    parameters = optional_parameters(forward) or _passed_through(forward)
    if forward.entries or forward.program or not parameters:
        return {}
    for inputs in ([example(specs, seed) for seed in range(_STEPS)], [zeros(specs)] * _STEPS):
        try:
            returned = dry_run(forward, inputs[0]).returned  # it need not take random numbers
        except ModelFailedError:
            continue
        results = [path for path in _results(returned) if path not in outputs]
        if any(map(_FLAG.search, flags(forward))):
            results.remove("")  # what it returns is the state if it is told to, and not unless
        leading = [str(key) for key, value in fields(returned) if _storable(value)]
        ways = [
            {name: StateSpec(input=name, output=path) for name, path in way.items()}
            for way in (
                *_by_name(forward, parameters, {*results, *leading}),
                *_assignments(parameters, results, leading),
                *_first(parameters, [path for path in leading if path not in outputs]),
            )
        ]
        ways = [way for way in ways if not _attended(forward, inputs[0], way)]
        # Spikes and tokens may be the same for long, while the state is not.
        named = [way for way in ways if all(map(likely, way))]
        found = (way for way in ways if _carries(forward, inputs, way))
        way = next(chain(found, (way for way in named if _carries(forward, inputs, way, in_state=True))), {})
        return _paired(forward, inputs, way)[0]
    return {}


def doubt(forward: Forward, specs: Sequence[TensorSpec], found: Mapping[str, StateSpec]) -> str | None:
    """Return a sentence where nothing tells which of several results is passed to which parameter."""
    arguments = {name: spec for name, spec in found.items() if spec.output is not None}
    for inputs in ([example(specs, seed) for seed in range(_STEPS)], [zeros(specs)] * _STEPS):
        with suppress(ModelFailedError):
            if _paired(forward, inputs, arguments)[1]:
                return (
                    f"forward takes {_listed(arguments)} and returns as many results of one shape: nothing tells which "
                    f"of them is passed to which; the results {_listed(s.output for s in arguments.values())} are, in "
                    "this order; where that is wrong, exchange the values of output under [state]"
                )
            return None
    return None


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(str(name)) for name in names)


def _paired(
    forward: Forward, inputs: Sequence[Inputs], found: Mapping[str, StateSpec]
) -> tuple[dict[str, StateSpec], bool]:
    """Return the entries with the results that depend on their parameters, and whether others would do as well.

    Results that are exchanged have one shape; names that forward's return statement has settle it.
    """
    paths = [str(spec.output) for spec in found.values()]
    given = {name: str(spec.output) for name, spec in found.items()}
    if not 1 < len(paths) <= _MOST_PAIRED or given in _by_name(forward, list(found), paths):
        return dict(found), False
    depends, shapes = _dependences(forward, inputs, found)
    ways = [
        dict(zip(found, way, strict=True))
        for way in permutations(paths)
        if all(shapes[path] == shapes[given[name]] for name, path in zip(found, way, strict=True))
    ]
    scores = [sum((path, name) in depends for name, path in way.items()) for way in ways]
    best = ways[scores.index(max(scores))]
    named = next((way for way in _by_name(forward, list(found), paths) if way in ways), None)
    ambiguous = named is None and scores.count(max(scores)) > 1
    chosen = {name: found[name].model_copy(update={"output": path}) for name, path in (named or best).items()}
    return chosen, ambiguous


def _dependences(
    forward: Forward, inputs: Sequence[Inputs], found: Mapping[str, StateSpec]
) -> tuple[set[tuple[str, str]], dict[str, object]]:
    """Return which results of one step change with which parameters, and the shapes of the results."""
    depends = set[tuple[str, str]]()
    with _with(forward, entries(found, forward.module, forward.method)):
        state = dry_run(forward, inputs[0]).state
        for x in inputs[1:]:
            state = dry_run(forward, x, state).state

        def results(held: Mapping[str, Tensor | None]) -> dict[str, list[Tensor]]:
            returned = dry_run(forward, inputs[0], held).returned
            return {str(s.output): _values(pick(returned, path_of(s.output))) for s in found.values()}

        before = results(state)
        for entry in forward.entries:
            leaves = {leaf.name for leaf in entry.leaves}
            other = {name: _moved(held) if name in leaves else held for name, held in state.items()}
            with suppress(ModelFailedError):  # it need not take any numbers
                after = results(other)
                depends |= {(path, entry.name) for path in before if not _same([before[path]], [after[path]])}
    return depends, {path: [(x.shape, x.dtype) for x in held] for path, held in before.items()}


def _moved(held: Tensor | None) -> Tensor | None:
    return held if held is None or not held.is_floating_point() else held * 0.75 + 0.125


def _passed_through(forward: Forward) -> Sequence[str]:
    """The usual names of state where forward takes any name, as for a layer in it."""
    return _USUAL if any(p.kind is p.VAR_KEYWORD for p in parameters_of(forward.method)) else ()


def _keys(method: Callable[..., Any], keywords: str) -> list[str]:
    """The names that a method looks up among its other keyword arguments: `kwargs.get("state")`, `kwargs["state"]`."""
    found = list[ast.expr]()
    for node in ast.walk(parsed(method)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="get" | "pop"), args=[key, *_]):
                found += [key] if name == keywords else []
            case ast.Subscript(value=ast.Name(id=name), slice=key):
                found += [key] if name == keywords else []
    return [key.value for key in found if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def parsed(method: Callable[..., Any]) -> ast.AST:
    """Return the syntax tree of a method; an empty one where its source cannot be read."""
    with suppress(OSError, TypeError, SyntaxError):
        return ast.parse(dedent(inspect.getsource(method)))
    return ast.Module([], [])


def find_call(forward: Forward, specs: Sequence[TensorSpec]) -> tuple[Forward, dict[str, StateSpec]]:
    """Return the forward with the flag that it needs to give its state, or to keep it in buffers, and what is state."""
    inputs = example(specs)
    for name in flags(forward):
        flagged = forward.calling({name: True})
        if found := find_arguments(flagged, specs):
            return flagged, found
        with suppress(ModelFailedError):
            if _STREAMING.search(name) and dry_run(flagged, inputs).changes.keys() - dry_run(forward, inputs).changes:
                return flagged, {}
    return forward, {}


def flags(forward: Forward) -> list[str]:
    """Return the parameters that are False unless they are given, by names that suggest that they concern state."""
    return [
        p.name
        for p in parameters_of(forward.method)
        if p.default is False and p.name not in forward.inputs and (_FLAG.search(p.name) or _STREAMING.search(p.name))
    ]


def find_required(forward: Forward, specs: Sequence[TensorSpec], given: Collection[str]) -> dict[str, StateSpec]:
    """Return the inputs that forward cannot do without and that take a result of their own shape, as entries.

    They start from zeros. `given` are the inputs of which it is known that they are inputs.
    """
    wanted = {spec.name: spec for spec in specs if spec.name not in given and likely(spec.name)}
    rest = [spec for spec in specs if spec.name not in wanted]
    if not wanted or not rest:
        return {}
    inputs = [example(specs, seed) for seed in range(_STEPS)]
    try:
        returned = dry_run(forward, inputs[0]).returned
    except ModelFailedError:
        return {}
    # The first result is the output, and state only where as much is wanted as there is: `h, c = cell(x, h, c)`.
    for paths in (_results(returned), [str(key) for key, _ in fields(returned)]):
        held = {path: pick(returned, path.split(".") if path else ()) for path in paths}
        choices = [
            [path for path, value in held.items() if isinstance(value, Tensor) and value.shape == spec.example_shape]
            for spec in wanted.values()
        ]
        if (way := next((way for way in product(*choices) if len(set(way)) == len(way)), None)) is not None:
            found = {
                name: StateSpec(
                    input=name, output=path, initial="zeros", shape=spec.example_shape, datatype=spec.datatype
                )
                for (name, spec), path in zip(wanted.items(), way, strict=True)
            }
            if _attended(forward, inputs[0], found):
                return {}
            return _paired(forward.taking([s.name for s in rest]), [example(rest, s) for s in range(_STEPS)], found)[0]
    return {}


def _attended(forward: Forward, inputs: Inputs, found: Mapping[str, StateSpec]) -> bool:
    """Whether forward takes more of a parameter than of its only result: it is no state, but what is attended to."""
    if [spec.output for spec in found.values()] != [""]:
        return False
    (name,) = found
    taking = forward if name in forward.inputs else forward.taking([*forward.inputs, name])
    with suppress(ModelFailedError):
        result = dry_run(forward, inputs).returned
        for axis, size in enumerate(result.shape if isinstance(result, Tensor) else ()):
            with suppress(ModelFailedError):
                larger = torch.cat([result, result], axis) if size == 1 else result
                left = dry_run(taking, {**inputs, name: larger}).returned
                if isinstance(left, Tensor) and left.shape != larger.shape:
                    return True
    return False


def initialised(module: nn.Module, names: Collection[str]) -> tuple[str, str] | None:
    """Return the parameter that is state and the method of the module that makes it: `hidden`, `init_hidden`.

    `names` are those that forward cannot do without.
    """
    wanted = list(filter(likely, names))
    if len(wanted) != 1 or len(names) == 1:
        return None
    snapshot = Snapshot(module)
    for name in dir(type(module)):
        if _INITIALISER.search(name.lower()) and inspect.ismethod(method := getattr(module, name, None)):
            with suppress(Exception):  # whatever it needs beside a batch size
                made = initial.from_method(method)
                snapshot.restore(internals=False)
                if _storable(made):
                    return wanted[0], name
    return None


def find_initialised(forward: Forward, specs: Sequence[TensorSpec]) -> dict[str, StateSpec]:
    """Return the parameter that forward is not given and cannot do without, if a method of the module makes it.

    Raises:
        ModelFailedError: forward does not take what the method makes, or returns nothing like it.

    """
    missing = [name for name in required_inputs(forward.method) or () if name not in (*forward.inputs, *forward.call)]
    if len(missing) != 1 or (made := initialised(forward.module, [*forward.inputs, *missing])) is None:
        return {}
    if found := started(forward, specs, StateSpec(input=made[0], output="", initial=made[1])):
        return found
    raise ModelFailedError(f"forward returns nothing like what {made[1]} makes for {made[0]!r}")


def started(forward: Forward, specs: Sequence[TensorSpec], spec: StateSpec) -> dict[str, StateSpec]:
    """Return an entry with the result that has the structure of what it starts from; nothing where none has.

    Raises:
        ModelFailedError: forward does not take it.

    """
    name = str(spec.input)
    (entry,) = entries({name: spec}, forward.module, forward.method)
    start = [(leaf.path, leaf.kind, *_shape(leaf.value, spec)) for leaf in entry.leaves]
    with _with(forward, [entry]):
        returned = dry_run(forward, example(specs)).returned
    for path in filter(lambda path: _storable(pick(returned, path_of(path))), _results(returned)):
        parts = flatten(pick(returned, path_of(path)))[0]
        if [(".".join(part.path), part.kind, *_shape(part.tensor, spec)) for part in parts] == start:
            return {name: spec.model_copy(update={"output": path})}
    return {}


def _shape(tensor: Tensor | None, spec: StateSpec) -> tuple[int, ...]:
    """The shape of a tensor, if the entry says which it starts with."""
    return () if tensor is None or spec.shape is None else tuple(tensor.shape)


def find_attributes(forward: Forward, specs: Sequence[TensorSpec]) -> dict[str, StateSpec]:
    """Return the attributes that forward changes and the next results depend on, as entries of `[state]`.

    Those that the forward has already are carried on.

    Raises:
        ModelFailedError: forward takes the inputs at first, and fails after several steps.

    """
    if (attributes := forward.attributes) is None:
        return {}
    inputs = [example(specs, seed) for seed in range(_STEPS)]
    try:
        looped, changed, unseen = _loop(forward, attributes, inputs)
    except ModelFailedError:
        return {}
    if unseen:  # if that fails, it does not take such inputs, and did not look at them before
        inputs = [example(specs, seed) for seed in range(_MANY_STEPS)]
        looped, changed, _ = _loop(forward, attributes, inputs)
    found = _named(_shortened(changed, forward.module))
    if not found or not _reproduces(forward, inputs, found, looped):
        return {}
    for name in tuple(found):
        fewer = {key: spec for key, spec in found.items() if key != name}
        if _reproduces(forward, inputs, fewer, looped):
            found = fewer
    return found


def _loop(
    forward: Forward, attributes: Attributes, inputs: Sequence[Inputs]
) -> tuple[list[list[Tensor]], list[str], bool]:
    """Return what a loop over inputs gives, and the attributes that change in it; none, if each input gives it alone.

    Then it is said whether what the last input leaves in one still depends on those before it.
    """
    before, changed, alone = attributes.marks(), dict[str, None](), list[list[Tensor]]()

    def read(returned: Any) -> list[Tensor]:
        """Note as well what has changed: a position in a ring comes back to where it was."""
        after = attributes.marks()
        changed.update(dict.fromkeys(name for name in after if before.get(name) != after[name]))
        return _values(returned)

    with restored(forward) as restore:
        looped = dry_loop(forward, inputs, read)
        left = attributes.marks(identities=False)
        for x in inputs:
            restore()
            alone.append(_values(dry_run(forward, x).returned))
        depends = left != attributes.marks(identities=False)
        restore()
        again = dry_loop(forward, inputs, _values)
    if not _same(looped, again):  # it draws random numbers
        return looped, [], False
    return (looped, [], depends) if _same(looped, alone) else (looped, list(changed), False)


def draws_numbers(forward: Forward, inputs: Inputs) -> bool:
    """Whether forward gives another result each time; not where it does not take the inputs."""
    found = list[list[Tensor]]()
    with suppress(ModelFailedError), restored(forward) as restore:
        for _ in range(_DRAWS):
            found.append(_values(dry_run(forward, inputs).returned))
            restore()
    return len(found) == _DRAWS and any(not _same(found[:1], [other]) for other in found[1:])


def example(specs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Tensor]:
    """Return random inputs, larger ones for larger seeds; whole numbers from 0 and 1."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for spec in specs:
        dtype, shape = spec.datatype.torch, spec.example_shape
        drawn = torch.randn(shape, generator=random) * (1 + seed) if dtype.is_floating_point else None
        found[spec.name] = (torch.randint(0, 2, shape, generator=random) if drawn is None else drawn).to(dtype)
        if spec.example is not None:
            near = 1 if drawn is None else 1 + drawn.abs() / 4
            found[spec.name] = (zeros([spec])[spec.name] * near).to(dtype)
    return found


def key_of(attribute: str, taken: Collection[str] = ()) -> str:
    """Return the name of an entry for an attribute: the last part of its own."""
    last = attribute.rpartition(".")[2]
    return attribute if last in taken else last


def _shortened(attributes: Sequence[str], module: nn.Module) -> list[str]:
    """Names of attributes with one for those that differ in numbers only, as of many layers: `layers.*.hidden`."""
    by_pattern: dict[str, list[str]] = {}
    for name in attributes:
        *parts, last = name.split(".")
        pattern = ".".join(["*" if part.isdecimal() else part for part in parts] + [last])
        by_pattern.setdefault(pattern, []).append(name)
    return [
        name
        for pattern, names in by_pattern.items()
        for name in ([pattern] if len(names) >= _MANY and places(module, pattern) == set(names) else names)
    ]


def _named(attributes: Sequence[str]) -> dict[str, StateSpec]:
    found: dict[str, StateSpec] = {}
    for attribute in attributes:
        found[key_of(attribute, found)] = StateSpec(attribute=attribute)
    return found


def _by_name(forward: Forward, parameters: Sequence[str], results: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the way that forward's return statement names: with `return y, h, c` the parameter `c` takes the last."""
    ends = [node.value for node in ast.walk(parsed(forward.method)) if isinstance(node, ast.Return)]
    named = {name: path for end in ends if end is not None for name, path in _variables(end)}
    wanted = list(filter(likely, parameters)) or parameters
    for spelled in (str, _plain):
        places = {spelled(name): path for name, path in named.items() if path in results}
        way = {name: places[spelled(name)] for name in wanted if spelled(name) in places}
        if len(way) == len(wanted) == len(set(way.values())):
            yield way
            return


def _plain(name: str) -> str:
    """A variable's name without what says that it is the old or new one: `h` of `h_prev`, `new_h` and `h2`."""
    return _OLD_OR_NEW.sub("", name.lower()) or name


def _variables(node: ast.expr, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the variables in an expression of tuples and lists, and the path of each."""
    if isinstance(node, ast.Name):
        yield node.id, path
    elif isinstance(node, (ast.Tuple, ast.List)):
        for index, part in enumerate(node.elts):
            yield from _variables(part, f"{path}.{index}" if path else str(index))


def _assignments(parameters: Sequence[str], results: Sequence[str], leading: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield ways to give results for parameters: one for each in order, a single one, and the likely ones all of it.

    `leading` are the results at the top, the output among them: as many parameters take all, `h, c = cell(x, h, c)`.
    """
    rest = [path for path in results if path and "." not in path]
    probable = [name for name in parameters if likely(name)]
    for names in (probable, parameters):
        if 1 < len(names) <= len(rest):
            yield dict(zip(names, rest[-len(names) :], strict=True))
        elif 1 < len(names) == len(leading):
            yield dict(zip(names, leading, strict=True))
        for path in rest if len(names) > 1 else ():
            inner = [one for one in results if one.startswith(f"{path}.")]
            if len(inner) == len(names):
                yield dict(zip(names, inner, strict=True))
    everything = [(name, path) for name, path in product(parameters, results) if path or likely(name)]
    everything.sort(key=lambda one: not one[1])
    yield from ({name: path} for name, path in everything[:_MOST_TRIALS])


def _first(parameters: Sequence[str], leading: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the way to give the first of several results, which is the output where nothing else says otherwise."""
    if len(leading) > 1:
        yield from ({name: leading[0]} for name in filter(likely, parameters))


def _results(returned: Any) -> list[str]:
    """The paths of the results that may be state; first those that follow the first tensor, and the whole at last."""
    top = [(str(key), value) for key, value in fields(returned)]
    first = next((key for key, value in top if isinstance(value, Tensor)), None)
    inner = [(f"{key}.{name}", held) for key, value in top for name, held in fields(value)]
    return [path for path, value in (*top, *inner) if path != first and _storable(value)] + [""]


def _storable(value: Any) -> bool:
    try:
        return bool(flatten(value)[0])
    except UnsupportedValueError:
        return False


def _carries(
    forward: Forward, inputs: Sequence[Inputs], specs: Mapping[str, StateSpec], *, in_state: bool = False
) -> bool:
    """Whether forward takes its results for these parameters, step by step, and gives other results with them.

    `in_state`: these may be the state alone.
    """
    hidden = [] if in_state else [str(spec.output) for spec in specs.values()]
    try:
        with _with(forward, entries(specs, forward.module, forward.method)):
            carried = _steps(forward, inputs, hidden)
        return not _same(carried, _steps(forward, inputs, hidden))
    except ModelFailedError:
        return False


def _steps(forward: Forward, inputs: Sequence[Inputs], hidden: Sequence[str]) -> list[list[Tensor]]:
    """What forward gives beside its state, step by step."""
    found, state = list[list[Tensor]](), None
    for x in inputs:
        outcome = dry_run(forward, x, state)
        found.append(_visible(outcome.returned, hidden))
        state = outcome.state
    return found


def _visible(returned: Any, hidden: Sequence[str]) -> list[Tensor]:
    """The results that are not state; all of them where none is left."""
    shown = [value for key, value in fields(returned) if str(key) not in hidden]
    return _values(shown) or _values(returned)


def _reproduces(
    forward: Forward, inputs: Sequence[Inputs], specs: Mapping[str, StateSpec], looped: Sequence[list[Tensor]]
) -> bool:
    """Whether steps give what a loop gave if these attributes are kept, and all others put back."""
    found, state = list[list[Tensor]](), None
    try:
        given = [*forward.entries, *entries(specs, forward.module, forward.method)]
        with _with(forward, given), restored(forward) as restore:
            for x in inputs:
                outcome = dry_run(forward, x, state)
                restore()
                found.append(_values(outcome.returned))
                state = outcome.state
    except ModelFailedError:
        return False
    return _same(found, looped)


def _values(returned: Any) -> list[Tensor]:
    """Copies of the tensors that a forward returned."""
    try:
        return [part.tensor.clone() for part in flatten(returned)[0]]
    except UnsupportedValueError:
        return [value.clone() for _, value in fields(returned) if isinstance(value, Tensor)]


def _same(one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> bool:
    return all(
        len(a) == len(b) and all(x.shape == y.shape and _close(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.double(), other.double(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


@contextmanager
def _with(forward: Forward, given: Iterable[StateEntry]) -> Iterator[None]:
    before = forward.entries
    forward.entries = tuple(given)
    try:
        yield
    finally:
        forward.entries = before


@contextmanager
def restored(forward: Forward) -> Iterator[Callable[[], None]]:
    """Put the module's attributes back in the end, and whenever the function that it gives is called."""
    snapshot = Snapshot(forward.module)

    def restore() -> None:
        snapshot.restore(internals=False)

    try:
        yield restore
    finally:
        restore()
