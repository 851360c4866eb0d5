"""I/O driver: a name asked of the nameservers in turn, in both address families, along the search list, within a bound.

One family is used, never both: a headless dual-stack Service lists the same pods under A and under AAAA, and a pod that is in the
set twice would get twice the calls. IPv4 first, unless this host can reach IPv6 and not IPv4; the other family is asked only if the
first answers that it has no address. So a nameserver that fails on AAAA alone (a common fault) cannot disturb anybody, and one that
fails on A makes the look-up fail instead of moving everyone to the other family for a moment.

Nameservers. A question waits 1 s for a reply the first time, 2 s in further rounds, then goes to the next server, until the whole
look-up has taken ``TOTAL_S``. One that answers with an error is not asked again in that look-up. The next look-up starts with the
server that answered last.

Search. Off by default: cluster names are asked absolute (with ndots:5 a full name costs four queries otherwise). With ``search``
as glibc does it: names with at least ndots dots first as they are, others last. A step that *fails* ends the walk: a later step may
well answer, but for another name.

Deviations: ``timeout`` and ``attempts`` of resolv.conf are not used (5 s and more for one dead server, on a start that shall take
milliseconds); ``rotate`` is not, the reads of one process are few.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.resolv_conf import ResolvConf, ResolvConfFile

FIRST_TRY_S: Final = 1.0  # a lost packet or a dead first server costs this much; an answer takes milliseconds
TRY_S: Final = 2.0
TOTAL_S: Final = 4.5  # below the 5 s that a first call may wait for an answer
LOCALHOST_TTL_S: Final = 30.0
# Documentation addresses (RFC 5737, RFC 3849): a UDP connect sends nothing, it only asks the routing table.
_PROBES: Final = {"ipv4": (socket.AF_INET, "192.0.2.1"), "ipv6": (socket.AF_INET6, "2001:db8::1")}
_LOOPBACK: Final = {"ipv4": "127.0.0.1", "ipv6": "::1"}


class DnsClient:
    """Asks ``nameservers`` (each ``ip``, ``ip:port`` or ``[v6]:port``), or those of ``resolv_conf``, read again when it changes.

    ``family``: ``auto``, ``ipv4`` or ``ipv6``. ``lookup`` blocks, for helper threads; several of them may share a client.
    """

    def __init__(self, *, nameservers: Sequence[str] = (), resolv_conf: str = "/etc/resolv.conf", family: str = "auto") -> None:
        self._configured = tuple(nameservers)
        self._file = ResolvConfFile(resolv_conf)
        self._family = family
        self._answered_last = ""

    def lookup(self, name: str, *, search: bool = False) -> Lookup:
        """What the nameservers say about the name, in at most ``TOTAL_S`` seconds. Without ``search`` the name is absolute.

        Raises nothing for what a network or a server does (that is FAILED with a reason), ImportError if dnspython is broken.
        """
        conf = self._file.current()
        families = family_order() if self._family == "auto" else (self._family,)
        if name.rstrip(".").lower() == "localhost":  # RFC 6761 6.3: never asked of a server
            return Lookup(name=name, found=Found.ADDRESSES, addresses=(_LOOPBACK[families[0]],), ttl_s=LOCALHOST_TTL_S)
        servers = self._configured or conf.nameservers
        if not servers:
            return Lookup(name=name, found=Found.FAILED, reason=f"no nameserver: {conf.problem or f'{self._file.path} names none'}")
        deadline_s = time.monotonic() + TOTAL_S
        found = Lookup(name=name, found=Found.FAILED, reason="no name to ask for")
        for candidate in candidates(name, conf) if search else (name,):
            found = self._either_family(candidate, families, servers, deadline_s)
            if not found.absent:
                break
        return replace(found, name=name)

    def _either_family(self, name: str, families: Sequence[str], servers: Sequence[str], deadline_s: float) -> Lookup:
        found = self._ask_in_turn(name, families[0], servers, deadline_s)
        if found.found is not Found.NO_ADDRESS or len(families) == 1:
            return found
        return self._ask_in_turn(name, families[1], servers, deadline_s)

    def _ask_in_turn(self, name: str, family: str, servers: Sequence[str], deadline_s: float) -> Lookup:
        with fork_gate:
            from meshlb.resolve import dns_exchange
        left = sorted(servers, key=lambda server: server != self._answered_last)  # stable: the others keep their order
        said: dict[str, str] = {}
        timeouts_s = itertools.chain([FIRST_TRY_S], itertools.repeat(TRY_S))
        while left and time.monotonic() < deadline_s:
            timeout_s = next(timeouts_s)
            for server in tuple(left):
                try:
                    remaining_s = max(0.0, deadline_s - time.monotonic())
                    found = dns_exchange.ask(name, family, split_server(server), min(timeout_s, remaining_s))
                except ValueError as error:
                    return Lookup(name=name, found=Found.FAILED, reason=str(error))
                except TimeoutError:
                    said.setdefault(server, "no reply")
                    continue
                except OSError as error:
                    found = Lookup(name=name, found=Found.FAILED, reason=error.strerror or str(error))
                if found.found is not Found.FAILED:
                    self._answered_last = server
                    return found
                said[server] = found.reason
                left.remove(server)  # what says no at once would only say it again, thousands of times
        reason = ", ".join(f"{what} from {server}" for server, what in said.items())
        return Lookup(name=name, found=Found.FAILED, reason=reason or "no time left to ask")


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
    kind, address = _PROBES[family]
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True


def split_server(text: str) -> tuple[str, int]:
    """``10.0.0.1``, ``10.0.0.1:53``, ``fd00::1``, ``fe80::1%eth0`` or ``[fd00::1]:53`` -> (address, port)."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, int(rest.removeprefix(":") or 53)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, int(port)
    return text, 53
