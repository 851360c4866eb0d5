"""What a chain needs of its sources, as protocols: the seams where tests script what is said."""

from __future__ import annotations

from typing import Protocol

from meshlb.core.resolver import Resolver
from meshlb.resolve.kubernetes.feed import SlicesListener
from meshlb.resolve.kubernetes.source import ServiceDone


class Closable(Protocol):
    def close(self) -> None: ...


class SlicesSource(Protocol):
    """``kubernetes.source.KubernetesSource``: tells in callbacks of their own, never within the call."""

    def watch(self, namespace: str, service: str, listener: SlicesListener, /) -> Closable: ...

    def get_service(self, namespace: str, name: str, done: ServiceDone, /) -> None: ...


class DnsSource(Resolver, Protocol):
    """``service_dns.ServiceDns``: addresses with port 0; ``together`` if one answer held several; ``answer`` is the last one."""

    together: bool
    answer: tuple[str, ...]
