"""The DNS name of a Service: addresses without a port, and the difference between two addresses and one that moved."""

from __future__ import annotations

import random
from dataclasses import replace

from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup, SrvTarget
from meshlb.resolve.service_dns import ServiceDns
from meshlb.testing.loop import ManualLoop


class Answers(DnsClient):
    """Gives one answer after the other, without a socket: addresses alone, an SRV answer, or both failing."""

    def __init__(self, *answers: tuple[str, ...] | Lookup) -> None:
        super().__init__(nameservers=["127.0.0.1:1"], resolv_conf="/nonexistent")
        self.left = list(answers)
        self.names: list[str] = []

    def srv(self, name: str, *, within_s: float = 1.0) -> Lookup:
        now = self.left[0]
        if isinstance(now, Lookup) and now.targets:
            return self.left.pop(0)  # type: ignore[return-value]
        return Lookup(name=name, found=Found.FAILED if isinstance(now, Lookup) else Found.NO_NAME, ttl_s=5)

    def lookup(self, name: str, *, search: bool = False, within_s: float = 1.0) -> Lookup:
        self.names.append(name)
        now = self.left.pop(0)
        return now if isinstance(now, Lookup) else Lookup(name=name, found=Found.ADDRESSES, addresses=now, ttl_s=5)


def srv(*places: str) -> Lookup:
    """``host:port``, each a pod."""
    targets = tuple(
        SrvTarget(name=f"pod-{place[-7]}.orders.shop.svc.cluster.local", port=int(place[-5:]), addresses=(place[:-6],))
        for place in places
    )
    return Lookup(name="orders", found=Found.ADDRESSES, targets=targets, ttl_s=5)


class Heard:
    def __init__(self) -> None:
        self.sets: list[EndpointSet] = []

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.sets.append(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        raise AssertionError(error)


def start(*answers: tuple[str, ...] | Lookup) -> tuple[ManualLoop, ServiceDns, Heard, Answers]:
    loop, heard, client = ManualLoop(), Heard(), Answers(*answers)
    dns = ServiceDns("orders.shop.svc.cluster.local.", client=client, scheduler=loop, rng=random.Random(1), empty_grace_s=60)
    dns.start(heard)
    loop.run_until_idle()
    return loop, dns, heard, client


def test_addresses_come_without_a_port() -> None:
    """Whose port it is, the Service's or the pods', DNS cannot tell; the name is asked as it is."""
    _, _, heard, client = start(("10.0.0.1",))
    assert [(endpoint.host, endpoint.port) for endpoint in heard.sets[0].endpoints] == [("10.0.0.1", 0)]
    assert client.names == ["orders.shop.svc.cluster.local."]


def test_an_address_that_was_one_of_several_stays_a_pod_alone() -> None:
    """No ClusterIP has two addresses of one family; one that comes alone may be a ClusterIP again."""
    loop, dns, heard, _ = start(("10.0.0.1", "10.0.0.2"), ("10.0.0.1",), ("10.0.0.1",), ("10.96.0.7",), ("10.96.0.7",))
    assert dns.together
    loop.advance(12)
    assert (len(heard.sets[-1]), dns.together) == (1, True)
    loop.advance(12)
    assert (len(heard.sets[-1]), dns.together) == (1, False)


def test_an_answer_that_was_cut_off_is_told_as_such() -> None:
    """Though its addresses are no news; and the next whole one is news as well."""
    whole = Lookup(name="orders", found=Found.ADDRESSES, addresses=("10.0.0.1",), ttl_s=5)
    loop, dns, heard, _ = start(whole, replace(whole, complete=False), whole)
    assert dns.complete
    loop.advance(6)
    assert (dns.complete, len(heard.sets)) == (False, 2)
    loop.advance(6)
    assert (dns.complete, len(heard.sets)) == (True, 3)


def test_an_address_that_moved_was_never_together_with_the_old_one() -> None:
    """Both are published until the old one was missed twice, but no answer held both."""
    loop, dns, heard, _ = start(("10.96.0.7",), ("10.96.0.9",), ("10.96.0.9",))
    loop.advance(12)
    assert [len(endpoints) for endpoints in heard.sets] == [1, 2, 1]
    assert not dns.together


def places(dns: ServiceDns) -> list[str]:
    return [f"{record.host}:{record.port}" for record in dns.records or ()]


def test_records_come_with_the_addresses_and_go_with_them() -> None:
    """An address that was missed once is still published, with the record it had."""
    loop, dns, heard, _ = start(srv("10.0.0.1:20051", "10.0.0.2:20051"), srv("10.0.0.1:20051"), srv("10.0.0.1:20051"))
    assert places(dns) == ["10.0.0.1:20051", "10.0.0.2:20051"]
    loop.advance(6)
    assert places(dns) == ["10.0.0.1:20051", "10.0.0.2:20051"]
    loop.advance(6)
    assert places(dns) == ["10.0.0.1:20051"]
    assert [len(endpoints) for endpoints in heard.sets] == [2, 1]


def test_a_port_that_changes_is_news_though_no_address_does() -> None:
    """The Service's targetPort was changed: who listens has to dial another number."""
    loop, dns, heard, _ = start(srv("10.0.0.1:20051"), srv("10.0.0.1:30051"))
    loop.advance(6)
    assert places(dns) == ["10.0.0.1:30051"]
    assert len(heard.sets) == 2


def test_an_answer_without_word_of_srv_changes_no_record() -> None:
    """SRV failed and A did not: the ports stay as they were said."""
    unheard = Lookup(name="orders", found=Found.ADDRESSES, addresses=("10.0.0.1",), ttl_s=5)
    loop, dns, heard, _ = start(srv("10.0.0.1:20051"), unheard)
    loop.advance(6)
    assert places(dns) == ["10.0.0.1:20051"]
    assert len(heard.sets) == 1


def test_denied_records_are_gone() -> None:
    """The port was renamed: what SRV said of these addresses holds no more."""
    loop, dns, heard, _ = start(srv("10.0.0.1:20051"), ("10.0.0.1",))
    loop.advance(6)
    assert dns.records == ()
    assert len(heard.sets) == 2


def test_an_alias_is_told() -> None:
    """The Service stands for another name."""
    elsewhere = Lookup(name="orders", found=Found.ADDRESSES, addresses=("192.0.2.1",), alias="db.example.com", ttl_s=5)
    _, dns, _, _ = start(elsewhere)
    assert dns.alias == "db.example.com"
