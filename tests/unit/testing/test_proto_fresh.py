"""The generated code says what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GENERATE = Path(__file__).parents[3] / "proto" / "generate.py"


def test_generated_code_is_fresh() -> None:
    """Messages, fields and methods are those of proto/; see proto/generate.py for how to renew them."""
    pytest.importorskip("grpc_tools")
    checked = subprocess.run([sys.executable, str(GENERATE), "--check"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
