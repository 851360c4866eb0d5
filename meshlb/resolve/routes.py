"""I/O driver: has this host a route to an address family? A dual-stack Service lists its pods in both, and one may lead nowhere.

Connecting a UDP socket sends nothing: the kernel looks into its routing table and says at once whether there is a way. It is asked for
an address that is really meant (a pod's, a ClusterIP's), so a network without a default route is judged rightly too. The answer
stands for the address's whole family for ``KEPT_S``: routes hardly ever change, and sets are made often.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final

KEPT_S: Final = 30.0
_DISCARD: Final = 9


def has_route(host: str) -> bool:
    """Of this IP literal."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _DISCARD))
    except OSError:
        return False
    return True


class Routes:
    """``probe`` answers for one address, ``now_s`` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float], probe: Callable[[str], bool] = has_route) -> None:
        self._now_s = now_s
        self._probe = probe
        self._known: dict[str, tuple[float, bool]] = {}

    def lacking(self, hosts: Iterable[str]) -> frozenset[str]:
        """The families (``IPv4``, ``IPv6``) of these addresses that lead nowhere; none if there is only one to choose from."""
        samples = {"IPv6" if ":" in host else "IPv4": host for host in hosts}
        if len(samples) < 2:
            return frozenset()
        return frozenset(family for family, host in samples.items() if not self._leads(family, host))

    def _leads(self, family: str, host: str) -> bool:
        now_s = self._now_s()
        until_s, answer = self._known.get(family, (0.0, False))
        if now_s >= until_s:
            answer = self._probe(host)
            self._known[family] = (now_s + KEPT_S, answer)
        return answer
