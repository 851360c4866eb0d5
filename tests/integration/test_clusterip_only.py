"""When only the ClusterIP is known, as it is without permission: several connections, balanced, renewed, and no call lost by it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from meshlb.resolve.kubernetes.backoff import Waits, exponential
from meshlb.resolve.kubernetes.rbac import role_yaml
from meshlb.testing import FakeCluster, FakeService, Rule
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, Program, Traffic, program

AGE_S = 5.0  # the least there is: one of four connections is renewed about every 1.25 s
K = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.permit(Rule(namespaces=("elsewhere",)))
        yield cluster


@pytest.fixture
def orders(cluster: FakeCluster) -> Iterator[FakeService]:
    service = cluster.service("orders", replicas=3)
    yield service
    service.delete()


@pytest.fixture
def client(cluster: FakeCluster, orders: FakeService) -> Iterator[Program]:
    with program(cluster, "orders.shop:grpc", environ=cluster.environ("shop"), fallback={"max_age_s": AGE_S}) as client:
        yield client


def connections(client: Program) -> list[str]:
    return [endpoint["uid"] for endpoint in client.usable]


def started(traffic: Traffic) -> None:
    traffic.go_on(1)
    eventually(lambda: traffic.program.source in ("clusterip", "environment"), "the ClusterIP is known", PATIENCE_S)
    traffic.program.await_connected(K)


def renewed(client: Program, times: int) -> None:
    """Until so many connections more are of a later generation."""

    def generations() -> int:
        return sum(int(uid.rpartition(".")[2]) for uid in connections(client))

    first = generations()
    eventually(lambda: generations() >= first + times, f"{times} renewals", 3 * PATIENCE_S)


def test_calls_are_balanced_over_several_connections_and_renewals_reach_every_pod(client: Program, orders: FakeService) -> None:
    """Four connections share the calls evenly; over a few renewals every pod gets some; no renewal costs a call."""
    addresses = {pod.address for pod in orders.pods}
    with client.traffic() as traffic:
        started(traffic)
        assert {uid.partition(".")[0] for uid in connections(client)} == {f"clusterip/{slot}" for slot in range(K)}
        before = {endpoint["uid"]: endpoint["started"] for endpoint in client.usable}
        traffic.go_on(100)
        after = {endpoint["uid"]: endpoint["started"] for endpoint in client.usable}
        calls = [after[uid] - before[uid] for uid in before if uid in after]
        assert min(calls) > sum(calls) / len(calls) / 2, calls
        renewed(client, 2 * K)
        eventually(lambda: set(traffic.shares()) == {pod.name for pod in orders.pods}, "every pod was reached", PATIENCE_S)
    assert traffic.failed == []
    assert {sample.endpoint.host for sample in traffic.samples if sample.endpoint is not None} == {orders.cluster_ip}
    assert not addresses & {sample.endpoint.address for sample in traffic.samples if sample.endpoint is not None}


def test_connections_to_a_pod_that_died_are_made_again(client: Program, orders: FakeService) -> None:
    """``kill -9`` of a pod costs what was in flight over it; its connections come back on other pods at once."""
    with client.traffic() as traffic:
        started(traffic)
        served = next(pod for pod in orders.pods if pod.name in traffic.shares())
        served.kill()
        traffic.go_on(60)
        eventually(lambda: served not in orders.ready_pods and len(orders.ready_pods) == 3, "it was replaced")
        client.await_connected(K)
        start_s = traffic.go_on(60)
        assert served.name not in traffic.shares(start_s)
        late = [sample for sample in traffic.since(start_s) if not sample.ok]
    assert late == []
    assert traffic.lost(dead=[f"{orders.cluster_ip}:{orders.port}"]) == []


def test_new_pods_are_reached_after_renewals(client: Program, orders: FakeService) -> None:
    """Scaled from one pod to four, the new ones get calls as the connections are renewed, which costs none."""
    orders.scale(1)
    with client.traffic() as traffic:
        started(traffic)
        orders.scale(4)
        old = set(traffic.shares())
        renewed(client, K)
        eventually(lambda: len(set(traffic.shares()) - old) >= 2, "new pods are reached", PATIENCE_S)
    assert traffic.failed == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_missing_permission_is_said_once_with_the_role_that_helps(
    cluster: FakeCluster, client: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, whatever the number of channels and calls, and it holds the Role to apply."""
    with caplog.at_level(logging.INFO, logger="meshlb"), client.traffic() as traffic:
        started(traffic)
        eventually(lambda: any(request.status == 403 for request in cluster.api.requests), "it was refused", PATIENCE_S)
        eventually(lambda: warnings(caplog), "it was said", PATIENCE_S)
        traffic.go_on(20)
    (warning,) = warnings(caplog)
    assert role_yaml("shop", ["orders"], "system:serviceaccount:shop:default") in warning
    assert traffic.failed == []


def test_a_permission_granted_later_moves_the_calls_to_the_pods_without_a_gap(
    cluster: FakeCluster, client: Program, orders: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server is asked again from time to time; when it allows, pods take over from the ClusterIP and no call fails."""
    soon = Waits(failure=exponential(0.8, 30.0), refusal=exponential(0.5, 1.0))  # half a minute is too long for a test
    monkeypatch.setattr(Waits, "load", classmethod(lambda cls: soon))
    cluster.api.clear_requests()
    try:
        with client.traffic() as traffic:
            started(traffic)
            eventually(lambda: any(request.status == 403 for request in cluster.api.requests), "it was refused", PATIENCE_S)
            cluster.permit(Rule())
            eventually(lambda: client.source == "kubernetes", f"the pods are known: {client.pool}", 4 * PATIENCE_S)
            client.await_connected(3)
            start_s = traffic.await_pods(pod.name for pod in orders.ready_pods)
            where = {sample.endpoint.address for sample in traffic.since(start_s) if sample.endpoint is not None}
    finally:
        cluster.permit(Rule(namespaces=("elsewhere",)))
    assert traffic.failed == []
    assert where == {pod.address for pod in orders.ready_pods}
