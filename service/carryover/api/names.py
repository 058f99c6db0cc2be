"""The names of sessions and accumulators."""

import re

from carryover.api.inbound import Inbound
from carryover.errors import InvalidInputError

# "." and ".." are removed from URLs by those who send them (RFC 3986, section 5.2.4).
MAX_LENGTH = 128
_NAME = re.compile(rf"(?!\.{{1,2}}$)[A-Za-z0-9._~-]{{1,{MAX_LENGTH}}}")
PATTERN = f"^{_NAME.pattern}$"
"""A name, as a JSON schema has it."""
_RULE = "expected 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -, and neither . nor .."


def of_path(inbound: Inbound, parameter: str = "session") -> str:
    """Return the name that a request's path holds.

    Raises:
        InvalidInputError: no session can have it.

    """
    return checked(inbound.parameters[parameter])


def checked(name: str) -> str:
    """Return a name.

    Raises:
        InvalidInputError: no session can have it.

    """
    if _NAME.fullmatch(name) is None:
        raise InvalidInputError(f"the name {name!r:.140} is invalid; {_RULE}")
    return name


def pydantic_name(name: str) -> str:
    """Return a name, as a pydantic validator does."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"the name is invalid; {_RULE}")
    return name
