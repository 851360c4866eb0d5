"""EndpointSlices over real sockets, through the ``kubernetes`` package: what a client sees while a cluster lives and fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from meshlb.testing import FakeCluster, Rule
from tests.integration.fake_cluster_client import eventually
from tests.integration.kubernetes_client import Client, Made, reader_threads


def lived(client: Client) -> None:
    """Wait until the stream has lived for a second: shorter ones are failures when they end."""
    eventually(lambda: any((shop["open_for_s"] or 0.0) > 1.0 for shop in client.source.describe()["namespaces"].values()))


def pods(*numbers: int, net: int = 0) -> list[str]:
    return [f"127.9.{net}.{number}:80" for number in numbers]


def addresses(*numbers: int, net: int = 0) -> set[str]:
    return {f"127.9.{net}.{number}" for number in numbers}


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[FakeCluster]:
    """With streaming lists, as servers have from 1.34 on, unless the test says otherwise."""
    watch_list = getattr(request, "param", True)
    with FakeCluster(
        tls=True, namespace="shop", max_endpoints_per_slice=3, bookmark_interval_s=0.2, watch_list=watch_list
    ) as cluster:
        yield cluster


def lists(cluster: FakeCluster) -> int:
    """How often the whole state was asked for and given, in either way."""
    asked = [request for request in cluster.api.requests if request.verb == "list" or "sendInitialEvents" in request.query]
    return sum(request.status == 200 for request in asked)


old_and_new_servers = pytest.mark.parametrize("cluster", [False, True], indirect=True, ids=["lists", "streaming lists"])


@pytest.fixture
def made() -> Iterator[Made]:
    clients: list[Client] = []

    def make(*args: object, **options: object) -> Client:
        clients.append(Client(*args, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    eventually(lambda: not reader_threads(), timeout_s=5.0)


@pytest.mark.parametrize("in_pod", [True, False], ids=["service account", "kubeconfig"])
def test_all_slices_of_a_service_are_seen_and_followed(cluster: FakeCluster, made: Made, in_pod: bool) -> None:
    """Seven pods in three slices, then others, then none."""
    orders = cluster.service("orders", endpoints=pods(1, 2, 3, 4, 5, 6, 7))
    heard = made(cluster, in_pod=in_pod).watch("orders")
    heard.becomes(addresses(1, 2, 3, 4, 5, 6, 7))
    assert len(heard.statements[-1][1].slices) == 3
    orders.set_endpoints(pods(7, 8))
    heard.becomes(addresses(7, 8))
    orders.set_endpoints([])
    heard.becomes(set())
    assert len(heard.statements[-1][1].slices) == 1
    assert heard.errors == []


def test_a_watch_is_one_request_where_the_server_has_streaming_lists(cluster: FakeCluster, made: Made) -> None:
    """The state, its end, and what follows: nothing is asked twice, and nothing again while the stream is fine."""
    orders = cluster.service("orders", endpoints=pods(*range(1, 200)))
    heard = made(cluster, in_pod=True).watch("orders")
    heard.becomes(addresses(*range(1, 200)))
    assert [len(slices.slices) for _, slices in heard.statements] == [67]  # told at once, not slice by slice
    orders.set_endpoints(pods(1))
    heard.becomes(addresses(1))
    (streamed,) = cluster.api.requests
    asked = {key: streamed.query[key] for key in ("sendInitialEvents", "resourceVersionMatch", "resourceVersion")}
    assert asked == {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "0"}
    assert streamed.query["allowWatchBookmarks"] == streamed.query["watch"] == "true"


@pytest.mark.parametrize("cluster", [False], indirect=True)
def test_a_server_without_streaming_lists_is_asked_for_one_once_in_a_process(cluster: FakeCluster, made: Made) -> None:
    """422, then a list at once; no other stream tries again, in this namespace or another."""
    cluster.service("orders", endpoints=pods(1))
    cluster.service("pay", "bank", endpoints=pods(2))
    client = made(cluster)
    client.watch("orders").becomes(addresses(1))
    client.watch("pay", "bank").becomes(addresses(2))
    eventually(lambda: cluster.api.open_watches == 2)
    assert [(request.verb, request.status) for request in cluster.api.requests] == [
        ("watch", 422),
        *[("list", 200), ("watch", 200)] * 2,
    ]


@pytest.mark.parametrize("cluster", [False], indirect=True)
def test_a_watch_costs_one_list_and_one_stream_and_says_who_asks(cluster: FakeCluster, made: Made) -> None:
    """Compressed lists, plain streams, our name, the versions of the answers before."""
    orders = cluster.service("orders", endpoints=pods(*range(1, 200)))
    heard = made(cluster, in_pod=True).watch("orders")
    heard.becomes(addresses(*range(1, 200)))
    eventually(lambda: cluster.api.open_watches)
    orders.set_endpoints(pods(1))
    heard.becomes(addresses(1))
    _, listed, watched = cluster.api.requests
    assert (listed.verb, watched.verb) == ("list", "watch")
    assert listed.headers["user-agent"].startswith("meshlb/")
    assert listed.headers["accept-encoding"] == "gzip"
    assert watched.headers["accept-encoding"] == "identity"
    assert listed.query["resourceVersion"] == "0"
    assert watched.query["resourceVersion"] == heard.statements[0][1].resource_version
    assert watched.query["allowWatchBookmarks"] == "true"
    assert 300 <= int(watched.query["timeoutSeconds"]) <= 600


def test_a_service_that_does_not_exist_yet_is_empty_and_seen_when_it_comes(cluster: FakeCluster, made: Made) -> None:
    """The watch stands for a label, not for an object."""
    heard = made(cluster).watch("orders")
    heard.becomes(set())
    assert heard.statements[0][1].slices == ()
    cluster.service("orders", endpoints=pods(1))
    heard.becomes(addresses(1))


@old_and_new_servers
def test_a_cut_stream_is_resumed_without_a_list_and_without_losing_a_change(cluster: FakeCluster, made: Made) -> None:
    """What happens while the stream is down is caught up with from the last version."""
    orders = cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster)
    heard = client.watch("orders")
    heard.becomes(addresses(1, 2))
    eventually(lambda: cluster.api.open_watches)
    for number in range(3, 6):
        lived(client)
        cluster.api.cut()
        orders.set_endpoints(pods(1, number))
        heard.becomes(addresses(1, number), timeout_s=5.0)
        eventually(lambda: cluster.api.open_watches)
    assert lists(cluster) == 1
    assert heard.smallest == 2
    assert heard.errors == []


@old_and_new_servers
def test_a_version_that_is_too_old_leads_to_a_list_and_nothing_is_lost(cluster: FakeCluster, made: Made) -> None:
    """410 as an ERROR event after a cut; changes in between are in the list."""
    orders = cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster)
    heard = client.watch("orders")
    heard.becomes(addresses(1, 2))
    lived(client)
    orders.set_endpoints(pods(1, 2, 3))
    heard.becomes(addresses(1, 2, 3))
    cluster.api.fail(503, times=1)  # so that the change below is made while nobody watches
    cluster.api.cut()
    eventually(lambda: not cluster.api.open_watches)
    orders.set_endpoints(pods(2, 4))
    cluster.api.compact()
    heard.becomes(addresses(2, 4))
    assert lists(cluster) >= 2
    assert heard.smallest == 2


@old_and_new_servers
def test_an_expired_version_as_an_http_status_leads_to_a_list_too(cluster: FakeCluster, made: Made) -> None:
    """The older of the two forms."""
    cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster)
    heard = client.watch("orders")
    lived(client)
    cluster.api.fail(410, verbs=["watch"], times=1, in_stream=False)
    cluster.api.cut()
    eventually(lambda: lists(cluster) == 2 and cluster.api.open_watches)
    assert heard.smallest == 2
    assert heard.errors == []


def test_an_api_server_that_restarts_changes_nothing_but_what_changed(cluster: FakeCluster, made: Made) -> None:
    """Refused, then back without its history: resumed, expired, listed."""
    orders = cluster.service("orders", endpoints=pods(1, 2, 3))
    heard = made(cluster, in_pod=True).watch("orders")
    heard.becomes(addresses(1, 2, 3))
    eventually(lambda: cluster.api.open_watches)
    cluster.api.stop()
    eventually(lambda: heard.errors)
    assert heard.errors[0].kind == "unreachable"
    orders.set_endpoints(pods(3, 4, 5))
    cluster.api.compact()
    cluster.api.start()
    heard.becomes(addresses(3, 4, 5), timeout_s=20.0)
    assert heard.smallest == 3


def test_a_token_that_was_rotated_and_revoked_costs_one_refused_request(cluster: FakeCluster, made: Made) -> None:
    """401, the file again at once, the same watch."""
    orders = cluster.service("orders", endpoints=pods(1))
    client = made(cluster, in_pod=True)
    heard = client.watch("orders")
    heard.becomes(addresses(1))
    lived(client)
    cluster.rotate_token()
    cluster.api.cut()
    orders.set_endpoints(pods(2))
    heard.becomes(addresses(2), timeout_s=5.0)
    assert [request.status for request in cluster.api.requests] == [200, 401, 200]
    assert heard.errors == []


def test_a_token_that_nobody_knows_is_told_and_healed_by_the_next_one(cluster: FakeCluster, made: Made) -> None:
    """Unauthorized, with the usual back-off; each try reads the file."""
    cluster.service("orders", endpoints=pods(1))
    cluster.revoke_token(cluster.token)
    heard = made(cluster, in_pod=True).watch("orders")
    eventually(lambda: heard.errors)
    assert heard.errors[0].kind == "unauthorized"
    cluster.rotate_token()
    heard.becomes(addresses(1))


def test_a_missing_permission_is_told_with_the_servers_words_and_keeps_what_is_known(cluster: FakeCluster, made: Made) -> None:
    """Who was refused what, where: from the 403 of a watch that was allowed before."""
    cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster, in_pod=True)
    heard = client.watch("orders")
    heard.becomes(addresses(1, 2))
    lived(client)
    cluster.permit()
    cluster.api.cut()
    eventually(lambda: heard.errors)
    assert heard.errors[0].kind == "forbidden"
    assert 'User "system:serviceaccount:shop:default" cannot' in heard.errors[0].reason
    assert heard.smallest == 2


def test_a_permission_that_is_given_later_is_used(cluster: FakeCluster, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """403 at the start, then allowed; the half minute in between is shortened here."""
    from meshlb.resolve.kubernetes import backoff

    monkeypatch.setattr(backoff.Waits, "load", lambda: backoff.Waits(failure=lambda n: 0.1, refusal=lambda n: 0.3))
    cluster.permit()
    cluster.service("orders", endpoints=pods(1))
    heard = made(cluster, in_pod=True).watch("orders")
    eventually(lambda: heard.errors)
    cluster.permit(Rule(namespaces=["shop"], resources=["endpointslices"], verbs=["list", "watch"]))
    heard.becomes(addresses(1))


def test_services_of_two_namespaces_have_a_stream_each(cluster: FakeCluster, made: Made) -> None:
    """And a permission each: what one may not see does not disturb the other."""
    cluster.service("orders", endpoints=pods(1))
    cluster.service("pay", "bank", endpoints=pods(2))
    cluster.permit(Rule(namespaces=["shop"]))
    client = made(cluster, in_pod=True)
    orders, pay = client.watch("orders"), client.watch("pay", "bank")
    orders.becomes(addresses(1))
    eventually(lambda: pay.errors)
    assert pay.errors[0].kind == "forbidden"
    assert orders.errors == pay.statements == []


def test_services_that_join_a_running_stream_disturb_nobody_while_everything_changes(cluster: FakeCluster, made: Made) -> None:
    """Thirty Services join while all of them change: no false deletion, no lost event, no old state again."""
    services = [cluster.service(f"s{n}", endpoints=pods(1, 2, net=n)) for n in range(30)]
    client = made(cluster)
    heard = [client.watch("s0")]
    heard[0].becomes(addresses(1, 2, net=0))
    done = threading.Event()
    rounds: list[int] = []

    def churn() -> None:
        turn = 3
        while not done.is_set():
            for n, service in enumerate(services):
                service.set_endpoints(pods(1, 2, turn, net=n))
            rounds.append(turn)
            turn = turn % 200 + 3
            time.sleep(0.01)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for n in range(1, 30):
            heard.append(client.watch(f"s{n}"))
            eventually(lambda n=n: heard[n].statements)
    finally:
        done.set()
        thread.join()
    for n, listener in enumerate(heard):
        listener.becomes(addresses(1, 2, rounds[-1], net=n))
        assert all(addresses(1, 2, net=n) <= hosts_of for hosts_of in map(_hosts, listener.statements))
        versions = [int(slices.resource_version) for _, slices in listener.statements]
        assert versions == sorted(versions)
    assert len(rounds) > 3
    assert [request.status for request in cluster.api.requests if request.status != 200] == []


def _hosts(statement: tuple[float, object]) -> set[str]:
    return {endpoint.host for record in statement[1].slices for endpoint in record.endpoints}  # type: ignore[attr-defined]


def test_a_server_that_falls_silent_is_noticed_by_its_missing_bookmarks(cluster: FakeCluster, made: Made) -> None:
    """The stream is given up, another is tried; nothing that is known changes."""
    orders = cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster, silence_s=1.5, read_timeout_s=0.5)
    heard = client.watch("orders")
    heard.becomes(addresses(1, 2))
    lived(client)  # a bookmark has come by now
    before = len(cluster.api.requests)
    cluster.api.stall()
    orders.set_endpoints(pods(2, 3))
    eventually(lambda: len(cluster.api.requests) > before)
    eventually(lambda: heard.errors)
    cluster.api.resume()
    heard.becomes(addresses(2, 3))
    assert heard.smallest == 2


def test_a_service_is_read_with_its_cluster_ip_and_ports(cluster: FakeCluster, made: Made) -> None:
    """One GET; 404 is neither a record nor an error, 403 is an error."""
    orders = cluster.service("orders", endpoints=[], ports={"grpc": 50051, "http": 8088})
    client = made(cluster, in_pod=True)
    record, error = client.get_service("orders")
    assert (record.cluster_ips, error) == ((orders.cluster_ip,), None)
    assert {port.name: port.port for port in record.ports} == {"grpc": 50051, "http": 8088}
    assert client.get_service("absent") == (None, None)
    cluster.permit()
    record, error = client.get_service("pay")
    assert (record, error.kind) == (None, "forbidden")


@pytest.mark.parametrize("when", ["connected", "unanswered"])
def test_closing_ends_every_reader_within_a_second_even_against_a_black_hole(cluster: FakeCluster, made: Made, when: str) -> None:
    """A server that says nothing any more, before or after it accepted the watch."""
    cluster.service("orders", endpoints=pods(1))
    client = made(cluster, in_pod=True)
    if when == "connected":
        client.watch("orders").becomes(addresses(1))
        eventually(lambda: cluster.api.open_watches)
        cluster.api.stall()
    else:
        cluster.api.stall()
        client.watch("orders")
        eventually(lambda: cluster.api.requests)
    assert reader_threads()
    closed_s = time.monotonic()
    client.loop.call_soon(client.source.close)
    eventually(lambda: not reader_threads(), timeout_s=1.0)
    print(f"readers ended after {time.monotonic() - closed_s:.3f} s")


def test_an_event_is_told_a_few_milliseconds_after_it_was_sent(cluster: FakeCluster, made: Made) -> None:
    """A hundred endpoints in a slice; a loose bound, the benchmarks have the tight one."""
    orders = cluster.service("orders", endpoints=pods(*range(1, 100)))
    heard = made(cluster).watch("orders")
    heard.becomes(addresses(*range(1, 100)))
    eventually(lambda: cluster.api.open_watches)
    delays = []
    for number in range(101, 121):
        sent_s = time.monotonic()
        orders.set_endpoints(pods(*range(1, 100), number))
        eventually(lambda number=number: f"127.9.0.{number}" in (heard.hosts or ()))
        delays.append(next(at_s for at_s, slices in heard.statements if f"127.9.0.{number}" in _hosts((at_s, slices))) - sent_s)
    print(f"median {sorted(delays)[10] * 1000:.1f} ms, worst {max(delays) * 1000:.1f} ms")
    assert sorted(delays)[10] < 0.1
