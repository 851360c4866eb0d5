"""A name asked of DNS: in which address family, along which search list, and after which aliases. Who is asked: ``nameservers``.

One family is used, never both: a headless dual-stack Service lists the same pods under A and under AAAA, and a pod that is in the
set twice would get twice the calls. IPv4 first, unless this host can reach IPv6 and not IPv4; the other family is asked only if the
first answers that it has no address. So a nameserver that fails on AAAA alone (a common fault) cannot disturb anybody, and one that
fails on A makes the look-up fail instead of moving everyone to the other family for a moment.

Search. Off by default: cluster names are asked absolute (with ndots:5 a full name costs four queries otherwise). With ``search``
as glibc does it: names with at least ndots dots first as they are, others last. A step that *fails* ends the walk: a later step may
well answer, but for another name.

Aliases. A server that answers with a CNAME alone, and not with what it leads to, is asked for that name, at most ``MAX_ALIASES``
times and never twice for one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.nameservers import Nameservers
from meshlb.resolve.resolv_conf import ResolvConf, ResolvConfFile
from meshlb.resolve.routes import has_route

TOTAL_S: Final = 4.5  # below the 5 s that a first call may wait for an answer
LOCALHOST_TTL_S: Final = 30.0
MAX_ALIASES: Final = 8  # as CoreDNS has it
_KINDS: Final = {"ipv4": "A", "ipv6": "AAAA"}
_PROBES: Final = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}  # documentation addresses (RFC 5737, RFC 3849); nothing is sent
_LOOPBACK: Final = {"ipv4": "127.0.0.1", "ipv6": "::1"}


class DnsClient:
    """Asks ``nameservers`` (each ``ip``, ``ip:port`` or ``[v6]:port``), or those of ``resolv_conf``, which is read every time.

    ``lookup`` and ``srv`` block, for helper threads; several of them may share a client.
    """

    def __init__(self, *, nameservers: Sequence[str] = (), resolv_conf: str = "/etc/resolv.conf") -> None:
        self._file = ResolvConfFile(resolv_conf)
        self._servers = Nameservers(nameservers, self._file)

    def lookup(self, name: str, *, search: bool = False, within_s: float = TOTAL_S) -> Lookup:
        """What the nameservers say about the name's addresses, in at most ``within_s``. Without ``search`` the name is absolute.

        Raises nothing for what a network or a server does (that is FAILED with a reason), ImportError if dnspython is broken.
        """
        deadline_s = time.monotonic() + within_s
        families = family_order()
        if name.rstrip(".").lower() == "localhost":  # RFC 6761 6.3: never asked of a server
            return Lookup(name=name, found=Found.ADDRESSES, addresses=(_LOOPBACK[families[0]],), ttl_s=LOCALHOST_TTL_S)
        found = Lookup(name=name, found=Found.FAILED, reason="no name to ask for")
        for candidate in candidates(name, self._file.current()) if search else (name,):
            found = self._either_family(candidate, families, deadline_s)
            if not found.absent:
                break
        return replace(found, name=name)

    def srv(self, name: str, *, within_s: float = TOTAL_S) -> Lookup:
        """The SRV records of an absolute name, with the addresses that came along. As long at most, and raises, as ``lookup``."""
        return self._servers.ask(name, "SRV", family_order(), time.monotonic() + within_s)

    def describe(self) -> dict[str, object]:
        """Plain data: the nameservers, and how often each answer and each failure was met."""
        return self._servers.describe()

    def _either_family(self, name: str, families: Sequence[str], deadline_s: float) -> Lookup:
        for family in families:
            found = self._following(name, _KINDS[family], deadline_s)
            if found.found is not Found.NO_ADDRESS:
                break
        return found

    def _following(self, name: str, kind: str, deadline_s: float) -> Lookup:
        """Along aliases that the server did not follow itself."""
        found = self._servers.ask(name, kind, (), deadline_s)
        seen = {name.rstrip(".").lower(), ""}
        while found.found is Found.NO_ADDRESS and found.canonical_name not in seen:
            seen.add(found.canonical_name)
            if len(seen) > MAX_ALIASES:
                return replace(found, found=Found.FAILED, reason="too many aliases", code="INVALID")
            further = self._servers.ask(found.canonical_name + ".", kind, (), deadline_s)
            found = replace(further, alias=found.alias, canonical_name=further.canonical_name or found.canonical_name)
        return found


def candidates(name: str, conf: ResolvConf) -> tuple[str, ...]:
    """The absolute names that a name with search stands for, in the order to ask (resolv.conf(5), ndots)."""
    if name.endswith("."):
        return (name,)
    extended = tuple(f"{name}.{domain}" for domain in conf.search)
    return (name, *extended) if name.count(".") >= conf.ndots else (*extended, name)


def family_order() -> tuple[str, str]:
    """IPv4 first, unless only IPv6 has a route from here."""
    return ("ipv6", "ipv4") if _has_route("ipv6") and not _has_route("ipv4") else ("ipv4", "ipv6")


def _has_route(family: str) -> bool:
    return has_route(_PROBES[family])
