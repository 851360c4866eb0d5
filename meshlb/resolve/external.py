"""A Service of type ExternalName: a name that stands for another one. Whoever resolves that other name resolves this Service.

The external name is followed as any name is: one of this cluster's own (``orders.shop.svc.<zone>``) as the Service that it is, with its
pods; every other by DNS, at its own TTL. Its sets go on unchanged but for ``authority_host``: the server behind it knows itself by the
external name, not by the Service's, so requests and certificates carry that. Of names that lead to names the last one counts.

Spec: core/v1 Service ``externalName``: a CNAME, no proxying, no endpoints, the port as the caller writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener, Resolver
from meshlb.errors import ResolveError
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.ports import PortChoiceError

MAX_STEPS = 8  # from name to name; DNS servers give up at about as many
NewExternal = Callable[[str, ServiceRecord | None], Resolver]


class ExternalName:
    """Follows one name at a time for ``listener``; lives on the discovery thread. ``new`` makes the resolver of a name, and may raise
    ResolveError (a circle) or PortChoiceError (no number for the port)."""

    def __init__(self, title: str, new: NewExternal, listener: Listener) -> None:
        self.name = ""
        self._title = title
        self._new = new
        self._listener = listener
        self._resolver: Resolver | None = None

    def follow(self, name: str, service: ServiceRecord | None) -> bool:
        """Follow this name from now on, none if it is empty; whether one is followed. A name that is followed already goes on."""
        if name != self.name:
            self.close()
            self.name = name
            if name:
                self._start(service)
        return bool(name)

    def resolve_now(self) -> None:
        if self._resolver is not None:
            self._resolver.resolve_now()

    def close(self) -> None:
        self.name = ""
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None

    # --- Listener ---------------------------------------------------------------------------------------------------------

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        if self._resolver is not None:
            self._listener.on_endpoints(replace(endpoints, authority_host=endpoints.authority_host or self.name))

    def on_error(self, error: ResolveError, /) -> None:
        if self._resolver is not None:
            self._tell(error.causes or [str(error)])

    def _start(self, service: ServiceRecord | None) -> None:
        try:
            self._resolver = self._new(self.name, service)
        except PortChoiceError as error:
            self._tell([str(error)])
        except ResolveError as error:
            self._tell(error.causes)
        else:
            self._resolver.start(self)

    def _tell(self, causes: list[str] | tuple[str, ...]) -> None:
        self._listener.on_error(ResolveError(self._title, causes, summary=f"its external name {self.name} cannot be resolved"))


def circle(path: tuple[str, ...], name: str) -> ResolveError | None:
    """What is wrong with following ``name`` after all of ``path``, if anything is."""
    if name in path:
        return ResolveError(name, [f"external names lead in a circle: {' → '.join((*path, name))}"])
    if len(path) >= MAX_STEPS:
        return ResolveError(name, [f"more than {MAX_STEPS} external names lead to each other: {' → '.join((*path, name))}"])
    return None
