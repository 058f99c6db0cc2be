"""Where the service runs: torch has no build for some platforms, and gunicorn needs Unix.

Also run as a file, before anything is installed and by any Python 3.
"""

from __future__ import annotations  # for a Python that is too old, which is to hear that it is

import platform
import sys
import sysconfig

_OLDEST = (3, 11)
_INSTEAD = "use the container image; carryover.client runs here"


def unsupported(system: str, machine: str, libc: str, python: tuple[int, ...]) -> str | None:
    """Return why the service does not run, and what to do; None where it runs.

    `system` and `machine` are as in `platform`, `libc` is the platform that Python was built for, `python` its version.
    """
    if python < _OLDEST:
        found, oldest = (".".join(map(str, version[:2])) for version in (python, _OLDEST))
        return f"Python {found} is too old; expected {oldest} or later, such as `make run PYTHON=python{oldest}`"
    if system == "Windows":
        return f"the service does not run on Windows, as gunicorn needs Unix: use WSL 2, or {_INSTEAD}"
    if system == "Darwin" and machine == "x86_64":
        return f"the service does not run on macOS on Intel, for which there is no build of torch: {_INSTEAD}"
    if libc.endswith("musl"):
        return f"the service does not run with musl, for which there is no build of torch: {_INSTEAD}"
    return None


def reason() -> str | None:
    """Return why the service does not run here; None where it runs."""
    libc = sysconfig.get_config_var("HOST_GNU_TYPE") or ""
    return unsupported(platform.system(), platform.machine(), libc, sys.version_info[:3])


if __name__ == "__main__":
    why = reason()
    sys.exit(why and "carryover: " + why)
