"""gRPC's ``retryThrottling``: a count of tokens that failures take from and successes give back to; above the half one may try again.

It is beside the budget, not in its place: who asked for it in a service config gets both, and the stricter decides.

Spec: gRFC A6 "throttling retry attempts"; C-core's RetryThrottler for whole thousandths of a token.
Deviations: as in C-core, only methods with a retry policy count, and of their failures those with one of its codes, or with a
push-back that refuses (A6's text says every RPC). Only calls that may be tried again are counted: a stream of requests is not.
"""

from __future__ import annotations

from typing import NamedTuple

from meshlb.core.clock import Lock

MILLI = 1000


class Throttling(NamedTuple):
    """What the service config says."""

    max_tokens: float
    token_ratio: float


class Throttle:
    """The tokens of one target; thread-safe."""

    def __init__(self, settings: Throttling, lock: Lock) -> None:
        self._lock = lock
        self._max = int(settings.max_tokens * MILLI)
        self._ratio = int(settings.token_ratio * MILLI)
        self._tokens = self._max

    def succeeded(self) -> None:
        if self._tokens < self._max:
            with self._lock:
                self._tokens = min(self._tokens + self._ratio, self._max)

    def failed(self) -> bool:
        """Count a failure; True if a further attempt is allowed."""
        with self._lock:
            self._tokens = max(self._tokens - MILLI, 0)
            return self._tokens > self._max // 2

    @property
    def tokens(self) -> float:
        return self._tokens / MILLI
