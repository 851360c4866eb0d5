"""How much of its processor time a process uses: its own seconds over those that its container may have.

The process alone is measured, with one system call (0.5 us): reading the cgroup's own counter would cost a file, and would count the
neighbours of a container that runs several. What it may have is the cgroup's quota, where there is one, and the processors that it may
run on; looked up again every ``LOOK_S``, since Kubernetes resizes pods in place.

Limit: a Python process with a GIL cannot use more than about one core. One that has four shows a quarter when it is full. That is a
constant factor for pods of one size, so it changes no share among them.

Spec: cgroup v2 ``cpu.max``; v1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOOK_S: Final = 30.0
_V2 = ("cpu.max",)
_V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


def cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """What this process may use at once, > 0; ``root``: where the container's own cgroup is mounted."""
    quota = _quota(root)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return float(usable) if quota is None else min(quota, float(usable))


def _quota(root: Path) -> float | None:
    for files in (_V2, _V1):
        try:
            words = " ".join((root / file).read_text(encoding="ascii") for file in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # not there, or "max"
            continue
        if quota > 0.0 and period > 0.0:
            return quota / period
    return None
