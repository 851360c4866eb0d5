"""A view whose endpoints take a bounded number of attempts: it never counts one too many, and has the line of calls that wait for room.

The picker leaves full endpoints out (``limit.picker``), by a look that takes no lock. So two threads may both see the last place of one
endpoint, and both count themselves. Each looks again when it has: who finds more than may be there takes itself out, as if it had been
cancelled, and picks again. So at no time are there more than ``max_in_flight`` attempts that stay.

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
from meshlb.core.subchannel import Attempt
from meshlb.limit.gate import Gate
from meshlb.pool.view import View, ViewListener

if TYPE_CHECKING:
    from meshlb.pool.pool import Pool

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
        """None also while all are full."""
        for _ in range(TOO_MANY):
            attempt = super().begin(info, stream)
            try:
                if attempt is None or attempt.subchannel.in_flight <= self._max_in_flight:
                    return attempt
            except BaseException:  # a signal's handler raised: nobody else knows of the attempt
                if attempt is not None:
                    attempt.live.discard(attempt)
                raise
            self.end(attempt, Outcome.CANCELLED)
        return None

    def end(self, attempt: Attempt, outcome: Outcome = Outcome.SUCCESS) -> bool:
        ended = super().end(attempt, outcome)
        if ended:
            self.pool.knock()
        return ended

    def describe(self) -> dict[str, Any]:
        line = self.line
        waiting = line.in_flight + line.waiting  # the first one is inside
        limit = {"max_in_flight_per_endpoint": self._max_in_flight, "waiting": waiting, "rejected": line.rejected}
        return {**super().describe(), "limit": limit}
