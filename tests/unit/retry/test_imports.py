"""What retries cost a program that only imports meshlb."""

from __future__ import annotations

import os
import subprocess
import sys

import meshlb


def test_nothing_of_tenacity_is_imported_for_retries() -> None:
    """Not for their configuration, nor where an attempt is due: only who passes its objects has imported it."""
    script = (
        "import sys, random, meshlb, meshlb.grpc, meshlb.grpc.aio, meshlb.retry.tries as t, meshlb.retry.rules as r;"
        "retry = meshlb.Config(retry={'idempotent': ['*'], 'wait': lambda state: 1.0}).retry;"
        "tries = t.Tries(r.rules_of(retry, '/a/b'), idempotent=True, started_s=0.0);"
        "print(tries.delay_s(t.Failure('UNAVAILABLE', lost=True), 1.0, None, random.Random(), None), 'tenacity' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(meshlb.__file__))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environ, check=True)
    assert done.stdout.split() == ["1.0", "False"]
