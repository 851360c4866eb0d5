"""The fake cluster's DNS server, asked with dnspython over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest

from meshlb.testing import FakeCluster

ORDERS = "orders.shop.svc.cluster.local"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


def ask(cluster: FakeCluster, name: str, rdtype: str = "A", *, tcp: bool = False, edns: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=edns, payload=4096)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, cluster.dns.host, port=cluster.dns.port, timeout=2)


def addresses(response: dns.message.Message) -> set[str]:
    return {str(record) for rrset in response.answer for record in rrset}


def test_a_service_is_its_cluster_ip_and_a_headless_one_its_ready_endpoints(cluster: FakeCluster) -> None:
    """And the answer follows the endpoints at once; none at all is NXDOMAIN for the headless one alone."""
    orders = cluster.service("orders", endpoints=["127.0.0.9:1"])
    headless = cluster.service("headless", headless=True, endpoints=["127.0.0.9:1", "127.0.0.10:1"])
    assert addresses(ask(cluster, ORDERS)) == {orders.cluster_ip}
    assert addresses(ask(cluster, "headless.shop.svc.cluster.local")) == {"127.0.0.9", "127.0.0.10"}
    orders.set_endpoints([])
    headless.set_endpoints([])
    assert addresses(ask(cluster, ORDERS)) == {orders.cluster_ip}
    assert ask(cluster, "headless.shop.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
    orders.delete()
    assert ask(cluster, ORDERS).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(("edns", "fits"), [(False, 29), (True, 73)])
def test_an_answer_too_long_for_udp_is_truncated_and_whole_over_tcp(cluster: FakeCluster, edns: bool, fits: int) -> None:
    """512 bytes without EDNS, 1232 with it, filled with whole records; the TC bit says that there are more."""
    headless = cluster.service("big", headless=True, endpoints=[f"127.9.0.{n + 1}:80" for n in range(200)])
    name = "big.shop.svc.cluster.local"
    cut = ask(cluster, name, edns=edns)
    assert cut.flags & dns.flags.TC
    assert len(addresses(cut)) == fits
    assert len(addresses(ask(cluster, name, tcp=True))) == 200
    headless.set_endpoints([f"127.9.0.{n + 1}:80" for n in range(fits)])
    whole = ask(cluster, name, edns=edns)
    assert (whole.flags & dns.flags.TC, len(addresses(whole))) == (0, fits)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "NXDOMAIN", "REFUSED"])
def test_fail_answers_with_that_code_until_recover(cluster: FakeCluster, rcode: str) -> None:
    """For every name, or as often and for whom it was told."""
    cluster.service("orders", endpoints=[])
    cluster.dns.fail(rcode)
    assert dns.rcode.to_text(ask(cluster, ORDERS).rcode()) == rcode
    cluster.dns.recover()
    assert ask(cluster, ORDERS).rcode() == dns.rcode.NOERROR
    cluster.dns.fail(rcode, names=[ORDERS + "."], times=1)
    assert ask(cluster, "kubernetes.default.svc.cluster.local").rcode() == dns.rcode.NOERROR
    assert [dns.rcode.to_text(ask(cluster, ORDERS).rcode()) for _ in range(2)] == [rcode, "NOERROR"]


def test_fail_can_be_limited_to_a_type(cluster: FakeCluster) -> None:
    """SRV denied, A answered; NODATA has the SOA that a denial has."""
    cluster.service("orders", endpoints=[])
    cluster.dns.fail("NODATA", types=["SRV"])
    denied = ask(cluster, f"_grpc._tcp.{ORDERS}", "SRV")
    assert (denied.rcode(), denied.answer, len(denied.authority)) == (dns.rcode.NOERROR, [], 1)
    assert len(addresses(ask(cluster, ORDERS))) == 1


@pytest.mark.parametrize("how", ["WRONG_ID", "WRONG_QUESTION", "GARBAGE"])
def test_what_a_client_must_ignore_is_sent_instead_of_an_answer(cluster: FakeCluster, how: str) -> None:
    """Something arrives that is no response to the query."""
    cluster.service("orders", endpoints=[])
    cluster.dns.fail(how, times=1)
    query = dns.message.make_query(ORDERS, "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.connect((cluster.dns.host, cluster.dns.port))
        udp.send(query.to_wire())
        wire = udp.recv(4096)
    if how != "GARBAGE":
        assert not query.is_response(dns.message.from_wire(wire))
    assert cluster.dns.queries[-1].rcode is None
    assert len(addresses(ask(cluster, ORDERS))) == 1


def test_truncated_has_half_of_the_records_over_udp_alone(cluster: FakeCluster) -> None:
    """However few they are."""
    cluster.service("pods", headless=True, endpoints=[f"127.9.0.{n}:80" for n in (1, 2, 3, 4)])
    cluster.dns.fail("TRUNCATED")
    cut = ask(cluster, "pods.shop.svc.cluster.local")
    assert cut.flags & dns.flags.TC
    assert len(addresses(cut)) == 2
    assert len(addresses(ask(cluster, "pods.shop.svc.cluster.local", tcp=True))) == 4


def test_tcp_can_be_refused_or_silent_and_edns_unknown(cluster: FakeCluster) -> None:
    """Until recover."""
    cluster.service("orders", endpoints=[])
    cluster.dns.set_tcp("refused")
    with pytest.raises(ConnectionRefusedError):
        ask(cluster, ORDERS, tcp=True)
    cluster.dns.set_tcp("silent")
    query = dns.message.make_query(ORDERS, "A")
    with pytest.raises(dns.exception.Timeout):
        dns.query.tcp(query, cluster.dns.host, port=cluster.dns.port, timeout=0.3)
    cluster.dns.set_edns(False)
    assert ask(cluster, ORDERS, edns=True).rcode() == dns.rcode.FORMERR
    assert ask(cluster, ORDERS).rcode() == dns.rcode.NOERROR
    cluster.dns.recover()
    assert ask(cluster, ORDERS, edns=True, tcp=True).rcode() == dns.rcode.NOERROR


def test_delay_answers_late(cluster: FakeCluster) -> None:
    """By so many seconds, without keeping other queries waiting for each other."""
    cluster.service("orders", endpoints=[])
    cluster.dns.delay(0.3)
    start_s = time.monotonic()
    ask(cluster, ORDERS)
    assert time.monotonic() - start_s >= 0.3


def test_an_alias_is_followed(cluster: FakeCluster) -> None:
    """Inside the zone or out of it."""
    cluster.dns.add("db.example.com", ["192.0.2.1"])
    cluster.dns.add_alias("alias.example.com", "db.example.com.")
    assert addresses(ask(cluster, "alias.example.com")) == {"db.example.com.", "192.0.2.1"}


def test_timeout_is_silence(cluster: FakeCluster) -> None:
    """The query is logged, no answer comes."""
    cluster.dns.fail("TIMEOUT")
    query = dns.message.make_query(ORDERS, "A")
    with pytest.raises(dns.exception.Timeout):
        dns.query.udp(query, cluster.dns.host, port=cluster.dns.port, timeout=0.1)
    assert [(entry.name, entry.type, entry.transport, entry.rcode) for entry in cluster.dns.queries] == [(ORDERS, "A", "udp", None)]


def test_stop_closes_the_port_and_start_opens_the_same(cluster: FakeCluster) -> None:
    """Over UDP the kernel answers with an ICMP error, over TCP it refuses."""
    cluster.service("orders", endpoints=[])
    before = cluster.nameserver
    cluster.dns.stop()
    with pytest.raises(OSError, match=r"refused|Errno"):
        ask(cluster, ORDERS, tcp=True)
    cluster.dns.start()
    assert cluster.nameserver == before
    assert ask(cluster, ORDERS, tcp=True).rcode() == dns.rcode.NOERROR


def test_ordinary_names_are_what_the_test_says(cluster: FakeCluster) -> None:
    """Both families, their own TTL; removed they are gone."""
    cluster.dns.add("db.example.com", ["192.0.2.1", "2001:db8::1"], ttl_s=3)
    (rrset,) = ask(cluster, "db.example.com").answer
    assert (rrset.ttl, addresses(ask(cluster, "db.example.com", "AAAA"))) == (3, {"2001:db8::1"})
    cluster.dns.remove("db.example.com")
    assert ask(cluster, "db.example.com").rcode() == dns.rcode.NXDOMAIN


def test_the_ttl_can_change(cluster: FakeCluster) -> None:
    """5 s as CoreDNS's plugin has it, until told otherwise."""
    cluster.service("orders", endpoints=[])
    assert ask(cluster, ORDERS).answer[0].ttl == 5
    cluster.dns.set_ttl(1)
    assert ask(cluster, ORDERS).answer[0].ttl == 1


def test_resolv_conf_has_the_search_domains_of_a_pod(cluster: FakeCluster) -> None:
    """A resolver made from it, and given the port, finds a Service by its short name."""
    orders = cluster.service("orders", endpoints=[])
    resolver = dns.resolver.Resolver(filename=cluster.resolv_conf)
    resolver.port = cluster.dns.port
    assert {str(record) for record in resolver.resolve("orders", "A", search=True)} == {orders.cluster_ip}
