"""One Service's sources in virtual time: who is believed, who displaces whom, and what never happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.chain import PATIENCE_S
from meshlb.resolve.env import EnvService
from meshlb.resolve.settings import Fallback
from tests.unit.resolve.chain_fixtures import FORBIDDEN, UNREACHABLE, Scene, service_of, slice_of

ENV = EnvService("10.96.0.7", frozenset({50051}), {"GRPC": 50051})
VIP = ["10.96.0.7:50051 clusterip/0.0", "10.96.0.7:50051 clusterip/1.0"]
K2 = Fallback(connections=2)


# --- the race ---------------------------------------------------------------------------------------------------------------


def test_everybody_is_asked_at_once() -> None:
    """The API server and DNS are asked at the start, neither waits for the other."""
    scene = Scene()
    assert scene.api.listener is scene.chain
    assert scene.dns.started == 1


def test_the_first_answer_is_used_at_once() -> None:
    """DNS before the API: the ClusterIP carries the first calls, on k connections at the Service's port."""
    scene = Scene(50051, fallback=K2)
    scene.dns.says("10.96.0.7")
    assert scene.heard[0][0] == 0.0
    assert scene.latest.source == "clusterip"
    assert [f"{endpoint.address} {endpoint.uid}" for endpoint in scene.latest.endpoints] == VIP
    assert scene.latest.service_port == 50051


def test_pods_take_over_and_the_cluster_ip_becomes_the_fallback() -> None:
    """The very same connections stay known: nothing is broken before the pods are there."""
    scene = Scene(50051, fallback=K2)
    scene.dns.says("10.96.0.7")
    before = scene.latest.endpoints
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2"))
    scene.settle()
    assert scene.latest.source == "kubernetes"
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert scene.latest.fallback == before
    assert all(endpoints.endpoints for _, endpoints in scene.heard)


def test_addresses_that_dns_knew_keep_their_place_when_slices_take_over() -> None:
    """Headless: the same addresses and ports, now with a uid, in one set."""
    scene = Scene(8080)
    scene.api.fails()
    scene.dns.says("10.0.0.1", "10.0.0.2")
    assert (scene.latest.source, scene.addresses) == ("dns", ["10.0.0.1:8080", "10.0.0.2:8080"])
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2", headless=True))
    scene.settle()
    assert scene.latest.source == "kubernetes"
    assert [(endpoint.address, endpoint.uid) for endpoint in scene.latest.endpoints] == [
        ("10.0.0.1:8080", "uid-10.0.0.1"),
        ("10.0.0.2:8080", "uid-10.0.0.2"),
    ]
    assert len(scene.heard) == 2


def test_dns_is_not_polled_while_slices_are_synced() -> None:
    """Once it told the ClusterIP, or once the Service is headless, DNS is left alone."""
    scene = Scene(50051)
    scene.api.says(slice_of("10.0.0.1"))
    assert len(scene.dns.running) == 1  # the ClusterIP is not known yet
    scene.dns.says("10.96.0.7")
    assert scene.dns.running == []
    headless = Scene(8080)
    headless.api.says(slice_of("10.0.0.1", headless=True))
    assert headless.dns.running == []
    told = Scene(50051, env=ENV)
    told.api.says(slice_of("10.0.0.1"))
    assert told.dns.running == []
    assert told.latest.fallback[0].address == "10.96.0.7:50051"


def test_dns_is_not_needed_where_the_service_can_be_read() -> None:
    """The Service itself gives the ClusterIP and the port."""
    scene = Scene("grpc", fallback=K2)
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    assert scene.dns.running == []
    assert (scene.fallback, scene.latest.service_port) == (VIP, 50051)


# --- losing a source --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UNREACHABLE, FORBIDDEN])
def test_losing_the_api_server_changes_nothing(error: object) -> None:
    """An hour without the API server, whatever DNS says meanwhile: the pods stay as they are."""
    scene = Scene(50051)
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2"))
    scene.settle()
    before, told = scene.latest, len(scene.heard)
    scene.api.fails(error)  # type: ignore[arg-type]
    scene.loop.advance(299)
    assert len(scene.heard) == told
    scene.loop.advance(1500)
    scene.dns.says("10.96.0.7")
    scene.dns.denies()
    scene.dns.fails()
    scene.loop.advance(1800)
    assert replace(scene.latest, unverified=frozenset()) == before
    assert len(scene.heard) == told + 1
    assert scene.errors == []


def test_a_headless_service_gains_what_dns_sees_while_the_api_is_away() -> None:
    """After 30 s DNS is asked again: new addresses are added, none is dropped, and the API server's word ends it."""
    scene = Scene(8080)
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2", headless=True))
    scene.api.fails()
    scene.loop.advance(29)
    assert scene.dns.running == []
    scene.loop.advance(2)
    scene.dns.says("10.0.0.2", "10.0.0.3")
    scene.settle()
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    scene.api.says(slice_of("10.0.0.2", "10.0.0.3", headless=True))
    scene.settle()
    assert scene.addresses == ["10.0.0.2:8080", "10.0.0.3:8080"]
    assert scene.dns.running == []


def test_what_dns_said_long_ago_is_not_added_to_stale_slices() -> None:
    """Addresses that DNS gave at the start, before it was stopped, are no news when the API server goes away later."""
    scene = Scene(8080)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.api.says(slice_of("10.0.0.3", headless=True))
    scene.api.fails()
    scene.loop.advance(60)
    assert scene.addresses == ["10.0.0.3:8080"]


def test_a_short_outage_is_not_worth_a_question() -> None:
    """An API server that is back within 30 s is not compared with DNS."""
    scene = Scene(8080)
    scene.api.says(slice_of("10.0.0.1", headless=True))
    started = scene.dns.started
    scene.api.fails()
    scene.loop.advance(20)
    scene.api.says(slice_of("10.0.0.1", headless=True))
    scene.loop.advance(60)
    assert scene.dns.started == started


def test_dns_that_fails_or_denies_keeps_what_it_said() -> None:
    """SERVFAIL and NXDOMAIN after an answer change nothing; the end of the grace period is DNS's own answer."""
    scene = Scene(8080, api=False)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.dns.fails()
    scene.dns.denies()
    scene.settle()
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]
    scene.dns.says()
    scene.settle()
    assert (scene.latest.endpoints, scene.latest.note) == ((), "0 endpoints, DNS knows no such name any more")


# --- the API server is away at the start ------------------------------------------------------------------------------------


def test_without_the_api_dns_is_enough_and_the_api_takes_over_later() -> None:
    """API away at the start, then back: pods without a moment without endpoints."""
    scene = Scene(50051)
    scene.dns.says("10.96.0.7")
    scene.api.fails()
    scene.loop.advance(60)
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    assert (scene.latest.source, scene.addresses) == ("kubernetes", ["10.0.0.1:8080"])
    assert all(endpoints.endpoints for _, endpoints in scene.heard)


def test_the_environment_is_used_when_api_and_dns_fail() -> None:
    """Both failed: the ClusterIP of the environment at once, and better sources as they come."""
    scene = Scene("grpc", env=ENV)
    scene.api.fails()
    assert scene.heard == []
    scene.dns.fails()
    assert (scene.latest.source, scene.addresses) == ("environment", ["10.96.0.7:50051"])
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    assert (scene.latest.source, scene.addresses) == ("kubernetes", ["10.0.0.1:8080"])


def test_the_environment_is_used_when_nobody_answers_for_a_quarter_of_a_second() -> None:
    """A black hole at the start costs 0.25 s, not a time-out."""
    scene = Scene("grpc", env=ENV)
    scene.loop.advance(0.24)
    assert scene.heard == []
    scene.loop.advance(0.02)
    assert scene.latest.source == "environment"
    assert scene.heard[0][0] == pytest.approx(0.25)


def test_the_environment_alone_is_used_at_once() -> None:
    """With no other source there is nobody to wait for."""
    scene = Scene("grpc", api=False, dns=False, env=ENV)
    assert (scene.heard[0][0], scene.latest.source) == (0.0, "environment")


# --- nothing, empty, one pod ------------------------------------------------------------------------------------------------


def test_a_service_that_nobody_knows_is_not_found_with_what_each_said() -> None:
    """An empty list, NXDOMAIN and no variable: an error, not an empty set; it recovers by itself."""
    scene = Scene("grpc")
    scene.api.answer = (None, None)
    scene.api.says()
    assert scene.errors == []
    scene.dns.denies()
    error = scene.errors[-1][1]
    assert isinstance(error, ServiceNotFoundError)
    assert "no EndpointSlice of orders in namespace shop, no such Service" in str(error)
    assert "NXDOMAIN" in str(error)
    assert "environment: does not know it" in str(error)
    assert scene.heard == []
    scene.dns.denies()
    assert len(scene.errors) == 1
    assert len(scene.dns.running) == 1
    scene.api.says(slice_of("10.0.0.1"))
    assert scene.addresses == ["10.0.0.1:8080"]


@pytest.mark.parametrize("api", ["refused", "unused"])
def test_who_may_not_know_does_not_save_a_service_that_dns_denies(api: str) -> None:
    """Without the API's word, DNS and the environment decide."""
    scene = Scene("grpc", api=api == "refused")
    scene.api.fails(FORBIDDEN)
    scene.dns.denies()
    assert isinstance(scene.errors[-1][1], ServiceNotFoundError)
    assert ("is forbidden" if api == "refused" else "kubernetes: not used") in str(scene.errors[-1][1])


def test_who_may_know_and_is_away_leaves_it_open() -> None:
    """An unreachable API server, or a failing DNS: nothing is known, which is not the same as not found."""
    for away in ("api", "dns"):
        scene = Scene("grpc")
        scene.api.fails() if away == "api" else scene.api.says()
        scene.dns.denies() if away == "api" else scene.dns.fails()
        error = scene.errors[-1][1]
        assert type(error) is ResolveError
        assert ("connection refused" if away == "api" else "SERVFAIL") in str(error)


def test_an_empty_service_is_empty_and_not_unknown() -> None:
    """Slices without endpoints, or a Service without slices: an authoritative empty set, and not the ClusterIP."""
    for slices in ([slice_of()], []):
        scene = Scene("grpc")
        scene.api.answer = (service_of(), None)
        scene.api.says(*slices)
        scene.dns.says("10.96.0.7")
        scene.settle()
        latest = scene.latest
        assert (latest.endpoints, latest.fallback, latest.authoritative) == ((), (), True)
        assert (latest.source, latest.note) == ("kubernetes", "0 endpoints")


def test_endpoints_of_which_none_is_ready_are_told_with_a_note() -> None:
    """The note counts them; the ClusterIP is not offered, kube-proxy would refuse as well."""
    unready = [Endpoint(host=host, port=0, uid=host, ready=False, serving=False) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    scene = Scene("grpc")
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of(*unready))
    scene.settle()
    assert (len(scene.latest), scene.latest.note, scene.latest.fallback) == (3, "3 endpoints, none ready", ())


def test_a_service_that_loses_its_last_pod_is_empty_after_a_second() -> None:
    """From pods to none: held for 1 s, then believed; the Service was seen, so it is not unknown."""
    scene = Scene("grpc")
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    scene.api.says()
    scene.loop.advance(0.9)
    assert scene.addresses == ["10.0.0.1:8080"]
    scene.loop.advance(0.2)
    assert (scene.latest.endpoints, scene.latest.note) == ((), "0 endpoints")


def test_a_service_that_is_made_anew_is_learnt_anew() -> None:
    """Deleted, then there again with another ClusterIP: nothing of the old one is used, not even as the fallback."""
    scene = Scene(50051)
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    scene.api.says()
    scene.settle()
    assert (scene.latest.endpoints, len(scene.dns.running)) == ((), 1)  # who takes its name next may have no slices
    scene.dns.says("10.96.0.7")  # from a cache
    scene.api.says(slice_of("10.0.0.2"))
    scene.settle()
    assert (scene.addresses, scene.fallback) == (["10.0.0.2:8080"], [])
    scene.dns.says("10.96.0.9")
    scene.settle()
    assert {address.split()[0] for address in scene.fallback} == {"10.96.0.9:50051"}


def test_one_pod_is_that_pod_and_never_the_cluster_ip() -> None:
    """``pod-0.orders.shop.svc``: by hostname or name, without the fallback that would reach the others."""
    pods = [replace(Endpoint(host=f"10.0.0.{n}", port=0, uid=str(n)), hostname=f"pod-{n}") for n in range(3)]
    scene = Scene("grpc", pod="pod-1")
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of(*pods))
    scene.settle()
    assert (scene.addresses, scene.latest.fallback) == (["10.0.0.1:8080"], ())
    scene.api.says(slice_of(pods[0]))
    scene.settle()
    assert (scene.latest.endpoints, scene.latest.note) == ((), "0 endpoints are pod-1")
    by_dns = Scene(8080, api=False, pod="pod-1")
    by_dns.dns.says("10.0.0.1")
    assert (by_dns.latest.source, [endpoint.uid for endpoint in by_dns.latest.endpoints]) == ("dns", [""])


# --- the rest ---------------------------------------------------------------------------------------------------------------


def test_a_hint_goes_to_dns_only_while_it_is_in_use() -> None:
    """A watch needs no hint; DNS decides itself how often it may be asked."""
    scene = Scene(50051)
    scene.chain.resolve_now()
    assert scene.dns.hints == 1
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1"))
    scene.chain.resolve_now()
    assert scene.dns.hints == 1


def test_nothing_is_left_after_close() -> None:
    """No timer, no DNS, no watch; answers that are late change nothing."""
    renewing = Scene(50051)
    renewing.dns.says("10.96.0.7")
    renewing.chain.close()
    assert renewing.loop.timers == ()
    scene = Scene(50051, env=ENV)
    scene.api.answer = None
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1"))
    listener = scene.api.listener
    told = len(scene.heard)
    scene.chain.close()
    assert (scene.api.listener, scene.dns.running, scene.loop.timers) == (None, [], ())
    assert listener is not None
    listener.on_source_error(UNREACHABLE)
    scene.api.reads[0][1](service_of(), None)
    scene.loop.advance(3600)
    assert len(scene.heard) == told
    assert scene.loop.timers == ()


def test_describe_says_who_is_in_use_and_what_each_said() -> None:
    """Plain data: source, age, counts and every source's last word with its age."""
    scene = Scene(50051, env=ENV)
    assert scene.chain.describe()["sources"]["kubernetes"] == {"said": "nothing yet"}
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2"))
    scene.loop.advance(10)
    scene.api.fails()
    scene.loop.advance(2)
    described = scene.chain.describe()
    assert {key: described[key] for key in ("source", "endpoints", "headless", "stale", "service_port", "cluster_ip")} == {
        "source": "kubernetes",
        "endpoints": 2,
        "headless": False,
        "stale": False,
        "service_port": 50051,
        "cluster_ip": "10.96.0.7:50051",
    }
    assert described["age_s"] == pytest.approx(12, abs=0.1)
    assert described["sources"] == {
        "kubernetes": {"said": "connection refused", "failed": True, "age_s": 2.0, "confirmed_age_s": 2.0},
        "service": {"said": FORBIDDEN.reason, "failed": True, "age_s": 12.0, "confirmed_age_s": None},
        "dns": {"said": "10.96.0.7", "failed": False, "age_s": 12.0, "confirmed_age_s": 12.0},
        "environment": {"said": "ClusterIP 10.96.0.7"},
    }
    assert "kubernetes" in repr(scene.chain)


def test_a_change_of_source_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line a state change, none for what stays as it is."""
    with caplog.at_level(logging.INFO, "meshlb.resolve"):
        scene = Scene(50051)
        scene.dns.says("10.96.0.7")
        for number in range(5):
            scene.api.says(slice_of(f"10.0.0.{number}"))
            scene.loop.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "orders.shop:50051: 4 endpoints by clusterip, its pods are not known",
        "orders.shop:50051: 1 endpoints by kubernetes",
    ]


def test_who_has_an_answer_by_dns_lets_the_api_server_take_its_time() -> None:
    """The list of a client that can already call is in no hurry: thousands may start in this moment."""
    scene = Scene(50051)
    scene.dns.says("10.96.0.7")
    assert scene.addresses == ["10.96.0.7:50051"]
    scene.loop.advance(1.0)
    assert scene.api.hurried_s is None


@pytest.mark.parametrize(
    ("answer", "hurried_s"),
    [
        (lambda scene: None, PATIENCE_S),
        (lambda scene: scene.dns.denies(), 0.0),
        (lambda scene: scene.dns.fails(), 0.0),
        (lambda scene: scene.dns.says("10.0.0.1", "10.0.0.2"), 0.0),
    ],
    ids=["DNS says nothing", "no such name", "DNS fails", "pods, and a port's name that DNS cannot map"],
)
def test_who_has_no_other_answer_asks_the_api_server_at_once(answer: Callable[[Scene], None], hurried_s: float) -> None:
    """The first call is worth more than the server's peace."""
    scene = Scene("grpc")
    answer(scene)
    scene.loop.advance(1.0)
    assert scene.heard == []
    assert scene.api.hurried_s == hurried_s


def test_who_does_not_use_dns_asks_the_api_server_at_once() -> None:
    """There is nobody else."""
    assert Scene(dns=False).api.hurried_s == 0.0
