"""The contract between a source of endpoints and who listens to it.

Sources push *whole* states (``EndpointSet``), never deltas. A failure travels as ``on_error`` and changes nothing about the set
known so far: who listens keeps the last good one.

Spec: gRPC's Resolver contract (grpc-go resolver.go): ``resolve_now`` is a hint, results are complete.
"""

from __future__ import annotations

from typing import Protocol

from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError


class Listener(Protocol):
    """Who hears a resolver. Both methods are called on the discovery thread, one at a time, and must not block."""

    def on_endpoints(self, endpoints: EndpointSet, /) -> None: ...

    def on_error(self, error: ResolveError, /) -> None: ...


class Resolver(Protocol):
    """A source of endpoints for one target. Every method is called on the discovery thread and returns at once."""

    def start(self, listener: Listener, /) -> None: ...

    def resolve_now(self) -> None:
        """A hint that what is known may be stale (a connect failed); the resolver decides whether and when to ask again."""
        ...

    def close(self) -> None: ...
