"""Which of the endpoints a control plane lists may take new work: what kube-proxy decides for a caller, as one pure function.

1. **Ready** endpoints. Where the control plane gave *every* one of them a hint, only those hinted for the caller: for its node, if
   each has a node hint and some name it; else for its zone, by the same rule. There is no spill-over once a rule holds: one ready
   endpoint in the zone takes all that zone's calls, as with kube-proxy.
2. If none is ready, those that still **serve while they terminate** (KEP-1669: the last resort of a full roll-over), wherever.
3. Nothing else: never one that is neither.

With ``local_only`` (``internalTrafficPolicy: Local``) the same by node instead of by hint: the ready endpoints on the caller's node,
else those there that serve while they terminate, else none, however many there are elsewhere (kube-proxy drops the packets).

A terminating endpoint is not ready any more and never chosen while a ready one exists, so new work leaves a pod as soon as its
deletion is announced. (A Service with ``publishNotReadyAddresses`` calls all of its pods ready, also those that terminate: the
controller folds that into ``ready``, and it is not applied again here.)

A node or zone that is not known (``""``) matches nothing: hints are then passed over, and ``local_only`` leaves no endpoint. Whoever
does not know its node asks the ClusterIP instead, whose kernel does (``resolve.ranking``).

Spec: pkg/proxy/topology.go CategorizeEndpoints and topologyModeFromHints, for traffic of pods to a ClusterIP; KEP-2433, KEP-4444,
KEP-3015 (node hints), KEP-2086 (Local).
"""

from __future__ import annotations

from collections.abc import Iterable

from meshlb.core.endpoint import NO_PLACE, Endpoint, EndpointSet, Place


def eligible(endpoints: Iterable[Endpoint], place: Place = NO_PLACE, local_only: bool = False) -> tuple[Endpoint, ...]:
    """The endpoints that may be used by a caller at ``place``, in the order given."""
    listed = tuple(endpoints)
    if local_only:
        listed = tuple(endpoint for endpoint in listed if place.node and endpoint.node == place.node)
    ready = tuple(endpoint for endpoint in listed if endpoint.ready)
    if not ready:
        return tuple(endpoint for endpoint in listed if endpoint.serving and endpoint.terminating)
    return ready if local_only else _hinted(ready, place)


def any_eligible(endpoints: Iterable[Endpoint], place: Place = NO_PLACE, local_only: bool = False) -> bool:
    """Is ``eligible`` more than nothing? Hints never leave nothing, so the first endpoint mostly tells."""
    if local_only:
        endpoints = (endpoint for endpoint in endpoints if place.node and endpoint.node == place.node)
    return any(endpoint.ready or (endpoint.serving and endpoint.terminating) for endpoint in endpoints)


def eligible_of(latest: EndpointSet) -> tuple[Endpoint, ...]:
    """``eligible`` for a whole set, by its own place and policy."""
    return eligible(latest.endpoints, latest.place, latest.local_only)


def any_eligible_of(latest: EndpointSet) -> bool:
    """``any_eligible`` for a whole set, by its own place and policy."""
    return any_eligible(latest.endpoints, latest.place, latest.local_only)


def _hinted(ready: tuple[Endpoint, ...], place: Place) -> tuple[Endpoint, ...]:
    """Those that the hints mean for this place; all of them where the hints decide nothing."""
    if place.node and all(endpoint.hints.nodes for endpoint in ready):
        near = tuple(endpoint for endpoint in ready if place.node in endpoint.hints.nodes)
        if near:
            return near
    if place.zone and all(endpoint.hints.zones for endpoint in ready):
        near = tuple(endpoint for endpoint in ready if place.zone in endpoint.hints.zones)
        if near:
            return near
    return ready
