"""Every recorded exchange of a real API server goes through the parser, the decisions and the reduction."""

from __future__ import annotations

import random

import pytest

from meshlb.resolve.kubernetes.backoff import Waits
from meshlb.resolve.kubernetes.refusal import Refusal, parse_refusal
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.service_wire import parse_service
from meshlb.resolve.kubernetes.slices import SliceReducer, merge
from meshlb.resolve.kubernetes.transport import ApiError, SourceError
from meshlb.resolve.kubernetes.watch import ListWatch
from meshlb.resolve.kubernetes.wire import Bookmark, Removal, SliceEvent, Unreadable, parse_event, parse_slice_list
from meshlb.resolve.ports import PortSelector
from tests.unit.resolve.kubernetes.recordings import Exchange, exchange, exchanges

GRPC = PortSelector(name="grpc")


class Replay:
    """One Service's stream, driven by recorded answers."""

    def __init__(self) -> None:
        self.list_watch = ListWatch("shop", Waits.load(), random.Random(1))
        self.list_watch.add("orders")
        self.reducer = SliceReducer()
        self.now_s = 100.0
        self.seen: list[str] = []

    def request(self) -> ListRequest | WatchRequest:
        while True:
            action = self.list_watch.next(self.now_s)
            assert action is not None
            if isinstance(action, (ListRequest, WatchRequest)):
                return action
            self.now_s += max(action, 0.01)

    def list(self, recorded: Exchange) -> ListRequest | WatchRequest:
        request = self.request()
        parsed = parse_slice_list(recorded.body)
        assert not isinstance(self.list_watch.on_list(parsed.resource_version, self.now_s), SourceError)
        if self.reducer.replace(parsed.slices, parsed.resource_version):
            self.seen.append(self.addresses)
        return request

    def watch(self, recorded: Exchange) -> ListRequest | WatchRequest:
        request = self.request()
        opened_s = self.now_s
        self.list_watch.on_watch_opened(self.now_s)
        error = None if recorded.end == "eof" else ApiError(recorded.end)
        first_s = recorded.lines[0][0] if recorded.lines else 0.0
        for at_s, line in recorded.lines:
            self.now_s = opened_s + at_s - first_s
            event = parse_event(line)
            if isinstance(event, Refusal):
                error = ApiError(str(event), event)
                break
            used = self.list_watch.on_event(event, self.now_s)
            if used and isinstance(event, (SliceEvent, Removal)) and self.reducer.apply(event):
                self.seen.append(self.addresses)
        self.now_s += 2.0
        self.list_watch.on_watch_ended(error, self.now_s)
        return request

    @property
    def addresses(self) -> str:
        """``1:9000 2:9001T``: last octet, port, and T while terminating."""
        pods = sorted(merge(self.reducer.slices, GRPC), key=lambda pod: int(pod.host.rpartition(".")[2]))
        return " ".join(
            f"{pod.host.rpartition('.')[2]}:{pod.port}{'' if pod.ready else 'T' if pod.serving and pod.terminating else '?'}"
            for pod in pods
        )


def test_the_rollout_gives_the_sets_of_endpoints_that_were_there() -> None:
    """Empty, 3 pods, 5, a roll-over to other pods on another port, 2, none, 4; two slices coexist, no pod is lost in between."""
    replay = Replay()
    listed = replay.list(exchange("rollout", "initial list"))
    watched = replay.watch(exchange("rollout", "watch"))
    assert dict(listed.query) == exchange("rollout", "initial list").query
    ours, recorded = dict(watched.query), exchange("rollout", "watch").query
    assert ours | {"timeoutSeconds": ""} == recorded | {"timeoutSeconds": ""}
    assert replay.seen == [
        "",
        "1:9000",
        "1:9000 2:9000 3:9000",
        "1:9000 2:9000 3:9000 4:9000",
        "1:9000 2:9000 3:9000 4:9000 5:9000",
        "1:9000 2:9000 3:9000 4:9000 5:9000 6:9001",
        "1:9000 2:9000 3:9000 4:9000T 5:9000 6:9001",
        "1:9000 2:9000 3:9000 4:9000T 5:9000 6:9001 7:9001",
        "1:9000 2:9000 3:9000 4:9000T 5:9000T 6:9001 7:9001",
        "1:9000 2:9000 3:9000 4:9000T 5:9000T 6:9001 7:9001 8:9001",
        "1:9000T 2:9000 3:9000 4:9000T 5:9000T 6:9001 7:9001 8:9001",
        "1:9000T 2:9000 3:9000 4:9000T 5:9000T 6:9001 7:9001 8:9001 9:9001",
        "1:9000T 2:9000T 3:9000 4:9000T 5:9000T 6:9001 7:9001 8:9001 9:9001",
        "1:9000T 2:9000T 3:9000 4:9000T 5:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "1:9000T 2:9000T 3:9000T 4:9000T 5:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "1:9000T 2:9000T 3:9000T 5:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "1:9000T 2:9000T 3:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "2:9000T 3:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "3:9000T 6:9001 7:9001 8:9001 9:9001 10:9001",
        "6:9001 7:9001 8:9001 9:9001 10:9001",
        "6:9001 7:9001 8:9001 9:9001 10:9001T",
        "6:9001T 7:9001 8:9001T 9:9001 10:9001T",
        "6:9001T 7:9001 8:9001T 9:9001",
        "7:9001 9:9001",
        "7:9001T 9:9001T",
        "9:9001T",
        "",
        "11:9001",
        "11:9001 12:9001",
        "11:9001 12:9001 13:9001",
        "11:9001 12:9001 13:9001 14:9001",
    ]


def test_after_the_rollouts_clean_end_the_last_bookmark_is_where_the_next_watch_begins() -> None:
    """No list, no gap."""
    replay = Replay()
    replay.list(exchange("rollout", "initial list"))
    replay.watch(exchange("rollout", "watch"))
    again = replay.request()
    assert isinstance(again, WatchRequest)
    assert again.resource_version == "604"


def test_a_killed_server_leads_to_an_expired_version_a_list_and_a_new_watch_and_loses_no_pod() -> None:
    """Cut, resumed, 410 as an ERROR event, listed at the version last seen, watched from there: the pods never change."""
    replay = Replay()
    replay.list(exchange("gone-and-restart", "list before"))
    pods = replay.addresses
    watched = replay.watch(exchange("gone-and-restart", "watch, cut by the kill"))
    resumed = replay.watch(exchange("gone-and-restart", "watch from the last version seen before the kill"))
    relisted = replay.list(exchange("gone-and-restart", "list with the last version seen"))
    again = replay.watch(exchange("gone-and-restart", "watch on"))
    kinds = [type(request).__name__ for request in (watched, resumed, relisted, again)]
    assert kinds == ["WatchRequest", "WatchRequest", "ListRequest", "WatchRequest"]
    assert [request.resource_version for request in (watched, resumed, relisted, again)] == ["604", "604", "604", "612"]
    assert replay.addresses == pods
    assert len(pods.split()) == 4
    assert replay.seen == [pods]


def test_a_streaming_lists_marker_is_understood_and_disturbs_nothing() -> None:
    """``k8s.io/initial-events-end`` is a bookmark like any other."""
    replay = Replay()
    replay.list(exchange("rollout", "initial list"))
    replay.watch(exchange("watchlist", "streaming list"))
    assert replay.seen[-2:] == ["11:9001 12:9001 13:9001", "11:9001 12:9001 13:9001 14:9001"]
    events = [parse_event(line) for _, line in exchange("watchlist", "streaming list").lines]
    assert events[1] == Bookmark("572", initial_events_end=True)
    assert events[3] == Bookmark("588", initial_events_end=False)


def test_a_watch_from_the_beginning_repeats_history_and_ends_where_the_rollout_did() -> None:
    """The recorded replay of all events, from version 1, gives the same last set."""
    replay = Replay()
    replay.list(exchange("errors", "namespace that does not exist"))
    reducer = SliceReducer()
    for _, line in exchange("errors", "watch from an old resourceVersion").lines:
        event = parse_event(line)
        assert isinstance(event, (SliceEvent, Removal))
        reducer.apply(event)
    assert [pod.host for pod in merge(reducer.slices, GRPC)] == [f"10.99.100.{n}" for n in (11, 12, 13, 14)]


def test_several_services_in_one_list_are_told_apart() -> None:
    """By label; the headless one says so."""
    listed = parse_slice_list(exchange("rollout", "several services, one list").body)
    assert {record.service: record.headless for record in listed.slices} == {"orders": False, "orders-headless": True}
    assert listed.unreadable == listed.passed == ()


def test_the_recorded_services_are_read() -> None:
    """An ordinary one, a headless one, an alias."""
    services = [parse_service(found.body) for found in exchanges("rollout") if found.note == "Service object"]
    ordinary, headless, alias = services
    assert (ordinary.name, ordinary.type, ordinary.cluster_ips, ordinary.headless) == (
        "orders",
        "ClusterIP",
        ("10.96.203.9",),
        False,
    )
    assert [(port.name, port.port, port.target_port, port.app_protocol) for port in ordinary.ports] == [
        ("grpc", 50051, "grpc", "grpc"),
        ("http", 80, 8080, ""),
    ]
    assert (headless.name, headless.cluster_ips, headless.headless, headless.ip_families) == (
        "orders-headless",
        (),
        True,
        ("IPv4",),
    )
    assert (alias.type, alias.external_name, alias.cluster_ips, alias.ports) == ("ExternalName", "legacy.example.com", (), ())


@pytest.mark.parametrize(
    ("note", "code", "reason", "kind"),
    [
        ("invalid token", 401, "Unauthorized", "unauthorized"),
        ("no RBAC: list", 403, "Forbidden", "forbidden"),
        ("no RBAC: watch", 403, "Forbidden", "forbidden"),
        ("anonymous", 403, "Forbidden", "forbidden"),
        ("bad selector", 400, "BadRequest", "unreachable"),
        ("API version that does not exist", 404, "NotFound", "not_served"),
        ("list at a future resourceVersion", 504, "Timeout", "unreachable"),
        ("malformed resourceVersion", 400, "BadRequest", "unreachable"),
        ("Service that does not exist", 404, "NotFound", "not_served"),
    ],
)
def test_the_recorded_refusals_are_understood(note: str, code: int, reason: str, kind: str) -> None:
    """Code, reason and words; a version from the future is told from other timeouts."""
    found = exchange("errors", note)
    refusal = parse_refusal(found.body, found.status, found.headers.get("Retry-After", ""))
    assert (refusal.code, refusal.reason) == (code, reason)
    assert refusal.message
    assert ApiError(str(refusal), refusal).kind == kind
    assert refusal.too_large_version is (code == 504)
    assert refusal.retry_after_s == (1.0 if code == 504 else 0.0)


def test_a_recorded_watch_refused_with_500_has_no_event_in_its_body() -> None:
    """The line of such a stream is a bare Status: unreadable as an event, which is why the status decides."""
    found = exchange("errors", "watch from a malformed resourceVersion")
    ((_, line),) = found.lines
    assert isinstance(parse_event(line), Unreadable)
    assert parse_refusal(line, found.status).message.startswith("resourceVersion: Invalid value")
