"""What nobody confirms: how it is told, what it stops being good for, and that it is never dropped for that."""

from __future__ import annotations

import logging

import pytest

from meshlb.resolve.confirmation import STALE_S, TWICE_S, UNVERIFIED_S
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.feed import ServiceSlices
from meshlb.resolve.kubernetes.wire import SliceRecord
from tests.unit.resolve.chain_fixtures import FORBIDDEN, UNREACHABLE, Scene, slice_of

ENV = EnvService("10.96.0.7", frozenset({50051}), {"GRPC": 50051})
POD, OTHER, THIRD = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def from_endpoints(scene: Scene, *slices: SliceRecord, truncated: bool = False) -> None:
    assert scene.api.listener is not None
    scene.api.listener.on_slices(ServiceSlices("shop", "orders", slices, "7", kind="endpoints", truncated=truncated))
    scene.settle()


def with_cluster_ip() -> Scene:
    scene = Scene("grpc", env=ENV)
    scene.api.says(slice_of(POD, OTHER))
    scene.settle()
    return scene


def headless() -> Scene:
    scene = Scene("grpc")
    scene.api.says(slice_of(POD, OTHER, headless=True))
    scene.settle()
    return scene


# --- pods with a ClusterIP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UNREACHABLE, FORBIDDEN])
def test_pods_are_unverified_after_five_minutes_and_stay(error: object) -> None:
    """Not before; all of them, with the ClusterIP to fall back to; and the API server's word ends it."""
    scene = with_cluster_ip()
    scene.api.fails(error)  # type: ignore[arg-type]
    scene.loop.advance(UNVERIFIED_S - 1)
    scene.api.fails(error)  # type: ignore[arg-type]
    assert scene.latest.unverified == frozenset()
    scene.loop.advance(2)
    assert scene.latest.unverified == {POD, OTHER}
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080"]
    assert {address.split()[0] for address in scene.fallback} == {"10.96.0.7:50051"}
    scene.loop.advance(6 * 3600)
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080"]
    scene.api.says(slice_of(POD, OTHER))
    scene.settle()
    assert scene.latest.unverified == frozenset()


def test_an_outage_that_ends_counts_for_nothing_later() -> None:
    """Four minutes twice are not eight."""
    scene = with_cluster_ip()
    for _ in range(2):
        scene.api.fails()
        scene.loop.advance(240)
        scene.api.says(slice_of(POD, OTHER))
    scene.loop.advance(240)
    assert scene.latest.unverified == frozenset()


def test_doubt_is_said_once_and_its_end_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """One warning that names the ClusterIP, one line when it is over."""
    scene = with_cluster_ip()
    with caplog.at_level(logging.INFO, "meshlb.resolve"):
        scene.api.fails()
        scene.loop.advance(3600)
        scene.api.says(slice_of(POD, OTHER))
        scene.settle()
    warning, end = [record.getMessage() for record in caplog.records if "confirmed" in record.getMessage()]
    assert "no source has confirmed 2 of 2 endpoints" in warning
    assert "the ClusterIP 10.96.0.7:50051" in warning
    assert "2 endpoints are confirmed again by kubernetes" in end


def test_staleness_is_visible_in_plain_seconds() -> None:
    """Since when the API server says nothing, since when that counts, and the age of each source's word."""
    scene = with_cluster_ip()
    scene.loop.advance(100)
    described = scene.chain.describe()
    assert (described["stale"], described["stale_for_s"], described["unconfirmed_for_s"]) == (False, None, None)
    assert described["sources"]["kubernetes"]["confirmed_age_s"] == 0.0
    scene.api.fails()
    scene.loop.advance(STALE_S + 12)
    scene.api.fails()
    described = scene.chain.describe()
    assert (described["stale"], described["stale_for_s"], described["unconfirmed_for_s"]) == (True, 12.0, 42.0)
    kubernetes = described["sources"]["kubernetes"]
    assert (kubernetes["failed"], kubernetes["age_s"], kubernetes["confirmed_age_s"]) == (True, 0.0, 42.0)
    assert described["unverified"] is False
    scene.loop.advance(UNVERIFIED_S)
    assert scene.chain.describe()["unverified"] is True


# --- headless: DNS can tell ---------------------------------------------------------------------------------------------------


def test_what_dns_lacks_twice_is_unverified_and_what_it_lists_is_not() -> None:
    """Away over 30 s: additions at once; an absence counts when DNS had the time to answer twice. Nothing is dropped."""
    scene = headless()
    scene.api.fails()
    scene.loop.advance(STALE_S + 1)
    scene.dns.says(OTHER, THIRD)
    scene.settle()
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080", f"{THIRD}:8080"]
    assert scene.latest.unverified == frozenset()
    scene.loop.advance(TWICE_S)
    assert scene.latest.unverified == {POD}
    scene.loop.advance(6 * 3600)
    assert scene.latest.unverified == {POD}
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080", f"{THIRD}:8080"]
    scene.dns.says(POD, OTHER, THIRD)
    scene.settle()
    assert scene.latest.unverified == frozenset()


def test_an_answer_that_was_cut_off_denies_nobody() -> None:
    """It lists one of two: the other is not doubted for that, until nobody has confirmed it for five minutes."""
    scene = headless()
    scene.api.fails()
    scene.loop.advance(STALE_S + 1)
    scene.dns.says(OTHER, complete=False)
    scene.loop.advance(TWICE_S + 5)
    assert scene.latest.unverified == frozenset()
    scene.loop.advance(UNVERIFIED_S)
    assert scene.latest.unverified == {POD}
    scene.dns.says(OTHER)
    scene.dns.says(OTHER, complete=False)
    scene.loop.advance(TWICE_S + 5)
    assert scene.latest.unverified == {POD}


def test_what_others_have_not_heard_confirmed_for_long_is_unverified_from_the_start() -> None:
    """A second target of one Service: its five minutes are those of the first, not five more."""
    for ago_s in (STALE_S + 10, UNVERIFIED_S + 10):
        scene = Scene("grpc", env=ENV)
        scene.loop.advance(1000)
        assert scene.api.listener is not None
        lost_s = scene.loop.now_s() - ago_s
        scene.api.listener.on_slices(ServiceSlices("shop", "orders", (slice_of(POD, OTHER),), lost_s=lost_s))
        scene.api.fails()
        scene.settle()
        described = scene.chain.describe()
        assert described["stale"] is True
        assert described["unconfirmed_for_s"] == described["sources"]["kubernetes"]["confirmed_age_s"] == ago_s + 1.5
        assert scene.latest.unverified == (frozenset() if ago_s < UNVERIFIED_S else {POD, OTHER})
        scene.loop.advance(UNVERIFIED_S - STALE_S)
        assert scene.latest.unverified == {POD, OTHER}
        scene.api.says(slice_of(POD, OTHER))
        scene.settle()
        assert scene.latest.unverified == frozenset()


@pytest.mark.parametrize("failure", ["fails", "denies"])
def test_a_dns_that_fails_confirms_nothing_and_denies_nothing(failure: str) -> None:
    """An answer, then none: the absence is no absence; after five minutes nobody is confirmed."""
    scene = headless()
    scene.api.fails()
    scene.loop.advance(STALE_S + 1)
    scene.dns.says(OTHER)
    getattr(scene.dns, failure)()
    scene.loop.advance(TWICE_S + 1)
    assert scene.latest.unverified == frozenset()
    scene.loop.advance(UNVERIFIED_S)
    assert scene.latest.unverified == {POD, OTHER}
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080"]


def test_pods_of_dns_alone_are_unverified_when_dns_is_away() -> None:
    """No API server: five minutes without an answer, and an answer ends it."""
    scene = Scene(8080, api=False)
    scene.dns.says(POD, OTHER)
    scene.dns.fails()
    scene.loop.advance(UNVERIFIED_S + 1)
    assert scene.latest.unverified == {POD, OTHER}
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080"]
    scene.dns.says(POD, OTHER)
    scene.settle()
    assert scene.latest.unverified == frozenset()


# --- Endpoints ----------------------------------------------------------------------------------------------------------------


def test_an_endpoints_object_takes_over_make_before_break() -> None:
    """Where slices are refused: the same pods keep their identity, and the set is authoritative."""
    scene = with_cluster_ip()
    scene.api.fails(FORBIDDEN)
    from_endpoints(scene, slice_of(POD, OTHER, THIRD))
    assert (scene.latest.source, scene.latest.authoritative, scene.latest.version) == ("endpoints", True, "7")
    assert [endpoint.uid for endpoint in scene.latest.endpoints] == [f"uid-{host}" for host in (POD, OTHER, THIRD)]
    assert all(endpoints.endpoints for _, endpoints in scene.heard)
    described = scene.chain.describe()
    assert described["sources"]["kubernetes"]["said"] == "3 endpoints in the Endpoints object"
    assert described["stale"] is False
    from_endpoints(scene, slice_of(THIRD))
    assert scene.addresses == [f"{THIRD}:8080"]
    scene.api.says(slice_of(POD))
    scene.settle()
    assert (scene.latest.source, scene.addresses) == ("kubernetes", [f"{POD}:8080"])


def test_a_full_endpoints_object_displaces_no_pods_that_slices_listed(caplog: pytest.LogCaptureFixture) -> None:
    """It adds, confirms what it lists, and is no authority for what it lacks; one warning, and a counter."""
    scene = with_cluster_ip()
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        from_endpoints(scene, slice_of(OTHER, THIRD), truncated=True)
        from_endpoints(scene, slice_of(OTHER, THIRD), truncated=True)
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080", f"{THIRD}:8080"]
    assert scene.latest.unverified == {POD}
    assert (scene.latest.authoritative, scene.latest.note) == (False, "the list is cut off")
    assert len([record for record in caplog.records if "lists only some of its pods" in record.getMessage()]) == 1
    described = scene.chain.describe()
    assert described["truncated_answers"] == 2
    assert described["sources"]["kubernetes"]["said"] == "2 endpoints in the Endpoints object, which is full"
    scene.api.says(slice_of(OTHER, THIRD))
    scene.settle()
    assert (scene.addresses, scene.latest.unverified) == ([f"{OTHER}:8080", f"{THIRD}:8080"], frozenset())


# --- beside a sidecar ---------------------------------------------------------------------------------------------------------


def test_beside_a_sidecar_pods_are_counted_and_never_dialled() -> None:
    """The port's number comes from the slices and the Service; the address is the ClusterIP's, as the mesh knows it."""
    scene = Scene("grpc", env=ENV, pods=False)
    scene.api.says(slice_of(POD, OTHER))
    scene.settle()
    assert (scene.latest.source, scene.addresses) == ("clusterip", ["10.96.0.7:50051"])
    assert scene.latest.note == "a sidecar balances over its pods"
    assert scene.dns.running == []
    scene.api.says()
    scene.settle()
    assert scene.latest.endpoints == ()


def test_beside_a_sidecar_a_headless_service_is_its_pods() -> None:
    """There is no other address."""
    scene = Scene("grpc", pods=False)
    scene.api.says(slice_of(POD, OTHER, headless=True))
    scene.settle()
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080"]


def test_what_is_held_for_a_moment_is_not_confirmed_by_that() -> None:
    """The API server is back and lists other pods: those it lacks leave 100 ms later, and are doubted until then."""
    scene = with_cluster_ip()
    scene.api.fails()
    scene.loop.advance(UNVERIFIED_S + 1)
    scene.api.says(slice_of(OTHER, THIRD))
    scene.loop.advance(0.01)
    assert scene.addresses == [f"{POD}:8080", f"{OTHER}:8080", f"{THIRD}:8080"]
    assert scene.latest.unverified == {POD}
    scene.settle()
    assert (scene.addresses, scene.latest.unverified) == ([f"{OTHER}:8080", f"{THIRD}:8080"], frozenset())
