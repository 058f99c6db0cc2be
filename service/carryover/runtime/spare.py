"""A second module of a version, beside which a long forward does not hold up the short ones.

It is constructed as the first was, and shares its parameters and buffers: a forward changes neither, as the state is
put into the module for each call. What else a constructor makes is its own, and may be random: whoever uses a spare
compares the two first.
"""

from collections.abc import Iterator

import numpy as np
from torch import nn

from carryover.errors import CarryoverError
from carryover.runtime import buffers, process
from carryover.runtime.discovery import dry_run, learn_structures
from carryover.runtime.forward import zeros
from carryover.runtime.selfcheck import NUMBERS, example_inputs, settle_attributes
from carryover.runtime.state_sources import entries
from carryover.runtime.version import Call, ModelVersion


def build(version: ModelVersion) -> ModelVersion | None:
    """Return the same version with a module of its own; None where its class gives another one, or it is on a GPU."""
    if version.construct is None or not version.on_cpu:
        return None
    settings = process.default_dtype(), process.initial_seed()
    try:
        module = version.construct()
        if not _share(version.forward.module, module):
            return None
        forward = version.forward.on(module)
        forward.entries = entries(version.manifest.state, module, forward.method)
        dry_run(forward, zeros(version.manifest.inputs))
        learn_structures(forward, version.manifest.inputs)
        if forward.attributes is not None:
            forward.attributes.note_first_call()
        names = [buffer.name for buffer in version.layout.buffers]
        built = ModelVersion(version.name, version.version, version.manifest, forward, names)
        built.reseeds, built.stacked = version.reseeds, version.stacked
        settle_attributes(built)
    except CarryoverError:
        return None
    finally:
        process.restore(settings)
    return built if built.fingerprint == version.fingerprint else None


def examples(version: ModelVersion) -> Iterator[Call]:
    """Yield calls to compare two modules with; not every model takes all of them."""
    for numbers in NUMBERS:
        generator = np.random.default_rng(0)
        shapes = [spec.example_shape for spec in version.inputs]
        yield Call(example_inputs(version.inputs, shapes, generator, numbers), version.initial_state)


def _share(first: nn.Module, second: nn.Module) -> bool:
    """Give the second module the parameters and buffers of the first; whether both have the same."""
    given = {name: (parameter.dtype, parameter.shape) for name, parameter in second.named_parameters()}
    if given != {name: (parameter.dtype, parameter.shape) for name, parameter in first.named_parameters()}:
        return False
    parameters = dict(first.named_parameters())
    for name, parameter in second.named_parameters():
        parameter.data = parameters[name].data
    registered = {slot.name: slot.registered for slot in buffers.slots(first)}
    slots = buffers.slots(second)
    if registered.keys() != {slot.name for slot in slots}:
        return False
    for slot in slots:
        slot.put(registered[slot.name])
    return True
