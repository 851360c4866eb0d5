"""I/O driver: an ordinary name, resolved as every other program on this host resolves it: nsswitch, /etc/hosts, mDNS, NSS caches.

``getaddrinfo`` tells no TTL, so it is asked again every 30 s: the TTL of a default Corefile, and the least interval of gRPC's own
resolver. It orders by RFC 6724, which knows what this host can reach, so the family of its first address is the one that is used;
see ``polled`` for the other.

It says "no such name" also when a server is down or misconfigured, so an error never empties what is known.

Limits: it may block for as long as resolv.conf allows (10 s and more for one dead server); two at a time do (``may_hang``), the
others wait.
"""

from __future__ import annotations

import socket
from typing import Final

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.polled import PolledResolver

INTERVAL_S: Final = 30.0


class SystemResolver(PolledResolver):
    """The addresses that the system gives for ``host``, each with ``port``."""

    def __init__(self, host: str, port: int, *, scheduler: Scheduler, rng: Rng) -> None:
        super().__init__(host, port, lambda: system_lookup(host), source="system", scheduler=scheduler, rng=rng, may_hang=True)


def system_lookup(host: str) -> Lookup:
    """Blocks. FAILED, with the system's own words, for every error."""
    try:
        results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is empty or too long
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Lookup(name=host, found=Found.FAILED, reason=reason)
    addresses = dict.fromkeys(_literal(sockaddr) for family, *_, sockaddr in results if family in (socket.AF_INET, socket.AF_INET6))
    if not addresses:
        return Lookup(name=host, found=Found.FAILED, reason="no IPv4 or IPv6 address")
    return Lookup(name=host, found=Found.ADDRESSES, addresses=tuple(addresses), ttl_s=INTERVAL_S)


def _literal(sockaddr: tuple[object, ...]) -> str:
    """A link-local address keeps its ``%scope``, which some systems give as a number beside it only."""
    host = str(sockaddr[0])
    scope = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host
