"""How many CPUs this process may use: those it may be scheduled on, within the quota of its control group."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Return the number of CPUs, at least 1; a quota of 1.5 counts as 2."""
    scheduled = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, scheduled if quota is None else min(scheduled, math.ceil(quota)))


def _quota_v2(cgroup: Path) -> float | None:
    """`cpu.max` holds "max 100000" or "150000 100000" (Linux, Documentation/admin-guide/cgroup-v2.rst)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 without a limit (Linux, Documentation/scheduler/sched-bwc.rst)."""
    try:
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
