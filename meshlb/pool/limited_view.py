"""A view whose endpoints take a bounded number of attempts: it never counts one too many, and has the line of calls that wait for room.

Endpoints that are full are left out (``limit.picker``), by a look that takes no lock. So two threads may both see the last place of one
endpoint, and both count themselves. Each looks again when it has: who finds more than may be there takes itself out and picks again. So
at no time are there more than ``max_in_flight`` attempts that stay. When all are full but one whose ejection is over, that one gets its
probe at once: a call would be refused although somebody may be well.

The line. While all are full the calls of this view wait in one line (``line``), and only the first of them tries. It does so whenever
an attempt of the pool ended, or the view changed; when it is served or gives up, the next becomes the first, and tries. No wake-up can be
lost: the end of an attempt first gives its place back and then wakes whoever is the first, and a call first becomes the first and then
looks for room. Each view has a line of its own, since what is ready for one need not be for another.

Both exist only in pools with ``max_in_flight_per_endpoint``; the others' views are plain ones, and pay nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.limit.gate import Gate
from meshlb.limit.picker import pick_with_room
from meshlb.pool.view import View, ViewListener

if TYPE_CHECKING:
    from meshlb.pool.pool import Pool

SUCCESS: Final = Outcome.SUCCESS
TOO_MANY: Final = 4  # picks that others were quicker with, before the call stands in line


class LimitedView(View):
    """See the module head."""

    def __init__(
        self, pool: Pool, listener: ViewListener, *, clock: Clock, rng: Rng, lock: Lock, line: Gate, max_in_flight: int
    ) -> None:
        super().__init__(pool, listener, clock=clock, rng=rng, lock=lock)
        self.line = line
        self._max_in_flight = max_in_flight

    def begin(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """None also while all are full. ``View.begin``, written out with a look at the counts before and after."""
        now_s, limit, tries = self._now_s(), self._max_in_flight, TOO_MANY
        while tries and (subchannel := self.picker.pick(info, now_s)) is not None:
            if len(subchannel.unary) + len(subchannel.streams) >= limit:
                other = pick_with_room(self.picker, self.candidates, limit, info, now_s) or self._probe(info, now_s)
                if other is None:
                    return None
                subchannel = other
            attempt = Attempt()
            attempt.subchannel = subchannel
            attempt.started_s = now_s
            attempt.info = info
            attempt.live = live = subchannel.streams if stream else subchannel.unary
            try:
                live.add(attempt)
                if len(subchannel.unary) + len(subchannel.streams) <= limit and not subchannel.removed:
                    subchannel.started += 1
                    subchannel.metric.on_start(now_s)
                    return attempt
            except BaseException:
                self._take_out(attempt)
                raise
            self._take_out(attempt)
            tries -= 1
        return None

    def end(self, attempt: Attempt, outcome: Outcome = SUCCESS) -> bool:
        ended = View.end(self, attempt, outcome)  # ``super()`` takes twice as long
        if ended:
            for line in self.pool.lines:  # ``Pool.knock``, written out
                if line.inside:
                    line.knock()
        return ended

    def _probe(self, info: PickInfo, now_s: float) -> Subchannel | None:
        """One that is ejected and due, for a call that may be risked (``pool.balancer``), while all others are full."""
        ejector = self.pool.balancer.ejector
        if ejector is None or info.exclude or not info.judged:
            return None
        for sub in self._choice.probes:
            if sub.in_flight < self._max_in_flight and ejector.claim(sub, now_s, replays=info.replays, alone=True):
                return sub
        return None

    def _take_out(self, attempt: Attempt) -> None:
        """It was never sent; whoever saw it counted looks again."""
        attempt.live.discard(attempt)
        if attempt.info.judged and attempt.subchannel.watched:
            self.pool.heard(attempt.subchannel, Outcome.CANCELLED, attempt.started_s)  # it may have been the probe
        self.pool.knock()

    def describe(self) -> dict[str, Any]:
        line = self.line
        waiting = line.in_flight + line.waiting  # the first one is inside
        limit = {"max_in_flight_per_endpoint": self._max_in_flight, "waiting": waiting, "rejected": line.rejected}
        return {**super().describe(), "limit": limit}
