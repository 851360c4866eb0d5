"""The fake API server over real sockets: watches, bookmarks, permissions, and every fault."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from meshlb.testing import FakeCluster, FakeService, Rule
from tests.integration.fake_cluster_client import SLICES, Api, Watch, eventually

SHOP = SLICES.format("shop")
ORDERS = "kubernetes.io/service-name=orders"
BROKEN = (http.client.IncompleteRead, ConnectionResetError)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", bookmark_interval_s=0.1, future_version_wait_s=1.0) as cluster:
        yield cluster


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", endpoints=["127.0.0.9:1"])


@pytest.fixture
def api(cluster: FakeCluster) -> Api:
    return Api(cluster)


def addresses(event: Any) -> list[str]:
    return [entry["addresses"][0] for entry in event["object"]["endpoints"] or ()]


def change(event: Any) -> bool:
    return event["type"] != "BOOKMARK"


def assert_broken(watch: Watch) -> None:
    with pytest.raises(BROKEN):
        list(watch.lines())


def test_a_watch_without_a_version_begins_with_the_present(api: Api, orders: FakeService) -> None:
    """ADDED for what is there, then changes as they happen."""
    watch = api.watch(SHOP, labelSelector=ORDERS)
    assert (first := watch.next())["type"] == "ADDED"
    assert addresses(first) == ["127.0.0.9"]
    orders.set_endpoints(["127.0.0.10:1"])
    assert addresses(watch.next()) == ["127.0.0.10"]


def test_bookmarks_come_when_asked_for_and_carry_the_present_version(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """The version moves on though nothing the watcher selects has changed; without asking there are none."""
    silent = api.watch(SHOP, labelSelector=ORDERS, resourceVersion="1000", timeoutSeconds="1")
    watch = api.watch(SHOP, labelSelector=ORDERS, resourceVersion="1000", allowWatchBookmarks="true")
    first = watch.next()
    assert (first["type"], first["object"]["kind"]) == ("BOOKMARK", "EndpointSlice")
    cluster.service("other", endpoints=[])
    version = int(first["object"]["metadata"]["resourceVersion"])
    watch.until(lambda event: int(event["object"]["metadata"]["resourceVersion"]) > version)
    assert list(silent.lines()) == []


def test_the_last_bookmark_comes_two_seconds_before_the_end() -> None:
    """So that a resumed watch misses nothing and replays little, however long the usual interval."""
    with FakeCluster() as cluster:
        started_s = time.monotonic()
        watch = Api(cluster).watch(SLICES.format("default"), allowWatchBookmarks="true", timeoutSeconds="3")
        kinds = [event["type"] for event in watch.lines()]
        assert kinds == ["BOOKMARK"]
        assert 2.9 < time.monotonic() - started_s < 10


def test_a_watch_ends_cleanly_after_its_time_and_the_connection_goes_on(cluster: FakeCluster, orders: FakeService) -> None:
    """A last chunk, not a reset: the client reuses the connection."""
    connection = http.client.HTTPConnection(cluster.api.host, cluster.api.port, timeout=5)
    headers = {"Authorization": f"Bearer {cluster.token}"}
    connection.request("GET", SHOP + "?watch=true&resourceVersion=1000&timeoutSeconds=1", headers=headers)
    assert connection.getresponse().read() == b""
    port = connection.sock.getsockname()[1]
    connection.request("GET", SHOP, headers=headers)
    assert connection.getresponse().read()
    assert connection.sock.getsockname()[1] == port
    connection.close()


def test_a_client_that_goes_away_ends_its_watch(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """Without a word from the server's side: it must notice by itself."""
    watch = api.watch(SHOP)
    assert cluster.api.open_watches == 1
    watch.close()
    assert eventually(lambda: cluster.api.open_watches == 0)


def test_hundreds_of_watches_all_hear_a_change(api: Api, orders: FakeService) -> None:
    """Each in its own connection."""
    version = api.get(SHOP).json["metadata"]["resourceVersion"]
    watches = [api.watch(SHOP, labelSelector=ORDERS, resourceVersion=version) for _ in range(200)]
    orders.set_endpoints([])
    assert {watch.next()["type"] for watch in watches} == {"MODIFIED"}


def test_cut_resets_open_watches_and_accepts_new_ones(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """What a load balancer in front of the API server does to idle connections."""
    watch = api.watch(SHOP)
    watch.next()
    cluster.api.cut()
    assert_broken(watch)
    assert api.watch(SHOP).next()["type"] == "ADDED"


def test_stall_keeps_everything_open_and_sends_nothing(cluster: FakeCluster, orders: FakeService) -> None:
    """Open watches go silent, new requests are accepted and not answered; resume sends what was held back."""
    patient, hasty = Api(cluster), Api(cluster, timeout_s=0.2)
    watch, silent = patient.watch(SHOP), hasty.watch(SHOP)
    watch.next(), silent.next()
    cluster.api.stall()
    orders.set_endpoints([])
    with pytest.raises(TimeoutError):
        silent.next()
    with pytest.raises(TimeoutError):
        hasty.get(SHOP)
    assert cluster.api.requests[-1].status is None
    cluster.api.resume()
    assert addresses(watch.next()) == []
    assert patient.get(SHOP).status == 200


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "Unauthorized"), (410, "Expired"), (429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable")],
)
def test_fail_refuses_as_often_as_told(cluster: FakeCluster, api: Api, orders: FakeService, status: int, reason: str) -> None:
    """With a Status object of that code, then things are well again."""
    cluster.api.fail(status, times=2)
    refused = [api.get(SHOP) for _ in range(2)]
    assert [(answer.status, answer.json["reason"], answer.json["code"]) for answer in refused] == [(status, reason, status)] * 2
    assert api.get(SHOP).status == 200


def test_fail_says_when_to_come_back(cluster: FakeCluster, api: Api) -> None:
    """Retry-After as header and in the details; without it neither."""
    cluster.api.fail(429, retry_after_s=7)
    answer = api.get(SHOP)
    assert (answer.headers["Retry-After"], answer.json["details"]) == ("7", {"retryAfterSeconds": 7})
    cluster.api.fail(429)
    assert "Retry-After" not in api.get(SHOP).headers
    cluster.api.recover()
    assert api.get(SHOP).status == 200


def test_fail_can_be_for_some_verbs_only(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """A server that lists but does not watch, for one; a watch that is open already is left alone."""
    open_before = api.watch(SHOP)
    open_before.next()
    cluster.api.fail(403, verbs=("watch",))
    assert api.get(SHOP).status == 200
    assert api.get(SHOP, {"watch": "true"}).status == 403
    orders.set_endpoints([])
    assert open_before.until(change)["type"] == "MODIFIED"


def test_a_watch_is_told_410_on_a_stream_that_began_well(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """As by a real server; other codes come as HTTP status unless the test wants the event."""
    cluster.api.fail(410, verbs=("watch",), times=1)
    gone = api.watch(SHOP, resourceVersion="1")
    assert gone.response.status == 200
    (event,) = gone.lines()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    cluster.api.fail(500, verbs=("watch",), times=1, in_stream=True)
    (event,) = api.watch(SHOP).lines()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
    assert api.watch(SHOP).next()["type"] == "ADDED"


def test_compact_makes_every_version_seen_too_old(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """An open watch goes on, a resumed one is told to list again."""
    version = api.get(SHOP).json["metadata"]["resourceVersion"]
    watch = api.watch(SHOP, resourceVersion=version)
    cluster.api.compact()
    orders.set_endpoints([])
    assert watch.until(change)["type"] == "MODIFIED"
    assert api.watch(SHOP, resourceVersion=version).next()["object"]["code"] == 410
    exact = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
    assert api.get(SHOP, exact).status == 410


def test_stop_refuses_connections_and_start_brings_the_same_port_back(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """Nothing is forgotten meanwhile: a watch resumes where it was."""
    version, url = api.get(SHOP).json["metadata"]["resourceVersion"], cluster.api.url
    watch = api.watch(SHOP, resourceVersion=version)
    cluster.api.stop()
    assert_broken(watch)
    with pytest.raises(ConnectionRefusedError):
        api.get(SHOP)
    orders.set_endpoints([])
    cluster.api.start()
    assert cluster.api.url == url
    assert addresses(api.watch(SHOP, resourceVersion=version).next()) == []


def test_a_version_from_the_future_may_arrive_in_time(cluster: FakeCluster, api: Api, orders: FakeService) -> None:
    """A lagging server waits a little before it says 504."""
    now = int(api.get(SHOP).json["metadata"]["resourceVersion"])
    started_s = time.monotonic()
    late = api.get(SHOP, {"resourceVersion": str(now + 1000)})
    assert late.status == 504
    assert time.monotonic() - started_s >= 1.0
    reading = http.client.HTTPConnection(cluster.api.host, cluster.api.port, timeout=5)
    reading.request("GET", f"{SHOP}?resourceVersion={now + 1}", headers={"Authorization": f"Bearer {cluster.token}"})
    eventually(lambda: len(cluster.api.requests) == 3)
    orders.set_endpoints([])
    assert reading.getresponse().status == 200
    reading.close()


def test_permissions_are_per_namespace_resource_and_verb(cluster: FakeCluster, api: Api) -> None:
    """What is not allowed is 403 and says what was asked by whom."""
    cluster.permit(Rule(namespaces=["shop"], resources=["endpointslices"], verbs=["list", "watch"]))
    assert api.get(SHOP).status == 200
    for path in (SLICES.format("other"), "/api/v1/namespaces/shop/services/orders", "/apis/discovery.k8s.io/v1/endpointslices"):
        assert api.get(path).status == 403
    service = api.get("/api/v1/namespaces/shop/services/orders").json
    assert service["message"] == (
        'services "orders" is forbidden: User "system:serviceaccount:shop:default" cannot get resource "services" '
        'in API group "" in the namespace "shop"'
    )
    cluster.permit()
    assert api.get(SHOP).status == 403


def test_a_rotated_token_replaces_the_old_one_in_the_file(cluster: FakeCluster) -> None:
    """The old one is refused at once, an open watch goes on, and who reads the file again is let in."""
    old = cluster.token
    watch = Api(cluster).watch(SHOP)
    new = cluster.rotate_token()
    with open(f"{cluster.service_account_dir}/token") as file:
        assert file.read() == new == cluster.token != old
    assert Api(cluster, token=old).get(SHOP).status == 401
    assert Api(cluster, token=new).get(SHOP).status == 200
    cluster.service("orders", endpoints=["127.0.0.9:1"])
    assert watch.until(change)["type"] == "ADDED"


def test_requests_are_logged_as_they_arrive(cluster: FakeCluster, api: Api) -> None:
    """What a test counts: verb, resource, namespace, query, headers, status."""
    cluster.api.clear_requests()
    api.get(SHOP, {"labelSelector": ORDERS}, **{"User-Agent": "me"})
    api.get("/nowhere")
    (listed, lost) = cluster.api.requests
    assert (listed.verb, listed.resource, listed.namespace, listed.status) == ("list", "endpointslices", "shop", 200)
    assert (listed.query, listed.headers["user-agent"]) == ({"labelSelector": ORDERS}, "me")
    assert (lost.verb, lost.path, lost.status) == (None, "/nowhere", 404)


def test_large_lists_are_compressed_if_the_client_accepts_it(cluster: FakeCluster, api: Api) -> None:
    """From 128 KiB on, as kube-apiserver does; 2,000 endpoints of a hundred a slice."""
    cluster.service("big", endpoints=[f"127.9.{n // 250}.{n % 250 + 1}:80" for n in range(2_000)])
    plain = api.get(SHOP)
    packed = api.get(SHOP, **{"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body)) == plain.json
    assert len(plain.json["items"]) == 20
    assert "Content-Encoding" not in api.get(SHOP, {"limit": "1"}, **{"Accept-Encoding": "gzip"}).headers


def test_what_is_not_http_is_hung_up_on(cluster: FakeCluster, api: Api) -> None:
    """And the next client is served."""
    with socket.create_connection((cluster.api.host, cluster.api.port), timeout=5) as client:
        client.sendall(b"hello\r\n\r\n")
        assert client.recv(100) == b""
    assert api.get(SHOP).status == 200


def test_the_kubernetes_client_finds_and_reads_it(cluster: FakeCluster, orders: FakeService) -> None:
    """The kubeconfig is one: the official client loads it and lists slices."""
    kubernetes = pytest.importorskip("kubernetes")
    client = kubernetes.config.new_client_from_config(config_file=cluster.kubeconfig)
    slices = kubernetes.client.DiscoveryV1Api(client).list_namespaced_endpoint_slice("shop", label_selector=ORDERS)
    assert [endpoint.addresses for item in slices.items for endpoint in item.endpoints] == [["127.0.0.9"]]


def test_an_in_cluster_client_finds_and_trusts_it_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Service account files, environment and certificate fit together."""
    kubernetes = pytest.importorskip("kubernetes")
    pytest.importorskip("trustme")
    with FakeCluster(namespace="shop", tls=True) as cluster:
        cluster.service("orders", endpoints=["127.0.0.9:1"])
        loader = kubernetes.config.incluster_config.InClusterConfigLoader(
            token_filename=f"{cluster.service_account_dir}/token",
            cert_filename=f"{cluster.service_account_dir}/ca.crt",
            environ=cluster.environ(),
        )
        configuration = kubernetes.client.Configuration()
        loader.load_and_set(configuration)
        services = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration)).list_namespaced_service("shop")
        assert [service.metadata.name for service in services.items] == ["orders"]
