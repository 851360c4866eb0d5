"""The API server fails in every way it has while calls run: no call fails, no pod is forgotten, what changed meanwhile arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, History, Program, Traffic, program


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", bookmark_interval_s=0.5) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", replicas=3)


@pytest.fixture
def client(cluster: FakeCluster, orders: FakeService) -> Iterator[Program]:
    with program(cluster, "orders.shop:grpc") as client:
        yield client
    cluster.api.start()
    cluster.api.recover()
    for pod in orders.pods:
        pod.set_ready(True)


def names(service: FakeService) -> list[str]:
    return [pod.name for pod in service.ready_pods]


def started(traffic: Traffic, service: FakeService) -> History:
    traffic.go_on(1)
    traffic.program.await_usable(pod.address for pod in service.ready_pods)
    traffic.program.await_connected(len(service.ready_pods))
    traffic.await_pods(names(service), calls=30)
    return History(traffic.program)


Fault = Callable[[FakeCluster], object]


def cut(cluster: FakeCluster) -> None:
    cluster.api.cut()


def stall(cluster: FakeCluster) -> None:
    cluster.api.stall()


def fail_500(cluster: FakeCluster) -> None:
    cluster.api.fail(500)
    cluster.api.cut()


def fail_429(cluster: FakeCluster) -> None:
    cluster.api.fail(429, retry_after_s=1, times=2)
    cluster.api.cut()


def fail_403(cluster: FakeCluster) -> None:
    cluster.api.fail(403)
    cluster.api.cut()


def fail_401(cluster: FakeCluster) -> None:
    cluster.api.fail(401)
    cluster.api.cut()


def gone_in_the_stream(cluster: FakeCluster) -> None:
    cluster.api.compact()
    cluster.api.cut()


def gone_as_a_status(cluster: FakeCluster) -> None:
    cluster.api.fail(410, verbs=["watch"], times=1, in_stream=False)
    cluster.api.cut()


def restart(cluster: FakeCluster) -> None:
    cluster.api.restart()


def stop(cluster: FakeCluster) -> None:
    cluster.api.stop()


@pytest.mark.parametrize(
    "fault",
    [cut, stall, fail_500, fail_429, fail_403, fail_401, gone_in_the_stream, gone_as_a_status, restart, stop],
    ids=lambda fault: fault.__name__,
)
def test_no_fault_of_the_api_server_costs_a_call_or_a_pod(
    cluster: FakeCluster, orders: FakeService, client: Program, fault: Fault
) -> None:
    """Three pods before, three during, and what changed during the fault is followed as soon as it is over."""
    with client.traffic() as traffic:
        history = started(traffic, orders)
        fault(cluster)
        start_s = traffic.go_on(60)
        assert set(traffic.shares(start_s)) == set(names(orders))
        assert history.least == 3, history.sizes
        left_out = orders.pods[0]
        left_out.set_ready(False)
        cluster.api.start()
        cluster.api.recover()
        client.await_usable(pod.address for pod in orders.pods[1:])
        traffic.await_pods(names(orders), calls=20)
        left_out.set_ready(True)
        client.await_usable(pod.address for pod in orders.pods)
        traffic.await_pods(names(orders), calls=20)
    assert traffic.failed == []
    assert history.least == 2  # the one that was not ready, and never less
    assert history.sources == {"kubernetes"}


def test_a_long_outage_of_the_api_server_is_not_noticed(cluster: FakeCluster, orders: FakeService, client: Program) -> None:
    """The pods stay known while nobody can be asked, with few attempts; a pod that dies meanwhile is avoided by its connection."""
    with client.traffic() as traffic:
        history = started(traffic, orders)
        cluster.api.stop()
        stopped_s = time.monotonic()
        eventually(lambda: time.monotonic() - stopped_s > 3.0, "some time passes", PATIENCE_S)
        dead = orders.pods[2]
        dead.kill()
        eventually(lambda: dead not in orders.ready_pods, "the cluster noticed")
        rest = [pod.name for pod in orders.pods if pod in orders.ready_pods and pod.revision == dead.revision][:2]
        start_s = traffic.go_on(60)
        assert set(traffic.shares(start_s)) <= set(rest)
        assert history.least == 3
        eventually(lambda: len(orders.ready_pods) == 3, "it was replaced")
        cluster.api.start()
        client.await_usable(pod.address for pod in orders.ready_pods)
        traffic.await_pods(lambda: names(orders), calls=20)
    assert traffic.lost(dead=[dead.address]) == []
    assert history.sources == {"kubernetes"}


def test_dns_may_fail_as_it_likes_while_the_api_server_answers(cluster: FakeCluster, orders: FakeService, client: Program) -> None:
    """Once slices are watched DNS is not needed, so no failure of it is seen."""
    with client.traffic() as traffic:
        history = started(traffic, orders)
        for how in ("SERVFAIL", "NXDOMAIN", "TIMEOUT"):
            cluster.dns.fail(how)
            traffic.go_on(20)
        cluster.dns.stop()
        traffic.go_on(20)
        cluster.dns.start()
        cluster.dns.recover()
    assert traffic.failed == []
    assert history.least == 3


# --- DNS as the only source -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def headless(cluster: FakeCluster) -> FakeService:
    cluster.dns.set_ttl(1)
    return cluster.service("names", replicas=3, headless=True)


@pytest.mark.parametrize("how", ["SERVFAIL", "NXDOMAIN", "TIMEOUT", "stop"])
def test_no_fault_of_dns_costs_a_call_or_a_pod(cluster: FakeCluster, headless: FakeService, how: str) -> None:
    """A headless Service known by DNS alone keeps its pods while DNS fails, and follows a new one when it is back."""
    target = f"names.shop.svc:{headless.pods[0].port}"
    with program(cluster, target, kubeconfig=None, sources=["dns"]) as client, client.traffic() as traffic:
        left_out = headless.pods[0]
        left_out.set_ready(False)
        try:
            traffic.go_on(1)
            traffic.program.await_usable(pod.address for pod in headless.pods[1:])
            client.await_connected(2)
            history = History(client)
            asked = len(cluster.dns.queries)
            if how == "stop":
                cluster.dns.stop()
                threading.Event().wait(1.5)  # a poll that nobody can count falls into this time
            else:
                cluster.dns.fail(how)
                eventually(lambda: len(cluster.dns.queries) > asked, "it was asked", PATIENCE_S)
            traffic.go_on(60)
            left_out.set_ready(True)
            cluster.dns.start()
            cluster.dns.recover()
            client.await_usable(pod.address for pod in headless.pods)
            traffic.await_pods(names(headless), calls=20)
        finally:
            cluster.dns.start()
            cluster.dns.recover()
            left_out.set_ready(True)
        assert history.sources == {"dns"}
        assert history.least == 2
    assert traffic.failed == []
