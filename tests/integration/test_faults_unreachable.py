"""Pods that cannot be reached, or fail: the ClusterIP helps while all of them are, the others while some are, nothing amplifies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from meshlb.testing import FakeCluster, FakeService
from meshlb.testing.pod_server import EchoService
from tests.support.channels import EchoServer, echo_servers, eventually, unused_port
from tests.support.programs import PATIENCE_S, program

CONNECT_TIMEOUT_S = 1.5
SLACK_S = 1.0  # a busy machine
SETTINGS = {"connect_timeout_s": CONNECT_TIMEOUT_S}


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


class BlackHole:
    """Takes connections, as far as its backlog goes, and never says a word; ``full``: not even that, as where packets vanish."""

    def __init__(self, *, full: bool = False) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0 if full else 128)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self._filling = [socket.socket() for _ in range(4 if full else 0)]
        for one in self._filling:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(self.listener.getsockname())

    def close(self) -> None:
        for one in (*self._filling, self.listener):
            one.close()


class Counter:
    """Accepts every connection, hangs up at once, and counts: nothing is connectable, and each try is seen."""

    def __init__(self) -> None:
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(0.05)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="test-counter", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._listener.accept()[0].close()
                self.accepted += 1

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    hole = BlackHole()
    yield hole
    hole.close()


@pytest.fixture
def full_black_hole() -> Iterator[BlackHole]:
    hole = BlackHole(full=True)
    yield hole
    hole.close()


@contextlib.contextmanager
def service_of(cluster: FakeCluster, name: str, endpoints: list[str]) -> Iterator[FakeService]:
    """A Service with a ClusterIP and endpoints of our own making."""
    service = cluster.service(name, endpoints=endpoints)
    try:
        yield service
    finally:
        service.delete()


@contextlib.contextmanager
def split_brain(cluster: FakeCluster, name: str, listed: list[str], servers: list[EchoServer]) -> Iterator[FakeService]:
    """Its slices list ``listed``, while its ClusterIP leads to ``servers``: what a network that drops pod traffic looks like."""
    with service_of(cluster, name, listed) as service:
        listener = next(iter(service._listeners.values()))
        truth = listener._targets
        listener._targets = lambda: [("127.0.0.1", server.port) for server in servers]
        try:
            yield service
        finally:
            listener._targets = truth


def refused() -> str:
    return f"127.0.0.1:{unused_port()}"


@pytest.mark.parametrize("way", ["refuse", "never answer", "drop packets"])
def test_when_no_known_pod_can_be_connected_calls_go_over_the_clusterip(
    cluster: FakeCluster, black_hole: BlackHole, full_black_hole: BlackHole, way: str
) -> None:
    """The first call succeeds within connect_timeout_s; when pods can be connected again the traffic returns to them."""
    bad = {"refuse": refused(), "never answer": black_hole.address, "drop packets": full_black_hole.address}[way]
    with (
        echo_servers(2) as servers,
        split_brain(cluster, "lost", [bad, refused()], servers) as service,
        program(cluster, "lost.shop:grpc", settings=SETTINGS) as client,
    ):
        virtual = f"{service.cluster_ip}:{service.port}"
        first = client.call()
        assert [sample.error for sample in first] == [None, None]
        assert max(sample.took_s for sample in first) < CONNECT_TIMEOUT_S + SLACK_S
        eventually(lambda: client.source == "kubernetes", f"the pods are known: {client.pool}", PATIENCE_S)
        with client.traffic() as traffic:
            traffic.go_on(40)
            over = {sample.endpoint.address for sample in traffic.samples if sample.endpoint is not None}
            service.set_endpoints([f"127.0.0.1:{server.port}" for server in servers])
            client.await_connected(2)
            start_s = traffic.go_on(40)
            back = {sample.endpoint.address for sample in traffic.since(start_s) if sample.endpoint is not None}
    assert traffic.failed == []
    assert over == {virtual}
    assert back == {f"127.0.0.1:{server.port}" for server in servers}


def test_pods_that_stop_being_reachable_under_traffic_are_replaced_by_the_clusterip(cluster: FakeCluster) -> None:
    """All pods vanish and refuse while the list still has them: only what was in flight is lost; later they get the calls back."""
    with (
        echo_servers(2) as behind,
        echo_servers(2) as pods,
        split_brain(cluster, "gone", [f"127.0.0.1:{pod.port}" for pod in pods], behind) as service,
        program(cluster, "gone.shop:grpc", settings=SETTINGS) as client,
        client.traffic() as traffic,
    ):
        traffic.go_on(1)
        client.await_connected(2)
        traffic.go_on(20)
        for pod in pods:
            pod.stop()
        stopped_s = time.monotonic()
        start_s = traffic.go_on(40)
        over = {sample.endpoint.address for sample in traffic.since(start_s) if sample.ok and sample.endpoint is not None}
        settled_s = traffic.go_on(20)
        for pod in pods:
            pod.start()
        eventually(
            lambda: (
                {one["address"] for one in client.usable if set(one["connections"]) == {"ready"}}
                == {f"127.0.0.1:{pod.port}" for pod in pods}
            ),
            "they are connected again",
            2 * PATIENCE_S,
        )
        start_s = traffic.go_on(40)
        back = {sample.endpoint.address for sample in traffic.since(start_s) if sample.endpoint is not None}
    dead = {f"127.0.0.1:{pod.port}" for pod in pods}
    assert over <= {f"{service.cluster_ip}:{service.port}"}
    assert back == dead
    assert [sample for sample in traffic.since(settled_s) if not sample.ok] == []
    lost = [sample for sample in traffic.lost(dead=dead) if sample.form == "unary"]
    assert lost == [], f"stopped at {stopped_s}"


def test_when_nothing_can_be_connected_a_call_makes_one_attempt_and_says_why(cluster: FakeCluster) -> None:
    """UNAVAILABLE within moments, with a reason; many calls cause no more connections than the back-off allows."""
    counter = Counter()
    try:
        with (
            service_of(cluster, "none", [counter.address]) as service,
            program(cluster, "none.shop:grpc", settings=SETTINGS, fallback="none") as client,
        ):
            first = client.call()
            assert [sample.code for sample in first] == [grpc.StatusCode.UNAVAILABLE] * 2
            assert all(sample.took_s < CONNECT_TIMEOUT_S + SLACK_S for sample in first)
            before, begun_s = counter.accepted, time.monotonic()
            failed = [sample for _ in range(100) for sample in client.call()]
            took_s, tries = time.monotonic() - begun_s, counter.accepted - before
            assert {sample.code for sample in failed} == {grpc.StatusCode.UNAVAILABLE}
            assert all(sample.details for sample in failed)
            assert max(sample.took_s for sample in failed) < 0.5
            # Two channels; gRPC's back-off begins at a second.
            assert tries <= 2 * (2 + took_s), (tries, took_s)
            assert service.name in client.pool["target"]
            client.assert_idle()
    finally:
        counter.close()


def test_a_failed_call_is_one_attempt_each_and_not_more(cluster: FakeCluster) -> None:
    """With three refusing pods each call counts one attempt: nothing is amplified."""
    with (
        service_of(cluster, "amplify", [refused(), refused(), refused()]) as _,
        program(cluster, "amplify.shop:grpc", settings=SETTINGS, fallback="none") as client,
    ):
        eventually(lambda: all(sample.code is grpc.StatusCode.UNAVAILABLE for sample in client.call()), "it fails")
        eventually(lambda: all(view["state"] == "transient_failure" for view in client.pool["views"]), "both know", PATIENCE_S)
        before = sum(endpoint["started"] for endpoint in client.pool["endpoints"])
        failed = [sample for _ in range(30) for sample in client.call()]
        after = sum(endpoint["started"] for endpoint in client.pool["endpoints"])
        assert {sample.code for sample in failed} == {grpc.StatusCode.UNAVAILABLE}
        assert after - before == len(failed)
        client.assert_idle()


@pytest.mark.parametrize("way", ["refuses", "never answers", "drops packets"])
def test_one_unreachable_pod_of_three_gets_nothing_and_costs_nothing(
    cluster: FakeCluster, black_hole: BlackHole, full_black_hole: BlackHole, way: str
) -> None:
    """From the very first call on, the two good pods share everything (without DNS, whose ClusterIP might have that call)."""
    bad = {"refuses": refused(), "never answers": black_hole.address, "drops packets": full_black_hole.address}[way]
    with echo_servers(2) as servers:
        good = [f"127.0.0.1:{server.port}" for server in servers]
        with (
            service_of(cluster, "partly", [*good, bad]),
            program(cluster, "partly.shop:grpc", sources=["kubernetes"], settings=SETTINGS) as client,
            client.traffic() as traffic,
        ):
            traffic.go_on(80)
            client.await_connected(2)
            start_s = traffic.go_on(80)
        shares = traffic.shares(start_s)
        assert traffic.failed == []
        assert max(sample.took_s for sample in traffic.samples) < CONNECT_TIMEOUT_S
        assert {sample.endpoint.address for sample in traffic.samples if sample.endpoint is not None} == set(good)
        assert min(shares.values()) > sum(shares.values()) / 4


class FailingService(EchoService):
    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")


class Failing(EchoServer):
    """Fails every call the moment it arrives."""

    def start(self) -> None:
        self.service = FailingService(pod=self.name, version="v1")
        super().start()


@pytest.mark.parametrize("policy", ["p2c", "least_request", "round_robin"])
def test_a_pod_that_fails_fast_draws_no_more_than_its_fair_share(cluster: FakeCluster, policy: str) -> None:
    """An instant error looks like an idle pod; the failure penalty keeps it from swallowing the traffic."""
    bad = Failing("bad")
    try:
        with echo_servers(2) as servers:
            addresses = [f"127.0.0.1:{server.port}" for server in (*servers, bad)]
            with (
                service_of(cluster, "failing", addresses),
                program(cluster, "failing.shop:grpc", settings={"policy": policy}) as client,
                client.traffic() as traffic,
            ):
                traffic.go_on(1)
                client.await_connected(3)
                start_s = traffic.go_on(300)
            seen = [sample for sample in traffic.since(start_s) if sample.endpoint is not None]
            drawn = [sample for sample in seen if sample.endpoint is not None and sample.endpoint.port == bad.port]
            assert all(not sample.ok and sample.details == "out of order" for sample in drawn)
            assert [sample for sample in traffic.failed if sample.details != "out of order"] == []
            assert len(drawn) <= len(seen) / 3 * 1.2, f"{len(drawn)} of {len(seen)}"  # a fifth: what chance may do
    finally:
        bad.stop()
