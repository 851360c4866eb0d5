"""Zones over real sockets, from what the API server says of nodes to who answers: ``prefer``, and Envoy's arithmetic with the caller's own
Service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import Program, program

HERE = {"MESHLB_NODE_NAME": "node-1", "MESHLB_ZONE": "zone-a"}
ENVOY = {**HERE, "MESHLB_LOCALITY": "envoy", "MESHLB_LOCALITY_OWN_SERVICE": "frontend.shop"}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


def _connect(client: Program, service: FakeService) -> None:
    client.call()
    client.await_usable({pod.address for pod in service.ready_pods})
    client.await_connected(len(service.ready_pods))


def _zone_shares(client: Program, service: FakeService) -> dict[str, float]:
    """By node: three nodes are three zones."""
    node_of = {pod.name: pod.node for pod in service.ready_pods}
    with client.traffic() as traffic:
        start_s = traffic.go_on(300)
        shares: Counter[str] = Counter()
        for pod, share in traffic.shares(start_s).items():
            shares[node_of[pod]] += share
    assert traffic.failed == []
    return {node: share / sum(shares.values()) for node, share in shares.items()}


def test_calls_stay_in_the_callers_zone(cluster: FakeCluster) -> None:
    """Two pods in each of three zones: nearly all calls go to the two here, and ``status()`` says for which part."""
    service = cluster.service("orders", replicas=6)
    with program(cluster, "orders.shop:grpc", environ={**HERE, "MESHLB_LOCALITY": "prefer"}) as client:
        _connect(client, service)
        assert client.pool["locality"]["zone"] == "zone-a"
        assert client.pool["locality"]["stay_ratio"] == 1.0
        assert _zone_shares(client, service)["node-1"] >= 0.8


def test_envoys_arithmetic_hears_of_the_own_service(cluster: FakeCluster) -> None:
    """A third of the frontends are here: all calls stay. Then it is half of them, and a third of the calls goes elsewhere, without an
    update of the target's own endpoints."""
    service = cluster.service("orders", replicas=6)
    frontend = cluster.service("frontend", replicas=3)
    with program(cluster, "orders.shop:grpc", environ=ENVOY) as client:
        _connect(client, service)
        eventually(lambda: client.pool["locality"].get("local_ratio") == 1.0, "all stay")
        assert set(_zone_shares(client, service)) == {"node-1"}
        for pod in frontend.ready_pods:
            if pod.node == "node-2":
                pod.set_ready(False)
        eventually(lambda: client.pool["locality"].get("local_ratio") == 0.6666, "two thirds stay")
        assert client.pool["locality"]["residuals"] == {"zone-a": 0, "zone-b": 3333, "zone-c": 3333}


def test_an_own_service_that_does_not_exist_stops_nothing(cluster: FakeCluster) -> None:
    """Plain picking, and the reason in ``status()``."""
    service = cluster.service("orders", replicas=6)
    with program(cluster, "orders.shop:grpc", environ={**ENVOY, "MESHLB_LOCALITY_OWN_SERVICE": "nobody.shop"}) as client:
        _connect(client, service)
        assert len(_zone_shares(client, service)) == 3
        assert "nobody.shop" in client.pool["locality"]["reason"]
