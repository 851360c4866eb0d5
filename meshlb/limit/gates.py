"""The gates that one pool's calls pass, for channels whose limits are configured alike: a method's, its service's, the target's.

The narrowest comes first: whoever waits for the turn of its method takes no place of the target's meanwhile. All take them in this
order, so nobody waits for somebody who waits for him. What waits for an endpoint with room does so behind these, in a line of its view's
(``pool.limited_view``), and holds its places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from meshlb.core import patterns
from meshlb.core.clock import Lock
from meshlb.limit.gate import Gate
from meshlb.limit.settings import Limits


class Limit(NamedTuple):
    """One limit as it was configured: ``path`` says where."""

    path: str
    value: int
    max_waiting: int
    max_wait_s: float


class Gates:
    """Thread-safe; one a pool and ``Limits``."""

    def __init__(self, limits: Limits, new_lock: Callable[[], Lock]) -> None:
        self._gates: dict[str, tuple[Limit, Gate]] = {}
        self.per_endpoint: Limit | None = None
        self.limits = limits
        queue = limits.max_waiting if limits.max_wait_s else 0, limits.max_wait_s
        if not limits.enabled:
            return
        for pattern, entry in limits.methods:
            wait_s = limits.max_wait_s if entry.max_wait_s is None else entry.max_wait_s
            waiting = limits.max_waiting if entry.max_waiting is None else entry.max_waiting
            limit = Limit(f"limits.methods {pattern}.max_in_flight", entry.max_in_flight, waiting if wait_s else 0, wait_s)
            self._gates[pattern] = limit, Gate(limit.value, new_lock())
        if limits.max_in_flight:
            limit = Limit("limits.max_in_flight", limits.max_in_flight, *queue)
            self._gates["*"] = limit, Gate(limit.value, new_lock())
        if limits.max_in_flight_per_endpoint:
            self.per_endpoint = Limit("limits.max_in_flight_per_endpoint", limits.max_in_flight_per_endpoint, *queue)

    def of(self, method: str) -> tuple[tuple[Limit, Gate], ...]:
        """Those that calls of ``/package.Service/Method`` pass, in order."""
        return tuple(self._gates[pattern] for pattern in patterns.patterns_of(method) if pattern in self._gates)

    def describe(self) -> list[dict[str, Any]]:
        """Plain data for ``status()``."""
        return [
            {
                "limit": limit.path,
                "value": limit.value,
                "in_flight": gate.in_flight,
                "waiting": gate.waiting,
                "rejected": gate.rejected,
            }
            for limit, gate in self._gates.values()
        ]
