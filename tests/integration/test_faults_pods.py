"""Pods come, go, die and change their minds under traffic: calls neither notice nor fail."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import Program, Traffic, program

REMOVAL_S = 0.15  # issue: removal <= 150 ms on an idle process
SLACK_S = 0.6  # this process also runs the cluster, on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


def names(service: FakeService) -> list[str]:
    return [pod.name for pod in service.ready_pods]


def addresses(service: FakeService) -> list[str]:
    return [pod.address for pod in service.ready_pods]


def started(traffic: Traffic, service: FakeService) -> None:
    """Every pod is connected and answers both kinds."""
    traffic.go_on(1)
    traffic.program.await_usable(addresses(service))
    traffic.program.await_connected(len(addresses(service)))
    traffic.await_pods(names(service))


def assert_fair(traffic: Traffic, pods: list[str], start_s: float) -> None:
    shares = traffic.shares(start_s)
    fair = sum(shares.values()) / len(pods)
    assert set(shares) == set(pods)
    assert all(shares[pod] > fair / 2 for pod in pods), shares


@pytest.fixture
def orders(cluster: FakeCluster) -> Iterator[FakeService]:
    service = cluster.service("orders", replicas=3)
    yield service
    service.delete()


@pytest.fixture
def client(cluster: FakeCluster, orders: FakeService) -> Iterator[Program]:
    with program(cluster, "orders.shop:grpc") as client:
        yield client


def test_calls_are_spread_and_follow_a_scale_up_and_a_scale_down(client: Program, orders: FakeService) -> None:
    """Each pod gets its fair share; new pods get theirs, removed ones nothing, and no call fails."""
    with client.traffic() as traffic:
        started(traffic, orders)
        assert_fair(traffic, names(orders), traffic.go_on(150))
        orders.scale(5)
        client.await_connected(5)
        traffic.await_pods(names(orders))
        assert_fair(traffic, names(orders), traffic.go_on(150))
        orders.scale(2)
        client.await_usable(addresses(orders))
        traffic.await_pods(names(orders))
    assert traffic.failed == []


@pytest.mark.parametrize("prestop_s", [0.3, 0.0], ids=["with preStop", "SIGTERM at once"])
def test_a_graceful_rolling_update_fails_no_call(client: Program, orders: FakeService, prestop_s: float) -> None:
    """Every pod is replaced under traffic, with and without a preStop pause, and nobody notices."""
    with client.traffic() as traffic:
        started(traffic, orders)
        orders.rolling_update(version="v2", prestop_s=prestop_s, max_surge=2)
        start_s = traffic.await_pods(names(orders))
        versions = {sample.replies[-1].version for sample in traffic.since(start_s) if sample.ok}
    assert traffic.failed == []
    assert versions == {"v2"}


def test_servers_that_stop_at_once_cost_only_the_calls_on_their_way_there(cluster: FakeCluster) -> None:
    """Without a moment between SIGTERM and ``server.stop()``, what arrives in it is refused in words that forbid another try."""
    service = cluster.service("hasty", replicas=3, on_sigterm="stop")
    old = addresses(service)
    with program(cluster, "hasty.shop:grpc") as client, client.traffic() as traffic:
        started(traffic, service)
        service.rolling_update(version="v2", max_surge=2)
        traffic.await_pods(names(service))
    service.delete()
    assert traffic.lost(stopped=old) == []


def test_a_hard_exit_on_sigterm_costs_only_the_calls_in_flight_there(cluster: FakeCluster) -> None:
    """Pods that die without finishing take their own calls along; every other call succeeds."""
    service = cluster.service("abrupt", replicas=3, on_sigterm="exit")
    old = addresses(service)
    with program(cluster, "abrupt.shop:grpc") as client, client.traffic() as traffic:
        started(traffic, service)
        service.rolling_update(version="v2", max_surge=2)
        traffic.await_pods(names(service))
    service.delete()
    assert traffic.lost(dead=old) == []


def test_a_killed_pod_costs_only_the_calls_in_flight_on_it(client: Program, orders: FakeService) -> None:
    """After ``kill -9`` no later call fails, though the cluster has not noticed yet; its successor takes part."""
    dead = orders.pods[0].address
    with client.traffic() as traffic:
        started(traffic, orders)
        killed_s = time.monotonic()
        orders.pods[0].kill()
        eventually(lambda: dead not in addresses(orders) and len(addresses(orders)) == 3, "the pod was replaced")
        traffic.await_pods(names(orders))
    assert traffic.lost(dead=[dead]) == []
    late = [sample for sample in traffic.failed if sample.start_s > killed_s + 0.1]
    assert late == []


def test_an_unready_pod_gets_no_new_call_and_finishes_its_streams(client: Program, orders: FakeService) -> None:
    """A failing readiness probe takes the pod out of the picks; streams on it run to their end."""
    with client.traffic() as traffic:
        started(traffic, orders)
        streams = [one.stream(count=60, interval_s=0.02, timeout=30) for _ in range(4) for one in client.clients]
        assert all(stream.first.wait(10) for stream in streams)
        pod = next(pod for pod in orders.pods if pod.name in {stream.sample.pod for stream in streams})
        pod.set_ready(False)
        unready_s = time.monotonic()
        eventually(lambda: pod.address not in client.usable_addresses, "the removal reached the pool")
        removed_s = time.monotonic()
        rest = [name for name in names(orders) if name != pod.name]
        traffic.await_pods(rest)
        late = [sample for sample in traffic.since(removed_s) if sample.pod == pod.name]
        ended = [stream.result() for stream in streams]
        pod.set_ready(True)
        traffic.await_pods(names(orders))
    assert traffic.failed == []
    assert late == []
    assert removed_s - unready_s < REMOVAL_S + SLACK_S
    assert [sample.error for sample in ended] == [None] * len(ended)
    assert all(len(sample.replies) == 60 for sample in ended)
    assert pod.name in {sample.pod for sample in ended}


def test_when_all_pods_terminate_at_once_those_that_still_serve_take_the_calls(cluster: FakeCluster) -> None:
    """With no ready pod left, terminating ones that serve are the last resort, as for kube-proxy; then new ones take over."""
    service = cluster.service("leaving", replicas=2, prestop_s=2.0)
    with program(cluster, "leaving.shop:grpc") as client, client.traffic() as traffic:
        started(traffic, service)
        old = names(service)
        service.scale(0, wait=False)
        eventually(lambda: not service.ready_pods, "nobody is ready")
        during = set(traffic.shares(traffic.go_on(40)))
        service.scale(2, wait=False)
        eventually(lambda: len(service.ready_pods) == 2, "new pods are ready")
        client.await_usable(addresses(service))
        traffic.await_pods(lambda: names(service))
        service.wait_ready()
        traffic.go_on(20)
    service.delete()
    assert traffic.failed == []
    assert during == set(old)
