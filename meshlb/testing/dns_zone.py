"""What the cluster's DNS answers: the names of Services and pods in its zone, and ordinary names that a test added. Pure.

A ClusterIP Service has its cluster IP, with endpoints or without. A headless one has its ready endpoints, and does not exist
(NXDOMAIN) while it has none. Endpoints have names of their own, by hostname or dashed address. A name that exists without the
asked-for type is NODATA. An ExternalName is a CNAME, with what it leads to. Addresses come in random order, as CoreDNS's
loadbalance plugin has it.

SRV, as CoreDNS does it: ``_port._tcp.service`` has that port, the Service's own name every port, an endpoint's name that endpoint's;
a ClusterIP leads to the Service's name with its port, a headless one to the endpoints' names with theirs, addresses in the Additional
section. Without such a port the name does not exist. Weights are 100/N, priorities 0.

Spec: kubernetes/dns specification 1.1.0; CoreDNS's kubernetes plugin. Deviations: no PTR, TXT or pod records.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshlb.testing.objects import FakeEndpoint

MAX_ALIASES = 8


class NamedService(Protocol):
    """What the zone needs to know of a Service."""

    @property
    def cluster_ip(self) -> str | None: ...

    @property
    def endpoints(self) -> Sequence[FakeEndpoint]: ...

    @property
    def name(self) -> str: ...

    @property
    def ports(self) -> Mapping[str, int]: ...

    @property
    def external_name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Place:
    """One SRV record with its address; port 0 is none."""

    address: str
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Ordinary:
    """What stands at one name: addresses of both families, SRV records or an alias, and their TTL."""

    addresses: tuple[str, ...]
    ttl_s: int
    places: tuple[Place, ...] = ()
    alias: str = ""


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
        if question.name.is_subdomain(self._origin):
            response.flags |= dns.flags.AA
        name = question.name.to_text(omit_final_dot=True).lower()
        owner, found = question.name, self._lookup(name)
        if found is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        seen = {name}
        while found is not None and found.alias and question.rdtype != dns.rdatatype.SRV:
            response.answer.append(dns.rrset.from_text(owner, found.ttl_s, "IN", "CNAME", f"{found.alias}."))
            if found.alias in seen or len(seen) > MAX_ALIASES:
                break
            seen.add(found.alias)
            owner, found = dns.name.from_text(found.alias), self._lookup(found.alias)
        if found is not None and question.rdtype == dns.rdatatype.SRV:
            self._add_srv(response, owner, found)
        elif found is not None:
            _add_addresses(response.answer, owner, found.ttl_s, self._shuffled(found.addresses), question.rdtype)
        if response.flags & dns.flags.AA and not response.answer:
            response.authority.append(self._soa())
        return response

    def denial(self, query: dns.message.Message, *, name_exists: bool = False) -> dns.message.Message:
        """NXDOMAIN (or NODATA) as for a name that is not there: with the SOA that says for how long it may be believed."""
        response = dns.message.make_response(query, recursion_available=True)
        if not name_exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        if query.question[0].name.is_subdomain(self._origin):
            response.flags |= dns.flags.AA
            response.authority.append(self._soa())
        return response

    def _add_srv(self, response: dns.message.Message, owner: dns.name.Name, found: Ordinary) -> None:
        places = [place for place in found.places if place.port]
        if not places:
            return
        weight = max(1, 100 // len(places))
        targets = dict.fromkeys(f"0 {weight} {place.port} {place.target}." for place in places)
        response.answer.append(dns.rrset.from_text_list(owner, found.ttl_s, "IN", "SRV", targets))
        glue: dict[str, dict[str, None]] = {}
        for place in places:
            glue.setdefault(place.target, {})[place.address] = None
        for target, addresses in glue.items():
            for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                _add_addresses(response.additional, dns.name.from_text(target), found.ttl_s, self._shuffled(addresses), rdtype)

    def _shuffled(self, addresses: Iterable[str]) -> list[str]:
        unique = list(dict.fromkeys(addresses))
        self._rng.shuffle(unique)
        return unique

    def _lookup(self, name: str) -> Ordinary | None:
        """What stands at a name, nothing at one that merely exists, or None."""
        if name in self.ordinary:
            return self.ordinary[name]
        if name != self.domain and not name.endswith(f".{self.domain}"):
            return None
        labels = name.removesuffix(self.domain).rstrip(".").split(".")
        if labels in ([""], ["svc"]):
            return Ordinary((), self.ttl_s)
        if labels[-1] != "svc" or len(labels) > 5:
            return None
        *labels, namespace, _ = labels
        if not labels:
            return Ordinary((), self.ttl_s) if any(key[0] == namespace for key in self._services) else None
        service = self._services.get((namespace, labels.pop()))
        if service is None:
            return None
        if service.external_name:
            return None if labels else Ordinary((), self.ttl_s, alias=service.external_name.lower().rstrip("."))
        places = tuple(self._places(service, f"{service.name}.{namespace}.svc.{self.domain}", labels))
        return Ordinary(tuple(place.address for place in places), self.ttl_s, places) if places else None

    def _places(self, service: NamedService, name: str, labels: Sequence[str]) -> Iterator[Place]:
        """The addresses and ports of a Service, or of what the labels before its name leave of it."""
        host = labels[0] if len(labels) == 1 else ""
        port, protocol = (label.removeprefix("_") for label in labels) if len(labels) == 2 else ("", "")
        if protocol not in ("", "tcp"):
            return
        if service.cluster_ip is not None and not host:
            for title, number in (service.ports or {"": 0}).items():
                if port in ("", title):
                    yield Place(service.cluster_ip, number, name)
            return
        for endpoint in service.endpoints:
            label = _label(endpoint)
            if endpoint.routable and host in ("", label):
                for title, number in (endpoint.ports or {"": 0}).items():
                    if port in ("", title):
                        yield Place(endpoint.address, number, f"{label}.{name}")

    def _soa(self) -> dns.rrset.RRset:
        text = f"ns.dns.{self.domain}. hostmaster.{self.domain}. 1700000000 7200 1800 86400 {self.ttl_s}"
        return dns.rrset.from_text(self._origin, self.ttl_s, "IN", "SOA", text)


def _label(endpoint: FakeEndpoint) -> str:
    dashed = endpoint.address.replace(".", "-").replace(":", "-")
    return endpoint.hostname or (dashed + "0" if dashed.endswith("-") else dashed)


def _add_addresses(
    section: list[dns.rrset.RRset], owner: dns.name.Name, ttl_s: int, addresses: Iterable[str], rdtype: dns.rdatatype.RdataType
) -> None:
    wanted = [address for address in addresses if _type_of(address) == rdtype]
    if wanted:
        section.append(dns.rrset.from_text_list(owner, ttl_s, "IN", rdtype, wanted))


def _type_of(address: str) -> dns.rdatatype.RdataType:
    return dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A
