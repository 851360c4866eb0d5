"""Which of the endpoints a control plane lists may take new work: what kube-proxy decides for a caller, as one pure function.

Ready endpoints if there is any; else those that still serve while they terminate (KEP-1669: the last resort of a full roll-over);
never one that is neither. A terminating endpoint is not ready any more and never chosen while a ready one exists, so new work
leaves a pod as soon as its deletion is announced. (A Service with ``publishNotReadyAddresses`` calls all of its pods ready, also
those that terminate: then all are used.)

Spec: pkg/proxy/topology.go CategorizeEndpoints, without hints and Local policies.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshlb.core.endpoint import Endpoint


def eligible(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The endpoints that may be used, in the order given."""
    listed = tuple(endpoints)
    ready = tuple(endpoint for endpoint in listed if endpoint.ready)
    if ready:
        return ready
    return tuple(endpoint for endpoint in listed if endpoint.serving and endpoint.terminating)
