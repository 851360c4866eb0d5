"""What a server's calls amount to over the last ten seconds: calls and failures a second, how many ran at once, processor time.

All four are differences of totals over one and the same stretch of time, so their quotients mean something from the first call on:
qps over the mean number of running calls is one over the mean time of a call, whatever the load. An instant's count of running calls
would be 0, 1 or 2 by chance.

The totals are noted at most every ``STEP_S``, and once more when calls come after a pause, so that a pause is not averaged over. Not
thread-safe: whoever owns it has a lock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW_S: Final = 10.0  # as long as clients smooth: shorter is noise, longer is the past
STEP_S: Final = 0.1
_PAUSE_S: Final = 1.0


class Rates(NamedTuple):
    """``qps`` and ``eps`` a second; ``running``: the mean number of calls at once; ``cores``: the mean number of processors in use."""

    qps: float
    eps: float
    running: float
    cores: float


class _Totals(NamedTuple):
    at_s: float
    calls: int
    errors: int
    running_s: float
    cpu_s: float


class Meter:
    """``now_s`` never goes back; ``cpu_s`` is the process's own total."""

    def __init__(self, now_s: float, cpu_s: float) -> None:
        self.running = 0
        self._calls = 0
        self._errors = 0
        self._running_s = 0.0
        self._at_s = now_s
        self._noted = deque([_Totals(now_s, 0, 0, 0.0, cpu_s)])

    def began(self, now_s: float, cpu_s: float) -> None:
        if now_s - self._noted[-1].at_s > _PAUSE_S:
            self._note(now_s, cpu_s)
        self._pass(now_s)
        self._calls += 1
        self.running += 1

    def ended(self, now_s: float, *, failed: bool) -> None:
        self._pass(now_s)
        self.running -= 1
        self._errors += failed

    def rates(self, now_s: float, cpu_s: float) -> Rates:
        """Over the window, or since the beginning."""
        self._pass(now_s)
        noted = self._noted
        while len(noted) > 1 and noted[0].at_s < now_s - WINDOW_S:
            noted.popleft()
        first = noted[0]
        passed_s = max(now_s - first.at_s, STEP_S)
        rates = Rates(
            (self._calls - first.calls) / passed_s,
            (self._errors - first.errors) / passed_s,
            (self._running_s - first.running_s) / passed_s,
            max(cpu_s - first.cpu_s, 0.0) / passed_s,
        )
        if now_s - noted[-1].at_s >= STEP_S:
            self._note(now_s, cpu_s)
        return rates

    def _pass(self, now_s: float) -> None:
        self._running_s += self.running * max(now_s - self._at_s, 0.0)
        self._at_s = max(now_s, self._at_s)

    def _note(self, now_s: float, cpu_s: float) -> None:
        self._pass(now_s)
        self._noted.append(_Totals(now_s, self._calls, self._errors, self._running_s, cpu_s))
