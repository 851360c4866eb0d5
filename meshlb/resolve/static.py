"""Endpoints that are written in the target itself: published once, never changed."""

from __future__ import annotations

from collections.abc import Iterable

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.resolver import Listener


class StaticResolver:
    """The endpoints as given, weights included; the listener hears them within ``start``."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = EndpointSet.of(endpoints, "static")

    def start(self, listener: Listener, /) -> None:
        listener.on_endpoints(self._endpoints)

    def resolve_now(self) -> None:
        """There is nothing to ask."""

    def close(self) -> None:
        """There is nothing to end."""

    def __repr__(self) -> str:
        return f"<StaticResolver {', '.join(map(str, self._endpoints.endpoints))}>"
