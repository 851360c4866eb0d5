"""Targets against FakeCluster over real sockets: every form, every source away, and back again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Resolver
from meshlb.core.target import Target
from meshlb.errors import PortNotFoundError, ResolveError, ServiceNotFoundError
from meshlb.resolve.classify import Classifier
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.runtime.loop import Loop
from meshlb.testing import FakeCluster, FakeEndpoint
from meshlb.testing.authorization import Rule

DEADLINE_S = 10.0
PODS = ["127.9.0.1:8080", "127.9.0.2:8080"]


class Client:
    """A program that resolves targets, on a discovery thread of its own."""

    def __init__(self, cluster: FakeCluster, *, environ: dict[str, str] | None = None, **discovery: Any) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        self.loop = Loop()
        settings = {"kubeconfig": cluster.kubeconfig, "nameservers": [cluster.nameserver], "namespace": "shop"} | discovery
        self.classifier = Classifier(
            Discovery(**settings), Fallback(), scheduler=self.loop, rng=random.Random(seed), environ=environ or {}
        )
        self._resolvers: list[Resolver] = []

    def resolve(self, target: str) -> Heard:
        resolver = self.classifier.resolver(Target.parse(target))
        heard = Heard(resolver)
        self._resolvers.append(resolver)
        self.loop.call_soon(lambda: resolver.start(heard))
        return heard

    def close(self) -> None:
        closed = threading.Event()

        def close() -> None:
            for resolver in self._resolvers:
                resolver.close()
            self.classifier.close()
            closed.set()

        self.loop.call_soon(close)
        assert closed.wait(DEADLINE_S)
        self.loop.stop()


class Heard:
    """What a resolver said, with the times; ``until`` waits for it to say something."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.began_s = time.monotonic()
        self.sets: list[EndpointSet] = []
        self.times: list[float] = []
        self.errors: list[ResolveError] = []
        self._changed = threading.Condition()

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        with self._changed:
            self.sets.append(endpoints)
            self.times.append(time.monotonic())
            self._changed.notify_all()

    def on_error(self, error: ResolveError, /) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), f"heard {self.sets} {self.errors}"

    def until_source(self, source: str) -> EndpointSet:
        self.until(lambda: bool(self.sets) and self.sets[-1].source == source)
        return self.sets[-1]

    def until_addresses(self, *addresses: str) -> EndpointSet:
        self.until(lambda: bool(self.sets) and addresses_of(self.sets[-1]) == sorted(addresses))
        return self.sets[-1]

    @property
    def never_empty(self) -> bool:
        return all(endpoints.endpoints for endpoints in self.sets)


def wait_for(condition: Callable[[], bool]) -> None:
    """For what nobody announces."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


def addresses_of(endpoints: EndpointSet) -> list[str]:
    return sorted({endpoint.address for endpoint in endpoints.endpoints})


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", dns_ttl_s=1) as cluster:
        yield cluster


@pytest.fixture
def client_of(cluster: FakeCluster) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(**more: Any) -> Client:
        clients.append(Client(cluster, **more))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_every_form_of_a_service_finds_its_pods(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """Bare, qualified, with zone, by scheme, by port name, number and target: the same pods, ClusterIP and Service port."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051}, target_port=8080)
    client = client_of()
    forms = [
        "orders:grpc",
        "orders.shop",
        "orders.shop:50051",
        "orders.shop.svc:grpc",
        "orders.shop.svc.cluster.local:50051",
        "http://orders.shop.svc:50051",
        "k8s:///orders:grpc",
        "k8s://shop/orders:50051",
        "orders:8080?port=target",
    ]
    for heard in [client.resolve(form) for form in forms]:
        heard.until(lambda heard=heard: bool(heard.sets) and bool(heard.sets[-1].fallback))  # type: ignore[misc]
        latest = heard.sets[-1]
        assert (latest.source, addresses_of(latest), latest.service_port) == ("kubernetes", PODS, 50051)
        assert {endpoint.address for endpoint in latest.fallback} == {f"{orders.cluster_ip}:50051"}
        assert heard.never_empty


def test_with_the_api_away_at_the_start_dns_serves_and_pods_take_over_without_a_gap(
    cluster: FakeCluster, client_of: Callable[..., Client]
) -> None:
    """The ClusterIP by DNS within 0.3 s (scaled for a busy machine); pods when the API server is there; never an empty set."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    cluster.api.stop()
    heard = client_of().resolve("orders.shop.svc:50051")
    first = heard.until_source("clusterip")
    assert heard.times[0] - heard.began_s < 3.0
    assert addresses_of(first) == [f"{orders.cluster_ip}:50051"]
    assert len(first.endpoints) == 4
    cluster.api.start()
    latest = heard.until_source("kubernetes")
    assert addresses_of(latest) == PODS
    assert latest.fallback == first.endpoints
    assert heard.never_empty


def test_without_permission_the_cluster_ip_carries_k_connections_and_one_warning_has_the_role(
    cluster: FakeCluster, client_of: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """403 for slices and Services: four connections to the ClusterIP, and the Role that this very client lacks."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    cluster.permit()
    with caplog.at_level(logging.WARNING):
        heard = client_of().resolve("orders.shop.svc:50051")
        heard.until_source("clusterip")
        wait_for(lambda: bool(caplog.records))
    assert [endpoint.address for endpoint in heard.sets[-1].endpoints] == [f"{orders.cluster_ip}:50051"] * 4
    warnings = [record for record in caplog.records if record.name.startswith("meshlb")]
    assert len(warnings) == 1
    assert "kind: Role" in warnings[0].getMessage()
    assert "name: default, namespace: shop" in warnings[0].getMessage()


def test_slices_alone_suffice(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """Without permission for Services a single port is mapped all the same, and DNS gives the fallback."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    cluster.permit(Rule(resources=("endpointslices",), verbs=("list", "watch")))
    heard = client_of().resolve("orders.shop.svc:50051")
    heard.until(lambda: bool(heard.sets) and bool(heard.sets[-1].fallback))
    assert (heard.sets[-1].source, addresses_of(heard.sets[-1])) == ("kubernetes", PODS)
    assert heard.sets[-1].fallback[0].address == f"{orders.cluster_ip}:50051"


def test_an_api_server_that_goes_away_and_comes_back_costs_nothing(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """While it is away the pods stay; what changed meanwhile is there when it is back."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    heard = client_of().resolve("orders.shop.svc:50051")
    heard.until_addresses(*PODS)
    cluster.api.stop()
    orders.set_endpoints(["127.9.0.2:8080", "127.9.0.3:8080"])
    wait_for(lambda: "2 endpoints" not in heard.resolver.describe()["sources"]["kubernetes"]["said"])  # type: ignore[attr-defined]
    assert addresses_of(heard.sets[-1]) == PODS
    cluster.api.restart()
    heard.until_addresses("127.9.0.2:8080", "127.9.0.3:8080")
    assert heard.never_empty


def test_with_api_and_dns_away_the_environment_serves(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """A bare name is known to be a Service from the environment, and its ClusterIP is used until somebody answers."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    cluster.api.stop()
    cluster.dns.fail("TIMEOUT")
    namespace_file = {"service_account_dir": cluster.service_account_dir}
    heard = client_of(environ=cluster.environ("shop"), **namespace_file).resolve("orders:grpc")
    first = heard.until_source("environment")
    assert {endpoint.address for endpoint in first.endpoints} == {f"{orders.cluster_ip}:50051"}
    assert heard.times[0] - heard.began_s < 3.0
    cluster.api.start()
    assert addresses_of(heard.until_source("kubernetes")) == PODS


def test_a_headless_service_is_balanced_by_dns_alone(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """No API at all: the pods at the number that was written; a new one is seen within a TTL or so."""
    orders = cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 8080}, target_port=8080, headless=True)
    heard = client_of(kubeconfig=None).resolve("orders.shop.svc:8080")
    assert addresses_of(heard.until_source("dns")) == PODS
    orders.set_endpoints([*PODS, "127.9.0.3:8080"])
    heard.until_addresses(*PODS, "127.9.0.3:8080")
    assert cluster.api.requests == []


def test_an_unknown_service_is_an_error_that_heals(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """Not found, with what the API server and DNS said; found as soon as it is there, without being asked for again."""
    heard = client_of().resolve("orders.shop.svc:grpc")
    heard.until(lambda: bool(heard.errors))
    assert isinstance(heard.errors[0], ServiceNotFoundError)
    assert "no EndpointSlice of orders in namespace shop" in str(heard.errors[0])
    assert "orders.shop.svc.cluster.local" in str(heard.errors[0]) or "NXDOMAIN" in str(heard.errors[0])
    assert heard.sets == []
    cluster.service("orders", "shop", endpoints=PODS, ports={"grpc": 50051})
    heard.until_addresses(*PODS)


def test_a_port_that_the_service_lacks_is_an_error_with_its_ports(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """Named wrongly, or not named where several could be meant: the ports are listed."""
    pod = FakeEndpoint(address="127.9.0.1", ports={"api": 8080, "admin": 8081})
    cluster.service("orders", "shop", endpoints=[pod], ports={"api": 80, "admin": 81})
    client = client_of()
    for target in ("orders.shop.svc:grpc", "orders.shop.svc"):
        heard = client.resolve(target)
        heard.until(lambda heard=heard: bool(heard.errors))  # type: ignore[misc]
        assert isinstance(heard.errors[-1], PortNotFoundError)
        assert "api (80" in str(heard.errors[-1])
        assert "admin (81" in str(heard.errors[-1])


def test_an_ordinary_name_causes_no_api_request(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """Asked of DNS under the cluster's zone, denied, resolved by the system; the API server never hears of it."""
    client = client_of()
    heard = client.resolve("localhost:50051")
    assert heard.until_source("system").endpoints[0].port == 50051
    asked = client.resolve("no-such-host.invalid:50051")
    asked.until(lambda: bool(asked.errors))
    assert isinstance(asked.errors[-1], ServiceNotFoundError)
    assert any(query.name.rstrip(".") == "no-such-host.invalid.svc.cluster.local" for query in cluster.dns.queries)
    assert cluster.api.requests == []


def test_one_pod_of_a_service_is_that_pod(cluster: FakeCluster, client_of: Callable[..., Client]) -> None:
    """By its hostname, with no fallback to the others."""
    cluster.service("orders", "shop", replicas=2, headless=True, hostnames=True)
    heard = client_of().resolve("orders-1.orders.shop.svc:grpc")
    latest = heard.until_source("kubernetes")
    assert [endpoint.hostname for endpoint in latest.endpoints] == ["orders-1"]
    assert latest.fallback == ()
