"""When the Service object itself is read: after the first slices, when it does not fit them, and now and then.

A read is no watch and costs the API server one request, so: at most one per ``REREAD_S``, and one every ``REFRESH_S`` (random, so
that replicas spread). ``forget`` (a Service that takes the name of a deleted one may be another) has its own at once, no more often
than that either. Whoever has a reason to ``doubt`` what was read has it read again after each of ``LOOKS_S``, until it is different: the
first answer may be as old as the doubt (``kubernetes.services`` tells a record again for a while), or the change may still be under way.
A reason that lasts, as a pod that cannot be connected for hours, is good for one such series, not for one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.sources import SlicesSource
from meshlb.resolve.timers import Timers

REREAD_S: Final = 10.0
REFRESH_S: Final = (300.0, 600.0)
LOOKS_S: Final = (10.0, 30.0, 90.0)  # after the read before; then REFRESH_S is near
FIRST_ANSWER_S: Final = 0.25  # an in-cluster answer takes milliseconds; nobody waits longer for this one

ServiceHeard = Callable[["ServiceRecord | None", "SourceError | None"], None]


class ServiceReads:
    """Reads on behalf of one chain; ``heard`` gets every answer, ``late`` is called when the first one takes too long."""

    def __init__(
        self,
        want: ServiceName,
        source: SlicesSource | None,
        *,
        timers: Timers,
        scheduler: Scheduler,
        rng: Rng,
        heard: ServiceHeard,
        late: Callable[[], None],
    ) -> None:
        self._want = want
        self._source = source
        self._timers = timers
        self._scheduler = scheduler
        self._rng = rng
        self._heard = heard
        self._late = late
        self._asked_s: float | None = None
        self._forgotten_s: float | None = None
        self._doubted_s: float | None = None
        self._looks = 0  # how many of LOOKS_S were begun
        self._record: ServiceRecord | None = None
        self._closed = False

    def read(self) -> None:
        """Now, or when that is allowed again."""
        if self._source is None:
            return
        now_s, asked_s = self._scheduler.now_s(), self._asked_s
        if asked_s is not None and now_s < asked_s + REREAD_S:
            self._timers.after("service", asked_s + REREAD_S - now_s, self.read)
            return
        self._asked_s = now_s
        if asked_s is None:
            self._timers.after("service wait", FIRST_ANSWER_S, self._late)
        self._refresh_later()  # also if no answer ever comes
        self._source.get_service(self._want.namespace, self._want.service, self._answered)

    def forget(self) -> None:
        """What was read is not the Service of this name any more: the next read is a first one, and its answer is doubted."""
        now_s = self._scheduler.now_s()
        if self._forgotten_s is None or now_s >= self._forgotten_s + REREAD_S:
            self._asked_s, self._forgotten_s = None, now_s
        self._doubted_s, self._looks = now_s, 0

    def doubt(self) -> None:
        """What was read may not be true any more."""
        now_s = self._scheduler.now_s()
        if self._doubted_s is None or now_s >= self._doubted_s + REFRESH_S[0]:
            self._looks = 0
        self._doubted_s = now_s
        self._look_again()

    @property
    def awaited(self) -> bool:
        """The first answer is under way, and not late yet."""
        return "service wait" in self._timers

    def close(self) -> None:
        """Nothing is heard any more, not even what is on its way."""
        self._closed = True

    def _answered(self, record: ServiceRecord | None, error: SourceError | None) -> None:
        if self._closed:
            return
        self._timers.cancel("service wait")
        self._refresh_later()
        if error is None and record != self._record:
            self._record, self._doubted_s, self._looks = record, None, 0
            self._timers.cancel("service look")
        self._heard(record, error)
        if self._doubted_s is not None:
            self._look_again()

    def _refresh_later(self) -> None:
        low_s, high_s = REFRESH_S
        self._timers.after("service", low_s + (high_s - low_s) * self._rng.random(), self.read)

    def _look_again(self) -> None:
        if self._asked_s is None or "service look" in self._timers or self._looks == len(LOOKS_S):
            return
        due_s = self._asked_s + LOOKS_S[self._looks]
        self._looks += 1
        self._timers.after("service look", max(due_s - self._scheduler.now_s(), 0.0), self.read)
