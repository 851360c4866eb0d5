"""The environment as the kubelet writes it, and as applications disturb it."""

from __future__ import annotations

import pytest

from meshlb.core.target import PortRef
from meshlb.resolve.env import EnvService
from meshlb.resolve.ports import PortChoiceError

KUBELET = {
    "ORDERS_API_SERVICE_HOST": "10.96.0.7",
    "ORDERS_API_SERVICE_PORT": "50051",
    "ORDERS_API_SERVICE_PORT_GRPC": "50051",
    "ORDERS_API_SERVICE_PORT_HTTP_ADMIN": "8080",
    "ORDERS_API_PORT": "tcp://10.96.0.7:50051",
    "ORDERS_API_PORT_50051_TCP": "tcp://10.96.0.7:50051",
    "ORDERS_API_PORT_50051_TCP_PROTO": "tcp",
    "ORDERS_API_PORT_50051_TCP_PORT": "50051",
    "ORDERS_API_PORT_50051_TCP_ADDR": "10.96.0.7",
    "ORDERS_API_PORT_8080_TCP": "tcp://10.96.0.7:8080",
}


def test_the_kubelets_variables_give_address_and_ports() -> None:
    """Upper case, '-' becomes '_'; named ports keep their numbers."""
    found = EnvService.of("orders-api", KUBELET)
    assert found == EnvService("10.96.0.7", frozenset({50051, 8080}), {"GRPC": 50051, "HTTP_ADMIN": 8080})


def test_the_docker_form_alone_suffices() -> None:
    """``{NAME}_PORT=tcp://…`` and its like hold address and numbers, IPv6 in brackets."""
    found = EnvService.of("orders", {"ORDERS_PORT": "tcp://[fd00::7]:50051", "ORDERS_PORT_8080_TCP": "tcp://[fd00::7]:8080"})
    assert found == EnvService("fd00::7", frozenset({50051, 8080}))


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "80"}, EnvService("10.96.0.7", frozenset({80}))),
        ({"ORDERS_SERVICE_HOST": "fd00::7", "ORDERS_SERVICE_PORT": "80"}, EnvService("fd00::7", frozenset({80}))),
        ({"ORDERS_SERVICE_HOST": "FD00:0::7", "ORDERS_SERVICE_PORT": "80"}, EnvService("fd00::7", frozenset({80}))),
        ({"ORDERS_PORT": "tcp://10.96.0.7:80"}, EnvService("10.96.0.7", frozenset({80}))),
        ({"ORDERS_PORT_80_TCP": "tcp://10.96.0.7:80"}, EnvService("10.96.0.7", frozenset({80}))),
        ({"ORDERS_PORT_80_TCP_ADDR": "10.96.0.7"}, EnvService("10.96.0.7", frozenset({80}))),
        ({"ORDERS_PORT_80_TCP_ADDR": "fd00::7"}, EnvService("fd00::7", frozenset({80}))),
        # UDP has the first port, TCP another: a DNS server's own variables.
        (
            {
                "ORDERS_SERVICE_HOST": "10.96.0.7",
                "ORDERS_SERVICE_PORT": "53",
                "ORDERS_SERVICE_PORT_DNS": "53",
                "ORDERS_SERVICE_PORT_METRICS": "9153",
                "ORDERS_PORT": "udp://10.96.0.7:53",
                "ORDERS_PORT_53_UDP": "udp://10.96.0.7:53",
                "ORDERS_PORT_53_UDP_PROTO": "udp",
                "ORDERS_PORT_9153_TCP": "tcp://10.96.0.7:9153",
            },
            EnvService("10.96.0.7", frozenset({9153}), {"METRICS": 9153}),
        ),
        # Both protocols have the number: it is TCP's as well.
        (
            {
                "ORDERS_SERVICE_HOST": "10.96.0.7",
                "ORDERS_SERVICE_PORT": "53",
                "ORDERS_PORT_53_UDP": "udp://10.96.0.7:53",
                "ORDERS_PORT_53_TCP": "tcp://10.96.0.7:53",
            },
            EnvService("10.96.0.7", frozenset({53})),
        ),
        # A Service called orders-service exists as well.
        (
            {
                "ORDERS_SERVICE_HOST": "10.96.0.7",
                "ORDERS_SERVICE_PORT": "tcp://10.96.0.9:81",
                "ORDERS_SERVICE_PORT_GRPC": "80",
                "ORDERS_SERVICE_PORT_81_TCP": "tcp://10.96.0.9:81",
                "ORDERS_SERVICE_PORT_81_TCP_PORT": "81",
                "ORDERS_SERVICE_PORT_81_TCP_ADDR": "10.96.0.9",
            },
            EnvService("10.96.0.7", frozenset({80}), {"GRPC": 80}),
        ),
    ],
)
def test_each_form_alone_suffices(environ: dict[str, str], found: EnvService) -> None:
    """Whatever part of the kubelet's variables an image or an entry point left over."""
    assert EnvService.of("orders", environ) == found


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"ORDERS_SERVICE_HOST": ""},
        {"ORDERS_SERVICE_HOST": "orders.example.com", "ORDERS_SERVICE_PORT": "80"},
        {"ORDERS_SERVICE_HOST": "10.96.0.7"},
        {"ORDERS_SERVICE_HOST": "[fd00::7]", "ORDERS_SERVICE_PORT": "80"},
        {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "http", "ORDERS_PORT": "tcp://192.0.2.1:6379"},
        {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "53", "ORDERS_PORT_53_UDP": "udp://10.96.0.7:53"},
        {"ORDERS_PORT": "8080"},
        {"ORDERS_PORT": "tcp://nonsense"},
        {"ORDERS_PORT": "tcp://10.96.0.7"},
        {"ORDERS_PORT": "tcp://10.96.0.7:"},
        {"ORDERS_PORT": "tcp://10.96.0.7:0"},
        {"ORDERS_PORT": "tcp://10.96.0.7:65536"},
        {"ORDERS_PORT": "tcp://10.96.0.7:80/"},
        {"ORDERS_PORT": " tcp://10.96.0.7:80"},
        {"ORDERS_PORT": "TCP://10.96.0.7:80"},
        {"ORDERS_PORT": "udp://10.96.0.7:53"},
        {"ORDERS_PORT": "http://10.96.0.7:80"},
        {"ORDERS_PORT": "tcp://orders:80"},
        {"ORDERS_PORT": "tcp://10.96.0.999:80"},
        {"ORDERS_PORT": "tcp://[10.96.0.7]:80"},
        {"ORDERS_PORT": "tcp://fd00::7:80"},
        {"ORDERS_PORT": "tcp://[fd00::7:80"},
        {"ORDERS_PORT_X": "tcp://10.96.0.7:80"},
        {"ORDERS_PORT_80_TCP_ADDR": "orders"},
        {"ORDERS_PORT_0_TCP_ADDR": "10.96.0.7"},
        {"ORDERS_PORT_80_TCP_PORT": "80"},
        {"ORDERS_API_SERVICE_HOST": "10.96.0.7", "ORDERS_API_SERVICE_PORT": "80"},
    ],
)
def test_what_is_not_the_kubelets_is_not_there(environ: dict[str, str]) -> None:
    """An application's own variables of the same name are never dialled."""
    assert EnvService.of("orders", environ) is None


def test_ports_that_do_not_parse_are_left_out() -> None:
    """A port out of range or not a number is as if it were not told."""
    found = EnvService.of(
        "orders",
        {
            "ORDERS_SERVICE_HOST": "10.96.0.7",
            "ORDERS_SERVICE_PORT": "http",
            "ORDERS_SERVICE_PORT_GRPC": "70000",
            "ORDERS_SERVICE_PORT_WEB": "80",
        },
    )
    assert found == EnvService("10.96.0.7", frozenset({80}), {"WEB": 80})


def test_ports_of_another_address_are_not_the_services() -> None:
    """A variable of the same form that somebody else wrote adds no port."""
    found = EnvService.of(
        "orders", {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "80", "ORDERS_PORT": "tcp://192.0.2.1:6379"}
    )
    assert found == EnvService("10.96.0.7", frozenset({80}))


@pytest.mark.parametrize(
    ("ref", "protocol", "number"),
    [
        (PortRef(number=7), "grpc", 7),
        (PortRef(name="grpc"), "grpc", 50051),
        (PortRef(name="http-admin"), "grpc", 8080),
        (PortRef(), "grpc", 50051),
    ],
)
def test_the_services_port_is_found(ref: PortRef, protocol: str, number: int) -> None:
    """A number is the Service's own; a name and the fitting one are looked up."""
    found = EnvService.of("orders-api", KUBELET)
    assert found is not None
    assert found.port_for(ref, protocol) == number


def test_a_single_port_needs_no_name() -> None:
    """Without a name, the only port is meant."""
    assert EnvService("10.96.0.7", frozenset({9000})).port_for(PortRef(), "grpc") == 9000


@pytest.mark.parametrize("ref", [PortRef(name="admin"), PortRef(number=8080, is_target=True), PortRef()])
def test_a_port_that_is_not_told_is_an_error_that_lists_the_others(ref: PortRef) -> None:
    """Nothing is guessed; a pods' number is never taken for the ClusterIP's."""
    found = EnvService("10.96.0.7", frozenset({50051, 8080}), {"WEB": 8080, "API": 50051})
    with pytest.raises(PortChoiceError, match=r"api \(50051\), web \(8080\)"):
        found.port_for(ref, "grpc")
