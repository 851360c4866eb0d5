"""Virtual time: things that happen at their time, one after the other, and nothing in between.

Not ``ManualLoop``, which is the discovery thread for tests of a few timers: here millions of events pass, so they are entries of one
heap, cannot be taken back (whoever gets one looks whether it still matters), and those of one moment happen in the order in which
they were asked for, so that a seed makes a run.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Events:
    """The clock (``now_s``), and what is still to happen. One thread."""

    __slots__ = ("_heap", "_now_s", "_order")

    def __init__(self) -> None:
        self._now_s = 0.0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()

    def now_s(self) -> float:
        return self._now_s

    def at(self, when_s: float, action: Callable[..., object], *args: Any) -> None:
        """Call ``action(*args)`` at that time; what is past happens now."""
        heappush(self._heap, (max(when_s, self._now_s), next(self._order), action, args))

    def after(self, delay_s: float, action: Callable[..., object], *args: Any) -> None:
        """Call ``action(*args)`` in so many seconds."""
        heappush(self._heap, (self._now_s + max(delay_s, 0.0), next(self._order), action, args))

    def run_until(self, end_s: float) -> None:
        """Let everything up to ``end_s`` happen, what follows from it included."""
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            self._now_s, _, action, args = heappop(heap)
            action(*args)
        self._now_s = max(self._now_s, end_s)

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._heap:
            return False
        self._now_s, _, action, args = heappop(self._heap)
        action(*args)
        return True

    def __repr__(self) -> str:
        return f"<Events now_s={self._now_s:g} to_come={len(self._heap)}>"
