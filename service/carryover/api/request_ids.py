"""The id of a request: that of its `X-Request-ID`, which a proxy or client has chosen, or a random one."""

import re
from os import urandom

HEADER = "X-Request-ID"

_VALID = re.compile(r"[!-~]{1,128}")
DESCRIPTION = "An id for the request: 1 to 128 printable ASCII characters without blanks; any other is replaced."


def of(given: str | None) -> str:
    """Return the id that a request names; one that is too long, or not printable ASCII without blanks, is replaced."""
    if given is not None and _VALID.fullmatch(given) is not None:
        return given
    return urandom(16).hex()
