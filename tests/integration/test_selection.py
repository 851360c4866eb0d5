"""What kube-proxy decides for a caller, over real sockets: hints, internalTrafficPolicy, hand-made slices, and external names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshlb.testing import FakeCluster, FakeEndpoint, FakeService
from meshlb.testing.authorization import Rule
from tests.support.channels import EchoServer, eventually
from tests.support.programs import PATIENCE_S, Program, program

HERE = {"MESHLB_NODE_NAME": "node-1", "MESHLB_ZONE": "zone-a"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", nodes={"node-1": "zone-a", "node-2": "zone-b", "node-3": "zone-a"}) as cluster:
        yield cluster


@pytest.fixture
def services(cluster: FakeCluster) -> Iterator[FakeCluster]:
    yield cluster
    for service in cluster.services:
        service.delete()
    cluster.permit(Rule())


def on(service: FakeService, *nodes: str) -> set[str]:
    return {pod.address for pod in service.ready_pods if pod.node in nodes}


def names(service: FakeService, *nodes: str) -> set[str]:
    return {pod.name for pod in service.ready_pods if pod.node in nodes}


def test_zone_hints_keep_calls_in_the_zone_and_the_other_pods_known(services: FakeCluster) -> None:
    """The zone is inferred from the node alone; when the zone has no pod any more, all are used."""
    service = services.service("orders", replicas=3, traffic_distribution="PreferSameZone")
    near = on(service, "node-1", "node-3")
    with program(services, "orders.shop:grpc", environ={"MESHLB_NODE_NAME": "node-1"}) as client, client.traffic() as traffic:
        client.await_usable(near)
        client.await_connected(2)
        start_s = traffic.go_on(100)
        assert set(traffic.shares(start_s)) == names(service, "node-1", "node-3")
        assert len(client.pool["endpoints"]) == 3
        for pod in service.ready_pods:
            if pod.address in near:
                pod.set_ready(False)
        client.await_usable(on(service, "node-2"))
    assert traffic.failed == []


def test_node_hints_keep_calls_on_the_node(services: FakeCluster) -> None:
    """PreferSameNode; on a node without a pod the zone decides."""
    service = services.service("orders", replicas=2, traffic_distribution="PreferSameNode")
    for environ, nodes in (
        ({"NODE_NAME": "node-1"}, ("node-1",)),
        ({"MESHLB_NODE_NAME": "node-9", "MESHLB_ZONE": "zone-b"}, ("node-2",)),
    ):
        with program(services, "orders.shop:grpc", environ=environ) as client:
            client.call()
            client.await_usable(on(service, *nodes))


def test_local_uses_the_pods_of_the_own_node_and_none_is_none(services: FakeCluster) -> None:
    """As kube-proxy does: no fallback to other nodes."""
    service = services.service("agents", replicas=3, internal_traffic_policy="Local")
    with program(services, "agents.shop:grpc", environ=HERE) as client:
        client.call()
        client.await_usable(on(service, "node-1"))
        assert {sample.pod for sample in client.call()} == names(service, "node-1")
        for pod in service.ready_pods:
            if pod.node == "node-1":
                pod.set_ready(False)
        client.await_usable(())
        for sample in client.call(timeout=PATIENCE_S):
            assert "none ready on node node-1 (internalTrafficPolicy: Local)" in sample.details


def test_local_on_an_unknown_node_is_left_to_the_cluster_ip(services: FakeCluster) -> None:
    """Whose kernel knows the node: the client's own."""
    service = services.service("agents", replicas=3, internal_traffic_policy="Local")
    with program(services, "agents.shop:grpc") as client:
        client.call()
        client.await_source("clusterip")
        eventually(lambda: "node is not known" in client.pool["note"], "the reason is told")
        client.await_connected(4)
        assert {sample.pod for sample in client.call()} == names(service, services.client_node)


def test_slices_that_somebody_wrote_by_hand_are_used(services: FakeCluster) -> None:
    """Without conditions, nodes and pods, whoever manages them; and each with its own number for the port."""
    one, two = EchoServer("legacy-1"), EchoServer("legacy-2")
    try:
        service = services.service("legacy", endpoints=[])
        service.write_slice("legacy-by-hand", [f"127.0.0.1:{one.port}"])
        service.write_slice("legacy-by-tool", [f"127.0.0.1:{two.port}"], managed_by="tool.example.com")
        with program(services, "legacy.shop:grpc") as client, client.traffic() as traffic:
            client.await_usable({f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"})
            traffic.await_pods({"legacy-1", "legacy-2"})
            service.delete_slice("legacy-by-hand")
            client.await_usable({f"127.0.0.1:{two.port}"})
        assert traffic.failed == []
    finally:
        one.stop()
        two.stop()


def test_a_pod_that_is_published_though_it_is_not_ready_is_used(services: FakeCluster) -> None:
    """publishNotReadyAddresses: the controller says ready of all."""
    service = services.service("peers", replicas=2, headless=True, publish_not_ready=True)
    service.pods[0].set_ready(False)
    with program(services, "peers.shop:grpc") as client:
        client.call()
        client.await_usable({pod.address for pod in service.pods})


def external_call(client: Program, server: EchoServer, host: str) -> None:
    for sample in client.call(timeout=PATIENCE_S):
        assert (sample.pod, sample.replies[-1].authority) == (server.name, f"{host}:{server.port}"), sample


@pytest.mark.parametrize("readable", [True, False], ids=["the Service can be read", "DNS alone"])
def test_an_external_name_is_followed_and_is_the_authority(services: FakeCluster, readable: bool) -> None:
    """By what the Service says, or by the alias that DNS shows; a change of address is followed at the TTL."""
    if not readable:
        services.permit(Rule(namespaces=("elsewhere",)))
    server = EchoServer("outside")
    services.service("db", external_name="db.example.com")
    services.dns.add("db.example.com", ["127.0.0.1"], ttl_s=1)
    try:
        with program(services, f"db.shop:{server.port}") as client:
            external_call(client, server, "db.example.com")
            services.dns.add("db.example.com", ["127.0.0.2"], ttl_s=1)
            client.await_usable({f"127.0.0.2:{server.port}"})
    finally:
        services.dns.remove("db.example.com")
        server.stop()


def test_without_dns_as_a_source_the_system_resolves_the_external_name(services: FakeCluster) -> None:
    """``discovery="kubernetes"`` is about Services; an ordinary name is still looked up."""
    server = EchoServer("outside")
    services.service("db", external_name="localhost")
    try:
        with program(services, f"db.shop.svc:{server.port}", sources=("kubernetes",), nameservers=None) as client:
            external_call(client, server, "localhost")
    finally:
        server.stop()


def test_the_users_own_authority_wins_over_the_external_name(services: FakeCluster) -> None:
    """As with every target."""
    server = EchoServer("outside")
    services.service("db", external_name="db.example.com")
    services.dns.add("db.example.com", ["127.0.0.1"])
    try:
        options = [("grpc.default_authority", "mine.example.com")]
        with program(services, f"db.shop:{server.port}", options=options) as client:
            assert {sample.replies[-1].authority for sample in client.call(timeout=PATIENCE_S)} == {"mine.example.com"}
    finally:
        services.dns.remove("db.example.com")
        server.stop()


def test_an_external_name_of_this_cluster_is_the_service_that_it_names(services: FakeCluster) -> None:
    """With its pods, not pinned to its ClusterIP."""
    orders = services.service("orders", "prod", replicas=2)
    services.service("alias", external_name="orders.prod.svc.cluster.local")
    with program(services, "alias.shop:grpc") as client, client.traffic() as traffic:
        client.await_usable({pod.address for pod in orders.ready_pods})
        traffic.await_pods({pod.name for pod in orders.ready_pods})
    assert traffic.failed == []
    assert client.pool == {} or client.source == "kubernetes"


@pytest.mark.parametrize(
    ("port", "said"),
    [("grpc", "external names lead in a circle: ping.shop"), ("5432", "CNAME chain")],
    ids=["by the API", "by DNS"],
)
def test_external_names_that_lead_to_each_other_are_an_error_that_says_so(services: FakeCluster, port: str, said: str) -> None:
    """Soon, and for every call."""
    services.service("ping", external_name="pong.shop.svc.cluster.local")
    services.service("pong", external_name="ping.shop.svc.cluster.local")
    with program(services, f"ping.shop:{port}") as client:
        for sample in client.call(timeout=PATIENCE_S):
            assert said in sample.details


def test_endpoints_without_a_hint_are_all_used(services: FakeCluster) -> None:
    """One that lacks it switches hints off for all, as with kube-proxy."""
    one, two = EchoServer("hinted"), EchoServer("bare")
    try:
        near = FakeEndpoint(address="127.0.0.1", ports={"grpc": one.port}, hint_zones=("zone-a",))
        bare = FakeEndpoint(address="127.0.0.1", ports={"grpc": two.port})
        service = services.service("mixed", endpoints=[near, bare])
        with program(services, "mixed.shop:grpc", environ=HERE) as client:
            client.call()
            client.await_usable({f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"})
            far = FakeEndpoint(address="127.0.0.1", ports={"grpc": two.port}, hint_zones=("zone-b",))
            service.set_endpoints([near, far])
            client.await_usable({f"127.0.0.1:{one.port}"})
    finally:
        one.stop()
        two.stop()
