"""One regular expression for the paths of many routes."""

import re

from carryover.api.route import Route

_NAME = "[A-Za-z0-9._~-]+"
"""What stands for a parameter; a path with another name is not ordinary."""


Matched = tuple[Route, tuple[str, ...], tuple[int, ...]]
"""A route, the names of its parameters, and the groups that they are."""


def patterns(routes: list[Route]) -> tuple[re.Pattern[str], dict[int, Matched]]:
    """Return what matches the paths of all routes, and which it was, by the last group that has matched.

    A route's group ends after those of its parameters. Group 0, which is the path, stands after them, as `Match.group`
    returns a tuple only if it is asked for several.
    """
    alternatives: list[str] = []
    found: dict[int, Matched] = {}
    group = 1
    for route in routes:
        for template in route.templates():
            parts = re.split(r"\{(\w+)\}", template)
            names = parts[1::2]
            fixed = [re.escape(part) for part in parts[::2]]
            alternatives.append(f"({f'({_NAME})'.join(fixed)})")
            found[group] = route, tuple(names), (*range(group + 1, group + 1 + len(names)), 0)
            group += 1 + len(names)
    return re.compile("|".join(alternatives)), found
