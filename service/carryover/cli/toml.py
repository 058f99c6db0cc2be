"""Writing a manifest, with comments."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def pairs(given: Mapping[str, Any]) -> str:
    """Return `key = value` lines."""
    return "\n".join(f"{_key(key)} = {value(given[key])}" for key in given)


def value(given: Any) -> str:
    """Return a value as TOML: numbers, strings, booleans, and lists and dicts of these."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, (int, float)):
        return repr(given)
    if isinstance(given, (list, tuple)):
        return f"[{', '.join(map(value, given))}]"
    if isinstance(given, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {value(held)}' for key, held in given.items())} }}" if given else "{}"
    return _string(str(given))


def table(*names: str) -> str:
    """Return a table's heading: `[state."layers.0.hidden"]`."""
    return f"[{'.'.join(map(_key, names))}]"


def comment(lines: Iterable[str]) -> str:
    """Return lines as comments, whatever is in them."""
    return "\n".join(f"# {' '.join(line.split())}".rstrip() for line in lines)


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else _string(name)


def _string(text: str) -> str:
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
