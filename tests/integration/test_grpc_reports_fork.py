"""A fork while servers are asked for their load: the child asks by itself, the parent goes on, and no thread of ours is inside gRPC meanwhile.

In a process of its own, like all forks of channels; the servers are in the runner.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from meshlb.core.report import LoadReport
from meshlb.grpc import stock
from meshlb.load.orca_wire import encode
from tests.integration.test_grpc_sync_fork import PRELUDE, ROOT
from tests.support.reporting import ReportingServer, reporting_servers

FORKS = """
import meshlb
binding.config = meshlb.Config(weight={"source": "a58", "oob": True, "oob_interval_s": 0.1})
binding.start_afresh()
binding.update(pods)
call = Bench(binding).channel.unary_unary("/test.Kinds/unary_unary")
def asked():
    assert call(b"x", timeout=10) == b"x"
    eventually(lambda: binding.pool.describe()["weight"]["reports"] >= 4, "both said it, twice")
    assert binding.internal_errors == []
asked()
for _ in range(5):
    join(fork(asked))
asked()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.skipif(not stock.RUNS_BY_ITSELF, reason="before grpcio 1.80 a process forks before its first call")
def test_a_forked_child_asks_by_itself() -> None:
    """Five times, at any moment of a round, which a server that never answers makes long: the parent's fork waits for the end of it."""
    said = encode(LoadReport(qps=100.0, cpu_utilization=0.25))
    with reporting_servers(None, None, oob=[said]) as servers:
        silent = ReportingServer("silent", oob=[])
        ports = [str(server.port) for server in (*servers, silent)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PRELUDE + FORKS, *ports]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
        silent.stop()
    assert done.returncode == 0, done.stderr
    assert "skipping fork() handlers" not in done.stderr
