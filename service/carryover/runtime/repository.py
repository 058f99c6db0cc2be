"""The model repository: folders of models, each a folder of versions."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from carryover.errors import ConfigurationError, NotFoundError
from carryover.runtime import manifest
from carryover.runtime.manifest import Manifest
from carryover.runtime.selfcheck import prove, prove_batching
from carryover.runtime.version import ModelVersion

log = logging.getLogger(__name__)


class Model:
    """A model and its versions, from a folder of models: `default` serves where none is asked for."""

    def __init__(
        self, name: str, versions: Mapping[str, ModelVersion], default: str, folder: Path | None = None
    ) -> None:
        self.name = name
        self.folder = folder
        self.versions = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        self.default = self.versions[default]
        self.inputs = self.default.inputs
        self.outputs = self.default.outputs
        self.labels = self.default.labels
        self.stateful = self.default.stateful
        self._by_fingerprint = {version.fingerprint: version for version in self.versions.values()}
        self._single: dict[str, Model] = {}

    def of_fingerprint(self, fingerprint: bytes) -> ModelVersion | None:
        """Return the version that a session's state is bound to; None where it is not in the repository."""
        return self._by_fingerprint.get(fingerprint)

    def at(self, version: str) -> "Model":
        """Return the same model with that one version only.

        Raises:
            NotFoundError: it has no such version.

        """
        if version not in self.versions:
            raise NotFoundError(
                f"model {self.name!r} has no version {version!r:.80}; it has {', '.join(self.versions)}"
            )
        if version not in self._single:
            self._single[version] = Model(self.name, {version: self.versions[version]}, version)
        return self._single[version]


def load_model(folder: Path, *, trust_pt2: bool = False) -> Model:
    """Load one model's folder, as a repository would.

    Raises:
        ConfigurationError: with the file and what is wrong in it.

    """
    model = _Loader({}, strict=True, trust_pt2=trust_pt2).model(folder)
    if model is None:
        raise ConfigurationError(f"{folder}: holds no model")
    return model


class Repository:
    """All models of some folders, loaded.

    `failures` says what could not be loaded when the folders were last read again; at first there is none.
    `trust_pt2`: programs may be loaded, which can run any code.
    """

    def __init__(
        self, folders: Sequence[Path], models: Mapping[str, Model], failures: Sequence[str] = (), *, trust_pt2: bool
    ) -> None:
        self.failures = tuple(failures)
        self._trust_pt2 = trust_pt2
        self._folders = tuple(folders)
        self._models = dict(models)

    @classmethod
    def load(cls, folders: Sequence[Path], *, trust_pt2: bool = False) -> "Repository":
        """Load every version of every model.

        Raises:
            ConfigurationError: with the file and what is wrong in it.

        """
        loader = _Loader({}, strict=True, trust_pt2=trust_pt2)
        models = loader.load(folders)
        if not models:
            names = ", ".join(map(str, folders))
            raise ConfigurationError(
                f"{names}: no model there: expected <model>/model.toml and <model>/<version>/weights.*"
            )
        return cls(folders, models, trust_pt2=trust_pt2)

    def reloaded(self) -> "Repository":
        """Return the repository as the folders are now; what does not load stays as it was, and is in `failures`."""
        loader = _Loader(self._models, strict=False, trust_pt2=self._trust_pt2)
        models = loader.load(self._folders)
        return Repository(self._folders, models, loader.failures, trust_pt2=self._trust_pt2)

    def folders(self) -> list[str]:
        """Return the names of the folders that are there now, of models that are served or not."""
        return [path.name for path in self._paths()]

    def probe(self, name: str) -> None:
        """Load a model from its folder as it is now, and let go of it again.

        Raises:
            NotFoundError: there is no such folder.
            ConfigurationError: with what is wrong in it; its paths are within the folders.

        """
        found = next((path for path in self._paths() if path.name == name), None)
        if found is None:
            raise NotFoundError(f"the model repository has no folder {name!r:.80}")
        try:
            load_model(found, trust_pt2=self._trust_pt2)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace(f"{found.parent}/", "")) from error

    def reasons(self) -> dict[str, str]:
        """Return `failures` by model; their paths are within the folders."""
        reasons: dict[str, str] = {}
        for failure in self.failures:
            for folder in self._folders:
                inside = failure.removeprefix(f"{folder}/")
                if inside != failure:
                    reasons.setdefault(inside.partition("/")[0].partition(":")[0], inside)
        return reasons

    def _paths(self) -> Iterator[Path]:
        return (path for folder in self._folders if folder.is_dir() for path in _folders(folder))

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def model(self, name: str, version: str | None = None) -> Model:
        """Return a model by name, or with one of its versions only.

        Raises:
            NotFoundError: there is none.

        """
        try:
            model = self._models[name]
        except KeyError:
            served = ", ".join(repr(known) for known in self._models)
            raise NotFoundError(f"there is no model {name!r:.80}; the models are {served}") from None
        return model if version is None else model.at(version)


class _Loader:
    """Loads folders; where not `strict`, what fails is taken from `before` and told in `failures`."""

    def __init__(self, before: Mapping[str, Model], *, strict: bool, trust_pt2: bool) -> None:
        self._before = before
        self._strict = strict
        self._trust_pt2 = trust_pt2
        self.failures: list[str] = []

    def load(self, folders: Sequence[Path]) -> dict[str, Model]:
        models: dict[str, Model] = {}
        for folder in folders:
            try:
                if not folder.is_dir():
                    models |= {name: model for name, model in self._before.items() if model.folder == folder}
                    raise ConfigurationError(
                        f"{folder}: there is no such folder; MODEL_REPOSITORY names where models are"
                    )
                for path in _folders(folder):
                    if path.name in models:
                        raise ConfigurationError(f"{path}: another folder has a model of this name already")
                    if (model := self.model(path)) is not None:
                        models[path.name] = model
            except ConfigurationError as error:
                self._failed(error)
        return models

    def model(self, folder: Path) -> Model | None:
        """Load one model's folder; None where that failed and there was none before."""
        before = self._before.get(folder.name)
        try:
            path = folder / "model.toml"
            if not re.fullmatch(manifest.MODEL_NAME, folder.name):
                raise ConfigurationError(f"{folder}: a model's name must match {manifest.MODEL_NAME}")
            described = manifest.read(path)
            versions = {
                version.name: loaded
                for version in _folders(folder)
                if version.name.isdecimal() and (loaded := self._version(described, path, version, before)) is not None
            }
            if not versions:
                raise ConfigurationError(
                    f"{folder}: no version to serve: expected a numbered folder, such as {folder}/1"
                )
            default = described.version or max(versions, key=int)
            if default not in versions:
                raise ConfigurationError(
                    f"{path}: version: there is no version {default}; there are {', '.join(versions)}"
                )
            return Model(folder.name, versions, default, folder.parent)
        except ConfigurationError as error:
            self._failed(error)
            return before

    def _version(self, described: Manifest, path: Path, folder: Path, before: Model | None) -> ModelVersion | None:
        try:
            return _load_version(described, path, folder, trust_pt2=self._trust_pt2)
        except ConfigurationError as error:
            self._failed(error)
            return before.versions.get(folder.name) if before else None

    def _failed(self, error: ConfigurationError) -> None:
        if self._strict:
            raise error
        if str(error) not in self.failures:
            log.error("not loaded: %s", error)
            self.failures.append(str(error))


def _load_version(described: Manifest, path: Path, folder: Path, *, trust_pt2: bool) -> ModelVersion:
    where = f"{path} (version {folder.name})"
    try:
        version = ModelVersion(path.parent.name, folder.name, described, path, folder, trust_pt2=trust_pt2)
        prove(version, where)
        prove_batching(version, where)
    except ConfigurationError:
        raise
    except Exception as error:
        # The model's own code, or torch on what is unusual in it: one model must not keep the others from being served.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(f"{where}: cannot be loaded: {first}") from error
    return version


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
