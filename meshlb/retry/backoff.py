"""How long to wait before attempt n + 1: exponential, capped, and jittered after the cap.

Two jitters. ``full`` is ours: uniform in [0, cap(n)), which spreads callers that failed together best (Envoy's, and AWS's "full jitter").
``a6`` is gRPC's, for policies that a service config gave: cap(n) times a factor in [0.8, 1.2). Jitter that is applied before the cap
piles late attempts up at exactly the cap; so both come after it.

Spec: gRFC A6 "exponential backoff"; Envoy's JitteredExponentialBackOffStrategy.
"""

from __future__ import annotations

from meshlb.core.clock import Rng


class Backoff:
    """Immutable, any thread."""

    __slots__ = ("_base_s", "_full", "_max_s", "_multiplier")

    def __init__(self, base_s: float, max_s: float, multiplier: float, *, full_jitter: bool = True) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._multiplier = multiplier
        self._full = full_jitter

    def cap_s(self, retry: int) -> float:
        """Before the jitter; ``retry`` from 1."""
        try:
            return min(self._base_s * self._multiplier ** (retry - 1), self._max_s)
        except OverflowError:
            return self._max_s

    def delay_s(self, retry: int, rng: Rng) -> float:
        drawn = rng.random()
        return self.cap_s(retry) * (drawn if self._full else 0.8 + 0.4 * drawn)

    def __repr__(self) -> str:
        return (
            f"<Backoff {self._base_s:g} s * {self._multiplier:g}^n <= {self._max_s:g} s, {'full' if self._full else 'a6'} jitter>"
        )
