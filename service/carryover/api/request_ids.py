"""The id of a request: that of its `X-Request-ID`, which a proxy or client has chosen, or a random one."""

import re
from os import urandom

HEADER = "X-Request-ID"

_VALID = re.compile(r"[!-~]{1,128}")
PATTERN = f"^{_VALID.pattern}$"
"""An id that is taken as it is, as a JSON schema has it."""


def of(given: str | None) -> str:
    """Return the id that a request names; one that is too long, or not printable ASCII without blanks, is replaced."""
    if given is not None and _VALID.fullmatch(given) is not None:
        return given
    return urandom(16).hex()
