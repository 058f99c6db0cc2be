"""What calls return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SessionInfo(TypedDict):
    """A session's metadata; times are RFC 3339, `ttl` is in seconds."""

    session: str
    model: str
    version: str
    step: int
    created: str
    last_used: str
    expires: str
    ttl: int
    state: list[dict[str, Any]]


class Totals(TypedDict):
    """An accumulator's totals."""

    accumulator: str
    count: int
    sum: float
    mean: float | None
    minimum: float | None
    maximum: float | None
    step: int


@dataclass(frozen=True)
class Predictions:
    """A model's outputs, one entry for each instance."""

    predictions: Sequence[Any]
    """As in JSON: numbers, lists, or objects by output name; of a classifier `label` and `probabilities`."""

    def array(self, output: str | None = None, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Return an output as an array, instances first; NaN and infinities, which JSON does not have, are NaN.

        `output` is a name, for a model with several outputs; for a classifier `probabilities`, which is the default,
        or `label`.
        """
        values = self.predictions
        if len(values) > 0 and isinstance(values[0], dict):
            name = output or ("probabilities" if "probabilities" in values[0] else None)
            if name not in values[0]:
                raise KeyError(f"there is no output {name!r}; expected one of {sorted(values[0])}")
            values = [entry[name] for entry in values]
        elif output is not None:
            raise KeyError(f"there is no output {output!r}: the model has only one, without a name")
        found = np.asarray(values, dtype)
        return found.astype(np.float64) if found.dtype == object else found


@dataclass(frozen=True)
class Step(Predictions):
    """A committed step of a session."""

    session: str
    step: int
    """The session's step after it."""
    version: str | None = None
    """The model's version that ran; None where the response was stored by a service that did not say it."""

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """Return the step that a response is about."""
        return cls(body["predictions"], body["session"], body["step"], body.get("version"))
