"""What a chain needs of its sources, as protocols: the seams where tests script what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Resolver
from meshlb.errors import ResolveError
from meshlb.resolve.kubernetes.feed import SlicesListener
from meshlb.resolve.kubernetes.source import ServiceDone
from meshlb.resolve.lookup import SrvEndpoint


class Watched(Protocol):
    def close(self) -> None: ...

    def hurry(self) -> None:
        """Nobody else can answer meanwhile: do not wait for a moment of our own."""
        ...


class SlicesSource(Protocol):
    """``kubernetes.source.KubernetesSource``: tells in callbacks of their own, never within the call."""

    def watch(self, namespace: str, service: str, listener: SlicesListener, /) -> Watched: ...

    def get_service(self, namespace: str, name: str, done: ServiceDone, /) -> None: ...


class DnsSource(Resolver, Protocol):
    """``service_dns.ServiceDns``: addresses with port 0; ``answer`` is the last one, ``complete`` if it was whole, ``together`` if its
    address is known as one of several.

    ``answered_s``: when it last said anything. ``records``: what SRV says of these addresses, None if it was never answered. ``alias``: the host name that the Service stands for.
    """

    together: bool
    answer: tuple[str, ...]
    complete: bool
    answered_s: float | None
    records: tuple[SrvEndpoint, ...] | None
    alias: str

    def describe(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class Heard:
    """A ``Listener`` made of two functions: who asks several sources has several ears."""

    on_endpoints: Callable[[EndpointSet], None]
    on_error: Callable[[ResolveError], None]
