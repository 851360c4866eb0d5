"""What all calls to one pool have in common, whichever channel they come from: the budget of further attempts, gRPC's retry throttle,
and the gates of limits. One object each for every way in which channels are configured.

It does not keep its pool alive.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from meshlb.core.clock import Clock
from meshlb.core.subchannel import Subchannel
from meshlb.limit.gates import Gates
from meshlb.limit.settings import Limits
from meshlb.pool.pool import Pool
from meshlb.retry.budget import BudgetSettings, CallCount, RetryBudget
from meshlb.retry.throttle import Throttle, Throttling


class Shared:
    """One a pool. Thread-safe."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = weakref.ref(pool)
        self._clock = clock
        self._lock = threading.Lock()
        self._budgets: dict[BudgetSettings, RetryBudget] = {}
        self._throttles: dict[Throttling, Throttle] = {}
        self._gates: dict[Limits, Gates] = {}

    def budget(self, settings: BudgetSettings) -> RetryBudget:
        """Of further attempts."""
        with self._lock:
            budget = self._budgets.get(settings)
            if budget is None:
                count = CallCount(_subchannels_of(self._pool), self._clock.now_s())
                budget = self._budgets[settings] = RetryBudget(self._clock, threading.Lock(), count.rise, settings=settings)
            return budget

    def throttle(self, settings: Throttling) -> Throttle:
        """gRPC's ``retryThrottling``: one count for every channel that asks for the same."""
        with self._lock:
            throttle = self._throttles.get(settings)
            if throttle is None:
                throttle = self._throttles[settings] = Throttle(settings, threading.Lock())
            return throttle

    def gates(self, limits: Limits) -> Gates | None:
        """The one set of places; None without limits."""
        if not limits.any:
            return None
        with self._lock:
            gates = self._gates.get(limits)
            if gates is None:
                gates = self._gates[limits] = Gates(limits, threading.Lock)
            return gates

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        with self._lock:
            budgets, limited = list(self._budgets.items()), list(self._gates.values())
        return {
            "retries": [{**settings._asdict(), **budget.describe()} for settings, budget in budgets],
            "limits": [described for gates in limited for described in gates.describe()],
        }


def _subchannels_of(pool: weakref.ref[Pool]) -> Callable[[], Iterable[Subchannel]]:
    """All that calls may have gone to lately; without keeping the pool alive, whose budget asks."""

    def subchannels() -> Iterable[Subchannel]:
        alive = pool()
        if alive is None:
            return ()
        snapshot = alive.snapshot
        return (*snapshot.listed, *snapshot.lingering, *snapshot.fallback, *snapshot.spare)

    return subchannels
