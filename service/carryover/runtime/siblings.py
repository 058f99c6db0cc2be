"""Importing code from a folder that is not on `sys.path`, where files import each other by their bare names.

Each import of a folder is a package with a name of its own, so no two models share a module, and neither do two loads
of one. In its files, and in nobody else's, `import` looks into the folder before anywhere else.
"""

import builtins
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

_PREFIX = "carryover_models_"
_numbers = count()


class Siblings:
    """The modules of one folder, as one package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name, digest = re.sub(r"\W", "_", folder.name), sha256(str(folder).encode()).hexdigest()[:8]
        self.package = f"{_PREFIX}{name}_{digest}_{next(_numbers)}"
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}
        self._prefixes = [f"{self.package}."]
        self._owners: dict[str, str | None] = {}
        root = ModuleType(self.package)
        root.__path__ = [str(folder)]
        self._modules: dict[str, ModuleType] = {self.package: root}

    def module(self, name: str) -> ModuleType:
        """Import a module of the folder by its dotted name.

        The files that lie beside it are found by their bare names, too, as if it were run as a script.
        """
        inner = name.rpartition(".")[0]
        if inner and (prefix := f"{self.package}.{inner}.") not in self._prefixes:
            self._prefixes.append(prefix)
            self._owners.clear()
        self._enter()
        importlib.invalidate_caches()
        return importlib.import_module(f"{self.package}.{name}")

    def files(self) -> list[Path]:
        """Return the files of the folder that were imported."""
        found = [vars(module).get("__file__") for name, module in sys.modules.items() if self._has(name)]
        return sorted({Path(file) for file in found if file})

    def withdraw(self) -> None:
        """Take the modules out of `sys.modules`, so that they end with the last model that was made of them."""
        self._modules |= {name: module for name, module in sys.modules.items() if self._has(name)}
        for name in self._modules:
            sys.modules.pop(name, None)
        _packages.pop(self.package, None)

    def _has(self, name: str) -> bool:
        return name == self.package or name.startswith(f"{self.package}.")

    def _enter(self) -> None:
        """Put the modules into `sys.modules`, where imports within the package are looked up."""
        if self.package not in sys.modules:
            _packages[self.package] = self
            sys.modules.update(self._modules)

    def _import(
        self,
        name: str,
        variables: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        names: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import for a file of the folder; it may do so long after it was imported itself."""
        self._enter()
        top = name.partition(".")[0]
        if top == "importlib" and not level and (name == top or not names):
            builtins.__import__(name)
            return self._importlib()
        if level or top == self.package:
            return builtins.__import__(name, variables, local, names or (), level)
        if (prefix := self._owner(top)) is not None:
            return self._sibling(prefix, name, names)
        try:
            return builtins.__import__(name, variables, local, names or (), 0)
        except ModuleNotFoundError as error:
            if error.name != top or (prefix := self._owner(top, bare=True)) is None:
                raise
        return self._sibling(prefix, name, names)

    def _importlib(self) -> ModuleType:
        """`importlib`, with an `import_module` that looks into the folder, too."""
        found = ModuleType("importlib")
        vars(found).update(vars(importlib), import_module=self._import_module)
        return found

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        if name.startswith("."):
            return importlib.import_module(name, package)
        return self._import(name, names=("__name__",))

    def _sibling(self, prefix: str, name: str, names: Sequence[str] | None) -> ModuleType:
        found = importlib.import_module(f"{prefix}{name}")
        if not names:
            return sys.modules[f"{prefix}{name.partition('.')[0]}"]
        return builtins.__import__(f"{prefix}{name}", None, None, names, 0) if hasattr(found, "__path__") else found

    def _owner(self, top: str, *, bare: bool = False) -> str | None:
        """Return the prefix of the package where a module lies; `bare`: a folder without `__init__.py` is one."""
        if not bare and top in self._owners:
            return self._owners[top]
        found = None
        for prefix in self._prefixes:
            if holds(self.folder.joinpath(*prefix.split(".")[1:-1]), top, bare=bare):
                found = prefix
                break
        if not bare:
            self._owners[top] = found
        return found


class _Loader(SourceFileLoader):
    """Runs a file of a folder with its own `import`."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _packages[module.__name__.partition(".")[0]].builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of the packages that are such folders."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module is; None for all other packages."""
        if not name.startswith(_PREFIX) or name.partition(".")[0] not in _packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_packages: dict[str, Siblings] = {}
_latest: dict[Path, Siblings] = {}
sys.meta_path.insert(0, _Finder)


def of(folder: Path, *, again: bool) -> Siblings:
    """Return the modules of a folder; `again`: as its files are now."""
    folder = folder.resolve()
    if again and folder in _latest:
        _latest.pop(folder).withdraw()
    if folder not in _latest:
        _latest[folder] = Siblings(folder)
    return _latest[folder]


def imported_by(file: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a file's imports start from, its own or the current one, and all files there it needs.

    Where it cannot be imported from either, that is the file alone; why is said when its class is looked for.
    """
    for root in (file.resolve().parent, Path.cwd().resolve()):
        if not file.resolve().is_relative_to(root):
            continue
        modules = Siblings(root)
        try:
            modules.module(".".join(file.resolve().relative_to(root).with_suffix("").parts))
            return root, modules.files()
        except (Exception, SystemExit):  # noqa: BLE001, S112 - the file's own code may raise anything
            continue
        finally:
            modules.withdraw()
    return file.resolve().parent, [file.resolve()]


def holds(folder: Path, name: str, *, bare: bool = False) -> bool:
    """Whether a folder has a module of a name; `bare`: a folder without `__init__.py` counts."""
    inner = folder / name
    return (folder / f"{name}.py").is_file() or (inner / "__init__.py").is_file() or (bare and inner.is_dir())


def real(sentence: str) -> str:
    """Return a sentence with the names that modules have in their folder."""
    return re.sub(rf"{_PREFIX}\w+\b", ".", re.sub(rf"{_PREFIX}\w+\.(?=\w)", "", sentence))
