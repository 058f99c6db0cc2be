"""What `inspect` shows of a model's version: its tensors, and every problem in it, not only the first."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carryover.cli.checkpoint import groups, hint
from carryover.cli.summary import HEADINGS, Summary, cells, summary
from carryover.cli.terminal import table
from carryover.runtime import weights
from carryover.runtime.forward import Forward
from carryover.runtime.loading import Loading, ModelFolder
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.report import Problem, Severity
from carryover.runtime.version import ModelVersion
from carryover.runtime.warnings import add_warnings
from carryover.settings import Settings


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor: `kind` is parameter, frozen, state, or tensor where the class is not known; `why` says it of buffers.

    `figures` is None for a buffer that holds nothing yet.
    """

    name: str
    kind: str
    figures: Summary | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What was found; `fingerprint` only where the version loads, `stateful` None where it is not known."""

    path: str
    model: str
    version: str
    versions: list[str]
    target: str | None
    weights: str | None
    fingerprint: str | None
    stateful: bool | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    batching: str
    tensors: list[Row]
    problems: list[dict[str, Any]]

    @property
    def errors(self) -> list[str]:
        """What keeps the service from loading it."""
        return [problem["sentence"] for problem in self.problems if problem["severity"] == Severity.ERROR]

    def text(self) -> str:
        """Return the report as text."""
        head = [
            ("model", self.model),
            ("version", f"{self.version} of {', '.join(self.versions) or 'none'}"),
            ("class", self.target or "not known"),
            ("weights", self.weights or "none"),
            ("fingerprint", self.fingerprint or "none: it does not load"),
            *(("input", _spec(spec)) for spec in self.inputs),
            *(("output", _spec(spec)) for spec in self.outputs),
            ("batching", self.batching),
        ]
        rows = [(row.name, row.kind, *cells(row.figures), row.why) for row in self.tensors]
        tensors = [table([("TENSOR", "KIND", *HEADINGS, "WHY"), *rows], right=(4,))] if rows else []
        lines = [f"  {problem['severity']:<7}  {problem['sentence']}" for problem in self.problems]
        problems = "\n".join(["Problems:", *lines]) if lines else "No problems were found."
        return "\n\n".join([table(head), *tensors, problems])


def version_report(folder: Path, number: str | None, settings: Settings) -> VersionReport:
    """Load a version as the service does: the one asked for, or the default one and, for their errors, all others."""
    found = ModelFolder(folder)
    report, described = found.report, found.manifest
    chosen = number or (described and described.version) or (found.numbers or ["1"])[-1]
    if number is not None and number not in found.numbers:
        report.error(f"{folder}: there is no version {number}; expected a numbered folder, such as {folder}/1")
    loading = found.load(chosen, trust_pt2=settings.trust_pt2) if chosen in found.numbers else None
    for other in found.numbers:
        if number is None and other != chosen:
            found.load(other, trust_pt2=settings.trust_pt2)
    file, rows = loading.weights if loading else None, list[Row]()
    with report.stage(str(file or folder)):
        if loading is None and chosen in found.numbers:
            file = weights.find(folder / chosen)
        rows = _rows(loading, loading.forward) if loading and loading.forward else _bare(file)
    if loading is not None:
        add_warnings(report, loading, settings.max_state_bytes)
    version = loading and loading.version
    state = loading.state if loading else None
    inputs, outputs = (loading.manifest.inputs, loading.manifest.outputs) if loading else ((), ())
    return VersionReport(
        path=str(folder if number is None else folder / number),
        model=found.name,
        version=chosen,
        versions=found.numbers,
        target=described.target if described else None,
        weights=str(file) if file else None,
        fingerprint=version.fingerprint.hex() if version else None,
        stateful=bool(state) if loading and (loading.outcome or state) else None,
        inputs=[_described(spec, state) for spec in inputs],
        outputs=[_described(spec, state) for spec in outputs],
        batching=_batching(loading.tried, failed=loading.batching_failed) if loading else "not tried",
        tensors=rows,
        problems=[_problem(problem) for problem in report.problems],
    )


def _rows(loading: Loading, forward: Forward) -> list[Row]:
    """The rows of a module's parameters and buffers."""
    module, outcome = forward.module, loading.outcome
    saved = module.state_dict().keys()
    mutated = forward.program.mutated if forward.program else ()
    rows = [Row(name, "parameter", summary(parameter)) for name, parameter in module.named_parameters()]
    for slot in forward.slots():
        name, held = slot.name, slot.registered
        change = outcome.changes.get(name) if outcome else None
        whys = [
            change.value if change else "not changed by the dry run" if outcome else "the dry run failed",
            *(["mutated, says the program's graph signature"] if name in mutated else []),
            *(["listed in the manifest"] if name in loading.manifest.state else []),
            *(["not in the checkpoint (persistent=False)"] if name not in saved else []),
        ]
        kind = "state" if name in loading.state else "frozen" if outcome else "buffer"
        rows.append(Row(name, kind, None if held is None else summary(held), ", ".join(whys)))
    return rows


def _bare(file: Path | None) -> list[Row]:
    """The rows of a checkpoint of which nothing more is known; none of a program."""
    if file is None or file.suffix == ".pt2":
        return []
    return [
        Row(".".join((*group.path, name)), "tensor", summary(tensor), hint(name))
        for group in groups(weights.contents(file))
        for name, tensor in group.tensors.items()
    ]


def _batching(version: ModelVersion | None, *, failed: bool) -> str:
    if version is None:
        return "not tried"
    who = "sessions" if version.stateful else "requests"
    if not version.batched:
        return f"not claimed: {who} run one at a time"
    return "claimed with batch_dim, and refuted" if failed else f"proved: {who} in one batch get what each gets alone"


def _described(spec: TensorSpec, state: Collection[str] | None) -> dict[str, Any]:
    one = spec.of_one_session() if state else spec
    return one.model_dump() | {"datatype": spec.datatype.name}


def _spec(spec: Mapping[str, Any]) -> str:
    batch = "" if spec["batch_dim"] is None else f"  batch_dim {spec['batch_dim']}"
    return f"{spec['name']} {spec['datatype']} {list(spec['shape'])}{batch}"


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "sentence": problem.sentence,
        "severity": problem.severity,
        "refused": problem.severity is Severity.ERROR,
    }
