"""The chain and ports: which number is dialled, what is asked to find out, and what is said when nobody knows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshlb.errors import PortNotFoundError
from meshlb.resolve.kubernetes.service_wire import ServicePort
from tests.unit.resolve.chain_fixtures import FORBIDDEN, Scene, service_of, slice_of

if TYPE_CHECKING:
    import pytest


def test_a_port_that_nobody_has_is_an_error_that_lists_the_ports() -> None:
    """The listed names are what can be written; nothing is published, and it recovers when the port appears."""
    scene = Scene("admin")
    scene.api.says(slice_of("10.0.0.1", ports=[("grpc", 8080), ("http", 8081)]))
    scene.loop.advance(1)
    error = scene.errors[-1][1]
    assert isinstance(error, PortNotFoundError)
    assert "grpc (8080), http (8081)" in str(error)
    scene.api.says(slice_of("10.0.0.1", ports=[("admin", 9000)]))
    assert scene.addresses == ["10.0.0.1:9000"]


def test_several_ports_wait_for_the_service_to_map_a_number() -> None:
    """80 is one port's service number and another's target: the Service decides, so the slices wait for it, but not for long."""
    ports = [ServicePort("api", 80, 8080), ServicePort("admin", 8000, 80)]
    sliced = slice_of("10.0.0.1", ports=[("api", 8080), ("admin", 80)])
    scene = Scene(80, dns=False)
    scene.api.answer = None
    scene.api.says(sliced)
    assert scene.heard == []
    scene.api.reads[0][1](service_of(ports=ports), None)
    scene.settle()
    assert (scene.addresses, scene.latest.service_port) == (["10.0.0.1:8080"], 80)
    silent = Scene(80, dns=False)
    silent.api.answer = None
    silent.api.says(sliced)
    silent.loop.advance(0.3)
    assert silent.addresses == ["10.0.0.1:80"]


def test_a_single_port_waits_for_nobody() -> None:
    """One port and a written number: there is nothing to ask, the first list is used at once."""
    scene = Scene(50051)
    scene.api.answer = None
    scene.api.says(slice_of("10.0.0.1"))
    assert scene.addresses == ["10.0.0.1:8080"]


def test_a_number_that_slices_cannot_map_goes_to_the_cluster_ip_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Several ports, none with this target, the Service unreadable: the ClusterIP, and the missing permission is named once."""
    scene = Scene(80)
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        scene.api.says(slice_of("10.0.0.1", ports=[("api", 8080), ("admin", 8081)]))
        scene.dns.says("10.96.0.7")
        scene.api.says(slice_of("10.0.0.2", ports=[("api", 8080), ("admin", 8081)]))
    scene.settle()
    assert (scene.latest.source, scene.addresses) == ("clusterip", ["10.96.0.7:80"])
    assert len(caplog.records) == 1
    assert 'resources: ["services"], verbs: ["get"]' in caplog.text


def test_a_service_whose_ports_changed_is_read_again() -> None:
    """A port name in the slices that the Service did not have: they are believed, and it is read again, at most once in 10 s."""
    scene = Scene("admin")
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    assert len(scene.api.reads) == 1
    scene.api.answer = (service_of(ports=[ServicePort("admin", 9000, 9001)]), None)
    for version in range(5):
        scene.api.says(slice_of("10.0.0.1", ports=[("admin", 9001)]), version=str(version))
    assert len(scene.api.reads) == 1
    scene.loop.advance(10)
    assert len(scene.api.reads) == 2
    scene.settle()
    assert (scene.addresses, scene.latest.service_port) == (["10.0.0.1:9001"], 9000)


def test_the_service_is_read_once_and_then_every_5_to_10_minutes() -> None:
    """Whatever slices do, an unchanged Service is not asked for again, and a refused one is not insisted on."""
    for answer in ((service_of(), None), (None, FORBIDDEN)):
        scene = Scene("grpc")
        scene.api.answer = answer
        for number in range(100):
            scene.api.says(slice_of(f"10.0.0.{number}"), version=str(number))
            scene.loop.advance(1)
        assert len(scene.api.reads) == 1
        scene.loop.advance(3600)
        intervals = [later - earlier for (earlier, _), (later, _) in zip(scene.api.reads, scene.api.reads[1:], strict=False)]
        assert len(intervals) >= 5
        assert all(300 <= interval <= 600 for interval in intervals)


def test_an_api_server_that_is_away_is_not_asked_for_the_service() -> None:
    """Only the list is retried: at most 4 requests in the first 10 s are left to it."""
    scene = Scene("grpc")
    scene.api.fails()
    scene.loop.advance(3600)
    assert scene.api.reads == []
