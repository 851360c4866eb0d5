"""What the doctor says of a port, of a certificate, of nameservers, of the environment and of where it runs."""

from __future__ import annotations

import pytest
import yaml

from meshlb.cli.doctor import dns, surroundings
from meshlb.cli.doctor.api import unreached_advice
from meshlb.cli.doctor.check import Check, Finding
from meshlb.core.endpoint import Endpoint, Place
from meshlb.core.target import PortRef
from meshlb.resolve.env import EnvService
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
from meshlb.resolve.kubernetes.wire import SlicePort, SliceRecord
from meshlb.resolve.place import NODE_YAML, OWN_VARIABLES, ZONE_YAML
from meshlb.resolve.resolv_conf import ResolvConf
from meshlb.resolve.settings import Discovery

SLICE = SliceRecord(
    name="orders-1",
    namespace="shop",
    service="orders",
    resource_version="1",
    address_type="IPv4",
    headless=False,
    ports=(SlicePort("grpc", 20051), SlicePort("admin", 20080)),
    endpoints=(Endpoint(host="10.0.0.1", port=0),),
)
SERVICE = ServiceRecord(
    "orders", "shop", cluster_ips=("10.96.0.7",), ports=(ServicePort("grpc", 50051, "grpc"), ServicePort("admin", 8080, 20080))
)
HEADLESS = ServiceRecord("orders", "shop", headless=True, ports=(ServicePort("grpc", 50051, 20051),))
EXTERNAL = ServiceRecord("orders", "shop", type="ExternalName", external_name="api.example.com")


def want(name: str = "", number: int = 0, is_target: bool = False) -> ServiceName:
    return ServiceName(service="orders", namespace="shop", port=PortRef(name=name, number=number, is_target=is_target))


@pytest.mark.parametrize(
    ("wanted", "service", "slices", "expected"),
    [
        (want("grpc"), SERVICE, (SLICE,), ("ok", "port grpc: 'grpc', 20051 on pods, 50051 on the ClusterIP, by the Service")),
        (want(number=8080), SERVICE, (SLICE,), ("ok", "port 8080: 'admin', 20080 on pods, 8080 on the ClusterIP, by the Service")),
        (want("grpc"), HEADLESS, (SLICE,), ("ok", "port grpc: 'grpc', 20051 on pods, by the Service")),
        (want(number=443), EXTERNAL, (), ("ok", "port 443: dialled on api.example.com as it is written")),
        (want("grpc"), None, (SLICE,), ("ok", "port grpc: 'grpc', 20051 on pods, not known on the ClusterIP, by its slices")),
        (want(number=50051), None, (SLICE,), ("warn", "50051 is no pod's port, and the Service that maps it cannot be read")),
        (want("nope"), SERVICE, (SLICE,), ("fail", "the ports are grpc (50051 → grpc), admin (8080 → 20080)")),
        (want("nope"), None, (SLICE,), ("fail", "the ports are admin (20080), grpc (20051)")),
        (want(), SERVICE, (SLICE,), ("ok", "no port was written, so the only one or the one that fits grpc: 'grpc', 20051")),
        (want("grpc"), None, None, ("warn", "nobody has said its number")),
        (want(number=50051), None, (), ("ok", "dialled as it is written")),
    ],
)
def test_the_port_says_what_is_dialled_and_by_whose_word(
    wanted: ServiceName, service: ServiceRecord | None, slices: tuple[SliceRecord, ...] | None, expected: tuple[str, str]
) -> None:
    """Or which ports there are."""
    finding = surroundings.port(wanted, service, slices, None, [])
    assert finding.status == expected[0]
    assert expected[1] in finding.detail


def test_without_the_api_the_dialled_number_is_that_of_the_addresses() -> None:
    """As DNS gave it."""
    finding = surroundings.port(want("grpc"), None, None, None, [{"address": "10.0.0.1:20051"}, {"address": "[fd00::1]:20051"}])
    assert (finding.status, "20051 is dialled" in finding.detail) == ("ok", True)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("SSLError: certificate verify failed: Missing Authority Key Identifier (_ssl.c:1032)", "Python 3.13"),
        ("SSLError: Basic Constraints of CA cert not marked critical", "Python 3.13"),
        ("SSLCertVerificationError: certificate has expired", "clock"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate",
            "not signed by the CA",
        ),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] IP address mismatch, certificate is not valid for '10.0.0.1'", "tls-server-name"),
        ("SSLError: WRONG_VERSION_NUMBER", "handshake"),
        ("cannot reach the API server at https://10.0.0.1:443: connection refused", "NetworkPolicy"),
    ],
)
def test_a_certificate_that_fails_is_explained(reason: str, words: str) -> None:
    """By what OpenSSL says of it."""
    assert words in unreached_advice(reason)


def test_one_nameserver_that_answers_makes_the_others_failures_warnings() -> None:
    """And nothing else is touched; without one they stay failures."""

    def check(name: str, status: str) -> Check:
        return Check(name=name, status=status, what="", took_ms=0.0, detail="")

    good, bad, other = check("dns udp", "ok"), check("dns udp", "fail"), check("environment", "fail")
    assert [one.status for one in dns.weigh([good, bad, other])] == ["ok", "warn", "fail"]
    assert [one.status for one in dns.weigh([bad, other])] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("text", "discovery", "status", "words"),
    [
        ("search shop.svc.k8s svc.k8s k8s\nnameserver 10.0.0.10\noptions ndots:5\n", Discovery(), "ok", "zone k8s"),
        ("nameserver 10.0.0.10\n", Discovery(), "warn", "not from this file"),
        ("nameserver 10.0.0.10\n", Discovery(cluster_domain="k8s"), "ok", "nameservers 10.0.0.10"),
        ("search svc.k8s\n", Discovery(), "fail", "nameservers none"),
        ("search svc.k8s\n", Discovery(nameservers=("10.0.0.10",)), "ok", "replaced by 10.0.0.10:53"),
    ],
)
def test_resolv_conf_says_what_is_taken_from_it(text: str, discovery: Discovery, status: str, words: str) -> None:
    """And what is missing."""
    finding = dns.resolv_conf(discovery, ResolvConf.parse(text), "k8s")
    assert finding.status == status
    assert words in finding.detail


def test_the_environment_and_the_place_say_what_is_known() -> None:
    """And why nothing is."""
    env = EnvService.of("orders", {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "50051"})
    assert "ORDERS_SERVICE_HOST=10.96.0.7, ports 50051" in surroundings.environment(env, want(), "shop").detail
    assert "enableServiceLinks" in surroundings.environment(None, want(), "shop").detail
    assert "own namespace only (web)" in surroundings.environment(None, want(), "web").detail
    assert surroundings.place(Place("node-1", "zone-a"), True) == Finding("ok", "node node-1, zone zone-a")
    assert surroundings.place(Place(), False).status == "ok"
    for found, lacking in ((Place("node-1"), ZONE_YAML), (Place("", "zone-a"), NODE_YAML), (Place(), NODE_YAML)):
        unknown = surroundings.place(found, True)
        assert unknown.status == "warn"
        assert lacking in unknown.advice
        manifest = yaml.safe_load(lacking.partition(" (")[0])
        assert [one["name"] in OWN_VARIABLES for one in manifest["env"]] == [True]
