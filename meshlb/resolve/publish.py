"""When to say what changed: bursts become one set, removals wait a moment, emptiness waits longer.

A roll-over arrives as a run of small events, some of which contradict each other for an instant: a pod that moves between slices is
removed from one and added to the other by two events. Three rules, each by its own clock:

- additions and changed conditions within ``COALESCE_S`` of each other are published together;
- an address that disappears stays listed for ``REMOVAL_HOLD_S``, unless its conditions already took it out of use;
- a set without a single usable endpoint, after one that had some, is believed after ``EMPTY_HOLD_S``.

Never more than ``MAX_PER_SECOND`` sets in any second. The first set is published at once. The very same set is not published again.
Addresses that move to the fallback are not held: they stay known as such.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.health.selection import eligible

COALESCE_S = 0.005
REMOVAL_HOLD_S = 0.1
EMPTY_HOLD_S = 1.0
MAX_PER_SECOND = 20


class Publisher:
    """Between a resolver that knows and a listener that acts; lives on the discovery thread."""

    def __init__(self, listener: Listener, scheduler: Scheduler) -> None:
        self.published: EndpointSet | None = None
        self.published_s = 0.0
        self._listener = listener
        self._scheduler = scheduler
        self._latest: EndpointSet | None = None
        self._missing_since_s: dict[str, float] = {}
        self._empty_since_s: float | None = None
        self._recent_s: deque[float] = deque(maxlen=MAX_PER_SECOND)
        self._timer: Timer | None = None
        self._due_s = 0.0

    def offer(self, latest: EndpointSet) -> None:
        """This is the truth now; it is published when the rules above let it."""
        self._latest = latest
        if self.published is None:
            self._publish(latest, self._scheduler.now_s())
        else:
            self._wake(self._scheduler.now_s() + COALESCE_S)

    def withdraw_empty(self) -> None:
        """An emptiness that was offered and not yet published is not true any more; what is instead is not known."""
        if self._latest is not None and self.published is not None and not eligible(self._latest.endpoints):
            self._latest = self.published
            self._empty_since_s = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, due_s: float) -> None:
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._scheduler.call_later(max(due_s - self._scheduler.now_s(), 0.0), self._flush)

    def _flush(self) -> None:
        self._timer = None
        now_s = self._scheduler.now_s()
        visible, again_s = self._visible(now_s)
        if visible is not None:
            if len(self._recent_s) == MAX_PER_SECOND and now_s < self._recent_s[0] + 1.0:
                again_s = self._recent_s[0] + 1.0
            else:
                self._publish(visible, now_s)
        if again_s is not None:
            self._wake(again_s)

    def _visible(self, now_s: float) -> tuple[EndpointSet | None, float | None]:
        """What may be published now, None if nothing new; and when to look again, None if only after the next ``offer``."""
        latest, published = self._latest, self.published
        assert latest is not None
        assert published is not None
        if eligible(latest.endpoints) or not eligible(published.endpoints):
            self._empty_since_s = None
        else:
            if self._empty_since_s is None:
                self._empty_since_s = now_s
            if now_s < self._empty_since_s + EMPTY_HOLD_S:
                return None, self._empty_since_s + EMPTY_HOLD_S
            self._missing_since_s.clear()
            return latest, None
        visible, again_s = self._with_held(latest, published, now_s)
        return (None if _same(visible, published) else visible), again_s

    def _with_held(self, latest: EndpointSet, published: EndpointSet, now_s: float) -> tuple[EndpointSet, float | None]:
        known = {endpoint.address for endpoint in (*latest.endpoints, *latest.fallback)}
        missing = [endpoint for endpoint in eligible(published.endpoints) if endpoint.address not in known]
        since_s = {endpoint.address: self._missing_since_s.get(endpoint.address, now_s) for endpoint in missing}
        self._missing_since_s = {address: start_s for address, start_s in since_s.items() if now_s < start_s + REMOVAL_HOLD_S}
        if not self._missing_since_s:
            return latest, None
        held = [endpoint for endpoint in missing if endpoint.address in self._missing_since_s]
        merged = EndpointSet.of((*latest.endpoints, *held), latest.source)
        return replace(latest, endpoints=merged.endpoints), min(self._missing_since_s.values()) + REMOVAL_HOLD_S

    def _publish(self, endpoints: EndpointSet, now_s: float) -> None:
        self.published = endpoints
        self.published_s = now_s
        self._recent_s.append(now_s)
        self._listener.on_endpoints(endpoints)


def _same(left: EndpointSet, right: EndpointSet) -> bool:
    return replace(left, version=right.version) == right
