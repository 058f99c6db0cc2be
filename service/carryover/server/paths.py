"""One regular expression for the paths of many routes."""

import re

from carryover.api.route import Route

_NAME = "[A-Za-z0-9._~-]+"
"""What stands for a parameter; a path with another name is not ordinary."""


def patterns(routes: list[Route]) -> tuple[re.Pattern[str], dict[int, tuple[Route, list[tuple[str, int]]]]]:
    """Return what matches the paths of all routes, and by the last group that has matched the route and its parameters.

    A route's group ends after those of its parameters, which stand for themselves by their numbers.
    """
    alternatives: list[str] = []
    found: dict[int, tuple[Route, list[tuple[str, int]]]] = {}
    group = 1
    for route in routes:
        for template in route.templates():
            parts = re.split(r"\{(\w+)\}", template)
            names = parts[1::2]
            fixed = [re.escape(part) for part in parts[::2]]
            alternatives.append(f"({f'({_NAME})'.join(fixed)})")
            found[group] = route, [(name, group + number) for number, name in enumerate(names, 1)]
            group += 1 + len(names)
    return re.compile("|".join(alternatives)), found
