"""The DNS name of a Service: addresses without a port, and the difference between two addresses and one that moved."""

from __future__ import annotations

import random

from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.service_dns import ServiceDns
from meshlb.testing.loop import ManualLoop


class Answers(DnsClient):
    """Gives one answer after the other, without a socket."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        super().__init__(nameservers=["127.0.0.1:1"], resolv_conf="/nonexistent")
        self.left = list(answers)
        self.names: list[str] = []

    def lookup(self, name: str, *, search: bool = False) -> Lookup:
        self.names.append(name)
        return Lookup(name=name, found=Found.ADDRESSES, addresses=self.left.pop(0), ttl_s=5)


class Heard:
    def __init__(self) -> None:
        self.sets: list[EndpointSet] = []

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.sets.append(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        raise AssertionError(error)


def start(*answers: tuple[str, ...]) -> tuple[ManualLoop, ServiceDns, Heard, Answers]:
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


def test_two_addresses_in_one_answer_are_together_for_good() -> None:
    """No ClusterIP has two addresses of one family."""
    loop, dns, _, _ = start(("10.0.0.1", "10.0.0.2"), ("10.0.0.1",))
    assert dns.together
    loop.advance(6)
    assert dns.together


def test_an_address_that_moved_was_never_together_with_the_old_one() -> None:
    """Both are published until the old one was missed twice, but no answer held both."""
    loop, dns, heard, _ = start(("10.96.0.7",), ("10.96.0.9",), ("10.96.0.9",))
    loop.advance(12)
    assert [len(endpoints) for endpoints in heard.sets] == [1, 2, 1]
    assert not dns.together
