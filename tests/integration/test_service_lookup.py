"""One look-up of a Service by SRV, against the fake cluster's DNS server and servers that are less helpful."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from meshlb.core.target import NO_PORT, PortRef
from meshlb.resolve import service_lookup
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup, SrvEndpoint
from meshlb.resolve.service_lookup import ServiceLookup
from meshlb.testing.dns_server import DnsServer
from meshlb.testing.dns_zone import Zone
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import FakeEndpoint
from tests.integration.scripted_dns import Reply, ScriptedDns, answer, asked

if TYPE_CHECKING:
    import dns.message

ZONE = "svc.cluster.local"
SERVICE = f"orders.shop.{ZONE}."


@dataclass
class Service:
    name: str = "orders"
    cluster_ip: str | None = None
    ports: dict[str, int] = field(default_factory=lambda: {"grpc": 50051})
    endpoints: tuple[FakeEndpoint, ...] = ()
    external_name: str = ""


def pod(number: int, ports: dict[str, int] | None = None, **more: str) -> FakeEndpoint:
    return FakeEndpoint(address=f"10.1.{number // 250}.{number % 250 + 1}", ports=ports or {"grpc": 20051}, **more)  # type: ignore[arg-type]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service) -> Iterator[DnsServer]:
    thread = LoopThread("test-dns")
    server = DnsServer(thread, host="127.0.0.1", zone=Zone("cluster.local", {("shop", "orders"): service}, ttl_s=5))
    yield server
    server.stop()
    thread.close()


def look_up(server: DnsServer | ScriptedDns, port: PortRef = NO_PORT, *, pod: str = "", protocol: str = "grpc") -> ServiceLookup:
    client = DnsClient(nameservers=[server.address])
    return ServiceLookup(SERVICE, client=client, pod=pod, port=port, protocol=protocol)


def places(found: Lookup) -> list[tuple[str, int, str]]:
    assert found.records is not None
    return [(record.host, record.port, record.hostname) for record in found.records]


def test_a_port_name_of_a_headless_service_gives_pods_ports_and_hostnames_in_one_question(
    service: Service, server: DnsServer
) -> None:
    """Everything there is to know comes with the SRV answer."""
    service.endpoints = (pod(0, hostname="orders-0"), pod(1))
    found = look_up(server, PortRef(name="grpc"))()
    assert found.found is Found.ADDRESSES
    assert found.addresses == ("10.1.0.1", "10.1.0.2")
    assert places(found) == [("10.1.0.1", 20051, "orders-0"), ("10.1.0.2", 20051, "10-1-0-2")]
    assert all(record.of_pod and record.port_name == "grpc" for record in found.records or ())
    assert (found.ttl_s, found.complete) == (5.0, True)
    assert [(query.name, query.type) for query in server.queries] == [(f"_grpc._tcp.{SERVICE[:-1]}", "SRV")]


@pytest.mark.parametrize("port", [PortRef(name="grpc"), PortRef(number=50051), NO_PORT])
def test_a_cluster_ip_is_told_from_a_pod_by_the_target(service: Service, server: DnsServer, port: PortRef) -> None:
    """The target is the Service's own name, and the port the Service's."""
    service.cluster_ip = "10.96.0.7"
    found = look_up(server, port)()
    name = "grpc" if port.name else ""
    assert found.records == (SrvEndpoint(host="10.96.0.7", port=50051, port_name=name, of_pod=False),)
    assert len(server.queries) == 1


def test_without_a_port_name_one_pod_of_a_headless_service_shows_its_own_port(service: Service, server: DnsServer) -> None:
    """A single address, which by A alone would pass for a ClusterIP."""
    service.endpoints = (pod(0),)
    found = look_up(server, PortRef(number=50051))()
    assert places(found) == [("10.1.0.1", 20051, "10-1-0-1")]
    assert [query.name for query in server.queries] == [SERVICE[:-1]]


def test_of_several_ports_the_one_called_like_the_protocol_is_found_and_asked_first_from_then_on(
    service: Service, server: DnsServer
) -> None:
    """Two questions once, one afterwards; when the port is renamed, the first question is back."""
    service.endpoints = (pod(0, {"grpc": 20051, "metrics": 9090}),)
    ask = look_up(server)
    assert places(ask()) == [("10.1.0.1", 20051, "10-1-0-1")]
    assert len(server.queries) == 2
    ask()
    assert len(server.queries) == 3
    service.endpoints = (pod(0, {"api": 20051}),)
    assert places(ask()) == [("10.1.0.1", 20051, "10-1-0-1")]


def test_several_ports_and_none_fits_costs_no_question_more_each_time(service: Service, server: DnsServer) -> None:
    """All are told, for the error that lists them; the port that fits is looked for again after a minute only."""
    service.endpoints = (pod(0, {"api": 20051, "metrics": 9090}),)
    ask = look_up(server)
    assert sorted(port for _, port, _ in places(ask())) == [9090, 20051]
    ask()
    assert len(server.queries) == 3


def test_a_port_without_srv_falls_back_to_addresses(service: Service, server: DnsServer) -> None:
    """An unnamed port, asked by a name nobody knows: addresses, and the word that there are no records."""
    service.endpoints = (pod(0, {"": 20051}),)
    found = look_up(server, PortRef(name="grpc"))()
    assert (found.found, found.addresses, found.records) == (Found.ADDRESSES, ("10.1.0.1",), ())
    assert [query.type for query in server.queries] == ["SRV", "A"]


def test_an_external_name_is_followed_to_ordinary_addresses_at_their_ttl(service: Service, server: DnsServer) -> None:
    """CNAME and what it leads to; SRV has nothing, and is not asked again at once."""
    service.external_name = "db.example.com"
    server.add("db.example.com", ["192.0.2.7", "192.0.2.8"], ttl_s=3)
    ask = look_up(server, PortRef(number=5432))
    found = ask()
    assert (found.addresses, found.canonical_name, found.ttl_s) == (("192.0.2.7", "192.0.2.8"), "db.example.com", 3.0)
    ask()
    assert [query.type for query in server.queries] == ["SRV", "A", "A"]


def test_one_pod_by_its_name_with_a_port_name(service: Service, server: DnsServer) -> None:
    """The Service's SRV records hold it; the others are left out."""
    service.endpoints = (pod(0, hostname="orders-0"), pod(1, hostname="orders-1"))
    assert places(look_up(server, PortRef(name="grpc"), pod="orders-1")()) == [("10.1.0.2", 20051, "orders-1")]
    assert places(look_up(server, pod="orders-1")()) == [("10.1.0.2", 20051, "orders-1")]
    assert look_up(server, PortRef(name="grpc"), pod="orders-7")().found is Found.NO_NAME


def test_a_service_that_is_not_there_is_no_name(server: DnsServer) -> None:
    """A headless one without a ready pod too."""
    assert look_up(server, PortRef(name="grpc"))().found is Found.NO_NAME


def test_two_hundred_pods_come_over_tcp_with_their_ports(service: Service, server: DnsServer) -> None:
    """One SRV question, repeated over TCP when it was cut off."""
    service.endpoints = tuple(pod(number) for number in range(200))
    found = look_up(server, PortRef(name="grpc"))()
    assert (len(found.addresses), found.complete) == (200, True)
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


@pytest.mark.parametrize("state", ["refused", "silent"])
def test_where_tcp_is_closed_the_addresses_alone_may_still_be_whole(service: Service, server: DnsServer, state: str) -> None:
    """40 pods are too many for SRV over UDP, and not for A: their one port is that of all. TCP is not tried again at once."""
    service.endpoints = tuple(pod(number) for number in range(40))
    server.set_tcp(state)
    ask = look_up(server, PortRef(name="grpc"))
    found = ask()
    assert (len(found.addresses), found.complete) == (40, True)
    assert {(record.port, record.of_pod) for record in found.records or ()} == {(20051, True)}
    assert "over TCP" in found.reason
    before, start_s = len(server.queries), time.monotonic()
    ask()
    assert len(server.queries) == before + 2
    assert time.monotonic() - start_s < 0.9, "a port that is known to be closed is not waited for"


def test_where_tcp_is_closed_many_pods_stay_incomplete_and_that_is_counted(service: Service, server: DnsServer) -> None:
    """What came may be added and removes nothing; describe() names the server and the reason."""
    service.endpoints = tuple(pod(number) for number in range(200))
    server.set_tcp("refused")
    client = DnsClient(nameservers=[server.address])
    found = ServiceLookup(SERVICE, client=client, port=PortRef(name="grpc"), protocol="grpc")()
    assert (found.found, found.complete) == (Found.ADDRESSES, False)
    assert 60 < len(found.addresses) < 200
    described = client.describe()
    assert described["counts"] == {"TRUNCATED": 2}
    without_tcp = described["without_tcp"]
    assert isinstance(without_tcp, dict)
    assert "refused" in without_tcp[server.address]


@pytest.mark.parametrize("how", ["SERVFAIL", "REFUSED", "NOTIMP", "NODATA"])
def test_a_server_that_cannot_do_srv_still_gives_addresses(service: Service, server: DnsServer, how: str) -> None:
    """Nothing is learnt about ports (NODATA alone denies them), and SRV is left alone for a while."""
    service.endpoints = (pod(0), pod(1))
    server.fail(how, types=["SRV"])
    ask = look_up(server, PortRef(number=20051))
    found = ask()
    assert found.addresses == ("10.1.0.1", "10.1.0.2")
    assert found.records == (() if how == "NODATA" else None)
    before = len(server.queries)
    assert ask().records is None
    assert [query.type for query in server.queries[before:]] == ["A"]


def test_a_server_that_swallows_srv_still_gives_addresses(
    service: Service, server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some middlebox may; A gets the rest of the time."""
    monkeypatch.setattr(service_lookup, "SRV_S", 0.2)
    service.endpoints = (pod(0),)
    server.fail("TIMEOUT", types=["SRV"])
    found = look_up(server, PortRef(number=20051))()
    assert (found.addresses, found.records) == (("10.1.0.1",), None)


@pytest.mark.parametrize("how", ["SERVFAIL", "REFUSED"])
def test_a_server_that_fails_altogether_is_a_failure(service: Service, server: DnsServer, how: str) -> None:
    """And no denial."""
    service.endpoints = (pod(0),)
    server.fail(how)
    found = look_up(server, PortRef(name="grpc"))()
    assert (found.found, found.code, found.absent) == (Found.FAILED, how, False)


SRV = f"_grpc._tcp.{SERVICE} 5 IN SRV"


def test_missing_glue_is_asked_once_for_all_pods() -> None:
    """The Service's own addresses, with the one port that all records have."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, kind = asked(query)
        if kind == "SRV":
            return answer(query, f"{SRV} 0 50 20051 a.{SERVICE}", f"{SRV} 0 50 20051 b.{SERVICE}")
        return answer(query, *(f"{name} 3 IN A 10.1.0.{number}" for number in (1, 2))) if kind == "A" else answer(query)

    with ScriptedDns(script) as server:
        found = look_up(server, PortRef(name="grpc"))()
        assert [(name, kind) for name, kind, _ in server.queries] == [(f"_grpc._tcp.{SERVICE}", "SRV"), (SERVICE, "A")]
    assert places(found) == [("10.1.0.1", 20051, ""), ("10.1.0.2", 20051, "")]
    assert all(record.of_pod for record in found.records or ())
    assert (found.ttl_s, found.complete) == (3.0, True)


def test_names_are_compared_without_regard_to_case() -> None:
    """A server may write names in any case (0x20), in questions, targets and glue."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        response = answer(query, f"{SRV.upper().replace(' IN SRV', ' IN SRV')} 0 50 50051 ORDERS.Shop.svc.CLUSTER.local.")
        response.additional = answer(query, "Orders.SHOP.svc.cluster.LOCAL. 5 IN A 10.96.0.7").answer
        return response

    with ScriptedDns(script) as server:
        found = look_up(server, PortRef(name="grpc"))()
    assert found.records == (SrvEndpoint(host="10.96.0.7", port=50051, port_name="grpc", of_pod=False),)


def test_only_the_lowest_priority_counts_and_what_is_not_here_is_left_out() -> None:
    """RFC 2782: higher numbers are spares; port 0 and the root name say that there is no such service."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        lines = (f"{SRV} 1 50 1 a.{SERVICE}", f"{SRV} 0 50 2 b.{SERVICE}", f"{SRV} 0 50 0 c.{SERVICE}", f"{SRV} 0 0 5 .")
        response = answer(query, *lines)
        response.additional = answer(query, *(f"{name}.{SERVICE} 5 IN A 10.1.0.{ord(name)}" for name in "abc")).answer
        return response

    with ScriptedDns(script) as server:
        assert places(look_up(server, PortRef(name="grpc"))()) == [(f"10.1.0.{ord('b')}", 2, "b")]


def test_a_dual_stack_service_is_counted_once(service: Service, server: DnsServer) -> None:
    """Both families stand in the glue; one of them is used."""
    ports = {"grpc": 20051}
    service.endpoints = (
        FakeEndpoint(address="10.1.0.1", hostname="orders-0", ports=ports),
        FakeEndpoint(address="fd00::1", hostname="orders-0", ports=ports),
    )
    found = look_up(server, PortRef(name="grpc"))()
    assert len(found.addresses) == 1
    service.endpoints = service.endpoints[1:]
    assert look_up(server, PortRef(name="grpc"))().addresses == ("fd00::1",)
