"""Discovery's acceptance list, measured: one row a figure, with what was wanted beside it.

``python -m tests.benchmarks.bench_acceptance [--only WORD]``. Every row runs against a FakeCluster over real sockets, those that need a
fresh process in one of their own. Rows that take hours by nature (request limits, outages) are tests in virtual time instead, and the
black-holed watch is one in a network namespace.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import meshlb
from meshlb.mesh import Mesh
from meshlb.picks import TargetPool
from meshlb.testing import FakeCluster, FakeEndpoint, FakeService
from tests.benchmarks import common
from tests.integration.test_scale import MANY, MEASURE, pods

LEFT_S = 35.0  # the pool keeps the records of pods that left for 30 s


class Row(NamedTuple):
    event: str
    wanted: str
    measured: str


def config_of(cluster: FakeCluster, **discovery: object) -> dict[str, object]:
    """As a program in the cluster has it, with the account's token in a kubeconfig's place."""
    found = {"kubeconfig": cluster.kubeconfig, "resolv_conf": cluster.resolv_conf, "nameservers": [cluster.nameserver]}
    return {"discovery": found | discovery}


def usable(mesh: Mesh) -> set[str]:
    pools = mesh.status()["pools"]
    return {one["address"] for pool in pools.values() for one in pool["endpoints"] if one["state"].startswith("usable")}


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """When it became true, on the monotonic clock."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing happened in {timeout_s} s")
        time.sleep(0.0005)
    return time.monotonic()


# --- fresh processes ----------------------------------------------------------------------------------------------------------------------

_FIRST_ADDRESS = """
import json, sys, time
import meshlb
from meshlb.mesh import Mesh
config = json.loads(sys.argv[1])
with Mesh(meshlb.Config.from_dict(config)) as mesh:
    start_s = time.monotonic()
    pool = mesh.pool("orders.shop.svc:50051")
    with pool.pick(timeout_s=10):
        first_ms = (time.monotonic() - start_s) * 1000
    while next(iter(mesh.status()["pools"].values()))["source"] != "kubernetes":
        time.sleep(0.001)
    print(json.dumps([first_ms, (time.monotonic() - start_s) * 1000]))
"""


def starts(rounds: int = 20) -> list[Row]:
    """From the first pick of a fresh process: the first address, and synced slices, imports included."""
    first_ms, synced_ms = [], []
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("orders", ports={"grpc": 50051}, endpoints=["127.9.0.1:80", "127.9.0.2:80", "127.9.0.3:80"])
        for _ in range(rounds):
            command = [sys.executable, "-c", _FIRST_ADDRESS, json.dumps(config_of(cluster))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            first, synced = json.loads(done.stdout)
            first_ms.append(first)
            synced_ms.append(synced)
    return [
        Row(
            "first usable address",
            "p50 < 50 ms, p99 < 300 ms",
            f"p50 {common.quantile(first_ms, 0.5):.0f} ms, max of {rounds} {max(first_ms):.0f} ms",
        ),
        Row("slices synced, import included", "< 1 s", f"p50 {common.median(synced_ms):.0f} ms, max {max(synced_ms):.0f} ms"),
    ]


def imports() -> list[Row]:
    def cpu_ms(statement: str) -> float:
        program = f"import time; t = time.process_time(); {statement}; print((time.process_time() - t) * 1000)"
        run = [
            float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
            for _ in range(9)
        ]
        return common.median(run)

    above = cpu_ms("import grpc, meshlb.grpc") - cpu_ms("import grpc")
    return [Row("import meshlb.grpc, above grpc", "< 50 ms CPU", f"{above:.0f} ms CPU")]


# --- outages ------------------------------------------------------------------------------------------------------------------------------


def api_down_at_start() -> list[Row]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("orders", ports={"grpc": 50051}, endpoints=["127.9.0.1:80"])
        cluster.api.fail(503)
        with Mesh(meshlb.Config.from_dict(config_of(cluster))) as mesh:
            start_s = time.monotonic()
            pool = mesh.pool("orders.shop.svc:50051")
            with pool.pick(timeout_s=5):
                first_ms = (time.monotonic() - start_s) * 1000
            until(lambda: time.monotonic() - start_s > 10.0)
            requests = len(cluster.api.requests)
    return [
        Row("API down at start: traffic", "within 300 ms", f"{first_ms:.0f} ms"),
        Row("API down at start: requests in 10 s", "<= 4", f"{requests}"),
    ]


def api_down_later(outage_s: float = 60.0) -> list[Row]:
    with FakeCluster(namespace="shop") as cluster:
        service = cluster.service("orders", endpoints=["127.9.0.1:80", "127.9.0.2:80"])
        with Mesh(meshlb.Config.from_dict(config_of(cluster, sources=["kubernetes"]))) as mesh:
            pool = mesh.pool("orders.shop.svc:grpc")
            with pool.pick(timeout_s=5):
                pass
            until(lambda: len(usable(mesh)) == 2)
            before = usable(mesh)
            cluster.api.fail(503)
            cluster.api.cut()
            cluster.api.clear_requests()
            start_s = time.monotonic()
            until(lambda: time.monotonic() - start_s > outage_s, outage_s + 10)
            requests, unchanged = len(cluster.api.requests), usable(mesh) == before
            service.set_endpoints(["127.9.0.3:80"])
            cluster.api.recover()
            back_s = time.monotonic()
            resync_s = until(lambda: usable(mesh) == {"127.9.0.3:80"}) - back_s
    return [
        Row(f"API down for {outage_s:.0f} s: pool", "unchanged", "unchanged" if unchanged else "CHANGED"),
        Row("API down later: requests a minute", "<= 3, after the first tries", f"{requests / outage_s * 60:.1f}"),
        Row("API back: resync", "< 2 s + back-off (up to 30 s)", f"{resync_s:.1f} s"),
    ]


def dns_scale_up(ttl_s: int = 5) -> list[Row]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.dns.set_ttl(ttl_s)
        service = cluster.service("orders", headless=True, ports={"grpc": 80}, endpoints=["127.9.0.1:80"])
        with Mesh(meshlb.Config.from_dict(config_of(cluster, sources=["dns"]))) as mesh:
            pool = mesh.pool("orders.shop.svc:80")
            with pool.pick(timeout_s=5):
                pass
            seen_s = []
            for number in range(2, 6):
                start_s = time.monotonic()
                service.set_endpoints([f"127.9.0.{one}:80" for one in range(1, number + 1)])
                seen_s.append(until(lambda n=number: len(usable(mesh)) == n) - start_s)  # type: ignore[misc]
    return [Row(f"DNS-only scale-up, TTL {ttl_s} s", f"<= {ttl_s + 1} s", f"max of {len(seen_s)} {max(seen_s):.1f} s")]


# --- steady state -------------------------------------------------------------------------------------------------------------------------


_FOLLOW = """
import gc, json, sys, time, tracemalloc
import meshlb
from meshlb.mesh import Mesh

class Listener:
    def on_change(self): pass

binding = Mesh(meshlb.Config.from_dict(json.loads(sys.argv[1])), environ={}).bind("orders.shop.svc:grpc")
listener = Listener()
view = binding.view(listener)
if sys.argv[2:]:
    tracemalloc.start()
for line in sys.stdin:
    count, host = line.split()
    while (latest := binding.pool.snapshot.latest) is None or len(latest.endpoints) != int(count) or not any(
        one.host == host for one in latest.endpoints
    ):
        time.sleep(0.05)
    if tracemalloc.is_tracing():
        gc.collect()
    print(json.dumps([time.process_time(), tracemalloc.get_traced_memory()[0]]), flush=True)
"""


class Follower:
    """A process that watches the Service and does nothing else, so that its CPU and memory are discovery's and the pool's."""

    def __init__(self, cluster: FakeCluster, *, traced: bool = False) -> None:
        config = json.dumps(config_of(cluster, sources=["kubernetes"]) | {"fallback": "none"})
        command = [sys.executable, "-c", _FOLLOW, config, *(["traced"] if traced else [])]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def used(self, endpoints: list[str]) -> tuple[float, int]:
        """CPU in seconds and bytes held so far, once it knows as many as these, and the last of them."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{len(endpoints)} {endpoints[-1].rpartition(':')[0]}\n")
        self._child.stdin.flush()
        cpu_s, held = json.loads(self._child.stdout.readline())
        return cpu_s, held


def event_ms(follower: Follower, service: FakeService, endpoints: list[str], changes: int, pause_s: float) -> float:
    """CPU an event: each adds a pod to a slice or takes one away."""
    event_s = follower.used(endpoints)[0]
    for number in range(changes // 2):
        for after in ([*endpoints, f"127.200.2.{number % 250 + 1}:80"], endpoints):
            service.set_endpoints(after)
            time.sleep(pause_s)
    return (follower.used(endpoints)[0] - event_s) / changes * 1000


def events() -> list[Row]:
    """CPU a slice event, at 100 endpoints a slice, and at rest."""
    hundred = [f"127.9.1.{number}:80" for number in range(1, 100)]  # the hundredth comes and goes
    with FakeCluster(namespace="shop") as cluster:
        service = cluster.service("orders", endpoints=hundred)
        with Follower(cluster) as follower:
            rare_ms = event_ms(follower, service, hundred, 40, pause_s=0.25)
            storm_ms = event_ms(follower, service, hundred, 1000, pause_s=0.01)
            time.sleep(2.0)
            start_s = follower.used(hundred)[0]
            time.sleep(10.0)
            idle_ratio = (follower.used(hundred)[0] - start_s) / 10
    return [
        Row("CPU a slice event, 100 endpoints, 100 a second", common.at_most_ms(1), f"{storm_ms:.2f} ms"),
        Row("the same, 4 a second (cold caches)", "", f"{rare_ms:.2f} ms"),
        Row("idle, without connections", "<= 0.1 % of a core", f"{idle_ratio:.3%}"),
    ]


def ten_thousand() -> list[Row]:
    """One Service of 10,000 endpoints in 100 slices: a change of one pod, to the new p2c picker."""
    many = [f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:80" for number in range(9_999)]
    with FakeCluster(namespace="shop") as cluster:
        service = cluster.service("orders", endpoints=many)
        with Follower(cluster) as follower:
            each_ms = event_ms(follower, service, many, 60, pause_s=0.25)
    return [Row("CPU from bytes to new picker, one pod of 10,000", common.at_most_ms(5), f"{each_ms:.2f} ms")]


def terminating(rounds: int = 50) -> list[Row]:
    """From the write of the condition to the last moment at which the pod could be picked, one after the other of 100."""
    hundred = [FakeEndpoint(address=f"127.9.1.{number}", ports={"grpc": 80}) for number in range(1, 101)]
    with FakeCluster(namespace="shop") as cluster:
        service = cluster.service("orders", endpoints=hundred)
        with Mesh(meshlb.Config.from_dict(config_of(cluster, sources=["kubernetes"]) | {"fallback": "none"})) as mesh:
            pool = wait_for(mesh, 100)
            took_ms = []
            for number in range(rounds):
                gone = hundred[number].address + ":80"
                hundred[number] = replace(hundred[number], ready=False, serving=True, terminating=True)
                start_s = time.monotonic()
                service.set_endpoints(hundred)
                took_ms.append((until(lambda one=gone: one not in usable(mesh)) - start_s) * 1000)  # type: ignore[misc]
                threading.Event().wait(0.2)  # in a storm of them, changes are told 62 ms apart
            del pool
    p50, most = common.quantile(took_ms, 0.5), max(took_ms)
    return [Row("terminating pod: no new picks", "< 50 ms", f"p50 {p50:.1f} ms, max of {rounds} {most:.1f} ms")]


def memory() -> list[Row]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("few", endpoints=["127.9.0.1:8080"], headless=True)
        cluster.service("orders", endpoints=pods(MANY), headless=True)
        command = [sys.executable, "-c", MEASURE, cluster.kubeconfig, str(MANY)]
        held, _ = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [Row("memory an endpoint held, names and uids included", "<= 2 KiB", f"{held / MANY / 1024:.2f} KiB")]


def growth(changes: int = 10_000) -> list[Row]:
    """What so many changes leave behind in a process that watches them, and ten times as many.

    After a warm-up of more than half a minute: the pool's tables are as large as what left within 30 s makes them, and never shrink.
    """
    fixed = [f"127.9.1.{number}:80" for number in range(1, 20)]
    with FakeCluster(namespace="shop") as cluster:
        service = cluster.service("orders", endpoints=fixed, headless=True)
        with Follower(cluster, traced=True) as follower:
            numbers = itertools.count()

            def held_after(count: int) -> int:
                for number in itertools.islice(numbers, count):
                    host = f"127.{100 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
                    service.set_endpoints([*fixed, f"{host}:80"])
                follower.used([*fixed, f"{host}:80"])  # it may be far behind
                time.sleep(LEFT_S)
                return follower.used([*fixed, f"{host}:80"])[1]

            warm = held_after(10 * changes)
            grown = held_after(changes) - warm
            further = held_after(10 * changes) - warm
    return [
        Row(f"growth over {changes:,} events", "none", f"{grown / 1024:+.0f} KiB of {warm / 1024:.0f}"),
        Row(f"growth over {11 * changes:,} events", "none", f"{further / 1024:+.0f} KiB"),
    ]


def wait_for(mesh: Mesh, count: int) -> TargetPool:
    """The pool, which lives as long as somebody holds it."""
    pool = mesh.pool("orders.shop.svc:grpc")
    with pool.pick(timeout_s=30):
        pass
    until(lambda: len(usable(mesh)) >= count)
    return pool


ROWS: dict[str, Callable[[], list[Row]]] = {
    "imports": imports,
    "starts": starts,
    "api_down_at_start": api_down_at_start,
    "api_down_later": api_down_later,
    "dns_scale_up": dns_scale_up,
    "events": events,
    "terminating": terminating,
    "ten_thousand": ten_thousand,
    "memory": memory,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(ROWS))
    only = parser.parse_args().only
    rows = [row for name, measure in ROWS.items() if only in (None, name) for row in measure()]
    print(f"a lock pair takes {common.lock_pair_ns():.0f} ns here; limits are for {common.REFERENCE_PAIR_NS:g} ns")
    common.table(("event", "wanted", "measured"), rows)


if __name__ == "__main__":
    main()
