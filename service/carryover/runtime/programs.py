"""Programs: `.pt2` archives of `torch.export`, which hold a module's code beside its weights."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from inspect import Parameter, Signature
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from carryover.errors import ConfigurationError
from carryover.runtime.report import first_line

FILE = "model.pt2"


@dataclass(frozen=True, slots=True)
class Program:
    """A program's module, the buffers that its graph signature says it mutates, and SHA-256 of its file."""

    module: nn.Module
    mutated: frozenset[str]
    digest: bytes


def find(folder: Path, manifest: Path) -> Path:
    """Return the program in a version's folder, where the manifest names no class.

    Raises:
        ConfigurationError: there is none.

    """
    if not (folder / FILE).is_file():
        raise ConfigurationError(f"{manifest}: class: is required, as {folder} holds no {FILE}")
    return folder / FILE


def load(path: Path, *, trusted: bool) -> Program:
    """Load a program, if it is `trusted`: torch unpickles what is in it, which can be any code.

    Raises:
        ConfigurationError: it is not trusted, or is damaged.

    """
    if not trusted:
        raise ConfigurationError(f"{path}: a program can run any code when it is loaded; TRUST_PT2=true says it may")
    try:
        with _quiet():
            exported = torch.export.load(path)
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").digest()
            return Program(_module(exported), _mutated(exported), digest)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{path}: is not a readable program: {first_line(error)}") from error


def again(path: Path, digest: bytes) -> nn.Module:
    """Load a program that is trusted, and was loaded before.

    Raises:
        ConfigurationError: its file has changed since, or is damaged.

    """
    program = load(path, trusted=True)
    if program.digest != digest:
        raise ConfigurationError(f"{path}: has changed since it was loaded")
    return program.module


def _module(exported: ExportedProgram) -> nn.Module:
    """The module that the program was exported from, as far as a caller can tell."""
    module = exported.module()
    if elsewhere := {str(held.device) for held in module.state_dict().values()} - {"cpu"}:
        raise ValueError(f"it was exported for {', '.join(elsewhere)}; export it for the CPU")
    # It stays in the mode in which it was exported, and raises where it is told to.
    module.eval = lambda: module  # type: ignore[method-assign]
    # It takes by position and by name what it was exported with, and its forward's own signature does not tell.
    by_name = exported.call_spec.in_spec.child(1).context if exported.call_spec.in_spec else []
    forward = type(module).forward
    forward.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.KEYWORD_ONLY if name in by_name else Parameter.POSITIONAL_ONLY)
            for name in Signature.from_callable(forward).parameters
        ]
    )
    return module


def _mutated(exported: ExportedProgram) -> frozenset[str]:
    """The buffers that the graph signature names; that of a program not yet functional names none."""
    signature = exported.graph_signature
    if signature.buffers and not signature.buffers_to_mutate:
        with suppress(Exception):  # aliased buffers, among others, cannot be made functional: the dry run finds them
            signature = exported.run_decompositions({}).graph_signature
    return frozenset(signature.buffers_to_mutate.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch logs of a damaged file, with tracebacks, to the sentence that is raised."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)
