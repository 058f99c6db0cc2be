"""The model repository: folders of models, each a folder of versions."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from carryover.errors import ConfigurationError, NotFoundError
from carryover.runtime.loading import ModelFolder, models_in
from carryover.runtime.report import Report
from carryover.runtime.version import ModelVersion

log = logging.getLogger(__name__)


class Model:
    """A model and its versions, from a folder of models: `default` serves where none is asked for.

    `stateful`: at least one version keeps state. `mixed`: not all versions take and give the same; what a request of a
    session must hold is then said by the session's version. `time_steps`: consecutive steps of a session may share a
    forward, whatever its version.
    """

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
        self.stateful = any(version.stateful for version in self.versions.values())
        self.mixed = len({_interface(version) for version in self.versions.values()}) > 1
        self.time_steps = all(version.time_steps for version in self.versions.values())
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


def _interface(version: ModelVersion) -> str:
    """What callers see of a version."""
    return repr((version.inputs, version.outputs, version.labels, version.stateful))


def load_model(folder: Path, *, trust_pt2: bool = False) -> Model:
    """Load one model's folder, as a repository would.

    Raises:
        ConfigurationError: with the file and what is wrong in it.

    """
    model, report = _load_model(folder, None, trust_pt2=trust_pt2)
    report.raise_first()
    if model is None:
        raise ConfigurationError(f"{folder}: holds no model")
    return model


def _load_model(
    folder: Path, before: Model | None, *, trust_pt2: bool, repository: Path | None = None
) -> tuple[Model | None, Report]:
    """Load a model; what does not load is taken from before, where it was there, and is in the report."""
    found = ModelFolder(folder)
    versions: dict[str, ModelVersion] = {}
    for number in found.numbers if found.manifest else ():
        loading = found.load(number, trust_pt2=trust_pt2)
        version = (loading and loading.version) or (before and before.versions.get(number))
        if version:
            versions[number] = version
    default = (found.manifest and found.manifest.version) or max(versions, key=int, default="")
    if default not in versions:
        return before, found.report
    return Model(folder.name, versions, default, repository or folder.parent), found.report


class Repository:
    """All models of some folders, loaded.

    `failures` says what could not be loaded when the folders were last read again; at first there is none.
    `trust_pt2`: programs may be loaded, which can run any code.
    """

    def __init__(self, folders: Sequence[Path], before: Mapping[str, Model], *, trust_pt2: bool, strict: bool) -> None:
        self._trust_pt2 = trust_pt2
        self._folders = tuple(folders)
        self._models: dict[str, Model] = {}
        self._report = Report()
        self._reports: dict[str, Report] = {}
        for folder in folders:
            self._read(folder, before, strict=strict)
            if strict:
                self._report.raise_first()

    @classmethod
    def load(cls, folders: Sequence[Path], *, trust_pt2: bool = False) -> "Repository":
        """Load every version of every model.

        Raises:
            ConfigurationError: the first error, with the file and what is wrong in it.

        """
        loaded = cls(folders, {}, trust_pt2=trust_pt2, strict=True)
        if not list(loaded):
            names = ", ".join(map(str, folders))
            raise ConfigurationError(
                f"{names}: no model there: expected <model>/model.toml and <model>/<version>/weights.*"
            )
        return loaded

    def reloaded(self) -> "Repository":
        """Return the repository as the folders are now; what does not load stays as it was, and is in `failures`."""
        loaded = Repository(self._folders, self._models, trust_pt2=self._trust_pt2, strict=False)
        for failure in loaded.failures:
            log.error("not loaded: %s", failure)
        return loaded

    def _read(self, folder: Path, before: Mapping[str, Model], *, strict: bool) -> None:
        """Load the models in a folder; `strict`: no further than to the first error."""
        if not folder.is_dir():
            self._report.error(f"{folder}: there is no such folder; MODEL_REPOSITORY names where models are")
            self._models |= {name: model for name, model in before.items() if model.folder == folder}
            return
        for path in models_in(folder):
            if path.name in self._models:
                self._report.error(f"{path}: another folder has a model of this name already")
                continue
            previous = before.get(path.name)
            model, report = _load_model(path, previous, trust_pt2=self._trust_pt2, repository=folder)
            self._reports[path.name] = report
            if strict:
                report.raise_first()
            if model is not None:
                self._models[path.name] = model

    @property
    def failures(self) -> tuple[str, ...]:
        """What could not be loaded when the folders were last read again."""
        reports = (self._report, *self._reports.values())
        return tuple(dict.fromkeys(error for report in reports for error in report.errors))

    def folders(self) -> list[str]:
        """Return the names of the folders that are there now, of models that are served or not."""
        return [path.name for path in self._paths()]

    def probe(self, name: str) -> None:
        """Load a model from its folder as it is now, and discard it.

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
        reasons = {name: "; ".join(report.errors) for name, report in self._reports.items() if report.errors}
        for folder in filter(lambda folder: folder.parts, self._folders):
            reasons = {name: reason.replace(f"{folder}/", "") for name, reason in reasons.items()}
        return reasons

    def _paths(self) -> Iterator[Path]:
        return (path for folder in self._folders if folder.is_dir() for path in models_in(folder))

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
