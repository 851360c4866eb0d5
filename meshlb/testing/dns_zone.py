"""What the cluster's DNS answers: the names of Services and pods in its zone, and ordinary names that a test added. Pure.

A ClusterIP Service has its cluster IP, with endpoints or without. A headless one has its ready endpoints, and does not exist
(NXDOMAIN) while it has none. Endpoints have names of their own, by hostname or dashed address. A name that exists without the
asked-for type is NODATA. Everything comes in random order, as CoreDNS's loadbalance plugin has it.

Spec: kubernetes/dns specification 1.1.0. Deviations: no SRV, PTR or pod records.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshlb.testing.objects import FakeEndpoint


class NamedService(Protocol):
    """What the zone needs to know of a Service."""

    @property
    def cluster_ip(self) -> str | None: ...

    @property
    def endpoints(self) -> Sequence[FakeEndpoint]: ...


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A name outside the cluster: its addresses of both families and its own TTL."""

    addresses: tuple[str, ...]
    ttl_s: int


class Zone:
    """Answers queries; reads ``services`` (by namespace and name) at each one, so it is always up to date."""

    def __init__(self, domain: str, services: Mapping[tuple[str, str], NamedService], *, ttl_s: int) -> None:
        self.domain = domain
        self.ttl_s = ttl_s
        self.ordinary: dict[str, Ordinary] = {}
        self._services = services
        self._origin = dns.name.from_text(domain)
        self._rng = random.Random()

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The whole answer, however long; cutting it to the transport's size is the server's part."""
        response = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        inside = question.name.is_subdomain(self._origin)
        if inside:
            response.flags |= dns.flags.AA
        found = self._lookup(name, inside)
        if found is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            addresses = [address for address in found.addresses if _type_of(address) == question.rdtype]
            self._rng.shuffle(addresses)
            if addresses:
                response.answer.append(dns.rrset.from_text_list(question.name, found.ttl_s, "IN", question.rdtype, addresses))
        if inside and not response.answer:
            response.authority.append(self._soa())
        return response

    def denial(self, query: dns.message.Message) -> dns.message.Message:
        """NXDOMAIN as for a name that is not there: with the SOA that says for how long it may be believed."""
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(dns.rcode.NXDOMAIN)
        if query.question[0].name.is_subdomain(self._origin):
            response.flags |= dns.flags.AA
            response.authority.append(self._soa())
        return response

    def _lookup(self, name: str, inside: bool) -> Ordinary | None:
        """The addresses of a name, none for a name that merely exists, or None."""
        if name in self.ordinary:
            return self.ordinary[name]
        if not inside:
            return None
        addresses = self._cluster_addresses(name.removesuffix(self.domain).rstrip("."))
        return None if addresses is None else Ordinary(tuple(dict.fromkeys(addresses)), self.ttl_s)

    def _cluster_addresses(self, name: str) -> Iterable[str] | None:
        match name.split("."):
            case [""] | ["svc"]:
                return ()
            case [namespace, "svc"]:
                return () if any(key[0] == namespace for key in self._services) else None
            case [service, namespace, "svc"]:
                found = self._services.get((namespace, service))
                if found is None:
                    return None
                if found.cluster_ip is not None:
                    return (found.cluster_ip,)
                return [endpoint.address for endpoint in found.endpoints if endpoint.routable] or None
            case [host, service, namespace, "svc"]:
                found = self._services.get((namespace, service))
                endpoints = found.endpoints if found is not None else ()
                return [endpoint.address for endpoint in endpoints if endpoint.routable and host in _hosts(endpoint)] or None
            case _:
                return None

    def _soa(self) -> dns.rrset.RRset:
        text = f"ns.dns.{self.domain}. hostmaster.{self.domain}. 1700000000 7200 1800 86400 {self.ttl_s}"
        return dns.rrset.from_text(self._origin, self.ttl_s, "IN", "SOA", text)


def _hosts(endpoint: FakeEndpoint) -> set[str]:
    dashed = endpoint.address.replace(".", "-").replace(":", "-")
    return {endpoint.hostname or dashed, dashed + "0" if dashed.endswith("-") else dashed}


def _type_of(address: str) -> dns.rdatatype.RdataType:
    return dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A
