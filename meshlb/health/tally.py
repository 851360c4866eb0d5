"""What our own rules (relative.py) know of one endpoint that is in."""

from __future__ import annotations

from typing import Final

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.run import Run
from meshlb.health.window import Fading, Window

UNREACHABLE: Final = Outcome.UNREACHABLE


class Tally:
    """``lately`` is what rates are compared by, ``now`` (the last second) what panic is judged by. ``before``: the pool's successes and
    failures, and the own failures, when it was counted last before the run began. (At that moment, not at the first failure: in a burst
    the others' may have come just before.)"""

    __slots__ = ("_counted", "_failed", "_seen", "before", "blamed", "lately", "now", "run", "sub", "unreachable")

    def __init__(self, sub: Subchannel, seen: int | None = None) -> None:
        """``seen``: how many of its successes are known already; all, unless said otherwise."""
        self.sub = sub
        self.run = Run(sub)
        self.unreachable = 0  # in a row
        self.lately = Window()
        self.now = Window()
        self.before = (0, 0, 0)
        self.blamed = 0  # failures that count for a run, in all
        self._counted = 0  # of these, when it was counted last
        self._failed = 0  # since it was counted last
        self._seen = sub.succeeded if seen is None else seen

    @property
    def starts_run(self) -> bool:
        """The next failure is the first in a row."""
        return not self.run.length or self.run.broken

    def failed(self, outcome: Outcome, pool: tuple[int, int]) -> None:
        """An attempt failed, which breaks no run and lengthens it unless the endpoint was only overloaded. ``pool``: its successes and
        failures when it was counted last."""
        self._failed += 1
        if outcome is Outcome.OVERLOADED:
            return
        self.blamed += 1
        if self.run.failed() == 1:
            self.before = (*pool, self._counted)
            self.unreachable = 0
        self.unreachable = self.unreachable + 1 if outcome is UNREACHABLE else 0

    def count(self, lately: Fading, now: Fading) -> int:
        """Take over what happened since the last time; how many successes."""
        total = self.sub.succeeded
        succeeded = max(total - self._seen, 0)
        self.lately.add(self._failed, succeeded, lately)
        self.now.add(self._failed, succeeded, now)
        self._seen = total
        self._failed = 0
        self._counted = self.blamed
        return succeeded

    def clear(self) -> None:
        """It comes back: what was before says nothing about it now."""
        self.run.reset()
        self.lately.clear()
        self.now.clear()
        self.unreachable = self._failed = 0
        self._seen = self.sub.succeeded

    def __repr__(self) -> str:
        return f"<Tally {self.sub.endpoint} {self.run!r} lately={self.lately!r}>"
