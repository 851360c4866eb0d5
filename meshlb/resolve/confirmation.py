"""How long what is known has gone unconfirmed, and what follows from that; the reasons stand in ``ranking``.

================  ============================================================================================================
``stale``         the API server has failed or refused for ``STALE_S``: longer than one that restarts. DNS is asked again
``unverified``    … for ``UNVERIFIED_S``: longer than a control plane is upgraded. Addresses may have changed hands
``dns_confirms``  ``TWICE_S`` have passed since DNS gave a whole answer, and it neither failed nor was cut off since: an absence is
                  no accident
``dns_lost``      DNS has failed, or denied the name, for ``UNVERIFIED_S``
================  ============================================================================================================

Nothing is dropped for any of this, not even what DNS lacks and nobody can connect: only the API server, whose word it was, takes it
back. What fails to connect gets no call anyway, and what is unverified none that anybody else could take.

Why five minutes. A pod that ended gives its address back at once, and networks hand it out again after 30 s at the earliest (the
AWS CNI's cool-down; others in turn, so later). While the API server is really away no pod is replaced at all: nobody schedules. The
doubt is for the client that alone cannot reach it, and costs nothing while connections last. Sooner, every restart of a container
during an upgrade of the control plane would send its calls elsewhere for no reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from meshlb.core.scheduler import Scheduler
from meshlb.resolve.known import Known
from meshlb.resolve.polling import JITTER_RATIO, MAX_INTERVAL_S
from meshlb.resolve.timers import Timers

STALE_S: Final = 30.0
UNVERIFIED_S: Final = 300.0
TWICE_S: Final = MAX_INTERVAL_S * (1 + JITTER_RATIO) + 5.0  # the longest time between two answers, and one of them is slow


class Confirmation:
    """Of one chain; ``on_change`` is called when time alone has changed what can be said. Lives on the discovery thread."""

    def __init__(self, timers: Timers, scheduler: Scheduler, on_change: Callable[[], None]) -> None:
        self._timers = timers
        self._scheduler = scheduler
        self._on_change = on_change
        self._stale_since_s: float | None = None
        self._lost_since_s: float | None = None
        self._unverified = False
        self._dns_confirms = False
        self._dns_lost = False

    # --- the API server ---------------------------------------------------------------------------------------------------

    def confirmed(self) -> None:
        """It has told the whole truth, and goes on watching."""
        self._stale_since_s = self._lost_since_s = None
        self._unverified = False
        self._timers.cancel("stale")
        self._timers.cancel("unverified")

    def lost(self, since_s: float | None = None) -> None:
        """It fails or refuses, for the first time or again; ``since_s``: others have heard it fail since then."""
        if self._lost_since_s is None:
            now_s = self._scheduler.now_s()
            self._lost_since_s = now_s if since_s is None else since_s
            ago_s = now_s - self._lost_since_s
            if ago_s >= STALE_S:
                self._stale_since_s = self._lost_since_s + STALE_S
            else:
                self._timers.after("stale", STALE_S - ago_s, self._grow_stale)
            if ago_s >= UNVERIFIED_S:
                self._unverified = True
            else:
                self._timers.after("unverified", UNVERIFIED_S - ago_s, self._grow_unverified)

    # --- DNS --------------------------------------------------------------------------------------------------------------

    def dns_answered(self, *, complete: bool = True) -> None:
        """With something that is news. An answer that is not ``complete`` lacks some for no reason."""
        self._timers.cancel("dns lost")
        self._dns_lost = False
        if not complete:
            self._timers.cancel("dns twice")
            self._dns_confirms = False
        elif not self._dns_confirms and "dns twice" not in self._timers:
            self._timers.after("dns twice", TWICE_S, self._trust_dns)

    def dns_failed(self) -> None:
        """No answer, or that there is no such name."""
        self._timers.cancel("dns twice")
        if not self._dns_lost and "dns lost" not in self._timers:
            self._timers.after("dns lost", UNVERIFIED_S, self._lose_dns)

    def dns_closed(self) -> None:
        """It is not asked any more: what it says next is a first answer."""
        self._timers.cancel("dns twice")
        self._timers.cancel("dns lost")
        self._dns_confirms = self._dns_lost = False

    # --- what follows -----------------------------------------------------------------------------------------------------

    def of(self, known: Known) -> Known:
        """What is known, with how far it is confirmed now."""
        flags = (self._stale_since_s is not None, self._unverified, self._dns_confirms, self._dns_lost)
        if flags == (known.stale, known.unverified, known.dns_confirms, known.dns_lost):
            return known
        stale, unverified, dns_confirms, dns_lost = flags
        return replace(known, stale=stale, unverified=unverified, dns_confirms=dns_confirms, dns_lost=dns_lost)

    def describe(self, now_s: float) -> dict[str, bool | float | None]:
        """Plain data: since when (seconds) the API server says nothing, and since when that counts."""
        return {
            "stale": self._stale_since_s is not None,
            "stale_for_s": _age(now_s, self._stale_since_s),
            "unconfirmed_for_s": _age(now_s, self._lost_since_s),
            "unverified": self._unverified,
        }

    def _grow_stale(self) -> None:
        self._stale_since_s = self._scheduler.now_s()
        self._on_change()

    def _grow_unverified(self) -> None:
        self._unverified = True
        self._on_change()

    def _trust_dns(self) -> None:
        self._dns_confirms = True
        self._on_change()

    def _lose_dns(self) -> None:
        self._dns_lost = True
        self._on_change()


def _age(now_s: float, since_s: float | None) -> float | None:
    return round(now_s - since_s, 3) if since_s is not None else None
