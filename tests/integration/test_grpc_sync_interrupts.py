"""A signal's handler that raises in a blocking call, at any moment: time limits of task queues, alarms, Ctrl-C. Nothing stays counted."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.channels import EchoServer, echo_servers

ROOT = Path(__file__).parents[2]
INTERRUPTS = 400
PROGRAM = """
import random, signal, sys, time
import grpc, meshlb, meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc

port, seed, interrupts, settings, verb = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4]), sys.argv[5]

class Interrupt(Exception):
    pass

def handler(*_):
    raise Interrupt

mesh = meshlb.Mesh()
channel = meshlb.grpc.insecure_channel(f"static:///127.0.0.1:{port}", config=meshlb.Config(**settings), mesh=mesh)
get = echo_pb2_grpc.EchoStub(channel).Get
call = get.with_call if verb == "with_call" else get
request = echo_pb2.EchoRequest(payload="x")
call(request, timeout=10)
signal.signal(signal.SIGALRM, handler)
chance, hit, until_s = random.Random(seed), 0, time.monotonic() + 20.0
while hit < interrupts and time.monotonic() < until_s:
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.001))
        call(request, timeout=10)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except (Interrupt, grpc.RpcError):  # grpc makes an error of one that comes in the middle of a deserializer
        hit += 1
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            hit += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
call(request, timeout=10)
(pool,) = mesh.status()["pools"].values()
print([one["in_flight"] + one["streams"] for one in pool["endpoints"]], [one["in_flight"] for one in pool["limits"]], hit >= interrupts / 4)
"""


@pytest.fixture(scope="module")
def server() -> EchoServer:
    with echo_servers(1) as (served,):
        yield served  # type: ignore[misc]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
@pytest.mark.parametrize("verb", ["call", "with_call"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"limits": {"max_in_flight": 3, "max_wait_s": 1}},
        {"limits": {"max_in_flight_per_endpoint": 3, "max_wait_s": 1}},
        {"retry": {"idempotent": ["*"], "per_try_timeout_s": 5}},
    ],
    ids=["plain", "limited", "limited per endpoint", "per-try timeout"],
)
def test_a_handler_that_raises_anywhere_leaves_no_count_and_no_place_taken(
    server: EchoServer, settings: dict[str, object], verb: str
) -> None:
    """Hundreds of times, at random moments of a call."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(server.port), str(seed), str(INTERRUPTS), repr(settings), verb],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    limited = ", ".join("0" for key in settings.get("limits", {}) if key == "max_in_flight")  # type: ignore[attr-defined]
    assert done.stdout.strip() == f"[0] [{limited}] True", done.stdout + done.stderr
