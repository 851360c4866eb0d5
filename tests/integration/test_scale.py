"""Ten thousand endpoints of one Service, and two hundred targets of one process: what they cost, and that closing gives it back."""

from __future__ import annotations

import gc
import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest

import meshlb
from meshlb.core.endpoint import Endpoint
from meshlb.mesh import Mesh
from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.stream import COALESCE_S
from meshlb.testing import FakeCluster, FakeEndpoint, FakeService
from tests.support.channels import eventually

MANY = 10_000
KIB = 1024
PATIENCE_S = 60.0  # ten thousand endpoints take the fake cluster seconds to write
GROUPS = {"shop": 120, "stock": 20, "mail": 20, "users": 20, "ads": 20}
LENGTH = 60  # of a Service's name: 120 of them do not fit into one selector


class Latest:
    """A view's listener, which keeps the pool alive and says what it holds."""

    def __init__(self, mesh: Mesh, target: str) -> None:
        self._binding = mesh.bind(target)
        self._view = self._binding.view(self)

    def on_change(self) -> None: ...

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        latest = self._binding.pool.snapshot.latest
        return latest.endpoints if latest is not None else ()


def config_of(cluster: FakeCluster) -> meshlb.Config:
    return meshlb.Config(discovery={"kubeconfig": cluster.kubeconfig, "sources": ["kubernetes"]}, fallback="none")


# --- ten thousand endpoints


def pods(count: int) -> list[FakeEndpoint]:
    """With what a real slice says of a pod."""
    return [
        FakeEndpoint(
            address=f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}",
            ports={"grpc": 8080},
            pod=f"orders-6d4cf56db6-{number:05d}",
            uid=f"3f2b8a52-6f0e-4d0c-9a1b-{number:012d}",
            node=f"node-{number % 300}",
            zone=f"zone-{number % 3}",
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def many() -> Iterator[tuple[FakeCluster, FakeService]]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("few", endpoints=["127.9.0.1:8080"], headless=True)
        yield cluster, cluster.service("orders", endpoints=pods(MANY), headless=True)


def test_a_change_of_one_pod_among_ten_thousand_touches_no_other(many: tuple[FakeCluster, FakeService]) -> None:
    """All are known, from 100 slices; the change is seen; every other endpoint and its live record is the same object as before."""
    cluster, service = many
    everyone = pods(MANY)
    with Mesh(config_of(cluster), environ={}) as mesh:
        latest = Latest(mesh, "orders.shop.svc:grpc")
        eventually(lambda: len(latest.endpoints) == MANY, "all are known", PATIENCE_S)
        pool = mesh.bind("orders.shop.svc:grpc").pool
        before = {id(endpoint): endpoint for endpoint in latest.endpoints}
        records = {id(sub): sub for sub in pool.snapshot.eligible}
        new = replace(everyone[5000], address="127.200.0.1", pod="orders-new", uid="another")
        service.set_endpoints([*everyone[:5000], new, *everyone[5001:]])
        eventually(lambda: any(one.host == new.address for one in latest.endpoints), "the change is seen", PATIENCE_S)
        eventually(lambda: len(latest.endpoints) == MANY, "its other half too", PATIENCE_S)
        assert [one.host for one in latest.endpoints if id(one) not in before] == [new.address]
        assert [sub.endpoint.host for sub in pool.snapshot.eligible if id(sub) not in records] == [new.address]
        service.set_endpoints(everyone)


MEASURE = """
import gc, json, sys, time, tracemalloc
import meshlb
from meshlb.mesh import Mesh

class Listener:
    def on_change(self): pass

def open_pool(target, count):
    binding = mesh.bind(target)
    view = binding.view(listener)
    deadline_s = time.monotonic() + 60
    while (latest := binding.pool.snapshot.latest) is None or len(latest.endpoints) != count:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return binding, view

listener, (path, count) = Listener(), sys.argv[1:]
mesh = Mesh(meshlb.Config(discovery={"kubeconfig": path, "sources": ["kubernetes"]}, fallback="none"), environ={})
few = open_pool("few.shop.svc:grpc", 1)
gc.collect()
tracemalloc.start()
everyone = open_pool("orders.shop.svc:grpc", int(count))
gc.collect()
held, peak = tracemalloc.get_traced_memory()
tracemalloc.stop()
mesh.close()
print(json.dumps([held, peak]))
"""


def test_an_endpoint_that_nobody_connects_to_costs_two_kibibytes_at_most(many: tuple[FakeCluster, FakeService]) -> None:
    """Records, endpoints, pool and picker together, names and uids included; measured in a process that knows nothing else."""
    cluster, _ = many
    command = [sys.executable, "-c", MEASURE, cluster.kubeconfig, str(MANY)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    held, peak = json.loads(done.stdout)
    print(f"{held / MANY:.0f} bytes an endpoint, {peak / MANY:.0f} at the peak of the list")
    assert 200 < held / MANY <= 2 * KIB


# --- two hundred targets


def names(group: str) -> list[str]:
    return [f"{group}-{number:03d}".ljust(LENGTH, "x") for number in range(GROUPS[group])]


@pytest.fixture(scope="module")
def fleet() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        for group in GROUPS:
            for number, name in enumerate(names(group)):
                cluster.service(name, group, endpoints=[f"127.9.1.{number + 1}:8080"], headless=True)
        yield cluster


def threads(before: Collection[threading.Thread]) -> list[str]:
    """meshlb's own, without those that other tests may have left to a mesh of theirs."""
    mine = [one for one in threading.enumerate() if one not in before]
    return [one.name for one in mine if one.name.startswith("meshlb") and "fake-cluster" not in one.name]


def test_two_hundred_targets_share_a_watch_a_namespace_and_a_handful_of_threads(fleet: FakeCluster) -> None:
    """One stream a namespace, but where the selector grows too long; who joins within 50 ms is listed together; nothing is left after the end."""
    assert not Resource.SLICES.fits(names("shop"))
    watches = len(GROUPS) + 1
    before = set(threading.enumerate())
    with Mesh(config_of(fleet), environ={}) as mesh:
        opened = [Latest(mesh, f"{name}.{group}.svc:8080") for group in GROUPS for name in names(group)]
        eventually(lambda: all(len(one.endpoints) == 1 for one in opened), "all are known", PATIENCE_S)
        eventually(lambda: fleet.api.open_watches == watches, f"{watches} watches", PATIENCE_S)
        # A stream that was widened ends when its successor has synced, and its reader a moment later.
        eventually(lambda: sum("watch" in name for name in threads(before)) <= watches, "a reader each", PATIENCE_S)
        running = threads(before)
        asked = Counter((request.verb, request.resource) for request in fleet.api.requests)
        print(f"{len(running)} threads {sorted(running)}, requests {dict(asked)}")
        assert len(running) <= 1 + watches + 2  # discovery, readers, a look-up and a read of a Service
        for group in set(GROUPS) - {"shop"}:  # which has two streams
            lists = [one.time_s for one in fleet.api.requests if one.namespace == group and one.verb == "list"]
            assert all(later - earlier > 0.9 * COALESCE_S for earlier, later in itertools.pairwise(lists)), lists
        assert asked["watch", "endpointslices"] <= asked["list", "endpointslices"] + 2 * watches
        first_s = fleet.api.requests[0].time_s
        gets = [request.time_s - first_s for request in fleet.api.requests if request.verb == "get"]
        assert all(sum(at_s <= one < at_s + 1.0 for one in gets) <= 5 + 1 for at_s in gets)
        fleet.service("late", "mail", endpoints=["127.9.2.1:8080"], headless=True)
        late = Latest(mesh, "late.mail.svc:8080")
        eventually(lambda: len(late.endpoints) == 1, "one that joins", PATIENCE_S)
        eventually(lambda: fleet.api.open_watches == watches, "a wider watch in place of the other", PATIENCE_S)
        assert all(len(one.endpoints) == 1 for one in opened)
    eventually(lambda: fleet.api.open_watches == 0, "no watch is left", PATIENCE_S)
    eventually(lambda: not threads(before), "no thread is left", PATIENCE_S)


def test_targets_that_nobody_holds_any_more_give_their_watches_back(fleet: FakeCluster) -> None:
    """A forgotten pool ends its watch without a word; the other namespaces' go on."""
    with Mesh(config_of(fleet), environ={}) as mesh:
        opened = {group: [Latest(mesh, f"{name}.{group}.svc:8080") for name in names(group)[:5]] for group in GROUPS}
        eventually(lambda: fleet.api.open_watches == len(GROUPS), "a watch each", PATIENCE_S)
        for group in list(GROUPS)[1:]:
            del opened[group]
        gc.collect()  # a view knows its listener
        eventually(lambda: fleet.api.open_watches == 1, "one watch is left", PATIENCE_S)
        assert len(mesh.status()["pools"]) == 5
