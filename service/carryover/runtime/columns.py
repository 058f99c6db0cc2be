"""One step of each of many sessions as columns: one array for each input and output, and one for all states.

The instances of all sessions lie one session after another along an axis of instances. A forward takes the sessions
along `batch_dim`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from carryover.runtime.datatypes import Array
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.version import ModelVersion


@dataclass(slots=True)
class Columns:
    """The invocation of a step of so many `sessions`; `state` is that of one session after another."""

    inputs: Mapping[str, Array]
    state: bytes
    sessions: int

    @property
    def requests(self) -> int:
        """Of how many requests it is."""
        return self.sessions


def fit(version: ModelVersion) -> bool:
    """Whether sessions of a version may be columns: it runs all that have its usual state as one batch.

    A state of which something is not there at step 0 has another size after that.
    """
    specs, layout = (*version.inputs, *version.outputs), version.layout
    axes = all(spec.instance_axis is not None and spec.batch_dim is not None and not spec.optional for spec in specs)
    return axes and version.batched and version.stateful and not layout.absent and not layout.shares


def batched(spec: TensorSpec, instances: Array, sessions: int) -> Array:
    """Return the instances of equally long calls of so many sessions, of one after another, as a batch."""
    return _moved(instances, sessions, spec.instance_axis or 0, spec.batch_dim or 0)


def unbatched(spec: TensorSpec, batch: Array, sessions: int) -> Array:
    """Return a batch of so many sessions, as `batched` makes it, with the instances of one after another."""
    return _moved(batch, sessions, spec.batch_dim or 0, spec.instance_axis or 0)


def _moved(array: Array, sessions: int, source: int, target: int) -> Array:
    """Return an array that has so many sessions one after another along one axis with them along another one."""
    if source == target:
        return array
    shape = array.shape
    apart = array.reshape(*shape[:source], sessions, shape[source] // sessions, *shape[source + 1 :])
    merged = np.moveaxis(apart, source, target)
    shape = merged.shape
    return merged.reshape(*shape[:target], sessions * shape[target + 1], *shape[target + 2 :])
