"""What `inspect` shows of a model's version: its tensors, and every problem in it, not only the first."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from carryover.cli.summary import HEADINGS, cells, hint, summary
from carryover.cli.terminal import table
from carryover.runtime import weights
from carryover.runtime.loading import Loading, ModelFolder
from carryover.runtime.manifest import TensorSpec
from carryover.runtime.report import Report, Severity
from carryover.runtime.warnings import add_warnings
from carryover.settings import Settings

Row = dict[str, Any]
_SHOWN = {"name", "datatype", "shape", "batch_dim"}
"""What is shown of an input or output."""


def version_report(folder: Path, number: str | None, settings: Settings) -> tuple[dict[str, Any], Report]:
    """Load a version as the service does: the one asked for, or the default one and, for their errors, all others.

    Returns:
        What `inspect --json` prints, and the problems.

    """
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
        rows = _rows(loading, file)
    if loading is not None:
        add_warnings(report, loading, settings.max_state_bytes)
    version = loading and loading.version
    state = loading.state if loading else frozenset()
    return {
        "path": str(folder if number is None else folder / number),
        "model": found.name,
        "version": chosen,
        "versions": found.numbers,
        "target": loading.manifest.target if loading else described.target if described else None,
        "weights": str(file) if file else None,
        "fingerprint": version.fingerprint.hex() if version else None,
        "stateful": bool(state) if loading and (loading.outcome or state) else None,
        "inputs": _specs(loading.manifest.inputs, state) if loading else [],
        "outputs": _specs(loading.manifest.outputs, state) if loading else [],
        "batching": loading.batching if loading else "not tried",
        "tensors": rows,
        "problems": [
            {"sentence": problem.sentence, "severity": problem.severity, "refused": problem.severity is Severity.ERROR}
            for problem in report.problems
        ],
    }, report


def report_text(found: Mapping[str, Any]) -> str:
    """Return a version's report as text."""
    head = [
        ("model", found["model"]),
        ("version", f"{found['version']} of {', '.join(found['versions']) or 'none'}"),
        ("class", found["target"] or "not known"),
        ("weights", found["weights"] or "none"),
        ("fingerprint", found["fingerprint"] or "none: it does not load"),
    ]
    for word in ("input", "output"):
        for spec in found[f"{word}s"]:
            batch = "" if spec["batch_dim"] is None else f"  batch_dim {spec['batch_dim']}"
            head.append((word, f"{spec['name']} {spec['datatype']} {list(spec['shape'])}{batch}"))
    head.append(("batching", found["batching"]))
    rows = [(row["name"], row["kind"], *cells(row["figures"]), row["why"]) for row in found["tensors"]]
    tensors = [table([("TENSOR", "KIND", *HEADINGS, "WHY"), *rows], right=(4,))] if rows else []
    lines = [f"  {problem['severity']:<7}  {problem['sentence']}" for problem in found["problems"]]
    problems = "\n".join(["Problems:", *lines]) if lines else "No problems were found."
    return "\n\n".join([table(head), *tensors, problems])


def _rows(loading: Loading | None, file: Path | None) -> list[Row]:
    """The tensors of a module, or of a checkpoint where no more is known; `figures` is None for an empty buffer."""
    if loading and loading.forward:
        return [
            {"name": name, "kind": kind, "figures": None if tensor is None else summary(tensor), "why": why}
            for name, kind, tensor, why in loading.tensors()
        ]
    found = weights.groups(weights.contents(file)) if file and file.suffix != ".pt2" else ()
    return [
        {"name": ".".join((*group.path, name)), "kind": "tensor", "figures": summary(tensor), "why": hint(name)}
        for group in found
        for name, tensor in group.tensors.items()
    ]


def _specs(specs: Sequence[TensorSpec], state: Collection[str]) -> list[dict[str, Any]]:
    return [(spec.of_one_session() if state else spec).model_dump(include=_SHOWN) for spec in specs]
