"""The model repository: a folder of models, each a folder of versions."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.errors import ConfigurationError, NotFoundError
from service.model import manifest
from service.model.version import ModelVersion


class Model:
    """A model and its versions; the highest serves."""

    def __init__(self, name: str, versions: Mapping[str, ModelVersion]) -> None:
        self.name = name
        self.versions = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        self.default = list(self.versions.values())[-1]
        # One manifest for all versions: what goes in and comes out is the model's, not the version's.
        self.inputs = self.default.inputs
        self.outputs = self.default.outputs
        self.labels = self.default.labels
        self._by_fingerprint = {version.fingerprint: version for version in self.versions.values()}

    def of_fingerprint(self, fingerprint: bytes) -> ModelVersion | None:
        """Return the version that a session's state is bound to; None where it is not in the repository."""
        return self._by_fingerprint.get(fingerprint)


class Repository:
    """All models of a folder, loaded.

    Raises:
        ConfigurationError: on construction, with the file and what is wrong in it.

    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigurationError(f"{folder}: there is no such folder; MODEL_REPOSITORY names where the models are")
        self._models = {path.name: _load(path) for path in _folders(folder)}
        if not self._models:
            raise ConfigurationError(
                f"{folder}: holds no model: expected <model>/model.toml and <model>/<version>/weights.*"
            )

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def model(self, name: str) -> Model:
        """Return a model by name.

        Raises:
            NotFoundError: there is none.

        """
        try:
            return self._models[name]
        except KeyError:
            served = ", ".join(repr(known) for known in self._models)
            raise NotFoundError(f"there is no model {name!r:.80}; the models are {served}") from None


def _load(folder: Path) -> Model:
    path = folder / "model.toml"
    if not re.fullmatch(manifest.MODEL_NAME, folder.name):
        raise ConfigurationError(f"{folder}: a model's name must match {manifest.MODEL_NAME}")
    described = manifest.read(path)
    versions = [version for version in _folders(folder) if version.name.isdecimal()]
    if not versions:
        raise ConfigurationError(f"{folder}: holds no version: expected a numbered folder, such as {folder}/1")
    return Model(
        folder.name,
        {version.name: ModelVersion(folder.name, version.name, described, path, version) for version in versions},
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
