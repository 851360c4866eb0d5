"""What a type checker knows of the test kit, and of its pytest plugin."""

from __future__ import annotations

from typing import assert_type

from meshlb.testing import FakeCluster, FakeEndpoint, FakeService, Pod
from meshlb.testing.plugin import fake_cluster as fake_cluster

with FakeCluster(namespace="shop", dns_ttl_s=1) as cluster:
    assert_type(cluster, FakeCluster)
    orders = cluster.service("orders", replicas=3, ports={"grpc": 50051})
    assert_type(orders, FakeService)
    assert_type(orders.pods, list[Pod])
    assert_type(orders.cluster_ip, str | None)  # a headless Service has none
    assert_type(orders.endpoints, tuple[FakeEndpoint, ...])
    assert_type(cluster.environ("shop"), dict[str, str])
    assert_type(cluster.kubeconfig, str)
    assert_type(cluster.nameserver, str)
    orders.scale(5)
    orders.rolling_update(prestop_s=0.2, grace_s=5.0)
    orders.pods[0].kill()
    cluster.api.cut()
    cluster.dns.fail("SERVFAIL")

    cluster.service(replicas=3)  # type: ignore[call-arg]  # no name
    orders.scale("5")  # type: ignore[arg-type]


def test_ours(fake_cluster: FakeCluster) -> None:
    fake_cluster.service("orders")
