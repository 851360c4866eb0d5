"""What the sources said about a Service, and what is made of it: the nouns of ``ranking`` and ``ranking_addresses``."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshlb.core.endpoint import NO_PLACE, Endpoint, Place
from meshlb.core.target import NO_PORT, PortRef
from meshlb.health.selection import any_eligible
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.merging import Merger
from meshlb.resolve.kubernetes.service_wire import FAMILIES, ServiceRecord
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.lookup import SrvEndpoint
from meshlb.resolve.ports import PortSelector


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceName:
    """What is looked for: a Service, perhaps one pod of it, and the port as it was written.

    Without ``pods`` a Service that has a ClusterIP is only ever reached by it: a sidecar stands between, and balances.
    """

    service: str
    namespace: str
    port: PortRef = NO_PORT
    protocol: str = "grpc"
    pod: str = ""
    pods: bool = True

    def __str__(self) -> str:
        name = ".".join(part for part in (self.pod, self.service, self.namespace) if part)
        return f"{name}:{self.port}" if self.port else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the sources said last. ``slices`` and ``addresses`` (DNS) are None until they said anything; both may be empty.

    ``seen``: some slice mentioned the Service once. ``dns_lists_pods``: DNS showed it, by several addresses in one answer or by one
    that slices list. ``answer``: the last answer of DNS by itself; ``addresses`` also has what only one answer lacked.
    ``complete``: that answer was whole. ``unseen``: what of ``addresses`` no answer has shown for long. ``records``: what SRV says of
    ``addresses``, None if it was never answered. ``alias``: where DNS says that the name is only another one's (a CNAME), which is how it shows an ExternalName. ``chosen``: the port that worked
    last, ``dialled``: the pods' numbers by it. ``also_family``: its pods stay until those of the preferred one had the time to connect.
    ``stale``, ``unverified``, ``dns_confirms`` and ``dns_lost``: see ``ranking``. ``legacy``: the slices were made from
    an Endpoints object, ``truncated``: from one that lists only some of the pods, so that the slices ``before`` it still count.
    ``place``: the caller's. ``unroutable``: address families that this host has no route for.
    """

    slices: tuple[SliceRecord, ...] | None = None
    seen: bool = False
    stale: bool = False
    unverified: bool = False
    dns_confirms: bool = False
    dns_lost: bool = False
    service: ServiceRecord | None = None
    chosen: PortSelector | None = None
    dialled: frozenset[int] = frozenset()
    addresses: tuple[str, ...] | None = None
    answer: tuple[str, ...] = ()
    complete: bool = True
    unseen: frozenset[str] = frozenset()
    dns_lists_pods: bool = False
    records: tuple[SrvEndpoint, ...] | None = None
    alias: str = ""
    env: EnvService | None = None
    legacy: bool = False
    truncated: bool = False
    before: tuple[SliceRecord, ...] = ()
    place: Place = NO_PLACE
    unroutable: frozenset[str] = frozenset()
    also_family: str = ""
    merger: Merger = field(default_factory=Merger, compare=False, repr=False)  # remembers the last merge


class Source(enum.Enum):
    KUBERNETES = "kubernetes"
    ENDPOINTS = "endpoints"
    DNS = "dns"
    CLUSTER_IP = "clusterip"
    ENVIRONMENT = "environment"
    NOTHING = ""


class Concern(enum.Enum):
    """What somebody should be told once, because they could do better."""

    NUMBER_UNMAPPED = "number"  # the Service cannot be read, so its port number means nothing to its pods
    DNS_PORT = "dns port"  # the number is dialled on pods as it was written
    NODE_UNKNOWN = "node"  # internalTrafficPolicy is Local, and this client does not know its node
    TRUNCATED = "truncated"  # the Endpoints object is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``pods`` if ``source`` is KUBERNETES, ENDPOINTS or DNS; ``virtual_ip`` (host, port) is what to use instead, or to fall back to.

    ``selector``: the port that was chosen for pods of slices. ``place``, ``local_only``: what ``health.selection`` needs. ``problem``:
    why there is nothing, or why the port cannot be found (``port_wrong``); a published set stays as it is then. ``unverified``: hosts
    of pods that nobody has confirmed for so long that somebody else may have their address. ``affinity_s``: of ClientIP affinity.
    """

    source: Source
    pods: tuple[Endpoint, ...] = ()
    virtual_ip: tuple[str, int] | None = None
    service_port: int = 0
    selector: PortSelector | None = None
    note: str = ""
    place: Place = NO_PLACE
    local_only: bool = False
    unverified: frozenset[str] = frozenset()
    affinity_s: float = 0.0
    problem: str = ""
    port_wrong: bool = False
    concerns: frozenset[Concern] = field(default_factory=frozenset)


def is_headless(known: Known) -> bool | None:
    """None: nobody can tell."""
    if known.service is not None:
        return known.service.headless
    if known.slices and any(record.headless for record in known.slices):
        return True
    if known.records:
        return any(record.of_pod for record in known.records)
    if known.dns_lists_pods:
        return True
    if known.slices:
        # Slices that somebody wrote by hand for a headless Service lack the label.
        told = frozenset(known.addresses or ())
        return bool(told) and any(endpoint.host in told for record in known.slices for endpoint in record.endpoints)
    return False if known.env is not None else None


def family_of(known: Known) -> str:
    """By which family pods and ClusterIPs are dialled: the Service's first that this host can route; IPv4 where nobody says."""
    families = (known.service.ip_families if known.service is not None else ()) or FAMILIES
    return next((family for family in families if family not in known.unroutable), families[0])


def hosts_of(known: Known) -> tuple[str, ...]:
    """One address of each slice that has any, and the ClusterIPs: enough to know all families."""
    hosts = tuple(record.endpoints[0].host for record in known.slices or () if record.endpoints)
    return hosts + (known.service.cluster_ips if known.service is not None else ())


def external_name(known: Known) -> str:
    """The name that this Service only stands for; empty if it has endpoints or addresses of its own."""
    if known.service is not None:
        return known.service.external_name
    return known.alias if not known.slices else ""


def count(pods: Iterable[Endpoint], want: ServiceName, place: Place = NO_PLACE, local_only: bool = False) -> str:
    """Why none of these may be used; empty if some may."""
    pods = tuple(pods)
    if any_eligible(pods, place, local_only):
        return ""
    if not pods:
        return f"0 endpoints are {want.pod}" if want.pod else "0 endpoints"
    listed = f"{len(pods)} endpoint{'s'[: len(pods) > 1]}"
    if local_only and any_eligible(pods):
        where = f"on node {place.node}" if place.node else "on this node, whose name is not known"
        return f"{listed}, none ready {where} (internalTrafficPolicy: Local)"
    return f"{listed}, none ready"
