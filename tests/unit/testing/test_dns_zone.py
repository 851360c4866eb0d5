"""What the cluster's DNS says about Services, pods and ordinary names."""

from __future__ import annotations

from dataclasses import dataclass

import dns.flags
import dns.message
import dns.rcode
import pytest

from meshlb.testing.dns_zone import Ordinary, Zone
from meshlb.testing.objects import FakeEndpoint


@dataclass
class Service:
    cluster_ip: str | None = None
    endpoints: tuple[FakeEndpoint, ...] = ()


SERVICES = {
    ("shop", "orders"): Service("10.0.0.1"),
    ("shop", "empty"): Service(),
    ("shop", "headless"): Service(
        endpoints=(
            FakeEndpoint(address="10.1.0.1", hostname="headless-0"),
            FakeEndpoint(address="10.1.0.2", ready=None),
            FakeEndpoint(address="10.1.0.3", ready=False),
            FakeEndpoint(address="fd00::1", hostname="headless-0"),
        )
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
