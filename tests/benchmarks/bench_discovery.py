"""How fast a change of endpoints reaches picks: from the moment the API server sends the slice event, to the first pick that uses it.

``python -m tests.benchmarks.bench_discovery [--changes N] [--hog]``. A FakeCluster whose Service has endpoints without pods, all of them
addresses of one echo server; each change adds or removes one. The time counts from the return of ``set_endpoints`` minus the call (the
event is written inside it) to the first pick of the new one, connecting included, or to the last pick of the removed one. ``--hog``
runs a pure-Python loop in another thread of the client.
"""

from __future__ import annotations

import argparse
import threading
import time

import meshlb
import meshlb.grpc
from meshlb.mesh import Mesh
from meshlb.testing import FakeCluster
from tests.benchmarks import common


class Watcher:
    """Looks at the view's picker as calls see it, without a pause: what it can pick, a call can."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def pickable(self) -> set[str]:
        pool = next(iter(self._mesh.status()["pools"].values()))
        return {one["address"] for one in pool["endpoints"] if one["state"].startswith("usable") and "ready" in one["connections"]}

    def wait(self, condition: object, timeout_s: float = 5.0) -> float:
        deadline_s = time.monotonic() + timeout_s
        while not condition(self.pickable()):  # type: ignore[operator]
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"nothing changed in {timeout_s} s: {self.pickable()}")
            time.sleep(0.0005)
        return time.monotonic()


def run(changes: int, hog: bool) -> None:
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            sum(range(200))

    with common.server() as port, FakeCluster(namespace="shop") as cluster:
        base, extra = common.addresses(3, port), f"127.8.9.9:{port}"
        service = cluster.service("orders", ports={"grpc": 50051}, endpoints=base)
        config = meshlb.Config(discovery={"kubeconfig": cluster.kubeconfig, "sources": ["kubernetes"]})
        with Mesh(config) as mesh, meshlb.grpc.insecure_channel("orders.shop.svc:grpc", mesh=mesh) as channel:
            call = channel.unary_unary(common.METHOD)
            call(b"x", wait_for_ready=True, timeout=10)
            watcher = Watcher(mesh)
            watcher.wait(lambda usable: len(usable) == 3)
            if hog:
                threading.Thread(target=spin, daemon=True).start()
            added_ms, removed_ms, false_removals = [], [], 0
            for number in range(changes):
                extra = f"127.8.{9 + number // 200}.{number % 200 + 1}:{port}"
                start_s = time.monotonic()
                service.set_endpoints([*base, extra])
                added_ms.append((watcher.wait(lambda usable, one=extra: one in usable) - start_s) * 1000)
                call(b"x")
                if not set(base) <= watcher.pickable():
                    false_removals += 1
                start_s = time.monotonic()
                service.set_endpoints(base)
                removed_ms.append((watcher.wait(lambda usable, one=extra: one not in usable) - start_s) * 1000)
                call(b"x")
            ended.set()
    rows = [
        (name, f"{common.quantile(times, 0.5):.1f}", f"{common.quantile(times, 0.99):.1f}", f"{max(times):.1f}")
        for name, times in (("added → can be picked", added_ms), ("removed → never picked", removed_ms))
    ]
    common.table((f"{changes} changes, {'beside a CPU hog' if hog else 'idle process'}", "p50 ms", "p99 ms", "max ms"), rows)
    print(f"false removals: {false_removals}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=200)
    arguments = parser.parse_args()
    for hog in (False, True):
        run(arguments.changes, hog)


if __name__ == "__main__":
    main()
