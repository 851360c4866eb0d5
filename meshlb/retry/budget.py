"""A token bucket that bounds how many calls may be tried again: refilled by time, so that success pays nothing for it.

It starts full. A pod that dies under load fails every call that was on its way to it at one moment, so the burst matters more
than the rate: 100 tokens let a busy process move all of them, 10 a second (Finagle's floor) bound what a lasting fault can add.

Spec: Finagle RetryBudget (minRetriesPerSec = 10); gRFC A6 retryThrottling for the idea of one bucket a target.
Deviations: no share of the traffic is deposited; never-sent calls cost the servers nothing, so only the client's own work is
bounded.
"""

from __future__ import annotations

from meshlb.core.clock import Clock, Lock

BURST_TOKENS = 100.0
REFILL_PER_S = 10.0


class TokenBucket:
    """Thread-safe; the lock is taken only when something failed."""

    def __init__(self, clock: Clock, lock: Lock, *, burst: float = BURST_TOKENS, refill_per_s: float = REFILL_PER_S) -> None:
        self._clock = clock
        self._lock = lock
        self._burst = burst
        self._refill_per_s = refill_per_s
        self._tokens = burst
        self._at_s = clock.now_s()

    def withdraw(self) -> bool:
        """Take one token; False if there is none."""
        with self._lock:
            now_s = self._clock.now_s()
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._refill_per_s)
            self._at_s = now_s
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    @property
    def tokens(self) -> float:
        """What is left, projected to now; for ``status()``."""
        return min(self._burst, self._tokens + (self._clock.now_s() - self._at_s) * self._refill_per_s)
