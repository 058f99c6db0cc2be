"""`python -m bench.extras`: what metrics, API keys, rates and the request log add to a step.

The first service counts and measures nothing, which no setting brings about; all others are held against it.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rows import RNN
from bench.scaling import Case, measure, pids_of, running
from carryover import keys
from tests.support.paths import CHECKPOINTS

_UNMEASURED = ("--config", "bench/unmeasured_conf.py")
_RATE = "600000/minute"
"""So high that no step is refused."""


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser("python -m bench.extras", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; every case has several")
    options = parser.parse_args()
    with ExitStack() as stack, TemporaryDirectory(prefix="bench-") as folder:
        measure(list(_cases(stack, Path(folder))), options.seconds)
    return 0


def _cases(stack: ExitStack, folder: Path) -> Iterator[Case]:
    (folder / "models").mkdir()
    (folder / "models" / "m0000").symlink_to(CHECKPOINTS / RNN)
    models: dict[str, str | Path] = {"MODEL_REPOSITORY": folder / "models"}
    logged = {"REQUEST_LOG": "all"}
    for title, options, rate, more in (
        ("nothing counted or measured", _UNMEASURED, None, {}),
        ("the same, again", _UNMEASURED, None, {}),
        ("default settings", (), None, {}),
        ("API keys", (), "", {}),
        ("API keys with a rate", (), _RATE, {}),
        ("API keys, every request logged", (), "", logged),
        ("API keys with a rate, every request logged as JSON", (), _RATE, logged | {"LOG_FORMAT": "json"}),
    ):
        headers: tuple[tuple[str, str], ...] = ()
        settings = models | more
        if rate is not None:
            secret, lines = keys.new("bench", list(keys.RIGHTS), [], None, rate or None)
            file = folder / f"{title}.toml"
            file.write_text(lines)
            settings["API_KEYS"] = file
            headers = (("Authorization", f"Bearer {secret}"),)
        service = stack.enter_context(running(*options, **settings))
        yield Case(title, [service], pids_of(service.data), headers=headers)


if __name__ == "__main__":
    sys.exit(main())
