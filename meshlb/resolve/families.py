"""The change from one address family to the other, make-before-break.

A Service that is read late, or changed, may prefer the family that its pods were not listed by so far. For ``FAMILY_OVERLAP_S`` they are
listed by both then, each twice, so that the new connections are there before the old ones go. Whether they are is not asked: where
the new family leads nowhere, ``routes`` says so before, and the ClusterIP is there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from meshlb.resolve.known import Known, family_of
from meshlb.resolve.timers import Timers

FAMILY_OVERLAP_S: Final = 5.0  # more than the 3 s within which a connection is made or given up


class FamilyChange:
    """Of one chain; ``on_change`` is called when the overlap is over. Lives on the discovery thread."""

    def __init__(self, timers: Timers, on_change: Callable[[], None]) -> None:
        self._timers = timers
        self._on_change = on_change
        self._family = ""  # by which pods were listed last

    def of(self, known: Known, *, lists_pods: bool) -> Known:
        """What is known, with the family that still counts; ``lists_pods``: some are published, so there is something to lose."""
        before, self._family = self._family, family_of(known)
        if before and before != self._family and lists_pods:
            self._timers.after("family", FAMILY_OVERLAP_S, self._on_change)
            return replace(known, also_family=before)
        if known.also_family and "family" not in self._timers:
            return replace(known, also_family="")
        return known
