"""Where the service does not run, and what is said then."""

import subprocess
import sys

import pytest

from carryover import platforms

GNU, MUSL = "x86_64-pc-linux-gnu", "x86_64-pc-linux-musl"


@pytest.mark.parametrize(
    ("system", "machine", "libc", "python", "words"),
    [
        ("Windows", "AMD64", "", (3, 11, 9), "WSL 2"),
        ("Darwin", "x86_64", "x86_64-apple-darwin23", (3, 12, 0), "no build of torch"),
        ("Linux", "x86_64", MUSL, (3, 13, 1), "musl"),
        ("Linux", "x86_64", GNU, (3, 10, 4), "Python 3.10 is too old; expected 3.11 or later"),
    ],
)
def test_a_platform_without_a_build_is_named(
    system: str, machine: str, libc: str, python: tuple[int, ...], words: str
) -> None:
    found = platforms.unsupported(system, machine, libc, python)
    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("Linux", "x86_64", GNU), ("Linux", "aarch64", "aarch64-pc-linux-gnu"), ("Darwin", "arm64", "")],
)
def test_the_service_runs_where_there_are_builds(system: str, machine: str, libc: str) -> None:
    assert platforms.unsupported(system, machine, libc, (3, 11, 0)) is None


def test_it_is_asked_before_anything_is_installed() -> None:
    done = subprocess.run([sys.executable, "-ISE", platforms.__file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
