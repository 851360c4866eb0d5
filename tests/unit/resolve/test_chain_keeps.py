"""The chain while its sources contradict each other for a moment: pods that work are not given up for what nobody said."""

from __future__ import annotations

import logging

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.target import PortRef
from meshlb.errors import PortNotFoundError
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.service_wire import ServicePort
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.settings import Fallback
from tests.unit.resolve.chain_fixtures import FORBIDDEN, UNREACHABLE, Scene, service_of, slice_of

TWO_PORTS = [ServicePort("api", 80, 8080), ServicePort("admin", 8000, 8081)]
ENV = EnvService("10.96.0.99", frozenset({80}))


def two_port_slice(*hosts: str) -> SliceRecord:
    return slice_of(*hosts, ports=[("api", 8080), ("admin", 8081)])


def settled(scene: Scene, *hosts: str) -> Scene:
    scene.api.says(two_port_slice(*hosts))
    scene.settle()
    assert scene.addresses == sorted(f"{host}:8080" for host in hosts)
    return scene


# --- a port that is a guess ---------------------------------------------------------------------------------------------------


def test_the_number_of_pods_is_not_guessed_while_slices_may_still_say_it() -> None:
    """Headless, 80 → 8080, and DNS first: nobody is dialled at 80, and the slices' number is the first that is published."""
    scene = Scene(80)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.loop.advance(1.5)
    assert scene.heard == []
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2", headless=True))
    assert [endpoints.source for _, endpoints in scene.heard] == ["kubernetes"]
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]


@pytest.mark.parametrize("error", [UNREACHABLE, FORBIDDEN, None])
def test_the_number_as_it_was_written_is_dialled_once_slices_cannot_say_better(error: object) -> None:
    """At once when the API server fails or refuses; after 2 s when it says nothing at all."""
    scene = Scene(8080)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    if error is not None:
        scene.api.fails(error)  # type: ignore[arg-type]
    else:
        scene.loop.advance(2.0)
    assert scene.heard[0][0] == (0.0 if error is not None else 2.0)
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_a_target_port_is_no_guess() -> None:
    """``?port=target`` is the pods' own number: nobody is waited for."""
    scene = Scene(PortRef(number=8080, is_target=True))
    scene.dns.says("10.0.0.1", "10.0.0.2")
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]


# --- slices that go and come back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [None, ENV])
@pytest.mark.parametrize("answer", [(service_of(ports=TWO_PORTS), None), None, (None, None), (None, FORBIDDEN)])
def test_slices_that_are_deleted_and_made_anew_empty_nothing(answer: object, env: EnvService | None) -> None:
    """Whatever the Service's reading says meanwhile (the record, nothing, 404, refused), the pods stay and change over."""
    scene = Scene(80, dns=False, env=env)
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    settled(scene, "10.0.0.1")
    scene.api.answer = answer  # type: ignore[assignment]
    scene.api.says()
    scene.loop.advance(0.005)
    scene.api.says(two_port_slice("10.0.0.2"))
    scene.loop.advance(20)
    assert all(endpoints.endpoints for _, endpoints in scene.heard)
    assert {endpoints.source for _, endpoints in scene.heard} == {"kubernetes"}
    assert scene.addresses == ["10.0.0.2:8080"]


def test_a_service_that_was_not_there_yet_is_read_again_when_it_has_slices() -> None:
    """404 between deletion and re-creation is no answer for five minutes: 10 s later it is asked for again."""
    scene = Scene(80, dns=False)
    scene.api.answer = (None, None)
    scene.api.says()
    scene.api.says(two_port_slice("10.0.0.1"))
    scene.settle()
    assert scene.heard == []
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    scene.loop.advance(10)
    assert scene.addresses == ["10.0.0.1:8080"]


def test_a_service_that_lost_its_slices_is_read_again_at_once() -> None:
    """It may have been made anew with other ports; the 10 s between readings are for unchanged ones."""
    scene = Scene(80, dns=False)
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    settled(scene, "10.0.0.1")
    scene.api.answer = (service_of(ports=[ServicePort("api", 8000, 8080), ServicePort("admin", 80, 8081)]), None)
    scene.api.says()
    scene.api.says(two_port_slice("10.0.0.1"))
    scene.settle()
    assert scene.addresses == ["10.0.0.1:8081"]


def test_pods_stay_while_nobody_can_map_the_port_any_more() -> None:
    """The Service was never readable, the slices went and came back with two ports: an error, and the pods as they were."""
    scene = Scene(80, dns=False)
    scene.api.says(slice_of("10.0.0.1"))
    scene.api.says()
    scene.loop.advance(0.005)
    scene.api.says(slice_of("10.0.0.1", ports=[("api", 9080), ("admin", 9081)]))
    scene.loop.advance(20)
    assert scene.addresses == ["10.0.0.1:8080"]
    assert all(endpoints.endpoints for _, endpoints in scene.heard)
    assert isinstance(scene.errors[-1][1], PortNotFoundError)


@pytest.mark.parametrize("readable", [True, False])
def test_a_port_that_gets_a_name_empties_nothing(readable: bool) -> None:
    """Unnamed, then \"grpc\": the slices say so before the Service is read again, which happens at once."""
    scene = Scene(50051, dns=False)
    scene.api.answer = (service_of(ports=[ServicePort("", 50051, 8080)]), None) if readable else (None, FORBIDDEN)
    scene.api.says(slice_of("10.0.0.1", ports=[("", 8080)]))
    scene.settle()
    scene.loop.advance(20)
    scene.api.answer = None
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2", ports=[("grpc", 8080)]))
    scene.loop.advance(5)
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert all(endpoints.endpoints for _, endpoints in scene.heard)
    assert len(scene.api.reads) == (2 if readable else 1)


@pytest.mark.parametrize("reread", [(None, UNREACHABLE), (None, FORBIDDEN)])
@pytest.mark.parametrize("number", [8080, 9080])
def test_a_renamed_port_of_several_never_displaces_pods(reread: object, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """The slices say it before the Service is read again, or it never is: pods go on at their number, and stay if that is gone too."""
    scene = Scene(80)
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    settled(scene, "10.0.0.1")
    scene.api.answer = reread  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene.api.says(slice_of("10.0.0.1", "10.0.0.2", ports=[("web", number), ("admin", 8081)]))
        scene.loop.advance(3600)
    assert {endpoints.source for _, endpoints in scene.heard} == {"kubernetes"}
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"][: 2 if number == 8080 else 1]
    assert caplog.records == []
    scene.api.answer = (service_of(ports=[ServicePort("web", 80, number), ServicePort("admin", 8000, 8081)]), None)
    scene.loop.advance(600)
    assert scene.addresses == [f"10.0.0.1:{number}", f"10.0.0.2:{number}"]


def test_the_other_address_family_takes_over_make_before_break() -> None:
    """The Service is read late and prefers IPv6: for 5 s pods are listed by both, then by that alone."""
    four = [Endpoint(host=f"10.0.0.{number}", port=0, uid=f"pod-{number}") for number in (1, 2)]
    six = [Endpoint(host=f"fd00::{number}", port=0, uid=f"pod-{number}") for number in (1, 2)]
    scene = Scene(50051, dns=False)
    scene.api.answer = None
    scene.api.says(slice_of(*four), slice_of(*six, name="orders-6"))
    old = [f"10.0.0.{number}:8080" for number in (1, 2)]
    new = [f"[fd00::{number}]:8080" for number in (1, 2)]
    assert scene.addresses == old
    scene.api.reads[0][1](service_of(ip_families=("IPv6", "IPv4")), None)
    scene.loop.advance(4.9)
    assert scene.addresses == sorted(old + new)
    scene.loop.advance(0.3)
    assert scene.addresses == new
    assert scene.chain.describe()["error"] == ""


def test_a_port_that_no_pod_serves_is_not_replaced_by_another() -> None:
    """The Service has it and the slices do not, as every pod lacks it: none, rather than the pods' other port."""
    scene = Scene(8000, dns=False)
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    scene.api.says(slice_of("10.0.0.1", ports=[("api", 8080)]))
    scene.settle()
    assert scene.latest.endpoints == ()


# --- the Service is another -----------------------------------------------------------------------------------------------------


def test_slices_that_flap_cost_few_readings() -> None:
    """Deleted and made anew 100 times in 10 s: the one at once is for a first time."""
    scene = Scene("grpc")
    scene.api.answer = (None, None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(20)
    before = len(scene.api.reads)
    for _ in range(100):
        scene.api.says()
        scene.loop.advance(0.05)
        scene.api.says(slice_of("10.0.0.1"))
        scene.loop.advance(0.05)
    assert len(scene.api.reads) - before <= 3


def test_a_deleted_service_that_is_told_again_is_not_believed_for_long() -> None:
    """The first answer after the slices went may be a remembered one: it is read again 10 to 30 s later, slices or not."""
    scene = Scene("grpc")
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(60)
    scene.api.says()
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(1)
    scene.api.answer = (service_of("10.96.0.99"), None)
    scene.loop.advance(30)
    assert {endpoint.split()[0] for endpoint in scene.fallback} == {"10.96.0.99:50051"}


@pytest.mark.parametrize("pods", [False, True])
def test_a_connect_that_fails_has_the_cluster_ip_looked_up(pods: bool) -> None:
    """A Service made anew whose slices overlapped: beside a sidecar, or for the fallback, its new ClusterIP is found at the next hint."""
    scene = Scene("grpc", pods=pods)
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(60)
    scene.api.answer = (service_of("10.96.0.99"), None)
    scene.api.says(slice_of("10.0.0.1", name="orders-b"))
    scene.chain.resolve_now()
    scene.settle()
    used = scene.latest.fallback if pods else scene.latest.endpoints
    assert {endpoint.address for endpoint in used} == {"10.96.0.99:50051"}


def test_connects_that_fail_for_an_hour_are_no_flood_of_readings() -> None:
    """One series, then the regular ones."""
    scene = Scene("grpc", pods=False)
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    for _ in range(3600):
        scene.chain.resolve_now()
        scene.loop.advance(1)
    assert 7 <= len(scene.api.reads) <= 18


# --- the Service's regular reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(None, None), (None, FORBIDDEN), (None, UNREACHABLE)])
def test_a_later_reading_that_fails_displaces_no_pods(answer: object) -> None:
    """404, refused or away: what the Service said stands for as long as it has slices, also for new pods."""
    scene = Scene(80, env=ENV)
    scene.api.answer = (service_of(ports=TWO_PORTS), None)
    settled(scene, "10.0.0.1")
    scene.api.answer = answer  # type: ignore[assignment]
    scene.dns.denies()
    scene.loop.advance(1300)
    assert len(scene.api.reads) >= 2
    settled(scene, "10.0.0.1", "10.0.0.2")
    assert {endpoints.source for _, endpoints in scene.heard} == {"kubernetes"}
    assert {endpoint.split()[0] for endpoint in scene.fallback} == {"10.96.0.7:80"}


# --- what is authoritative, and what is missing -----------------------------------------------------------------------------------


def test_only_slices_are_authoritative() -> None:
    """Nobody else lists pods: who waits for the truth goes on waiting."""
    scene = Scene(80, env=ENV)
    scene.loop.advance(0.3)
    assert (scene.latest.source, scene.latest.authoritative) == ("environment", False)
    scene.dns.says("10.96.0.9")
    scene.settle()
    assert (scene.latest.source, scene.latest.authoritative) == ("clusterip", False)
    scene.api.fails()
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.settle()
    assert (scene.latest.source, scene.latest.authoritative) == ("dns", False)
    scene.api.says(slice_of("10.0.0.1", "10.0.0.2", headless=True))
    scene.settle()
    assert (scene.latest.source, scene.latest.authoritative) == ("kubernetes", True)


@pytest.mark.parametrize(("old", "new"), [("10.96.0.7", "10.96.0.9"), ("10.96.0.9", "10.96.0.7")])
def test_a_cluster_ip_is_the_latest_answer_alone(old: str, new: str) -> None:
    """Two answers must lack an address before DNS drops it, and a Service that was made anew does not have its old one."""
    scene = Scene(50051, api=False, fallback=Fallback(connections=2))
    scene.dns.says(old)
    scene.dns.says(old, new, together=False)  # the last is the answer
    scene.settle()
    assert scene.addresses == [f"{new}:50051"]


def test_a_number_that_cannot_be_known_is_told_with_what_to_write_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Slices and Service refused, one address by DNS, a port's name: the error names the number as the cure, the log has the Role."""
    scene = Scene("grpc")
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene.dns.says("10.96.0.7")
        scene.api.fails(FORBIDDEN)
        scene.api.fails(FORBIDDEN)
        scene.settle()
    assert scene.heard == []
    text = str(scene.errors[-1][1])
    assert "the Service's number for port grpc is not known" in text
    assert "write the Service's port number (orders.shop:NUMBER)" in text
    assert len(caplog.records) == 1
    assert "kind: Role" in caplog.text


def test_addresses_that_dns_has_not_shown_for_long_are_unverified_where_it_lists_the_pods() -> None:
    """Answers that are always cut off remove nothing, so the pool has to know which of them may be another's by now."""
    scene = Scene(50051, api=False)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.settle()
    assert scene.latest.unverified == frozenset()
    scene.dns.says("10.0.0.1", "10.0.0.2", complete=False, unseen=("10.0.0.2",))
    scene.settle()
    assert scene.latest.unverified == frozenset({"10.0.0.2"})
