"""The packages of the service import each other in one direction, and each only the libraries that it is about."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "service" / "carryover"
LAYERS = {
    "errors": set[str](),
    "threads": set[str](),
    "client": set[str](),
    "settings": {"errors"},
    "keys": {"errors"},
    "telemetry": {"errors"},
    "store": {"errors"},
    "runtime": {"errors"},
    "engine": {"errors", "keys", "threads", "telemetry", "store", "runtime"},
    "api": {"errors", "keys", "threads", "telemetry", "store", "runtime", "engine", ""},
    "server": {"errors", "keys", "settings", "threads", "telemetry", "store", "runtime", "engine", "api"},
    "cli": {"errors", "keys", "settings", "runtime", "api", ""},
    "": {"api", "cli"},
}
"""What each package may import; the empty name is the package as a whole."""
LIBRARIES = {
    "torch": {"runtime", "cli", "server"},
    "redis": {"store", "server"},
    "flask": {"api", "cli", ""},
    "gunicorn": {"api", "server", "telemetry"},
    "safetensors": {"runtime", "cli"},
    "websockets": {"api"},
    "aiohttp": {"client"},
}
"""Who may import a library."""


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str:
    """The package of the service, or the module beside its packages, that a module belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] in LAYERS else ""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_package_has_a_layer() -> None:
    assert {part(name) for name in FILES} == set(LAYERS)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_what_is_below_it(name: str) -> None:
    own = part(name)
    for found in imports(FILES[name]):
        library = found.partition(".")[0]
        if library == "carryover":
            assert part(found) in LAYERS[own] | {own}, found
        elif library in LIBRARIES:
            assert own in LIBRARIES[library], found


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {module for found in imports(path) if (module := _module(found)) and module != name}
        for name, path in FILES.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def _module(found: str) -> str | None:
    """The module that an import names, which may name something in it."""
    for name in (found, found.rpartition(".")[0]):
        if name in FILES and name.count("."):
            return name
    return None


def test_requests_of_flask_are_read_in_one_file() -> None:
    users = [name for name, path in FILES.items() if "flask.request" in imports(path)]
    assert users == ["carryover.api.application"]
