"""Most of a Service vanishes from its slices and serves on: a partition of nodes, seen by a program over real sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from meshlb.testing import FakeCluster, FakeEndpoint
from tests.support.channels import EchoServer, eventually
from tests.support.programs import program

SPARE_S = 3.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    servers = [EchoServer(f"pod-{number}") for number in range(6)]
    yield servers
    for server in servers:
        server.stop()


def listed(servers: Sequence[EchoServer], *, ready: bool = True) -> list[FakeEndpoint]:
    return [
        FakeEndpoint(
            address="127.0.0.1", ports={"grpc": server.port}, pod=server.name, uid=f"uid-{server.name}", ready=ready, serving=ready
        )
        for server in servers
    ]


@pytest.mark.parametrize("how", ["vanished", "not ready"])
def test_calls_go_on_over_the_spare_when_those_that_are_left_die(cluster: FakeCluster, servers: list[EchoServer], how: str) -> None:
    """4 of 6 pods are lost while they serve, the other 2 stop: no call fails but those that no client can save, sync or asyncio; then
    the spare's time is over."""
    name = how.replace(" ", "-")
    service = cluster.service(name, endpoints=listed(servers), headless=True, ports={"grpc": 50051})
    lost, left = servers[:4], servers[4:]
    with program(cluster, f"{name}.shop:grpc", settings={"mass_removal_spare_s": SPARE_S}) as client:
        with client.traffic() as traffic:
            client.await_connected(6)
            traffic.await_pods([server.name for server in servers])
            service.set_endpoints(listed(left) + (listed(lost, ready=False) if how == "not ready" else []))
            eventually(lambda: len(client.pool["spare"]) == 4, "the guard saw it")
            traffic.await_pods([server.name for server in left])
            for server in left:
                server.stop(1.0)
            traffic.await_pods([server.name for server in lost])
            assert client.pool["mass_removals"] == 1
            assert all(view["on_spare"] for view in client.pool["views"])
        assert traffic.lost(stopped=[server.endpoint.address for server in left]) == []
        eventually(lambda: client.pool["spare"] == [], "its time is over")
        eventually(lambda: not any(view["picking_from"] for view in client.pool["views"]), "nobody is called any more")
        assert client.in_flight == 0
    service.delete()


def test_the_lost_take_their_calls_again_at_once_when_they_are_back(cluster: FakeCluster, servers: list[EchoServer]) -> None:
    """Over the connections that they have; no call fails, and none is made anew."""
    service = cluster.service("flapping", endpoints=listed(servers), headless=True, ports={"grpc": 50051})
    with program(cluster, "flapping.shop:grpc") as client, client.traffic() as traffic:
        client.await_connected(6)
        traffic.await_pods([server.name for server in servers])
        ages = {endpoint["address"]: endpoint["started"] for endpoint in client.pool["endpoints"]}
        service.set_endpoints(listed(servers[4:]))
        eventually(lambda: len(client.pool["spare"]) == 4, "the guard saw it")
        service.set_endpoints(listed(servers))
        eventually(lambda: len(client.usable) == 6, "they are back")
        assert all(view["picking_from"] == 6 for view in client.pool["views"])
        traffic.await_pods([server.name for server in servers])
        assert all(endpoint["started"] > ages[endpoint["address"]] for endpoint in client.pool["endpoints"])
    assert traffic.failed == []
    service.delete()
