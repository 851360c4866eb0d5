"""How long to wait before the API server is asked again: client-go's back-off, and a bound that holds whatever goes wrong.

``Backoff``: 0.8 s, doubled up to 30 s, each drawn from [d, 2d); it starts over after 120 s without a failure. A refusal that only
an administrator can end (403, 404 of the API group) begins at 30 s and is never above 5 minutes. The exponent is tenacity's; the
draw is ours, because tenacity's jittered waits take ``random`` of the process.

``Pace``: in any failure mode a stream makes at most 2 requests within a second and 0.05 a second in the long run. The back-off
alone does not give that: a server may accept each watch and end it at once, for a new reason every time. What the user asked for
(a service that joins) is not a failure, and pays for its own list and watch.

The spreads (``RECONNECT_SPREAD_S``, ``RELIST_SPREAD_S``) are for what happens to all clients of a server in one moment (it restarts, its
history is gone): thousands would come back in the same millisecond. Each is at most a tenth of the time that went well before, so that
a proxy that cuts often costs little.

Spec: client-go reflector.go (backoff manager), reference section 3.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshlb.core.clock import Rng
from meshlb.resolve.kubernetes.transport import ApiError

RESET_S: Final = 120.0
BURST_WINDOW_S: Final = 1.0
BURST: Final = 2
SUSTAINED_PER_S: Final = 0.05
# What an outage's first minute takes (0, 0.8, 2.4, 5.6, 12, 25, 50 s) and a resync after it, so that the bound never delays these.
CAPACITY: Final = 10.0
RECONNECT_SPREAD_S: Final = 1.0
RELIST_SPREAD_S: Final = 5.0
_SPREAD_RATIO: Final = 0.1  # of the time that went well
MAX_RETRY_AFTER_S: Final = 60.0  # an API server asks for 1 to 32 s; who asks for an hour is no API server

Exponential = Callable[[int], float]  # attempt (from 1) -> seconds


def exponential(initial_s: float, cap_s: float) -> Exponential:
    """``initial_s`` doubled per attempt up to ``cap_s``. Imports tenacity: a helper thread's work."""
    import tenacity

    wait = tenacity.wait_exponential(multiplier=initial_s, max=cap_s)

    def delay_s(attempt: int) -> float:
        state = tenacity.RetryCallState(retry_object=tenacity.Retrying(), fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        return float(wait(state))

    return delay_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The two sequences: after failures, and after refusals that only an administrator can end."""

    failure: Exponential
    refusal: Exponential

    @classmethod
    def load(cls) -> Waits:
        """Imports tenacity: a helper thread's work."""
        # Drawn from [d, 2d): 150 s make the 5 minutes.
        return cls(failure=exponential(0.8, 30.0), refusal=exponential(30.0, 150.0))


class Backoff:
    """One sequence of growing delays. Not thread-safe: it belongs to the discovery thread."""

    __slots__ = ("_attempt", "_exponential", "_quiet_until_s", "_rng")

    def __init__(self, exponential: Exponential, rng: Rng) -> None:
        self._exponential = exponential
        self._rng = rng
        self._attempt = 0
        self._quiet_until_s = float("-inf")

    def next_s(self, now_s: float, at_least_s: float = 0.0) -> float:
        """The delay after a failure at ``now_s``; ``at_least_s`` is what the server asked for, the larger of the two holds."""
        if now_s >= self._quiet_until_s:
            self._attempt = 0
        self._attempt += 1
        delay_s = max(self._exponential(self._attempt) * (1.0 + self._rng.random()), at_least_s)
        self._quiet_until_s = now_s + delay_s + RESET_S
        return delay_s


class Delays:
    """The delays of one stream: lists and watches fail for reasons of their own, and an administrator's refusal is one for both."""

    __slots__ = ("_list", "_refused", "_rng", "_watch", "doubt")

    def __init__(self, waits: Waits, rng: Rng) -> None:
        self._rng = rng
        self._list = Backoff(waits.failure, rng)
        self._watch = Backoff(waits.failure, rng)
        self._refused = Backoff(waits.refusal, rng)
        self.doubt = Backoff(waits.failure, rng)  # of events that could not be read

    def list_s(self, error: ApiError, now_s: float) -> float:
        return self._after(self._list, error, now_s)

    def watch_s(self, error: ApiError, now_s: float) -> float:
        return self._after(self._watch, error, now_s)

    def reconnect_s(self, well_since_s: float | None, now_s: float) -> float:
        """After a stream that ended although it had gone well since then."""
        return self._spread_s(RECONNECT_SPREAD_S, well_since_s, now_s)

    def relist_s(self, well_since_s: float | None, now_s: float) -> float:
        """After the place in history was lost, by somebody whose streams had gone well since then."""
        return self._spread_s(RELIST_SPREAD_S, well_since_s, now_s)

    def _spread_s(self, longest_s: float, well_since_s: float | None, now_s: float) -> float:
        well_s = now_s - well_since_s if well_since_s is not None else 0.0
        return min(longest_s, _SPREAD_RATIO * well_s) * self._rng.random()

    def _after(self, backoff: Backoff, error: ApiError, now_s: float) -> float:
        if error.kind in ("forbidden", "not_served"):
            backoff = self._refused
        asked_s = min(error.refusal.retry_after_s, MAX_RETRY_AFTER_S) if error.refusal is not None else 0.0
        return backoff.next_s(now_s, asked_s)


class Pace:
    """Counts the requests of one stream. Not thread-safe: it belongs to the discovery thread."""

    __slots__ = ("_granted", "_recent", "_refilled_s", "_tokens")

    def __init__(self) -> None:
        self._granted = 0
        self._recent: deque[float] = deque(maxlen=BURST)
        self._tokens = CAPACITY
        self._refilled_s = 0.0

    def grant(self, requests: int) -> None:
        """The next ``requests`` are not counted: the user asked for them."""
        self._granted += requests

    def free_s(self, now_s: float) -> float:
        """When the next request may start; not after ``now_s`` if it may start now."""
        if self._granted:
            return now_s
        self._refill(now_s)
        window_s = self._recent[0] + BURST_WINDOW_S if len(self._recent) == BURST else now_s
        return max(window_s, now_s + (1.0 - self._tokens) / SUSTAINED_PER_S)

    def spend(self, now_s: float) -> None:
        """A request starts."""
        if self._granted:
            self._granted -= 1
            return
        self._refill(now_s)
        self._recent.append(now_s)
        self._tokens -= 1.0

    def _refill(self, now_s: float) -> None:
        self._tokens = min(CAPACITY, self._tokens + (now_s - self._refilled_s) * SUSTAINED_PER_S)
        self._refilled_s = now_s
