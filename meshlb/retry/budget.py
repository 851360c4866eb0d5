"""The budget of a target's further attempts: a share of its calls, plus some a second, counted over the last ``ttl_s``.

An outage makes every caller try again at once, and what was overloaded gets twice the load. So all that goes out beyond the first
attempt, for whatever reason (also what certainly never left the client), is paid from here: a withdrawal needs

    withdrawals in the window < calls in the window * ratio + min_per_s * ttl_s

The floor lets a client with few calls try again at all, and a busy one move what a dying pod drops at one moment.

Success pays nothing. Nobody deposits: what calls there were is read, when an attempt is due, from the totals that the subchannels
keep anyway (``CallCount``). Their rise since the last reading is laid evenly over the time since then, for that is all one knows.

Spec: Finagle RetryBudget (leaky token bucket: ttl 10 s, 20 %, 10 a second); tower::retry::budget for the ten slots.
Deviations: a deposit is seen at the next withdrawal, at most ``READ_S`` late, and evenly spread; an attempt that its connection
turned out to be lost for was none, but is counted as a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from meshlb.core.clock import Clock, Lock
from meshlb.core.subchannel import Subchannel

# Each a tenth of the window: ten whole ones and the one that has begun, so that together they are never shorter than ttl_s.
SLOTS: Final = 11
READ_S: Final = 0.1  # to add up the totals of 10,000 endpoints takes 2 ms, which not every withdrawal should pay in a storm


class BudgetSettings(NamedTuple):
    """Channels of a pool that agree in these share a budget."""

    ratio: float = 0.2
    min_per_s: float = 10.0
    ttl_s: float = 10.0


DEFAULT: Final = BudgetSettings()


class CallCount:
    """How many attempts were begun since one last asked. Not thread-safe."""

    def __init__(self, subchannels: Callable[[], Iterable[Subchannel]], now_s: float) -> None:
        self._subchannels = subchannels
        self._asked_s = now_s
        self._seen: dict[Subchannel, int] = {}
        self.rise(now_s)

    def rise(self, now_s: float) -> int:
        seen: dict[Subchannel, int] = {}
        total = 0
        for sub in self._subchannels():
            if sub not in seen:
                started = seen[sub] = sub.started
                # One that comes back (it was spare, say) has a total from before, which was counted then.
                total += started - self._seen.get(sub, 0 if sub.created_s >= self._asked_s else started)
        self._seen = seen
        self._asked_s = now_s
        return total


class RetryBudget:
    """Thread-safe; the lock is taken only when something failed. ``begun(now_s)``: attempts begun since the last time it was asked."""

    def __init__(
        self, clock: Clock, lock: Lock, begun: Callable[[float], int] = lambda now_s: 0, *, settings: BudgetSettings = DEFAULT
    ) -> None:
        self._clock = clock
        self._lock = lock
        self._begun = begun
        self._ratio = settings.ratio
        self._reserve = settings.min_per_s * settings.ttl_s
        self._slot_s = settings.ttl_s / (SLOTS - 1)
        self._read_s = clock.now_s()
        self._slot = int(self._read_s / self._slot_s)
        self._calls = [0.0] * SLOTS
        self._spent = [0] * SLOTS
        self._own = 0  # withdrawals since the last reading: the attempts that they became are no calls
        self.granted = 0
        self.refused = 0

    def withdraw(self) -> bool:
        """Pay for one attempt; False if that would be too much."""
        with self._lock:
            self._pass(self._clock.now_s())
            if self._left() < 1.0 - 1e-9:
                self.refused += 1
                return False
            self._spent[self._slot % SLOTS] += 1
            self._own += 1
            self.granted += 1
            return True

    @property
    def tokens(self) -> float:
        """How many attempts could be paid for now."""
        with self._lock:
            self._pass(self._clock.now_s())
            return max(self._left(), 0.0)

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        return {"budget": round(self.tokens, 1), "granted": self.granted, "refused": self.refused}

    def _left(self) -> float:
        return sum(self._calls) * self._ratio + self._reserve - sum(self._spent)

    def _pass(self, now_s: float) -> None:
        slot = int(now_s / self._slot_s)
        for new in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
            self._calls[new % SLOTS] = 0.0
            self._spent[new % SLOTS] = 0
        self._slot = max(self._slot, slot)
        since_s = now_s - self._read_s
        if since_s >= READ_S:
            calls = self._begun(now_s) - self._own
            self._own = max(-calls, 0)  # those in their back-off have not begun yet
            if calls > 0:
                self._lay(calls, now_s, since_s)
            self._read_s = now_s

    def _lay(self, calls: int, now_s: float, since_s: float) -> None:
        """Spread them over the slots since the last reading, as far as these still count."""
        for slot in range(self._slot, self._slot - SLOTS, -1):
            begin_s = max(slot * self._slot_s, self._read_s)
            end_s = min((slot + 1) * self._slot_s, now_s)
            if end_s > begin_s:
                self._calls[slot % SLOTS] += calls * (end_s - begin_s) / since_s

    def __repr__(self) -> str:
        return f"<RetryBudget granted={self.granted} refused={self.refused}>"
