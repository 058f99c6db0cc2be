"""Processes of other programs, any of which may end while it is looked at."""

import psutil


def runs(process: psutil.Process) -> bool:
    """Tell whether it has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def name_of(process: psutil.Process) -> str:
    """Return its program's name; empty where it has ended."""
    try:
        return process.name() if runs(process) else ""
    except psutil.NoSuchProcess:
        return ""
