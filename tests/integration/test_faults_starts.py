"""A program starts while something is missing: what there is serves at once, errors say who said what, and all of it heals itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import meshlb
from meshlb.testing import FakeCluster, FakeService, Rule
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, Program, Sample, program

TARGET = "orders.shop:grpc"
SOON_S = 2.0  # for what should take a fraction of a second, on a busy machine
FIRST_ANSWER_S = 1.0
IMPATIENT = {"first_answer_timeout_s": FIRST_ANSWER_S}
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def whole() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", dns_ttl_s=1) as cluster:
        cluster.service("orders", replicas=2)
        yield cluster


@pytest.fixture
def cluster(whole: FakeCluster) -> Iterator[FakeCluster]:
    yield whole
    whole.api.start()
    whole.api.recover()
    whole.dns.start()
    whole.dns.recover()
    whole.permit(Rule())


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return next(service for service in cluster.services if service.name == "orders")


def assert_served(samples: list[Sample], within_s: float = SOON_S) -> None:
    assert [sample.error for sample in samples] == [None] * len(samples)
    assert max(sample.took_s for sample in samples) < within_s


def assert_refused(samples: list[Sample], *words: str, kind: type[meshlb.MeshError] = meshlb.ResolveError) -> None:
    """UNAVAILABLE in both kinds, as an error of grpc's and of ours at once, in one line with these words."""
    for sample in samples:
        assert sample.code is UNAVAILABLE, sample
        assert isinstance(sample.error, kind), sample
        assert isinstance(sample.error, grpc.RpcError)
        assert [word for word in words if word not in sample.details] == [], sample.details
        assert "\n" not in sample.details
        assert "Traceback" not in sample.details


def assert_waits_until(client: Program, samples_wait: list[str], act: object) -> None:
    """Calls with wait_for_ready are under way, wait, and succeed once ``act`` was done."""
    waiting = [one.start(wait_for_ready=True, timeout=PATIENCE_S) for one in client.clients]
    streams = [one.stream(wait_for_ready=True, timeout=PATIENCE_S, count=1) for one in client.clients]
    refused = client.call()
    assert [sample.code for sample in refused] == [UNAVAILABLE] * len(refused)
    assert not any(one.done for one in (*waiting, *streams))
    assert callable(act)
    act()
    ended = [one.result(2 * PATIENCE_S) for one in (*waiting, *streams)]
    assert [sample.error for sample in ended] == [None] * len(ended)
    assert [sample.pod for sample in ended if not sample.pod] == samples_wait
    client.assert_idle()


# --- sources that are away --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "stall", "500"])
def test_without_the_api_server_dns_and_the_clusterip_serve_at_once(cluster: FakeCluster, orders: FakeService, how: str) -> None:
    """The first call needs no API server; when that is back the pods take over without a failed call."""
    if how == "stop":
        cluster.api.stop()
    elif how == "stall":
        cluster.api.stall()
    else:
        cluster.api.fail(500)
    with program(cluster, f"orders.shop:{orders.port}") as client:
        assert_served(client.call())
        assert client.source == "clusterip"
        with client.traffic() as traffic:
            traffic.go_on(20)
            cluster.api.start()
            cluster.api.recover()
            client.await_source("kubernetes")
            client.await_connected(2)
            start_s = traffic.await_pods(pod.name for pod in orders.pods)
            assert {s.endpoint.host for s in traffic.since(start_s) if s.endpoint} == {pod.ip for pod in orders.pods}
        assert traffic.failed == []


@pytest.mark.parametrize("how", ["stop", "silent"])
def test_without_the_api_server_and_dns_the_environment_serves(cluster: FakeCluster, orders: FakeService, how: str) -> None:
    """What the kubelet wrote into the environment is enough for a first call, also where nobody even refuses."""
    if how == "stop":
        cluster.api.stop()
        cluster.dns.stop()
    else:
        cluster.api.stall()
        cluster.dns.fail("TIMEOUT")
    with program(cluster, TARGET, environ=cluster.environ("shop")) as client:
        assert_served(client.call())
        assert client.source == "environment"
        with client.traffic() as traffic:
            traffic.go_on(20)
            cluster.api.start()
            cluster.api.recover()
            client.await_source("kubernetes")
            traffic.go_on(20)
        assert traffic.failed == []


@pytest.mark.parametrize("how", ["stop", "silent"])
def test_with_nothing_at_all_a_call_says_who_said_what_and_a_patient_one_waits(cluster: FakeCluster, how: str) -> None:
    """UNAVAILABLE within first_answer_timeout_s; with wait_for_ready the call is served when the API server is back."""
    if how == "stop":
        cluster.api.stop()
        cluster.dns.stop()
    else:
        cluster.api.stall()
        cluster.dns.fail("TIMEOUT")

    def come_back() -> None:
        cluster.api.start()
        cluster.api.recover()

    with program(cluster, "orders.shop.svc:grpc", settings=IMPATIENT) as client:
        refused = client.call()
        assert max(sample.took_s for sample in refused) < FIRST_ANSWER_S + SOON_S
        words = ("kubernetes: ", "dns: ", "environment: does not know it") if how == "stop" else ("first_answer_timeout_s=1",)
        assert_refused(refused, "orders.shop", *words)
        assert_waits_until(client, [], come_back)


def test_without_credentials_dns_serves_and_nobody_is_asked(cluster: FakeCluster, orders: FakeService) -> None:
    """No kubeconfig and no service account: the ClusterIP by DNS, and not one request to the API server."""
    cluster.api.clear_requests()
    with program(cluster, f"orders.shop:{orders.port}", kubeconfig=None) as client:
        assert_served(client.call())
        assert client.source == "clusterip"
        client.assert_idle()
    assert cluster.api.requests == []


def test_a_namespace_without_permission_works_over_the_clusterip_and_another_as_ever(
    cluster: FakeCluster, orders: FakeService
) -> None:
    """A refusal for one namespace says nothing about another."""
    cluster.permit(Rule(namespaces=("stock",)))
    stock = cluster.service("stock", "stock", replicas=1)
    try:
        with program(cluster, f"orders.shop:{orders.port}") as client, program(cluster, "stock.stock:grpc") as other:
            assert_served(client.call())
            assert_served(other.call())
            assert client.source == "clusterip"
            other.await_source("kubernetes")
    finally:
        stock.delete()


# --- a kubeconfig that does not work -------------------------------------------------------------------------------------------


BROKEN = {
    "missing": None,
    "not YAML": "{{{{",
    "no current context": "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\n",
    "empty": "",
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_broken_kubeconfig_is_said_clearly_and_dns_serves(
    cluster: FakeCluster, orders: FakeService, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """DNS has a port's number and its name (SRV), so no API server is needed; without DNS the error names the file."""
    path, text = tmp_path / "kubeconfig", BROKEN[what]
    if text is not None:
        path.write_text(text)
    with caplog.at_level(logging.WARNING, logger="meshlb"):
        with program(cluster, f"orders.shop:{orders.port}", kubeconfig=str(path)) as client:
            assert_served(client.call())
        with program(cluster, "orders.shop.svc:grpc", kubeconfig=str(path)) as client:
            assert_served(client.call())
        with program(cluster, "orders.shop.svc:grpc", kubeconfig=str(path), sources=["kubernetes"], settings=IMPATIENT) as client:
            assert_refused(client.call(), "kubernetes: ", str(path))
    said = [record for record in caplog.records if str(path) in record.getMessage()]
    assert said
    assert all(record.exc_info is None for record in said)


# --- what is asked for is not there ------------------------------------------------------------------------------------------


def test_an_unknown_service_is_said_by_each_source_and_found_when_it_appears(cluster: FakeCluster) -> None:
    """ServiceNotFoundError with every source's words; a waiting call is served by the pods that come later."""
    made: list[FakeService] = []
    with program(cluster, "ghost.shop.svc:grpc", settings=IMPATIENT) as client:
        refused = client.call()
        assert_refused(refused, "ghost.shop", "kubernetes: ", "dns: ", "NXDOMAIN", kind=meshlb.ServiceNotFoundError)
        assert_waits_until(client, [], lambda: made.append(cluster.service("ghost", replicas=1)))
        with client.traffic() as traffic:
            traffic.go_on(20)
        assert traffic.failed == []
    made[0].delete()


def test_a_missing_and_an_ambiguous_port_list_the_names(cluster: FakeCluster) -> None:
    """PortNotFoundError names the ports that there are."""
    two = cluster.service("two", replicas=1, ports={"api": 50051, "admin": 50052})
    try:
        # A number that nobody has is dialled on the ClusterIP while only DNS has answered, so DNS is left out for it.
        for target, sources in (
            ("two.shop.svc:metrics", ["kubernetes", "dns"]),
            ("two.shop.svc", ["kubernetes", "dns"]),
            ("two.shop.svc:50099", ["kubernetes"]),
        ):
            with program(cluster, target, sources=sources, settings=IMPATIENT) as client:
                refused = client.call()
                assert_refused(refused, "two.shop", "api", "admin", kind=meshlb.PortNotFoundError)
                assert max(sample.took_s for sample in refused) < FIRST_ANSWER_S + SOON_S
        with program(cluster, "two.shop.svc:admin") as client:
            assert_served(client.call())
    finally:
        two.delete()


def test_a_service_without_a_ready_pod_says_so_and_a_patient_call_waits_for_one(cluster: FakeCluster) -> None:
    """UNAVAILABLE at once, "none ready" or "0 endpoints"; the first pod that is ready gets the waiting calls."""
    empty = cluster.service("empty", replicas=1)
    pod = empty.pods[0]
    pod.set_ready(False)
    try:
        with program(cluster, "empty.shop:grpc") as client:
            client.call()  # DNS may be first, with the ClusterIP, which refuses as well
            client.await_source("kubernetes")
            eventually(lambda: not client.usable, "it is believed that none is ready", PATIENCE_S)
            refused = client.call()
            assert_refused(refused, "empty.shop", "1 endpoint", "none ready", kind=meshlb.NoEndpointError)
            assert max(sample.took_s for sample in refused) < SOON_S
            assert_waits_until(client, [], lambda: pod.set_ready(True))
            empty.scale(0)
            eventually(lambda: not client.usable, "it is believed that there is none", PATIENCE_S)
            gone = client.call()
            assert_refused(gone, "empty.shop", "0 endpoints", kind=meshlb.NoEndpointError)
            assert_waits_until(client, [], lambda: empty.scale(1))
    finally:
        empty.delete()


def test_a_headless_service_without_a_ready_pod_says_so_though_dns_has_no_such_name(cluster: FakeCluster) -> None:
    """A port's name is only a Service's, so the API server is asked, whatever DNS says."""
    empty = cluster.service("hollow", replicas=1, headless=True)
    empty.pods[0].set_ready(False)
    try:
        with program(cluster, "hollow.shop:grpc") as client:
            assert_refused(client.call(), "hollow.shop", "none ready", kind=meshlb.NoEndpointError)
    finally:
        empty.delete()


def test_a_short_name_with_a_ports_name_needs_no_dns(cluster: FakeCluster, orders: FakeService) -> None:
    """DNS down at the start, the API server well: ``orders.shop:grpc`` is a Service all the same."""
    cluster.dns.stop()
    with program(cluster, TARGET) as client:
        assert_served(client.call())
        assert client.source == "kubernetes"


def test_a_headless_services_pods_are_never_dialled_at_the_services_port(cluster: FakeCluster) -> None:
    """Port != targetPort, and DNS answers first while the API server is slow: SRV has their own port, so no call is refused."""
    headless = cluster.service("inner", replicas=2, headless=True)
    assert headless.port != headless.pods[0].port
    try:
        for _ in range(3):
            with program(cluster, f"inner.shop.svc:{headless.port}") as client:
                assert_served(client.call(), 2 * SOON_S)
                client.await_source("kubernetes")
                assert_served(client.call())
    finally:
        headless.delete()


def test_the_first_call_does_not_wait_for_sources_that_stay_silent(cluster: FakeCluster, orders: FakeService) -> None:
    """DNS silent, the API server well: the pods answer long before any timeout."""
    cluster.dns.fail("TIMEOUT")
    begun_s = time.monotonic()
    with program(cluster, "orders.shop.svc:grpc") as client:
        assert_served(client.call())
        assert client.source == "kubernetes"
        assert time.monotonic() - begun_s < 2 * SOON_S
