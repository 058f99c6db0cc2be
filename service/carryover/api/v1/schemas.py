"""The bodies that the interface takes."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt

from carryover.errors import InvalidInputError

# "." and ".." are taken out of addresses by those who send them (RFC 3986, section 5.2.4).
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}")
_NAME_RULE = "a name is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ - and neither . nor .."

MAX_TTL = 10 * 365 * 24 * 3600
"""The longest time to live of a session, in seconds."""


def name(value: str) -> str:
    """Return the name of a session or accumulator, if it is one.

    Raises:
        InvalidInputError: it is not.

    """
    if _NAME.fullmatch(value) is None:
        raise InvalidInputError(f"{value!r:.140} is not a name: {_NAME_RULE}")
    return value


def _pydantic_name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError(_NAME_RULE)
    return value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Predict(_Body):
    """One call of a model; in a session, the instances are consecutive time steps."""

    instances: list[Any]


class CreateSession(_Body):
    """A session to begin: its own name and time to live in seconds, both optional."""

    session: Annotated[str, AfterValidator(_pydantic_name)] | None = None
    ttl: Annotated[StrictInt, Field(ge=1, le=MAX_TTL)] | None = None


class Line(Predict):
    """One line of a stream."""

    idempotency_key: str | None = None


class Nothing(_Body):
    """An empty object."""


class PredictMany(_Body):
    """One step of each of many sessions: instances by session name."""

    sessions: dict[str, Any]


class Accumulate(_Body):
    """Values to add to an accumulator, nested in any way."""

    values: list[Any]
