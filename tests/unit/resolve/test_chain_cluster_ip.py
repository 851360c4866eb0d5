"""The chain where only a ClusterIP, or an address that may be one, is known; in virtual time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshlb.core.target import PortRef
from meshlb.errors import PortNotFoundError
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.service_wire import ServicePort
from meshlb.resolve.lookup import SrvEndpoint
from meshlb.resolve.settings import Fallback
from tests.unit.resolve.chain_fixtures import FORBIDDEN, Scene, service_of, slice_of

if TYPE_CHECKING:
    import pytest

ENV = EnvService("10.96.0.7", frozenset({50051}), {"GRPC": 50051})
K2 = Fallback(connections=2)


# --- the ClusterIP ----------------------------------------------------------------------------------------------------------


def test_without_permission_the_cluster_ip_is_renewed_one_connection_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    """k connections, each replaced after about max_age_s; one warning holds the Role and names who asks."""
    scene = Scene(50051, fallback=Fallback(connections=2, max_age_s=20))
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene.dns.says("10.96.0.7")
        scene.api.fails(FORBIDDEN)
        scene.loop.advance(200)
        scene.api.fails(FORBIDDEN)
    sizes = [len(endpoints) for _, endpoints in scene.heard]
    assert set(sizes) == {2, 3}
    assert len({endpoint.uid for _, endpoints in scene.heard for endpoint in endpoints.endpoints}) >= 12
    assert [record.name for record in caplog.records] == ["meshlb.resolve"]
    text = caplog.text
    assert "kind: Role" in text
    assert 'resources: ["endpointslices"]' in text
    assert "name: client, namespace: web" in text
    assert "2 connections" in text
    assert "clusterIP: None" in text


def test_the_fallback_is_not_renewed_while_pods_are_in_use() -> None:
    """Connections that nobody uses are left alone, and go on being renewed when they are used again."""
    scene = Scene(50051, fallback=Fallback(connections=2, max_age_s=20))
    scene.dns.says("10.96.0.7")
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    told = len(scene.heard)
    scene.loop.advance(600)
    assert len(scene.heard) == told


def test_no_cluster_ip_is_used_where_the_fallback_is_off() -> None:
    """Pods carry everything; if only the ClusterIP is known, that is an error that says so."""
    scene = Scene(50051, fallback=Fallback(enabled=False))
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    assert scene.latest.fallback == ()
    refused = Scene(50051, fallback=Fallback(enabled=False))
    refused.api.answer = (service_of(), None)
    refused.api.fails(FORBIDDEN)
    refused.dns.says("10.96.0.7")
    assert refused.heard == []
    assert "fallback is switched off" in str(refused.errors[-1][1])


def test_an_address_that_may_be_a_pod_is_used_as_one_where_the_fallback_is_off() -> None:
    """DNS alone and one address: a headless Service with one pod must not be lost for lack of a ClusterIP's use."""
    scene = Scene(8080, api=False, fallback=Fallback(enabled=False))
    scene.dns.says("10.0.0.1")
    assert (scene.latest.source, scene.addresses, len(scene.latest.endpoints)) == ("dns", ["10.0.0.1:8080"], 1)


def test_a_recreated_service_gets_connections_to_its_new_cluster_ip() -> None:
    """Another ClusterIP is another address, taken over like any change."""
    scene = Scene(50051, api=False, fallback=K2)
    scene.dns.says("10.96.0.7")
    scene.dns.says("10.96.0.7", "10.96.0.9", together=False)  # both are published until the first was missed twice
    scene.dns.says("10.96.0.9")
    scene.settle()
    assert scene.addresses == ["10.96.0.9:50051"]
    assert len(scene.latest.endpoints) == 2


# --- headless or not, by DNS alone ------------------------------------------------------------------------------------------


def test_one_address_of_unknown_kind_is_taken_for_a_cluster_ip_until_a_second_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    """k connections to one pod are harmless; two addresses in one answer are pods, also when they become one again."""
    scene = Scene(8080, api=False)
    scene.dns.says("10.0.0.1")
    assert (scene.latest.source, len(scene.latest.endpoints)) == ("clusterip", 4)
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene.dns.says("10.0.0.1", "10.0.0.2")
        scene.settle()
        assert (scene.latest.source, scene.addresses) == ("dns", ["10.0.0.1:8080", "10.0.0.2:8080"])
        scene.dns.says("10.0.0.2")
        scene.settle()
    assert (scene.latest.source, scene.addresses, len(scene.latest.endpoints)) == ("dns", ["10.0.0.2:8080"], 1)
    assert [record.getMessage() for record in caplog.records if "no ports" in record.getMessage()]
    assert len(caplog.records) == 1


def test_a_headless_service_made_anew_with_a_cluster_ip_gets_its_connections() -> None:
    """By DNS alone, without SRV: an address that was never one of several, alone in two answers; pods stay until then."""
    scene = Scene(50051, api=False)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.settle()
    scene.dns.says("10.0.0.1", "10.0.0.2", "10.96.0.7", together=False)  # the last is the answer
    scene.settle()
    assert (scene.latest.source, len(scene.latest.endpoints)) == ("dns", 3)
    scene.dns.says("10.96.0.7")
    scene.settle()
    assert (scene.latest.source, scene.addresses, len(scene.latest.endpoints)) == ("clusterip", ["10.96.0.7:50051"], 4)


def test_a_cluster_ip_never_gets_the_port_of_the_pods_that_took_its_name() -> None:
    """ClusterIP, then headless, by DNS with SRV: the address that one answer lacks is still known, and no pod."""
    scene = Scene(80, api=False)
    virtual = SrvEndpoint(host="10.96.0.7", port=80)
    scene.dns.says("10.96.0.7", records=(virtual,))
    scene.settle()
    assert scene.addresses == ["10.96.0.7:80"]
    pods = tuple(SrvEndpoint(host=host, port=50051, of_pod=True) for host in ("10.0.0.1", "10.0.0.2"))
    scene.dns.says("10.0.0.1", "10.0.0.2", "10.96.0.7", records=(*pods, virtual))
    scene.settle()
    assert scene.addresses == ["10.0.0.1:50051", "10.0.0.2:50051"]


def test_nobody_is_warned_of_a_first_answer(caplog: pytest.LogCaptureFixture) -> None:
    """DNS answers a few milliseconds before the API server: there is nothing to improve."""
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene = Scene(8080)
        scene.dns.says("10.0.0.1", "10.0.0.2")
        scene.api.says(slice_of("10.0.0.1", "10.0.0.2", headless=True))
        scene.settle()
    assert caplog.records == []


def test_a_target_port_is_never_dialled_on_what_may_be_a_cluster_ip() -> None:
    """``?port=target`` with one address of unknown kind is an error that says what is missing; with two it is clear."""
    scene = Scene(PortRef(number=8080, is_target=True), api=False)
    scene.dns.says("10.0.0.1")
    assert scene.heard == []
    error = scene.errors[-1][1]
    assert isinstance(error, PortNotFoundError)
    assert "may be the ClusterIP" in str(error)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_a_named_port_needs_more_than_dns() -> None:
    """DNS has no ports: the environment may know the ClusterIP's, for pods nobody does, and the errors say what is missing."""
    known = Scene("grpc", api=False, env=ENV)
    known.dns.says("10.96.0.7")
    assert known.addresses == ["10.96.0.7:50051"]
    for hosts in (["10.96.0.7"], ["10.0.0.1", "10.0.0.2"]):
        scene = Scene("grpc", api=False)
        scene.dns.says(*hosts)
        assert scene.heard == []
        assert isinstance(scene.errors[-1][1], PortNotFoundError)
        assert "list EndpointSlices" in str(scene.errors[-1][1])


def test_the_service_maps_ports_for_dns_where_it_can_be_read() -> None:
    """Slices forbidden, the Service readable and headless: its target port is dialled on DNS's addresses."""
    scene = Scene("grpc")
    scene.api.answer = (service_of("", [ServicePort("grpc", 50051, 8080)]), None)
    scene.dns.says("10.0.0.1", "10.0.0.2")
    scene.api.fails(FORBIDDEN)
    assert (scene.latest.source, scene.addresses) == ("dns", ["10.0.0.1:8080", "10.0.0.2:8080"])


def test_hand_made_slices_of_a_headless_service_do_not_flap() -> None:
    """No label says headless, but DNS lists a slice's address: pods, no ClusterIP, and DNS is stopped once."""
    scene = Scene(8080)
    scene.api.says(slice_of("10.0.0.1"))
    scene.dns.says("10.0.0.1")
    scene.settle()
    assert (scene.latest.source, scene.latest.fallback, scene.addresses) == ("kubernetes", (), ["10.0.0.1:8080"])
    scene.api.says(slice_of("10.0.0.1"), version="2")
    assert (scene.dns.started, scene.dns.running) == (1, [])
