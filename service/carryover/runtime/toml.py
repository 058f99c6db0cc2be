"""Writing TOML: the lines of a manifest, each with its tables inline."""

import json
import re
from collections.abc import Mapping
from typing import Any

_WIDTH = 120
"""Columns of a line."""


def pair(name: str, value: Any) -> str:
    """Return a key and its value in one line; a list that is too long for that has a line for each item."""
    line = f"{key(name)} = {inline(value)}"
    if len(line) <= _WIDTH or not isinstance(value, (list, tuple)):
        return line
    return "\n".join([f"{key(name)} = [", *(f"    {inline(held)}," for held in value), "]"])


def inline(value: Any) -> str:
    """Return a value in one line: a number, string or boolean, or lists and tables of these."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key(name)} = {inline(held)}' for name, held in value.items())} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, float):
        return repr(value)
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """Return a key, in quotes where TOML wants them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else inline(name)
