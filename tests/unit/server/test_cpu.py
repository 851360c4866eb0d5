"""What a container may use, by either version of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshlb.server.cpu import cores


def _written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


HERE = float(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HERE),
        ({"cpu.max": "max 100000\n"}, HERE),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "100000000 100000\n"}, HERE),
        ({"cpu.max": "garbage"}, HERE),
        ({"cpu.max": ""}, HERE),
        ({"cpu.max": "0 100000"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
    ],
)
def test_the_quota_is_read_where_there_is_one(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    """Never more than the processors that the process may run on; whatever cannot be read is no quota."""
    assert cores(_written(tmp_path, files)) == expected
