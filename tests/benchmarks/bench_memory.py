"""Memory and threads per connected endpoint beside stock channels, and what the imports cost.

``python -m tests.benchmarks.bench_memory [--endpoints N]``. Each arm runs in a process of its own; memory is the resident set after the
endpoints were connected and called with one method, minus before, per endpoint.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from tests.benchmarks import common

_STOCK = """
import grpc
channels = [grpc.insecure_channel(one) for one in endpoints]
calls = [channel.unary_unary(method) for channel in channels]
for call in calls: call(b"x")
"""

_OURS = """
import meshlb.grpc
from meshlb.mesh import Mesh
mesh = Mesh()
channel = meshlb.grpc.insecure_channel("static:///" + ",".join(endpoints), config=meshlb.Config(policy="round_robin"), mesh=mesh)
call = channel.unary_unary(method)
call(b"x", wait_for_ready=True)
while mesh.status()["pools"] and min(one["started"] for one in next(iter(mesh.status()["pools"].values()))["endpoints"]) == 0:
    for _ in range(len(endpoints)): call(b"x")
"""

_PROGRAM = """
import gc, json, os, sys, threading
method, endpoints = {method!r}, {endpoints!r}
def rss():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
def threads():
    return len(os.listdir("/proc/self/task"))
import grpc
warm = grpc.insecure_channel({warm!r}); warm.unary_unary(method)(b"x")
{preload}
gc.collect()
before, threads_before = rss(), threads()
{arm}
gc.collect()
print(json.dumps(dict(bytes=rss() - before, threads=threads() - threads_before)))
"""

# Ours loads its modules before the count begins, as a service has by the time it scales.
_PRELOAD_OURS = """
import meshlb, meshlb.grpc
from meshlb.mesh import Mesh
warm_mesh = Mesh()
warm_channel = meshlb.grpc.insecure_channel("static:///" + {warm!r}, config=meshlb.Config(policy="round_robin"), mesh=warm_mesh)
warm_channel.unary_unary(method)(b"x")
"""

_IMPORTS = {
    "python": "pass",
    "import meshlb": "import meshlb",
    "import grpc": "import grpc",
    "import meshlb.grpc": "import meshlb.grpc",
}
_HEAVY = ("grpc", "kubernetes", "dns", "opentelemetry", "asyncio")


def measure(endpoints: list[str], warm: str, arm: str, preload: str = "") -> dict[str, int]:
    program = _PROGRAM.format(method=common.METHOD, endpoints=endpoints, warm=warm, preload=preload.format(warm=warm), arm=arm)
    return json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def import_cpu_ms(statement: str, rounds: int = 9) -> float:
    program = f"import time; t = time.process_time(); {statement}; print((time.process_time() - t) * 1000)"
    return common.median(
        [
            float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
            for _ in range(rounds)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with common.server() as port:
        everyone = common.addresses(arguments.endpoints + 1, port)
        warm, endpoints = everyone[-1], everyone[:-1]
        arms: dict[str, list[dict[str, int]]] = {"stock channels": [], "meshlb": []}
        for _ in range(arguments.rounds):
            arms["stock channels"].append(measure(endpoints, warm, _STOCK))
            arms["meshlb"].append(measure(endpoints, warm, _OURS, _PRELOAD_OURS))
    rows = []
    stock = common.median([one["bytes"] for one in arms["stock channels"]]) / arguments.endpoints / 1024
    for name, measured in arms.items():
        each = common.median([one["bytes"] for one in measured]) / arguments.endpoints / 1024
        extra_threads = common.median([one["threads"] for one in measured])
        rows.append((name, f"{each:.1f}", f"{each - stock:+.1f}", f"{extra_threads:.0f}"))
    common.table((f"{arguments.endpoints} connected endpoints", "kB each", "above stock", "threads more"), rows)

    costs = {name: import_cpu_ms(statement) for name, statement in _IMPORTS.items()}
    common.table(("", "CPU ms"), [(name, f"{cost:.1f}") for name, cost in costs.items()])
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, meshlb; print([m for m in {_HEAVY!r} if m in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    print(f"loaded by `import meshlb`, of {', '.join(_HEAVY)}: {loaded}")


if __name__ == "__main__":
    main()
