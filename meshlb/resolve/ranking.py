"""Which of the things that are known about a Service is believed: a pure function from ``Known`` to ``Verdict``.

From best to worst; a worse one is used only while no better one says anything:

1. **EndpointSlices** (a synced list or watch). They list the pods, so also "there are none" is believed, and then nothing else
   is used: kube-proxy would refuse as well. A Service that no slice ever mentioned is *unknown*, unless it can be read itself.
2. **DNS** of a headless Service: pods, without ports.
3. **The ClusterIP**: of the Service itself, else a DNS answer, else the environment.

DNS does not say whether an address is a pod or a ClusterIP. It is a pod if the Service, the label of its slices, or one of their
addresses says so, or if one answer ever held two; else it is taken for a ClusterIP. For a headless Service with one pod that
mistake is harmless: the number that was written is dialled either way, on k connections instead of one, until a second address
is seen. The opposite mistake would pin every call to one connection for ever. The numbers are never mixed up: the Service's is not
dialled on pods where theirs is known, and what was written as ``?port=target`` never on an address that may be a ClusterIP.

DNS has no ports either: on pods the number is dialled as it was written (as stock gRPC does), unless the Service can be read.
With a port's *name* and DNS alone there is no number, and the error says what is missing.

``stale``: slices that were not confirmed for a while (the API server is away). Nothing they list is dropped; addresses of a
headless Service that DNS lists beyond them are added.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from meshlb.core.endpoint import Endpoint
from meshlb.core.target import NO_PORT, PortRef
from meshlb.health.selection import eligible
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.wire import ServiceRecord, SliceRecord
from meshlb.resolve.ports import DEFAULT_NUMBERS, PortChoiceError, PortSelector, select


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceName:
    """What is looked for: a Service, perhaps one pod of it, and the port as it was written."""

    service: str
    namespace: str
    port: PortRef = NO_PORT
    protocol: str = "grpc"
    pod: str = ""

    def __str__(self) -> str:
        name = ".".join(part for part in (self.pod, self.service, self.namespace) if part)
        return f"{name}:{self.port}" if self.port else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the sources said last. ``slices`` and ``addresses`` (DNS) are None until they said anything; both may be empty.

    ``seen``: some slice mentioned the Service once. ``dns_lists_pods``: DNS showed it, by several addresses in one answer or by one
    that slices list. ``answer``: the last answer of DNS by itself; ``addresses`` also has what only one answer lacked. ``chosen``:
    the port that worked last. ``stale``: see above.
    """

    slices: tuple[SliceRecord, ...] | None = None
    seen: bool = False
    stale: bool = False
    service: ServiceRecord | None = None
    chosen: PortSelector | None = None
    addresses: tuple[str, ...] | None = None
    answer: tuple[str, ...] = ()
    dns_lists_pods: bool = False
    env: EnvService | None = None


class Source(enum.Enum):
    KUBERNETES = "kubernetes"
    DNS = "dns"
    CLUSTER_IP = "clusterip"
    ENVIRONMENT = "environment"
    NOTHING = ""


class Concern(enum.Enum):
    """What somebody should be told once, because they could do better."""

    NUMBER_UNMAPPED = "number"  # the Service cannot be read, so its port number means nothing to its pods
    DNS_PORT = "dns port"  # the number is dialled on pods as it was written


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``pods`` if ``source`` is KUBERNETES or DNS; ``virtual_ip`` (host, port) is what to use instead, or to fall back to.

    ``selector``: the port that was chosen for pods of slices. ``problem``: why there is nothing, or why the port cannot be found (``port_wrong``); a published set stays as it is then.
    """

    source: Source
    pods: tuple[Endpoint, ...] = ()
    virtual_ip: tuple[str, int] | None = None
    service_port: int = 0
    selector: PortSelector | None = None
    note: str = ""
    problem: str = ""
    port_wrong: bool = False
    concerns: frozenset[Concern] = field(default_factory=frozenset)


def decide(known: Known, want: ServiceName, *, cluster_ip: bool = True) -> Verdict:
    """The best that can be said now. Without ``cluster_ip``, an address that may be one is used only if it may also be a pod."""
    try:
        return _decide(known, want, cluster_ip)
    except PortChoiceError as error:
        return Verdict(source=Source.NOTHING, problem=str(error), port_wrong=True)


def _decide(known: Known, want: ServiceName, cluster_ip: bool) -> Verdict:
    verdict = _by_slices(known, want) or _by_dns(known, want, cluster_ip) or _by_virtual_ip(known, want)
    if verdict is None:
        return Verdict(source=Source.NOTHING)
    if not cluster_ip and verdict.source in (Source.CLUSTER_IP, Source.ENVIRONMENT):
        return Verdict(source=Source.NOTHING, problem="only its ClusterIP is known, and the fallback is switched off")
    return verdict if cluster_ip else replace(verdict, virtual_ip=None)


def is_headless(known: Known) -> bool | None:
    """None: nobody can tell."""
    if known.service is not None:
        return known.service.headless
    if known.slices and any(record.headless for record in known.slices):
        return True
    if known.dns_lists_pods:
        return True
    if known.slices:
        # Slices that somebody wrote by hand for a headless Service lack the label.
        listed = {endpoint.host for record in known.slices for endpoint in record.endpoints}
        return any(address in listed for address in known.addresses or ())
    return False if known.env is not None else None


def _by_slices(known: Known, want: ServiceName) -> Verdict | None:
    slices = known.slices
    if slices is None or (not slices and not known.seen and not _selects_pods(known.service)):
        return None
    headless = is_headless(known)
    selector = _select(known, want, slices)
    if selector is None:
        verdict = _by_virtual_ip(known, want)
        if verdict is None:
            names = sorted({port.name or str(port.port) for record in slices for port in record.ports})
            raise PortChoiceError(f"{want.port} is no pod's port, and the Service that maps it cannot be read", names)
        return replace(verdict, concerns=frozenset([Concern.NUMBER_UNMAPPED]))
    family = known.service.ip_families[0] if known.service is not None and known.service.ip_families else ""
    pods = merge(slices, selector, family)
    if want.pod:
        pods = tuple(pod for pod in pods if want.pod in (pod.hostname, pod.name))
    if known.stale and headless and not want.pod:
        pods += _unlisted(known, pods)
    virtual_ip = _virtual_ip(known, want, selector) if eligible(pods) else None
    return Verdict(
        source=Source.KUBERNETES,
        pods=pods,
        virtual_ip=virtual_ip,
        service_port=selector.service_port,
        selector=selector,
        note=_count(pods, want),
    )


def _select(known: Known, want: ServiceName, slices: tuple[SliceRecord, ...]) -> PortSelector | None:
    """By the Service's word; where that is missing or older than the slices, by the last choice or by the slices alone."""
    ports, told = [record.ports for record in slices], _told_port(known, want)
    if want.port.is_target or (known.service is not None and not service_is_outdated(known)):
        return select(want.port, want.protocol, known.service, ports, told)
    listed = {port.name for record in slices if record.endpoints for port in record.ports}
    if known.chosen is not None and known.chosen.name in listed:
        return known.chosen
    return select(want.port, want.protocol, None, ports, told)


def service_is_outdated(known: Known) -> bool:
    """Slices name a port that the Service did not have when it was read: it was changed since."""
    names = {port.name for port in known.service.ports} if known.service is not None else set()
    return bool(names) and any(port.name not in names for record in known.slices or () for port in record.ports)


def _by_dns(known: Known, want: ServiceName, cluster_ip: bool) -> Verdict | None:
    if known.addresses is None:
        return None
    external = known.service is not None and known.service.type == "ExternalName"
    if not known.addresses:
        note = "0 endpoints, DNS knows no such name any more"
        return Verdict(source=Source.DNS, note=note) if _virtual_ip_host(known, want) == "" else None
    headless = is_headless(known)
    if not (want.pod or external or headless or (headless is None and not cluster_ip)):
        return None
    selector = None
    if known.service is not None and not external:
        selector = select(want.port, want.protocol, known.service, ())
    mapped = want.port.number if want.port.is_target else _target_number(known.service, selector)
    number = mapped or _told_port(known, want)
    if not number:
        hint = "write the number, or allow this client to list EndpointSlices"
        raise PortChoiceError(f"DNS gives the pods' addresses without the number of port {want.port or 'any'}", (), hint)
    pods = tuple(Endpoint(host=address, port=number) for address in known.addresses)
    service_port = selector.service_port if selector is not None else number
    concerns = frozenset(() if mapped or external else [Concern.DNS_PORT])
    return Verdict(source=Source.DNS, pods=pods, service_port=service_port, note=_count(pods, want), concerns=concerns)


def _by_virtual_ip(known: Known, want: ServiceName) -> Verdict | None:
    host = _virtual_ip_host(known, want)
    if not host:
        return None
    if known.service is not None:
        selector = select(want.port, want.protocol, known.service, ())
        number = selector.service_port if selector is not None else 0
    else:
        number = _told_port(known, want)
    if not number and known.env is not None:
        number = known.env.port_for(want.port, want.protocol)
    if not number:
        asked = f"target port {want.port.number}" if want.port.is_target else f"port {want.port}" if want.port else "its port"
        name = f"{want.service}.{want.namespace}"
        hint = (
            f"write the Service's port number ({name}:NUMBER), or allow this client to list EndpointSlices and to get the Service"
        )
        raise PortChoiceError(f"{host} may be the ClusterIP, and the Service's number for {asked} is not known", (), hint)
    told_by_env = known.service is None and not known.addresses
    source = Source.ENVIRONMENT if told_by_env else Source.CLUSTER_IP
    return Verdict(source=source, virtual_ip=(host, number), service_port=number, note="its pods are not known")


def _virtual_ip(known: Known, want: ServiceName, selector: PortSelector) -> tuple[str, int] | None:
    """What to fall back to when none of the pods can be connected."""
    host = _virtual_ip_host(known, want)
    return (host, selector.service_port) if host and selector.service_port else None


def _virtual_ip_host(known: Known, want: ServiceName) -> str:
    if want.pod or is_headless(known):
        return ""
    if known.service is not None:
        return known.service.cluster_ips[0] if known.service.cluster_ips else ""
    if known.addresses is not None:
        return (known.answer or known.addresses)[0] if known.addresses else ""
    return known.env.host if known.env is not None else ""


def _told_port(known: Known, want: ServiceName) -> int:
    """The Service's own number, where it was written or stands in the environment; 0 if not."""
    if want.port.number:
        return 0 if want.port.is_target else want.port.number
    default = 0 if want.port.name else DEFAULT_NUMBERS.get(want.protocol, 0)
    try:
        return known.env.port_for(want.port, want.protocol) if known.env is not None else default
    except PortChoiceError:
        return default


def _target_number(service: ServiceRecord | None, selector: PortSelector | None) -> int:
    """The pods' number, if the Service says it as a number."""
    if service is None or selector is None:
        return 0
    if selector.name is None:
        return selector.number
    target = next((port.target_port for port in service.ports if port.name == selector.name), 0)
    return target if isinstance(target, int) else 0


def _selects_pods(service: ServiceRecord | None) -> bool:
    """May an empty list of slices be believed, because the Service itself is known?"""
    return service is not None and service.type != "ExternalName"


def _unlisted(known: Known, pods: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Pods that DNS knows beyond stale slices; only where all pods have one number."""
    numbers = {pod.port for pod in pods}
    listed = {pod.host for pod in pods}
    if len(numbers) != 1:
        return ()
    return tuple(Endpoint(host=address, port=min(numbers)) for address in known.addresses or () if address not in listed)


def _count(pods: Iterable[Endpoint], want: ServiceName) -> str:
    pods = tuple(pods)
    if eligible(pods):
        return ""
    if not pods:
        return f"0 endpoints are {want.pod}" if want.pod else "0 endpoints"
    return f"{len(pods)} endpoint{'s'[: len(pods) > 1]}, none ready"
