"""The fake API server answers as the real one did: each recorded request is sent to it in the same situation.

What must differ (names, uids, times, versions) is put aside; everything else, messages included, is compared exactly.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlb.testing import FakeCluster, FakeEndpoint, FakeService
from tests.integration.fake_cluster_client import SLICES, Api, Watch, eventually

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kube-apiserver-1.36"
SELECTOR = "kubernetes.io/service-name=orders"
PORTS = {"grpc": 50051, "http": 8088}
SHOP = SLICES.format("shop")


def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]


def recorded(name: str, note: str) -> dict[str, Any]:
    return next(entry for entry in load(name) if entry.get("note") == note)


def recorded_lines(name: str, stream: int) -> list[Any]:
    return [json.loads(entry["line"]) for entry in load(name) if entry.get("stream") == stream and "line" in entry]


def comparable(value: Any) -> Any:
    """The value with everything put aside that two clusters cannot have in common; keys and types stay."""
    match value:
        case {"manager": _, "fieldsV1": _}:  # who wrote which fields: a matter of the writer, not of the API
            return {key: type(field).__name__ for key, field in value.items()}
        case dict():
            return {key: _put_aside(key, field) if key in _OPAQUE else comparable(field) for key, field in value.items()}
        case list():
            return [comparable(field) for field in value]
        case _:
            return value


def _put_aside(key: str, value: Any) -> Any:
    return re.sub(r"\d+", "N", value) if key == "message" else "<opaque>"


_OPAQUE = {
    "name",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "addresses",
    "ip",
    "nodeName",
    "zone",
    "clusterIP",
} | {
    "endpoints.kubernetes.io/last-change-trigger-time",
    "clusterIPs",
    "targetPort",
    "port",
    "continue",
    "message",  # but for the numbers in it
}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", future_version_wait_s=0.05, bookmark_interval_s=0.2) as cluster:
        yield cluster


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", ports=PORTS, app_protocols={"grpc": "grpc"}, endpoints=[])


def endpoint(number: int, *, grpc: int = 9000, **flags: bool) -> FakeEndpoint:
    return FakeEndpoint(
        address=f"10.99.100.{number}",
        ports={"grpc": grpc, "http": 8080},
        node="fake-1",
        zone="zone-a",
        pod=f"orders-6dbc6d496c-{number:05}",
        uid=f"uid-{number}",
        **flags,
    )


class Replay:
    """Walks a recorded stream of slice events: what all endpoints were after each, ready to be set on the fake."""

    def __init__(self) -> None:
        self._slices: dict[str, list[FakeEndpoint]] = {}

    def apply(self, event: dict[str, Any]) -> list[FakeEndpoint]:
        obj = event["object"]
        numbers = {port["name"]: port["port"] for port in obj["ports"] or ()}
        self._slices[obj["metadata"]["name"]] = [
            FakeEndpoint(
                address=entry["addresses"][0],
                ports=numbers,
                **entry["conditions"],
                node=entry["nodeName"],
                zone=entry["zone"],
                pod=entry["targetRef"]["name"],
                uid=entry["targetRef"]["uid"],
            )
            for entry in obj["endpoints"] or ()
        ]
        if event["type"] == "DELETED":
            del self._slices[obj["metadata"]["name"]]
        return [endpoint for endpoints in self._slices.values() for endpoint in endpoints]


def story(events: list[Any]) -> list[Any]:
    """What a consumer sees of slice events: kinds, which slice, generations, endpoints with conditions, ports, trigger time."""
    aliases: dict[str, int] = {}
    told = []
    for event in events:
        obj, metadata = event["object"], event["object"]["metadata"]
        told.append(
            (
                event["type"],
                aliases.setdefault(metadata["name"], len(aliases)),
                metadata["generation"],
                obj["endpoints"],
                sorted((obj["ports"] or []), key=lambda port: port["name"]) or obj["ports"],
                "annotations" in metadata,
            )
        )
    return told


def test_a_rollout_is_told_in_the_same_events_as_by_the_real_controller(cluster: FakeCluster, orders: FakeService) -> None:
    """Empty, 3 pods, 5, a rolling update that changes a port, 2, 0, 4: same events, same slices, same order of endpoints."""
    events = [event for event in recorded_lines("rollout", 1) if event["type"] != "BOOKMARK"]
    first = Api(cluster).get(SHOP, {"labelSelector": SELECTOR}).json
    watch = Api(cluster).watch(SHOP, labelSelector=SELECTOR, resourceVersion=first["metadata"]["resourceVersion"])
    replay, heard = Replay(), []
    for event in events:
        orders.set_endpoints(replay.apply(event), readiness_changed="annotations" in event["object"]["metadata"])
        heard.append(watch.next())
    assert story(heard) == story(events)
    assert [comparable(event) for event in heard[:-1]] == [
        {**comparable(event), "object": {**comparable(event["object"]), "ports": comparable(mine["object"]["ports"])}}
        for event, mine in zip(events[:-1], heard, strict=False)
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in heard]
    assert versions == sorted(set(versions)), "every event, DELETED too, has a newer version"


def test_an_empty_service_has_the_recorded_placeholder_slice(cluster: FakeCluster, orders: FakeService) -> None:
    """The list of a Service without endpoints has one slice whose endpoints and ports are null."""
    answer = Api(cluster).get(SHOP, {"labelSelector": SELECTOR, "resourceVersion": "0"})
    assert_same(answer, recorded("rollout", "initial list"))


@pytest.mark.parametrize(("name", "headless"), [("orders", False), ("orders-headless", True)])
def test_service_objects_have_the_recorded_fields(cluster: FakeCluster, name: str, headless: bool) -> None:
    """ClusterIP and headless Services, but for the selector of our hand-made one."""
    cluster.service(name, ports=PORTS, headless=headless, app_protocols={"grpc": "grpc"}, replicas=0)
    path = f"/api/v1/namespaces/shop/services/{name}"
    entry = next(entry for entry in load("rollout") if entry.get("request", {}).get("path") == path)
    body = json.loads(entry["body"])
    body["spec"]["selector"] = {"app": name}
    assert_same(Api(cluster).get(path), {**entry, "body": json.dumps(body)})


def test_endpoints_objects_have_the_recorded_fields(cluster: FakeCluster, orders: FakeService) -> None:
    """The legacy object, its deprecation warning, and its order of addresses."""
    orders.set_endpoints([endpoint(number) for number in (3, 1, 2)])
    entry = recorded("rollout", "legacy Endpoints")
    answer = Api(cluster).get(entry["request"]["path"])
    body = json.loads(entry["body"])
    body["subsets"][0]["ports"].sort(key=lambda port: str(port["name"]))
    assert_same(answer, {**entry, "body": json.dumps(body)})
    assert answer.headers["Warning"] == entry["headers"]["Warning"]
    assert [address["ip"] for address in answer.json["subsets"][0]["addresses"]] == ["10.99.100.1", "10.99.100.2", "10.99.100.3"]


def test_endpoints_objects_leave_out_terminating_pods(cluster: FakeCluster, orders: FakeService) -> None:
    """Recorded during the rollout: the old pods were in the slices still, and in Endpoints no more."""
    orders.set_endpoints([endpoint(1, ready=False, terminating=True), endpoint(2, ready=False, serving=False), endpoint(3)])
    (subset,) = Api(cluster).get("/api/v1/namespaces/shop/endpoints/orders").json["subsets"]
    assert [address["ip"] for address in subset["addresses"]] == ["10.99.100.3"]
    assert [address["ip"] for address in subset["notReadyAddresses"]] == ["10.99.100.2"]


def test_several_services_are_listed_at_once(cluster: FakeCluster, orders: FakeService) -> None:
    """``in (a,b)``; the slices of the headless one carry the headless label."""
    headless = cluster.service("orders-headless", ports=PORTS, app_protocols={"grpc": "grpc"}, headless=True, endpoints=[])
    for service in (orders, headless):
        service.set_endpoints([endpoint(number) for number in (1, 2, 3)])
    entry = recorded("rollout", "several services, one list")
    answer = Api(cluster).get(SHOP, entry["request"]["query"])
    mine, theirs = comparable(answer.json), comparable(json.loads(entry["body"]))
    for body in (mine, theirs):  # the order of names is random
        body["items"].sort(key=lambda item: str(item["metadata"]["labels"]))
        for item in body["items"]:
            item["ports"].sort(key=lambda port: len(port))
    assert mine == theirs


@pytest.mark.parametrize(
    ("note", "who"),
    [
        ("invalid token", "nobody"),
        ("no RBAC: list", "viewer"),
        ("no RBAC: watch", "viewer"),
        ("anonymous", None),
        ("bad selector", "admin"),
        ("namespace that does not exist", "admin"),
        ("API version that does not exist", "admin"),
        ("list at a future resourceVersion", "admin"),
        ("malformed resourceVersion", "admin"),
        ("watch from a malformed resourceVersion", "admin"),
        ("Service that does not exist", "admin"),
    ],
)
def test_a_refusal_has_the_recorded_status_and_body(cluster: FakeCluster, orders: FakeService, note: str, who: str | None) -> None:
    """Same code, same Status object, same message, same Retry-After."""
    tokens = {"nobody": "wrong", "viewer": cluster.create_token("viewer"), "admin": cluster.token, None: None}
    entry = recorded("errors", note)
    if "body" not in entry:  # recorded as a stream that has one line, which is the body
        entry["body"] = next(line["line"] for line in load("errors") if line.get("stream") == entry["stream"] and "line" in line)
    answer = Api(cluster, token=tokens[who]).get(entry["request"]["path"], entry["request"]["query"])
    assert_same(answer, entry)


def test_a_watch_from_an_old_version_replays_the_history(cluster: FakeCluster, orders: FakeService) -> None:
    """Recorded from version 1: every event since, the creation first."""
    events = recorded_lines("errors", 1)
    replay = Replay()
    for event in events[1:]:
        orders.set_endpoints(replay.apply(event), readiness_changed="annotations" in event["object"]["metadata"])
    watch = Api(cluster).watch(SHOP, labelSelector=SELECTOR, resourceVersion="1", timeoutSeconds="1")
    heard = [event for _, event in zip(events, watch.lines(), strict=False)]
    assert story(heard) == story(events)


def test_a_killed_server_cuts_the_watch_and_forgets_its_cache(cluster: FakeCluster, orders: FakeService) -> None:
    """Cut mid-stream; then a list not older than before works, old versions give 410 as an event, exact lists find the past."""
    api = Api(cluster)
    orders.set_endpoints([endpoint(1)])
    before = api.get(SHOP, {"labelSelector": SELECTOR, "resourceVersion": "0"}).json["metadata"]["resourceVersion"]
    watch = api.watch(SHOP, labelSelector=SELECTOR, resourceVersion=before, allowWatchBookmarks="true")
    cluster.api.restart()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        list(iter(watch.next, None))

    again = api.get(SHOP, {"labelSelector": SELECTOR, "resourceVersion": before})
    assert again.status == 200
    assert int(again.json["metadata"]["resourceVersion"]) > int(before)
    for stream, version in ((2, "1"), (3, before)):
        (expected,) = recorded_lines("gone-and-restart", stream)
        refused = api.watch(SHOP, labelSelector=SELECTOR, resourceVersion=version, timeoutSeconds="5")
        assert refused.response.status == 200
        assert [comparable(event) for event in refused.lines()] == [comparable(expected)]
    gone = recorded("gone-and-restart", "list at an exact version that is gone?")
    assert_same(api.get(SHOP, gone["request"]["query"]), gone)
    fresh = api.get(SHOP, {"labelSelector": SELECTOR}).json["metadata"]["resourceVersion"]
    on = api.watch(SHOP, labelSelector=SELECTOR, resourceVersion=fresh, timeoutSeconds="1")
    orders.set_endpoints([endpoint(2)])
    assert on.next()["type"] == "MODIFIED"


def test_a_list_comes_in_pages(cluster: FakeCluster, orders: FakeService) -> None:
    """A limit gives a continue token and the number of items that remain; the token gives the rest, of the same version."""
    cluster.service("other", ports=PORTS, endpoints=[])
    entry = recorded("gone-and-restart", "first page of a paginated list")
    first = Api(cluster).get(SHOP, {"limit": "1"}).json
    assert comparable(first["metadata"]) == comparable(json.loads(entry["body"])["metadata"])
    orders.set_endpoints([endpoint(1)])
    rest = Api(cluster).get(SHOP, {"limit": "1", "continue": first["metadata"]["continue"]}).json
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert [item["endpoints"] for item in (*first["items"], *rest["items"])] == [None, None]
    cluster.api.compact()
    assert Api(cluster).get(SHOP, {"limit": "1", "continue": first["metadata"]["continue"]}).status == 410


def test_a_streaming_list_is_told_as_recorded(cluster: FakeCluster, orders: FakeService) -> None:
    """The state as ADDED, the bookmark that ends it, then changes, bookmarks and a clean end."""
    entry, events = recorded("watchlist", "streaming list"), recorded_lines("watchlist", 1)
    orders.set_endpoints([endpoint(number, grpc=9001) for number in (11, 12, 13)])
    query = {**entry["request"]["query"], "timeoutSeconds": "3"}
    del query["watch"]
    watch = Api(cluster).watch(SHOP, **query)
    heard = [watch.next(), watch.next()]
    orders.set_endpoints([endpoint(number, grpc=9001) for number in (11, 12, 13, 14)])
    heard += [watch.until(lambda event: event["type"] == "MODIFIED"), watch.until(lambda event: event["type"] == "BOOKMARK")]
    for told in (heard, events):
        for event in told:
            if event["object"]["ports"]:
                event["object"]["ports"].sort(key=lambda port: str(port["name"]))
            for entry in event["object"]["endpoints"] or ():
                entry["targetRef"]["uid"] = "any"
    assert [comparable(event) for event in heard] == [comparable(event) for event in events]
    assert_ends_cleanly(watch)


def assert_ends_cleanly(watch: Watch) -> None:
    assert all(event["type"] == "BOOKMARK" for event in watch.lines())
    assert eventually(lambda: watch.response.isclosed())


def assert_same(answer: Any, entry: dict[str, Any]) -> None:
    """Status, body (but for what is opaque) and the headers that mean something."""
    assert answer.status == entry["status"]
    assert comparable(answer.json) == comparable(json.loads(entry["body"]))
    for header in ("Content-Type", "Retry-After"):
        assert answer.headers.get(header) == entry["headers"].get(header)
