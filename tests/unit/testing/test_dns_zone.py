"""What the cluster's DNS says about Services, pods and ordinary names."""

from __future__ import annotations

from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import pytest

from meshlb.testing.dns_zone import Ordinary, Zone
from meshlb.testing.objects import FakeEndpoint


@dataclass
class Service:
    name: str
    cluster_ip: str | None = None
    endpoints: tuple[FakeEndpoint, ...] = ()
    ports: dict[str, int] = field(default_factory=lambda: {"grpc": 50051, "metrics": 9090})
    external_name: str = ""


PORTS = {"grpc": 20051, "metrics": 29090}
SERVICES = {
    ("shop", "orders"): Service("orders", "10.0.0.1"),
    ("shop", "unnamed"): Service("unnamed", "10.0.0.2", ports={"": 80}),
    ("shop", "empty"): Service("empty"),
    ("shop", "portless"): Service("portless", ports={}, endpoints=(FakeEndpoint(address="10.1.0.9"),)),
    ("shop", "outside"): Service("outside", external_name="DB.example.com."),
    ("shop", "headless"): Service(
        "headless",
        endpoints=(
            FakeEndpoint(address="10.1.0.1", hostname="headless-0", ports=PORTS),
            FakeEndpoint(address="10.1.0.2", ready=None, ports=PORTS),
            FakeEndpoint(address="10.1.0.3", ready=False, ports=PORTS),
            FakeEndpoint(address="fd00::1", hostname="headless-0", ports=PORTS),
        ),
    ),
}


@pytest.fixture
def zone() -> Zone:
    zone = Zone("cluster.local", SERVICES, ttl_s=7)
    zone.ordinary["db.example.com"] = Ordinary(("192.0.2.1", "2001:db8::1"), 60)
    return zone


def ask(zone: Zone, name: str, rdtype: str = "A") -> tuple[str, set[str], int | None]:
    """The code, the addresses and their TTL."""
    response = zone.answer(dns.message.make_query(name, rdtype))
    ttl = response.answer[0].ttl if response.answer else None
    return dns.rcode.to_text(response.rcode()), {str(record) for rrset in response.answer for record in rrset}, ttl


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "addresses"),
    [
        ("orders.shop.svc.cluster.local", "A", "NOERROR", {"10.0.0.1"}),
        ("ORDERS.Shop.svc.cluster.local", "A", "NOERROR", {"10.0.0.1"}),
        ("orders.shop.svc.cluster.local", "AAAA", "NOERROR", set()),
        ("headless.shop.svc.cluster.local", "A", "NOERROR", {"10.1.0.1", "10.1.0.2"}),
        ("headless.shop.svc.cluster.local", "AAAA", "NOERROR", {"fd00::1"}),
        ("headless-0.headless.shop.svc.cluster.local", "A", "NOERROR", {"10.1.0.1"}),
        ("10-1-0-2.headless.shop.svc.cluster.local", "A", "NOERROR", {"10.1.0.2"}),
        ("10-1-0-3.headless.shop.svc.cluster.local", "A", "NXDOMAIN", set()),
        ("empty.shop.svc.cluster.local", "A", "NXDOMAIN", set()),
        ("absent.shop.svc.cluster.local", "A", "NXDOMAIN", set()),
        ("orders.absent.svc.cluster.local", "A", "NXDOMAIN", set()),
        ("shop.svc.cluster.local", "A", "NOERROR", set()),
        ("orders.shop", "A", "NXDOMAIN", set()),
        ("db.example.com", "A", "NOERROR", {"192.0.2.1"}),
        ("db.example.com", "AAAA", "NOERROR", {"2001:db8::1"}),
        ("other.example.com", "A", "NXDOMAIN", set()),
    ],
)
def test_a_name_has_these_addresses(zone: Zone, name: str, rdtype: str, rcode: str, addresses: set[str]) -> None:
    """A cluster IP with endpoints or without, ready endpoints only, NODATA for the wrong family, NXDOMAIN for what is not there."""
    assert ask(zone, name, rdtype)[:2] == (rcode, addresses)


def test_the_ttl_is_the_zones_and_an_ordinary_names_own(zone: Zone) -> None:
    """Both as configured."""
    assert ask(zone, "orders.shop.svc.cluster.local")[2] == 7
    assert ask(zone, "db.example.com")[2] == 60


@pytest.mark.parametrize(("name", "rdtype"), [("absent.shop.svc.cluster.local", "A"), ("orders.shop.svc.cluster.local", "AAAA")])
def test_a_negative_answer_carries_the_soa(zone: Zone, name: str, rdtype: str) -> None:
    """Its minimum is how long a resolver may remember the absence."""
    response = zone.answer(dns.message.make_query(name, rdtype))
    (soa,) = response.authority
    assert (soa.name.to_text(), soa.ttl, soa[0].minimum) == ("cluster.local.", 7, 7)
    assert response.flags & dns.flags.AA


def test_the_order_of_addresses_changes(zone: Zone) -> None:
    """CoreDNS shuffles: a client that takes the first must not always get the same one."""
    firsts = set()
    for _ in range(100):
        response = zone.answer(dns.message.make_query("headless.shop.svc.cluster.local", "A"))
        firsts.add(str(response.answer[0][0]))
    assert firsts == {"10.1.0.1", "10.1.0.2"}


def srv(zone: Zone, name: str) -> tuple[str, set[str], set[str]]:
    """The code, the records, and the addresses beside them."""
    response = zone.answer(dns.message.make_query(name, "SRV"))
    records = {str(record) for rrset in response.answer for record in rrset}
    glue = {f"{rrset.name} {record}" for rrset in response.additional for record in rrset}
    return dns.rcode.to_text(response.rcode()), records, glue


BASE = "shop.svc.cluster.local."
HEADLESS_GLUE = {
    f"headless-0.headless.{BASE} 10.1.0.1",
    f"headless-0.headless.{BASE} fd00::1",
    f"10-1-0-2.headless.{BASE} 10.1.0.2",
}


@pytest.mark.parametrize(
    ("name", "rcode", "records", "glue"),
    [
        ("_grpc._tcp.orders", "NOERROR", {f"0 100 50051 orders.{BASE}"}, {f"orders.{BASE} 10.0.0.1"}),
        ("_GRPC._TCP.Orders", "NOERROR", {f"0 100 50051 orders.{BASE}"}, {f"orders.{BASE} 10.0.0.1"}),
        ("orders", "NOERROR", {f"0 50 50051 orders.{BASE}", f"0 50 9090 orders.{BASE}"}, {f"orders.{BASE} 10.0.0.1"}),
        ("unnamed", "NOERROR", {f"0 100 80 unnamed.{BASE}"}, {f"unnamed.{BASE} 10.0.0.2"}),
        ("_admin._tcp.orders", "NXDOMAIN", set(), set()),
        ("_grpc._udp.orders", "NXDOMAIN", set(), set()),
        ("_grpc._tcp.empty", "NXDOMAIN", set(), set()),
        ("portless", "NOERROR", set(), set()),
        ("outside", "NOERROR", set(), set()),
        (
            "_grpc._tcp.headless",
            "NOERROR",
            {f"0 33 20051 headless-0.headless.{BASE}", f"0 33 20051 10-1-0-2.headless.{BASE}"},
            HEADLESS_GLUE,
        ),
        ("10-1-0-2.headless", "NOERROR", {f"0 50 {port} 10-1-0-2.headless.{BASE}" for port in (20051, 29090)}, None),
        ("_grpc._tcp.headless-0.headless", "NXDOMAIN", set(), set()),
    ],
)
def test_srv_is_answered_as_coredns_does(zone: Zone, name: str, rcode: str, records: set[str], glue: set[str] | None) -> None:
    """ClusterIP: the Service's name and port; headless: the pods' names and their own; no such port: no such name."""
    found = srv(zone, f"{name}.{BASE}")
    assert found[:2] == (rcode, records)
    assert glue is None or found[2] == glue


def test_an_external_name_is_an_alias_with_what_it_leads_to(zone: Zone) -> None:
    """CNAME first, then the addresses at their own TTL; below it there is nothing."""
    response = zone.answer(dns.message.make_query(f"outside.{BASE}", "A"))
    alias, addresses = response.answer
    assert (str(alias[0]), str(addresses.name), str(addresses[0])) == ("db.example.com.", "db.example.com.", "192.0.2.1")
    assert (alias.ttl, addresses.ttl) == (7, 60)
    assert ask(zone, f"a.outside.{BASE}")[0] == "NXDOMAIN"


def test_a_loop_of_aliases_is_told_as_far_as_it_goes(zone: Zone) -> None:
    """And no further."""
    zone.ordinary["a.example"] = Ordinary((), 5, alias="b.example")
    zone.ordinary["b.example"] = Ordinary((), 5, alias="a.example")
    response = zone.answer(dns.message.make_query("a.example", "A"))
    assert [str(rrset[0]) for rrset in response.answer] == ["b.example.", "a.example."]
