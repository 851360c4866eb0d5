"""How often one endpoint failed lately: over some seconds, or over its last attempts where these took longer.

A window of time alone forgets a slow endpoint's failures before there are enough of them to judge by (one call a minute is no reason to
keep a broken pod), one of attempts alone remembers at 1,000 a second for a moment only. So what is known fades with time, but never to
less than ``keep`` attempts: with ``a`` new ones on top of ``w`` old ones,

    w * max(e^(-passed / tau), (keep - a) / w),  at most w

Successes are read as totals now and then. Those of a long time are taken to be spread over it evenly, so the part of them that counts is
tau / passed * (1 - e^(-passed / tau)), again at least ``keep``.
"""

from __future__ import annotations

from math import exp
from typing import Final

NOTHING: Final = (0.0, 0.0)


class Fading:
    """What time does to all windows of one kind, worked out once a sweep."""

    __slots__ = ("_tau_s", "fade", "keep", "laid")

    def __init__(self, tau_s: float, keep: float) -> None:
        self._tau_s = tau_s
        self.keep = keep
        self.fade = self.laid = 1.0

    def passed(self, seconds: float) -> None:
        self.fade = exp(-seconds / self._tau_s)
        self.laid = (1.0 - self.fade) * self._tau_s / seconds if seconds > 1e-6 else 1.0


class Window:
    """``failed`` and ``succeeded`` attempts, decayed."""

    __slots__ = ("failed", "succeeded")

    def __init__(self) -> None:
        self.failed = self.succeeded = 0.0

    def add(self, failed: int, succeeded: int, fading: Fading) -> None:
        """``failed`` just now, ``succeeded`` since the last time."""
        keep = fading.keep
        if succeeded > keep:
            recent = max(succeeded * fading.laid, keep)
        else:
            recent = float(succeeded)
        old = self.failed + self.succeeded
        if old:
            left = max(fading.fade, min(1.0, (keep - failed - recent) / old))
            self.failed *= left
            self.succeeded *= left
        self.failed += failed
        self.succeeded += recent

    def clear(self) -> None:
        self.failed = self.succeeded = 0.0

    @property
    def total(self) -> float:
        return self.failed + self.succeeded

    @property
    def failing_ratio(self) -> float:
        """0 if nothing is known."""
        total = self.failed + self.succeeded
        return self.failed / total if total else 0.0

    def __repr__(self) -> str:
        return f"<Window {self.failed:.1f} of {self.total:.1f} failed>"
