"""I/O driver: one question asked of the nameservers in turn, until one answers, within a bound.

A question waits ``FAILOVER_S`` for a reply if there is another server, then goes to that one; in further rounds longer, until its
time is over. The next question starts with the server that answered last, so a dead one costs once. One that answers with an error
is not asked again for the same question: it would only say it again, thousands of times.

An answer that was cut off is fetched over TCP from the same server. Where that fails (port 53 closed for TCP by a network policy)
what did arrive is used as far as it goes, at once, for ``TCP_PAUSE_S``; then TCP is tried again. It is logged once a server.

NodeLocal DNSCache listens on a link-local address that is often the only nameserver of a pod, so the whole node loses DNS while it
restarts. The cluster's own DNS is looked up through it once, and asked when it is silent.

Deviations: ``timeout``, ``attempts`` and ``rotate`` of resolv.conf are not used (5 s and more for one dead server, on a start that
shall take milliseconds; the questions of one process are few).
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.resolv_conf import ResolvConfFile, split_server

FAILOVER_S: Final = 0.2  # cluster DNS answers in milliseconds, and an answer after 0.25 s finds the ClusterIP in use
FIRST_TRY_S: Final = 1.0  # what a lost packet costs
TRY_S: Final = 2.0
TCP_S: Final = 1.0
TCP_PAUSE_S: Final = 30.0
KUBE_DNS: Final = "kube-dns.kube-system.svc"  # by this name also where it is CoreDNS

_log = logging.getLogger("meshlb.resolve")


class Nameservers:
    """``configured`` (each ``ip``, ``ip:port`` or ``[v6]:port``), else those of the file. ``ask`` blocks; any thread."""

    def __init__(self, configured: Sequence[str], file: ResolvConfFile) -> None:
        self._configured = tuple(configured)
        self._file = file
        self._answered = False
        self._answered_last = ""
        self._spare: str | None = None  # the cluster's own DNS behind a node-local cache; empty: looked for and not found
        self._without_tcp: dict[str, tuple[float, str]] = {}  # server -> until when it is not tried, and what went wrong
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def ask(self, name: str, kind: str, families: Sequence[str], deadline_s: float) -> Lookup:
        """The first answer to one question (A, AAAA or SRV); FAILED with what each server did if none gives one by then.

        Raises ImportError if dnspython is broken, and nothing for what a network or a server does.
        """
        servers = self.addresses
        if not servers:
            return Lookup(name=name, found=Found.FAILED, reason=f"no nameserver: {self._file.problem}", code="UNREACHABLE")
        found = self._in_turn(servers, name, kind, families, deadline_s)
        if self._spare is None and found.found is not Found.FAILED:
            if self._answered:
                self._find_spare(deadline_s)
            self._answered = True
        return found

    @property
    def addresses(self) -> tuple[str, ...]:
        """In the order in which they are configured."""
        servers = self._configured or self._file.current().nameservers
        return (*servers, self._spare) if self._spare and self._spare not in servers else servers

    def _in_turn(self, servers: Sequence[str], name: str, kind: str, families: Sequence[str], deadline_s: float) -> Lookup:
        left = sorted(servers, key=lambda server: server != self._answered_last)  # stable: the others keep their order
        said: dict[str, Lookup] = {}
        tries_s = itertools.chain([FAILOVER_S] * (len(left) > 1), [FIRST_TRY_S], itertools.repeat(TRY_S))
        while left and time.monotonic() < deadline_s:
            timeout_s = next(tries_s)
            for server in tuple(left):
                found = self._once(server, name, kind, families, timeout_s, deadline_s)
                if found.found is not Found.FAILED:
                    self._answered_last = server
                    return found
                if found.code == "INVALID NAME":
                    return found
                if found.code != "TIMEOUT":
                    left.remove(server)
                    said[server] = found
                said.setdefault(server, found)
        reason = ", ".join(f"{found.reason} from {server}" for server, found in said.items()) or "no time left to ask"
        return Lookup(name=name, found=Found.FAILED, reason=reason, code=next((found.code for found in said.values()), "TIMEOUT"))

    def _once(self, server: str, name: str, kind: str, families: Sequence[str], timeout_s: float, deadline_s: float) -> Lookup:
        with fork_gate:
            from meshlb.resolve import dns_exchange
        until_s, problem = self._without_tcp.get(server, (0.0, ""))
        tcp_s = 0.0 if time.monotonic() < until_s else TCP_S
        try:
            left_s = max(0.0, min(timeout_s, deadline_s - time.monotonic()))
            found = dns_exchange.ask(
                name, kind, split_server(server), left_s, tcp_timeout_s=tcp_s, families=families, until_s=deadline_s
            )
        except ValueError as error:
            found = Lookup(name=name, found=Found.FAILED, reason=str(error), code="INVALID NAME")
        except TimeoutError:
            found = Lookup(name=name, found=Found.FAILED, reason="no reply", code="TIMEOUT")
        except OSError as error:
            found = Lookup(name=name, found=Found.FAILED, reason=error.strerror or str(error), code="UNREACHABLE")
        with self._lock:
            self._counts[found.code] += 1
        if found.code == "TRUNCATED":
            if not tcp_s:
                found = replace(found, reason=problem)
            elif time.monotonic() < deadline_s:  # else it had no time, which says nothing about TCP
                self._lose_tcp(server, found)
        return found

    def _lose_tcp(self, server: str, found: Lookup) -> None:
        self._without_tcp[server] = (time.monotonic() + TCP_PAUSE_S, found.reason)
        if server not in self._told:
            self._told.add(server)
            _log.warning(
                "nameserver %s: its answer about %s was %s. Until that ends addresses are added and none is removed; "
                "does a NetworkPolicy close TCP port 53?",
                server,
                found.name,
                found.reason,
            )

    def _find_spare(self, deadline_s: float) -> None:
        """Once, with the second answer, so that the first is not kept waiting."""
        conf = self._file.current()
        self._spare = ""
        if self._configured or not conf.cluster_domain or [_is_node_local(server) for server in conf.nameservers] != [True]:
            return
        found = self._once(conf.nameservers[0], f"{KUBE_DNS}.{conf.cluster_domain}", "A", (), TRY_S, deadline_s)
        self._spare = next(iter(found.addresses), "")

    def describe(self) -> dict[str, object]:
        """Plain data: who is asked, how often each code came back, who does not answer over TCP and why, and what is wrong with
        resolv.conf, if that is used."""
        now_s = time.monotonic()
        with self._lock:
            counts = dict(self._counts)
        without_tcp = {server: why for server, (until_s, why) in tuple(self._without_tcp.items()) if now_s < until_s}
        return {
            "nameservers": list(self.addresses),
            "counts": counts,
            "without_tcp": without_tcp,
            "problem": "" if self._configured else self._file.problem,
        }


def _is_node_local(server: str) -> bool:
    return ipaddress.ip_address(split_server(server)[0]).is_link_local
