"""A clock that moves only when told to: virtual time for everything that takes ``now_s`` from a clock."""

from __future__ import annotations

import math


class ManualClock:
    """``now_s()`` returns the same value until ``advance()`` moves it. Starts at 0 unless told otherwise; never goes back.

    Threads: one thread advances, any thread reads.
    """

    __slots__ = ("_now_s",)

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = float(now_s)

    def now_s(self) -> float:
        """The present, in seconds since an arbitrary start."""
        return self._now_s

    def advance(self, delta_s: float) -> float:
        """Move on by ``delta_s`` seconds, which is finite and not negative, and return the new present."""
        if not (delta_s >= 0 and math.isfinite(delta_s)):
            raise ValueError(f"delta_s={delta_s!r}: must be a finite number >= 0")
        self._now_s += delta_s
        return self._now_s

    def __repr__(self) -> str:
        return f"ManualClock({self._now_s!r})"
