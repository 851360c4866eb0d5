"""The table in the head of ``meshlb.resolve.ports``: what was written, what is known, and the number that follows."""

from __future__ import annotations

import pytest

from meshlb.core.target import NO_PORT, PortRef
from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
from meshlb.resolve.kubernetes.wire import SlicePort
from meshlb.resolve.ports import PortChoiceError, PortSelector, external_port, select

TWO = (ServicePort("grpc", 80, 8080), ServicePort("admin", 8080, "web"))
ONE_SLICE = ((SlicePort("grpc", 8080), SlicePort("admin", 9090)),)


def service(*ports: ServicePort, headless: bool = False) -> ServiceRecord:
    return ServiceRecord("orders", "shop", ports=ports, headless=headless)


@pytest.mark.parametrize(
    ("ref", "record", "slices", "expected"),
    [
        # a name is a port's name
        (PortRef(name="grpc"), service(*TWO), ONE_SLICE, PortSelector(name="grpc", service_port=80)),
        (PortRef(name="admin"), None, ONE_SLICE, PortSelector(name="admin")),
        (PortRef(name="grpc"), None, (), PortSelector(name="grpc")),
        # a number is the Service's; the pods' number of another port does not matter
        (PortRef(number=80), service(*TWO), ONE_SLICE, PortSelector(name="grpc", service_port=80)),
        (PortRef(number=8080), service(*TWO), ONE_SLICE, PortSelector(name="admin", service_port=8080)),
        (PortRef(number=9090), service(*TWO, headless=True), ONE_SLICE, PortSelector(name="admin", service_port=8080)),
        # without the Service: the only port, else the one whose target it is, else nobody knows
        (PortRef(number=80), None, ((SlicePort("grpc", 8080),),), PortSelector(name="grpc", service_port=80)),
        (
            PortRef(number=80),
            None,
            ((SlicePort("grpc", 8080),), (SlicePort("grpc", 8081),)),
            PortSelector(name="grpc", service_port=80),
        ),
        (PortRef(number=9090), None, ONE_SLICE, PortSelector(name="admin", service_port=9090)),
        (PortRef(number=80), None, ONE_SLICE, None),
        (PortRef(number=80), None, ((SlicePort("a", 80), SlicePort("b", 80)),), None),
        (PortRef(number=80), None, (), PortSelector(number=80, service_port=80)),
        (PortRef(number=80), service(headless=True), (), PortSelector(number=80, service_port=80)),
        # ?port=target is outright
        (PortRef(number=8080, is_target=True), service(*TWO), ONE_SLICE, PortSelector(number=8080, listed=True, service_port=80)),
        (PortRef(number=7000, is_target=True), service(*TWO), ONE_SLICE, PortSelector(number=7000)),
        (PortRef(number=8080, is_target=True), None, ONE_SLICE, PortSelector(number=8080, listed=True)),
        # nothing: the single one, else the fitting one
        (NO_PORT, service(ServicePort("", 80, 8080)), (), PortSelector(name="", service_port=80)),
        (NO_PORT, service(*TWO), ONE_SLICE, PortSelector(name="grpc", service_port=80)),
        (NO_PORT, None, ((SlicePort("x", 8080),),), PortSelector(name="x")),
        (NO_PORT, None, ONE_SLICE, PortSelector(name="grpc")),
        (NO_PORT, None, ((SlicePort("a", 1), SlicePort("grpc-api", 2)),), PortSelector(name="grpc-api")),
        (NO_PORT, None, ((SlicePort("grpc", 1), SlicePort("b", 2, app_protocol="grpc")),), PortSelector(name="b")),
        (NO_PORT, None, ((SlicePort("a", 1), SlicePort("b", 2, app_protocol="kubernetes.io/h2c")),), PortSelector(name="b")),
    ],
)
def test_the_port_that_is_meant(
    ref: PortRef, record: ServiceRecord | None, slices: tuple[tuple[SlicePort, ...], ...], expected: PortSelector | None
) -> None:
    """Each rule of the table, with and without the Service."""
    assert select(ref, "grpc", record, slices) == expected


@pytest.mark.parametrize(
    ("ref", "record", "slices", "message"),
    [
        (PortRef(name="grcp"), service(*TWO), (), r"no port grcp; the ports are grpc \(80 → 8080\), admin \(8080 → web\)"),
        (PortRef(name="grcp"), None, ONE_SLICE, r"no port grcp; the ports are admin \(9090\), grpc \(8080\)"),
        (PortRef(number=81), service(*TWO), ONE_SLICE, r"no port 81; the ports are grpc"),
        (PortRef(number=9090), service(*TWO), ONE_SLICE, r"9090 is a target port: write the Service's port, or 9090\?port=target"),
        (PortRef(name="grpc"), service(), (), r"no port grpc$"),
        (
            NO_PORT,
            service(ServicePort("a", 1), ServicePort("b", 2)),
            (),
            r"no port was named and none fits alone; the ports are a \(1\), b \(2\)",
        ),
        (NO_PORT, None, ((SlicePort("a", 1), SlicePort("b", 2)), (SlicePort("a", 3),)), r"the ports are a \(1/3\), b \(2\)"),
        (NO_PORT, None, ((SlicePort("grpc-a", 1), SlicePort("grpc-b", 2)),), r"none fits alone"),
    ],
)
def test_a_port_that_is_not_there_or_not_unique_lists_those_that_are(
    ref: PortRef, record: ServiceRecord | None, slices: tuple[tuple[SlicePort, ...], ...], message: str
) -> None:
    """The error can be acted on: it holds every name and number that could have been written."""
    with pytest.raises(PortChoiceError, match=message):
        select(ref, "grpc", record, slices)


def test_a_url_prefers_its_own_port() -> None:
    """``http://orders`` is port 80 of the Service where it has one, else the port that is http by name or appProtocol."""
    ports = (ServicePort("metrics", 9000), ServicePort("web", 80, 8080), ServicePort("tls", 443))
    assert select(NO_PORT, "http", service(*ports), ()) == PortSelector(name="web", service_port=80)
    assert select(NO_PORT, "https", service(*ports), ()) == PortSelector(name="tls", service_port=443)
    named = (ServicePort("grpc", 9000), ServicePort("http-api", 8080))
    assert select(NO_PORT, "http", service(*named), ()) == PortSelector(name="http-api", service_port=8080)


def test_a_number_is_looked_up_in_each_slice() -> None:
    """Pods may differ in the number of one named port; a slice without the port is left out."""
    selector = PortSelector(name="grpc")
    assert [selector.number_in(ports) for ports in ((SlicePort("grpc", 1),), (SlicePort("a", 5), SlicePort("grpc", 2)), ())] == [
        1,
        2,
        0,
    ]
    assert PortSelector(number=7).number_in(()) == 7
    assert PortSelector(number=7, listed=True).number_in((SlicePort("a", 8),)) == 0
    assert PortSelector(number=7, listed=True).number_in((SlicePort("a", 7),)) == 7


def test_what_is_known_of_the_service_port_is_kept() -> None:
    """A named port whose Service cannot be read keeps the number that the environment told."""
    assert select(PortRef(name="grpc"), "grpc", None, ONE_SLICE, 50051) == PortSelector(name="grpc", service_port=50051)


@pytest.mark.parametrize(
    ("port", "protocol", "ports", "number"),
    [
        (PortRef(number=5432), "grpc", (), 5432),
        (PortRef(number=5432), "grpc", (ServicePort("db", 1, 1),), 5432),
        (PortRef(name="db"), "grpc", (ServicePort("db", 5432, 5432), ServicePort("x", 1, 1)), 5432),
        (PortRef(), "grpc", (ServicePort("db", 5432, 5432),), 5432),
        (PortRef(), "grpc", (), 443),
        (PortRef(), "http", (), 80),
        (PortRef(), "https", (), 443),
        (PortRef(name="http"), "grpc", (), 80),
    ],
)
def test_the_port_of_an_external_name_is_the_one_that_was_written(
    port: PortRef, protocol: str, ports: tuple[ServicePort, ...], number: int
) -> None:
    """Nobody maps it; the Service may give it a name, and a scheme has its own."""
    service = ServiceRecord("db", "shop", "ExternalName", ports=ports, external_name="db.example.com")
    assert external_port(port, protocol, service) == number


def test_a_ports_name_that_an_external_name_does_not_know_is_an_error() -> None:
    """With what to write instead."""
    with pytest.raises(PortChoiceError, match=r"no port grpc; the ports are db .5432.; it stands for a host outside the cluster"):
        external_port(PortRef(name="grpc"), "grpc", ServiceRecord("db", "shop", ports=(ServicePort("db", 5432, 5432),)))
    with pytest.raises(PortChoiceError, match="write the port's number"):
        external_port(PortRef(name="grpc"), "grpc", None)
