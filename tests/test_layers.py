"""The law of the layers is enforced: what it forbids is planted in a copy of the package, and the tool refuses it, with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOWNWARD = "Imports go downward"
NO_IO = "The brain does no I/O and owns no clock"


def lint_imports(folder: Path) -> tuple[int, str]:
    """The command that ``.ci/run`` gives, in ``folder``; its exit code and what it says, in one line."""
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def copy_to(folder: Path) -> Path:
    """The package and its settings, to spoil."""
    shutil.copytree(ROOT / "meshlb", folder / "meshlb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_package_as_it_is_keeps_the_law(tmp_path: Path) -> None:
    """So whatever is refused below is what was planted."""
    code, said = lint_imports(copy_to(tmp_path))
    assert code == 0, said
    assert "0 broken" in said


PLANTED = [
    pytest.param("core", "from meshlb.pool.pool import Pool", DOWNWARD, "meshlb.core.{} -> meshlb.pool.pool", id="upward"),
    pytest.param("pool", "import meshlb.mesh", DOWNWARD, "meshlb.pool.{} -> meshlb.mesh", id="upward to a module"),
    pytest.param("balance", "import meshlb.retry.budget", DOWNWARD, "meshlb.balance.{} -> meshlb.retry.budget", id="sideways"),
    pytest.param("grpc", "import meshlb.testing.clock", DOWNWARD, "meshlb.grpc.{} -> meshlb.testing.clock", id="tools of tests"),
    pytest.param("core", "def now():\n    import time", NO_IO, "meshlb.core.{} -> time", id="a clock, inside a function"),
    pytest.param("pool", "import threading", NO_IO, "meshlb.pool.{} -> threading", id="a lock"),
    pytest.param("call", "import grpc", NO_IO, "meshlb.call.{} -> grpc", id="a transport"),
]


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the tool says of each law after all was planted, in one run."""
    folder = copy_to(tmp_path_factory.mktemp("spoiled"))
    for number, planted in enumerate(PLANTED):
        room, line, *_ = planted.values
        (folder / "meshlb" / str(room) / f"planted_{number}.py").write_text(f"{line}\n")
    code, said = lint_imports(folder)
    assert code == 1, said
    assert "0 kept, 2 broken" in said
    downward, _, no_io = said.partition("Broken contracts")[2].partition(NO_IO)
    assert DOWNWARD in downward
    return {DOWNWARD: downward, NO_IO: no_io}


@pytest.mark.parametrize(("room", "line", "law", "link"), PLANTED)
def test_a_planted_import_is_refused_with_the_reason(reasons: dict[str, str], room: str, line: str, law: str, link: str) -> None:
    """Under the law's name stands the import that breaks it."""
    number = next(at for at, planted in enumerate(PLANTED) if planted.values == (room, line, law, link))
    assert link.format(f"planted_{number}") in reasons[law]
