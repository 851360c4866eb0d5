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
headless Service that DNS lists beyond them are added. ``dns_confirms``: DNS had the time to answer twice since, and wholly, so that a
pod which it does not list is *unverified* at once; where it cannot tell (a ClusterIP, an answer that was cut off, ``dns_lost``: it was
away as long) all are that it does not list, after ``unverified``. An unverified pod stays, and works on for as long as its connection lasts: nobody else can have that. Once it is lost,
whoever answers there may be another pod that got the address, and the pool prefers everybody else, the ClusterIP too.

``internalTrafficPolicy: Local`` is kept for whoever knows its node. Who does not uses the ClusterIP, whose kernel does: calls to another
node's pods would break the Service's promise, and none at all would be worse than without this library. Who may not read the
Service does not know its policy, and uses every pod. This is the one exception to the promise that a published pod set is displaced by
the ClusterIP only while no pod is known or none can be connected: the Service may be read after its pods were published, or be given
this policy later, and from then on their connections are not the caller's to use. It is the Service's own word that displaces them.

A port that was found once is found by its number when its name is gone: the slices say at once that it was renamed, the Service only
when it is read again. Where that fails as well nobody can map the port, and ``chain`` keeps the pods that are published.

``also_family``: while the preferred family changes, pods are listed by their addresses of both.

``truncated``: an Endpoints object that is full lists some of the pods, so it adds to the slices known before, and confirms those that it lists.
"""

from __future__ import annotations

from dataclasses import replace

from meshlb.core.endpoint import NO_PLACE, Endpoint
from meshlb.health.selection import any_eligible
from meshlb.resolve.known import Concern, Known, ServiceName, Source, Verdict, count, family_of, is_headless
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.ports import PortChoiceError, PortSelector, select
from meshlb.resolve.ranking_addresses import by_dns, by_virtual_ip, told_port, virtual_ip_host


def decide(known: Known, want: ServiceName, *, cluster_ip: bool = True) -> Verdict:
    """The best that can be said now. Without ``cluster_ip``, an address that may be one is used only if it may also be a pod."""
    try:
        return _decide(known, want, cluster_ip)
    except PortChoiceError as error:
        return Verdict(source=Source.NOTHING, problem=str(error), port_wrong=True)


def _decide(known: Known, want: ServiceName, cluster_ip: bool) -> Verdict:
    verdict = _by_slices(known, want, cluster_ip) or by_dns(known, want, cluster_ip) or by_virtual_ip(known, want)
    if verdict is None:
        return Verdict(source=Source.NOTHING)
    if verdict.source is Source.DNS and known.dns_lost:
        verdict = replace(verdict, unverified=_hosts(verdict.pods))
    if not cluster_ip and verdict.source in (Source.CLUSTER_IP, Source.ENVIRONMENT):
        return Verdict(source=Source.NOTHING, problem="only its ClusterIP is known, and the fallback is switched off")
    if not cluster_ip:
        return replace(verdict, virtual_ip=None)
    if not want.pods and verdict.pods and verdict.virtual_ip is not None:
        place, note = verdict.virtual_ip, "a sidecar balances over its pods"
        return Verdict(source=Source.CLUSTER_IP, virtual_ip=place, service_port=verdict.service_port, note=note)
    return verdict


def _by_slices(known: Known, want: ServiceName, cluster_ip: bool) -> Verdict | None:
    if known.slices is None or (not known.slices and not known.seen and not _selects_pods(known.service)):
        return None
    slices = known.slices + known.before
    headless = is_headless(known)
    selector = _select(known, want, slices)
    if selector is None:
        verdict = by_virtual_ip(known, want)
        if verdict is None:
            names = sorted({port.name or str(port.port) for record in slices for port in record.ports})
            raise PortChoiceError(f"{want.port} is no pod's port, and the Service that maps it cannot be read", names)
        return replace(verdict, concerns=frozenset([Concern.NUMBER_UNMAPPED]))
    pods: tuple[Endpoint, ...] = known.merger.merge(slices, selector, family_of(known))
    if known.also_family:
        listed = set(pods)
        pods += tuple(pod for pod in merge(slices, selector, known.also_family) if pod not in listed)
    if want.pod:
        pods = tuple(pod for pod in pods if want.pod in (pod.hostname, pod.name))
    if known.stale and headless and not want.pod:
        pods += _unlisted(known, pods)
    # One pod by its name is no traffic of the Service: neither its policy nor its hints are meant for that.
    place, local_only = (NO_PLACE, False) if want.pod else (known.place, known.service is not None and known.service.local_only)
    virtual_ip = _virtual_ip(known, want, selector) if any_eligible(pods, place, local_only) else None
    if local_only and not place.node and cluster_ip and any_eligible(pods) and (verdict := by_virtual_ip(known, want)) is not None:
        note = "internalTrafficPolicy is Local, and this client's node is not known"
        return replace(verdict, note=note, concerns=frozenset([Concern.NODE_UNKNOWN]))
    return Verdict(
        source=Source.ENDPOINTS if known.legacy else Source.KUBERNETES,
        pods=pods,
        virtual_ip=virtual_ip,
        service_port=selector.service_port,
        selector=selector,
        note=count(pods, want, place, local_only) or ("the list is cut off" if known.truncated else ""),
        place=place,
        local_only=local_only,
        unverified=_unverified(known, pods, headless=bool(headless)),
        affinity_s=0.0 if want.pod or known.service is None else known.service.affinity_s,
        concerns=frozenset([Concern.TRUNCATED] if known.truncated else []),
    )


def _select(known: Known, want: ServiceName, slices: tuple[SliceRecord, ...]) -> PortSelector | None:
    """By the Service's word; where that is missing or older than the slices, by the last choice or by the slices alone."""
    ports, told = [record.ports for record in slices], told_port(known, want)
    if want.port.is_target or (known.service is not None and not service_is_outdated(known)):
        return select(want.port, want.protocol, known.service, ports, told)
    listed = [port for record in slices if record.endpoints for port in record.ports]
    if known.chosen is not None and known.chosen.name in [port.name for port in listed]:
        return known.chosen
    selector = select(want.port, want.protocol, None, ports, told)
    if selector is None and known.chosen is not None and len(known.dialled) == 1:
        (number,) = known.dialled
        if any(port.port == number for port in listed):
            return PortSelector(number=number, listed=True, service_port=known.chosen.service_port)
    return selector


def numbers_by(selector: PortSelector, known: Known) -> frozenset[int]:
    """What it says to dial on the pods of today's slices."""
    return frozenset(selector.number_in(record.ports) for record in known.slices or () if record.endpoints) - {0}


def service_is_outdated(known: Known) -> bool:
    """Slices name a port that the Service did not have when it was read, or are there at all for an external name: it was changed
    since."""
    if known.service is not None and known.service.external_name:
        return any(record.endpoints for record in known.slices or ())
    names = {port.name for port in known.service.ports} if known.service is not None else set()
    return bool(names) and any(port.name not in names for record in known.slices or () for port in record.ports)


def _virtual_ip(known: Known, want: ServiceName, selector: PortSelector) -> tuple[str, int] | None:
    """What to fall back to when none of the pods can be connected."""
    host = virtual_ip_host(known, want)
    return (host, selector.service_port) if host and selector.service_port else None


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


def _unverified(known: Known, pods: tuple[Endpoint, ...], *, headless: bool) -> frozenset[str]:
    """Whose address may be somebody else's by now; see the module head."""
    if known.stale and headless and known.addresses is not None and known.dns_confirms and not known.dns_lost:
        return _hosts(pods).difference(known.addresses)
    if known.unverified:
        listed_now = known.stale and headless and known.addresses is not None and not known.dns_lost
        return _hosts(pods).difference(known.answer if listed_now else ())
    if known.before:
        return _hosts(pods).difference(endpoint.host for record in known.slices or () for endpoint in record.endpoints)
    return frozenset()


def _hosts(pods: tuple[Endpoint, ...]) -> frozenset[str]:
    return frozenset(pod.host for pod in pods)
