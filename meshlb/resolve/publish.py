"""When to say what changed: bursts become one set, removals wait a moment, emptiness waits longer.

A roll-over arrives as a run of small events, some of which contradict each other for an instant: a pod that moves between slices is
removed from one and added to the other by two events. Three rules, each by its own clock:

- additions and changed conditions within ``COALESCE_S`` of each other are published together;
- an address that disappears stays listed for ``REMOVAL_HOLD_S`` from then on, unless its conditions already took it out of use; it goes
  up to ``REMOVAL_COALESCE_S`` sooner, together with one whose time is over;
- a set without a single usable endpoint, after one that had some, is believed after ``EMPTY_HOLD_S``; at once if it is the Service's
  policy that leaves none (``internalTrafficPolicy: Local``): that is no flapping, and holding would break it.

Never more than ``MAX_PER_SECOND`` sets in any second: ``BURST`` of them as they come, then one every ``SPACING_S``, evenly, so that a
storm makes nobody wait for the rest of a second. The last of the burst is kept for removals, which have waited already. So in a storm
of additions the first removal is told 100 ms after it was heard, and one of many removals after less than 150 ms
(``REMOVAL_HOLD_S - REMOVAL_COALESCE_S + SPACING_S``, and ``COALESCE_S``).

The first set is published at once. The very same set is not published again. Addresses that move to the fallback are not held: they
stay known as such.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import replace
from operator import attrgetter

from meshlb.core.endpoint import Endpoint, EndpointSet, OrderedEndpoints, unshared
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.health.selection import any_eligible_of

COALESCE_S = 0.005
REMOVAL_HOLD_S = 0.1
REMOVAL_COALESCE_S = 0.02
EMPTY_HOLD_S = 1.0
MAX_PER_SECOND = 20
BURST = 4
SPACING_S = 1.0 / (MAX_PER_SECOND - BURST)

_ROUNDING_S = 1e-6  # sums of times may be that much too early


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
        self._rested_s = float("-inf")  # from then on a whole burst is allowed
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
        if self._latest is not None and self.published is not None and not any_eligible_of(self._latest):
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
            at_once = BURST if self._removal_due(now_s) else BURST - 1
            allowed_s = self._rested_s - (at_once - 1) * SPACING_S
            if now_s < allowed_s - _ROUNDING_S:
                again_s = allowed_s if again_s is None else min(again_s, allowed_s)
            else:
                self._publish(visible, now_s)
        if again_s is not None:
            self._wake(again_s)

    def _visible(self, now_s: float) -> tuple[EndpointSet | None, float | None]:
        """What may be published now, None if nothing new; and when to look again, None if only after the next ``offer``."""
        latest, published = self._latest, self.published
        assert latest is not None
        assert published is not None
        policy_changed = latest.local_only != published.local_only
        if any_eligible_of(latest) or not any_eligible_of(published) or policy_changed:
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
        missing = [endpoint for endpoint in unshared(published.endpoints, latest.endpoints) if not latest.lists(endpoint)]
        missing = [endpoint for endpoint in missing if _in_use(endpoint, published)]
        # Also those whose time is over: the limit may keep them published for a moment more.
        since_s = self._missing_since_s
        self._missing_since_s = since_s = {one.address: since_s.get(one.address, now_s) for one in missing}
        length_s = REMOVAL_HOLD_S - (REMOVAL_COALESCE_S if self._removal_due(now_s) else 0.0)
        held = [endpoint for endpoint in missing if now_s < since_s[endpoint.address] + length_s - _ROUNDING_S]
        if not held:
            return latest, None
        merged = list(latest.endpoints)
        for endpoint in held:  # few, or all at once; sorting ten thousand anew for one costs a hundred times this
            insort(merged, endpoint, key=attrgetter("identity"))
        doubted = published.unverified.intersection(endpoint.host for endpoint in held)  # what is about to go is not confirmed
        visible = replace(latest, endpoints=OrderedEndpoints(merged), unverified=latest.unverified | doubted)
        return visible, min(since_s[endpoint.address] for endpoint in held) + REMOVAL_HOLD_S

    def _removal_due(self, now_s: float) -> bool:
        """Is there one that was held long enough?"""
        return any(now_s >= since_s + REMOVAL_HOLD_S - _ROUNDING_S for since_s in self._missing_since_s.values())

    def _publish(self, endpoints: EndpointSet, now_s: float) -> None:
        self.published = endpoints
        self.published_s = now_s
        self._rested_s = max(self._rested_s, now_s) + SPACING_S
        self._listener.on_endpoints(endpoints)


def _in_use(endpoint: Endpoint, published: EndpointSet) -> bool:
    """By its conditions alone: selecting from all, hints included, would cost as much as the pool's own part."""
    if endpoint.ready or not (endpoint.serving and endpoint.terminating):
        return endpoint.ready
    place, local_only = published.place, published.local_only
    return not any(one.ready and (one.node == place.node or not local_only) for one in published.endpoints)


def _same(left: EndpointSet, right: EndpointSet) -> bool:
    return replace(left, version=right.version) == right
