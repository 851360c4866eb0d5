"""All slices of one Service, kept by name, and what they say together.

A Service's endpoints are the union of its slices: a slice holds at most about a hundred of them, one per address family, and pods
whose numbers for a named port differ stand in different slices. Taking one slice event for the whole state is the classic mistake.

``SliceReducer`` keeps the state; ``merge`` is the pure function from slices and a port to endpoints:

- an endpoint is there as long as any slice lists it. Copies (same address, port and pod) become one: the more useful conditions
  (ready, then serving while terminating, then neither), and the hints of all;
- a copy without a pod uid belongs to the pod that another copy at its address names;
- a pod with addresses of both families counts once, in the preferred family. A pod is known by its uid, else by hostname and node.
  Where nothing names them (slices written by hand), those of the preferred family stand for all: as behind the ClusterIP of a family,
  which leads to no other;
- every endpoint is kept with its conditions: who may be used is decided elsewhere (``health.selection``), over the union.

The result depends on the slices alone, not on the order in which they came.

Spec: EndpointSlice consumers' rules (KEP-752), dual stack (KEP-563). Deviations: kube-proxy takes whichever copy of a duplicate it
meets first; that order is random, ours is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from meshlb.core.endpoint import Endpoint, Hints
from meshlb.resolve.kubernetes.versions import is_older
from meshlb.resolve.kubernetes.wire import Removal, SliceEvent, SliceRecord
from meshlb.resolve.ports import PortSelector


class SliceReducer:
    """The slices of one Service. Events of the past are recognised by their versions and change nothing.

    ``replace`` and ``apply`` return whether anything is different now, versions aside.
    """

    __slots__ = ("_floor", "_slices")

    def __init__(self) -> None:
        self._slices: dict[str, SliceRecord] = {}
        # Everything up to this version is already in: a list's, or that of the latest MODIFIED or removal. ADDED does not raise
        # it, because a watch that begins without a version sends those in no order.
        self._floor = ""

    @property
    def slices(self) -> tuple[SliceRecord, ...]:
        """By name."""
        return tuple(self._slices[name] for name in sorted(self._slices))

    def replace(self, records: Iterable[SliceRecord], resource_version: str, unreadable: Iterable[str] = ()) -> bool:
        """A list: whoever is not in it is gone, except slices that are, but could not be read; those stay as they were."""
        latest = {record.name: record for record in records}
        for name in unreadable:
            if name in self._slices:
                latest.setdefault(name, self._slices[name])
        changed = self._slices.keys() != latest.keys() or any(
            _differ(self._slices[name], record) for name, record in latest.items()
        )
        self._slices = latest
        self._floor = resource_version
        return changed

    def __contains__(self, name: str) -> bool:
        return name in self._slices

    def apply(self, event: SliceEvent | Removal) -> bool:
        if isinstance(event, Removal):
            if self._is_past(event.resource_version, self._slices.get(event.name)):
                return False
            self._floor = event.resource_version
            return self._slices.pop(event.name, None) is not None
        record = event.slice
        known = self._slices.get(record.name)
        if self._is_past(record.resource_version, known):
            return False
        if event.type != "ADDED":
            self._floor = record.resource_version
        self._slices[record.name] = record
        return known is None or _differ(known, record)

    def _is_past(self, version: str, known: SliceRecord | None) -> bool:
        if version and (version == self._floor or is_older(version, self._floor)):
            return True
        return known is not None and (version == known.resource_version or is_older(version, known.resource_version))


def merge(slices: Iterable[SliceRecord], port: PortSelector, family: str = "") -> tuple[Endpoint, ...]:
    """The endpoints that serve ``port``, sorted by host, port and uid, each with all its conditions.

    ``family``: ``IPv4`` or ``IPv6``, which a pod with both is reached by (the Service's first; IPv4 if unknown).
    """
    found: dict[tuple[str, int], dict[str, Endpoint]] = {}
    for record in sorted(slices, key=lambda record: record.name):
        number = port.number_in(record.ports)
        if not number:
            continue
        for endpoint in record.endpoints:
            copies = found.setdefault((endpoint.host, number), {})
            known = copies.get(endpoint.uid)
            copies[endpoint.uid] = _united(known, endpoint) if known is not None else endpoint
    distinct = []
    for (_, number), copies in sorted(found.items()):
        distinct += [located(endpoint, number) for endpoint in _adopted(copies)]
    return _one_address_a_pod(distinct, six=family == "IPv6")


def _adopted(copies: dict[str, Endpoint]) -> list[Endpoint]:
    """The pods at one address, by uid; a nameless copy is joined with the most useful of them."""
    nameless = copies.pop("", None)
    pods = [copies[uid] for uid in sorted(copies)]
    if nameless is None:
        return pods
    if not pods:
        return [nameless]
    owner = max(pods, key=_usefulness)
    united = _united(owner, nameless)
    return [replace(united, uid=owner.uid, name=owner.name) if pod is owner else pod for pod in pods]


def _united(one: Endpoint, other: Endpoint) -> Endpoint:
    best = other if _usefulness(other) > _usefulness(one) else one
    if one.hints == other.hints:
        return best
    zones = tuple(sorted({*one.hints.zones, *other.hints.zones}))
    return replace(best, hints=Hints(zones, tuple(sorted({*one.hints.nodes, *other.hints.nodes}))))


def _usefulness(endpoint: Endpoint) -> int:
    return 2 if endpoint.ready else 1 if endpoint.serving and endpoint.terminating else 0


def located(endpoint: Endpoint, port: int) -> Endpoint:
    """A slice's endpoint at this port."""
    return Endpoint(
        host=endpoint.host,
        port=port,
        uid=endpoint.uid,
        name=endpoint.name,
        locality=endpoint.locality,
        node=endpoint.node,
        weight=endpoint.weight,
        hostname=endpoint.hostname,
        hints=endpoint.hints,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
    )


def _one_address_a_pod(endpoints: list[Endpoint], *, six: bool) -> tuple[Endpoint, ...]:
    """Drop a pod's addresses of the other family where it has one of the preferred; None stands for all that have no name."""
    preferred = {_pod(endpoint) for endpoint in endpoints if (":" in endpoint.host) == six}
    return tuple(endpoint for endpoint in endpoints if (":" in endpoint.host) == six or _pod(endpoint) not in preferred)


def _pod(endpoint: Endpoint) -> str | tuple[str, str] | None:
    return endpoint.uid or ((endpoint.hostname, endpoint.node) if endpoint.hostname else None)


def _differ(known: SliceRecord, record: SliceRecord) -> bool:
    return known.endpoints != record.endpoints or known.ports != record.ports or known.headless != record.headless
