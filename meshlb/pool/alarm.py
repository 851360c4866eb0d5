"""When a pool has to be ticked: asked for once, however often and from however many sides it is needed.

Whoever ticks sets a timer for each request and cancels none. So the pool remembers what it asked for: a time is asked for only if no
earlier timer is under way, and timers never pile up, whatever comes and goes before they fire.
"""

from __future__ import annotations

_EARLY_S = 0.001  # by so much, at most, may a timer fire before its time: clocks round


class Alarm:
    """The times for which a tick was asked and has not come yet."""

    __slots__ = ("_asked_s",)

    def __init__(self) -> None:
        self._asked_s: list[float] = []

    def rang(self, now_s: float) -> None:
        """A tick came."""
        self._asked_s = [due_s for due_s in self._asked_s if due_s > now_s + _EARLY_S]

    def ask(self, due_s: float | None) -> bool:
        """True if a tick has to be asked for, so that one comes by ``due_s`` (None: none is needed)."""
        if due_s is None or any(asked_s <= due_s for asked_s in self._asked_s):
            return False
        self._asked_s.append(due_s)
        return True
