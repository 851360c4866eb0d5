"""Users get types: the files in ``cases`` pass mypy --strict, from outside, with the package found as an installed one.

A case says what must be known (``assert_type``), and with ``type: ignore[code]`` what must be refused: an ignore that nothing needs
is an error too. The stub packages that a user may have (types-grpcio) are in the test extra.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted(Path(__file__).with_name("cases").glob("*.py"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package is read once for all tests."""
    return tmp_path_factory.mktemp("mypy")


def mypy(folder: Path, cache: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """Run in an empty folder, without the project's settings; a package on sys.path counts as installed: its py.typed decides."""
    pytest.importorskip("mypy")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_every_case_holds(tmp_path: Path, cache: Path) -> None:
    """All in one run: mypy reads the package once."""
    assert len(CASES) >= 6
    done = mypy(tmp_path, cache, *CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cases_would_notice(tmp_path: Path, cache: Path) -> None:
    """A wrong claim, a needless ignore and a name that does not exist are errors: the run above is no formality."""
    case = tmp_path / "case.py"
    case.write_text(
        "from typing import assert_type\n"
        "import meshlb, meshlb.grpc\n"
        "assert_type(meshlb.Config().connect_timeout_s, str)\n"
        "meshlb.Mesh()  # type: ignore[call-arg]\n"
        "meshlb.nonsense\n"
        "meshlb.grpc.nonsense\n"
    )
    done = mypy(tmp_path, cache, case)
    assert [line.split(":")[1] for line in done.stdout.splitlines() if "error:" in line] == ["3", "4", "5", "6"], done.stdout
