"""One pool a target and balancing configuration: it reconciles, keeps what must survive, and tells its views.

Threads: ``update``, ``on_error`` and ``tick`` come from the discovery thread, ``view`` and ``describe`` from any. Everything that
changes does so under ``_lock``; requests take it only when they find an endpoint unreachable, and when they fail if it is free (see
view.py, ``heard``). Views are held weakly: a channel that its user forgot takes its view along.

Order of an update, so that a drained connection may be closed: new pickers first, then ``removed`` is set, then the listeners
hear. An attempt that an old picker started is seen either by the drain (it is in the live set) or by ``begin``, which sees
``removed``.

A listener that raises harms nobody else: all views are told first, then ``on_listener_error`` hears of it.

Whom it knows is the roster's (roster.py), how it picks the balancer's (balancer.py).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import NO_PLACE, EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, Policy
from meshlb.core.report import LoadReport
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ResolveError
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.health.subset import Subset, Subsetting
from meshlb.limit.gate import Gate
from meshlb.load.weight import Weight
from meshlb.pool.alarm import Alarm
from meshlb.pool.balancer import Balancer
from meshlb.pool.describe import describe
from meshlb.pool.leavers import MassRemoval
from meshlb.pool.limited_view import LimitedView
from meshlb.pool.roster import Roster
from meshlb.pool.snapshot import Change, PoolSnapshot
from meshlb.pool.view import View, ViewListener

WARN_S = 60.0  # between two warnings of one pool: a partition that comes and goes is one thing to know

_log = logging.getLogger("meshlb.pool")


class Pool:
    """The endpoints of one target, shared by every channel and client of the process that uses it alike."""

    def __init__(
        self,
        target: str,
        policy: Policy,
        *,
        clock: Clock,
        rng: Rng,
        new_lock: Callable[[], Lock],
        wake: Callable[[float], None] = lambda delay_s: None,
        resolve_now: Callable[[], None] = lambda: None,
        fallback_after_s: float = 1.0,
        mass_removal_spare_s: float = 30.0,
        outlier: Outlier = Outlier(mode="off"),  # noqa: B008 - immutable
        slow_start: SlowStart = SlowStart(),  # noqa: B008
        locality: Locality = Locality(),  # noqa: B008
        weight: Weight = Weight(),  # noqa: B008
        subset: Subset = Subset(),  # noqa: B008
        affinity: bool = False,
        max_in_flight: int = 0,
        on_listener_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """``wake(d)`` asks for a ``tick()`` in d seconds, ``resolve_now()`` for a fresh look at the sources (a hint: something could
        not be connected, or nothing is known); both may be called often, and under the pool's lock, and must only note the wish.

        ``mass_removal_spare_s``: how long those stay connected that were lost with most of the pool, 0: no longer than others.

        ``outlier``, ``slow_start``, ``locality``, ``weight`` and ``subset`` are off unless they say otherwise. ``max_in_flight``: how many
        live attempts one endpoint may have, 0: any number.

        ``affinity``: a Service's ClientIP affinity is kept (``EndpointSet.affinity_s``).

        ``on_listener_error`` hears, in any thread, what a view's listener raised; without one it is raised to whoever caused it.
        """
        self.target = target
        self.fallback_after_s = fallback_after_s
        self.snapshot = PoolSnapshot()
        self.resolve_now = resolve_now
        self._wake = wake
        self._on_listener_error = on_listener_error
        self._clock = clock
        self._rng = rng
        self._new_lock = new_lock
        self._lock = new_lock()
        # Not a WeakSet: its callbacks may run in one thread while another iterates.
        self._views: list[weakref.ref[View]] = []
        self.lines: tuple[Gate, ...] = ()  # of those of them that have one
        self.balancer = Balancer(
            target,
            policy,
            rng,
            outlier=outlier,
            slow_start=slow_start,
            locality=locality,
            weight=weight,
            affinity=affinity,
            max_in_flight=max_in_flight,
        )
        self._news: deque[tuple[Subchannel, Outcome, float, float]] = deque()  # attempts that ended and were not considered yet
        self._roster = Roster(
            policy.new_metric, mass_removal_spare_s, Subsetting(subset, int(rng.random() * 2.0**64)) if subset.size else None
        )
        self._alarm = Alarm()
        self._woken = False  # a tick was asked for, to consider them
        self._warned_s = float("-inf")
        self.over = False  # see ``end_waiting``

    # --- discovery speaks -------------------------------------------------------------------------------------------------

    def update(self, latest: EndpointSet) -> Change:
        """Take over a whole new truth. Survivors keep their record; views learn of it after the lock is released. O(n)."""
        now_s = self._clock.now_s()
        with self._lock:
            update = self._roster.update(latest, now_s)
            self._consider_locked()
            self.balancer.know(latest, self._roster.snapshot.eligible, now_s)
            views = self._arrange_locked(update.forgotten, rebuild=True)
            self._wake_when_due_locked(self._roster.leavers.due_s(), now_s)
        self.tell(views)
        if update.mass_removal is not None:
            self._warn(update.mass_removal, latest.source, now_s)
        return update.change

    def on_endpoints(self, latest: EndpointSet) -> None:
        """``Listener``: see ``update``."""
        self.update(latest)

    def on_error(self, error: ResolveError) -> None:
        """``Listener``: a failure never changes what is known; it explains why nothing is, if nothing is."""
        with self._lock:
            self.snapshot = self._roster.snapshot = replace(self.snapshot, error=error)
            views = self._live_views() if self.snapshot.latest is None else []
            for view in views:
                view.refresh_locked(self.snapshot)
        self.tell(views)

    def on_own_endpoints(self, latest: EndpointSet) -> None:
        """What is known of the caller's own Service, whose zones ``Localities`` may need."""
        with self._lock:
            views = self._arrange_locked((), rebuild=True) if self.balancer.on_own_endpoints(latest) else []
        self.tell(views)

    def tick(self) -> float | None:
        """Let time pass: what left is forgotten, and a view turns to others when connecting takes too long. Returns seconds to
        the next tick; None if none is needed before one that was asked for, or before ``wake`` asks for one."""
        with self._lock:
            now_s = self._clock.now_s()
            self._alarm.rang(now_s)
            self._woken = False
            forgotten = self._roster.expire(now_s)
            self._consider_locked()
            reweighted = self.balancer.tick(now_s)
            changed = dict.fromkeys(self._arrange_locked(forgotten, rebuild=reweighted))
            views = self._live_views()
            changed.update(dict.fromkeys([view for view in views if view.tick_locked(now_s)]))
            due_s = [view.due_s() for view in views] + [self._roster.leavers.due_s(), self.balancer.due_s()]
            next_s = min((one_s for one_s in due_s if one_s is not None), default=None)
            again_s = next_s - now_s if next_s is not None and self._alarm.ask(next_s) else None
        self.tell(changed)
        return again_s

    # --- transports speak -------------------------------------------------------------------------------------------------

    def view(self, listener: ViewListener) -> View:
        """A new view for one transport and event loop; the caller keeps it alive, the pool does not."""
        view = self._new_view(listener)
        with self._lock:
            self._views.append(weakref.ref(view))
            if isinstance(view, LimitedView):
                self.lines = (*self.lines, view.line)
            view.refresh_locked(self.snapshot)
        return view

    def describe(self) -> dict[str, Any]:
        """What is known, as plain data: for ``status()``, the command line and people with a debugger."""
        with self._lock:
            views = self._live_views()
        return {
            "target": self.target,
            "mass_removals": self._roster.leavers.mass_removals,
            **self.balancer.describe(),
            **describe(self.snapshot, views, self.balancer.describe_one, self._clock.now_s()),
        }

    def end_waiting(self) -> None:
        """Discovery has ended for good, and with it the watch over connections: whoever waits for either hears it now."""
        self.over = True
        self.on_error(ResolveError(self.target, summary="the mesh was closed"))
        with self._lock:
            views = self._live_views()
        self.tell(views)

    # --- views speak ------------------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        return self.balancer.policy

    def heard(self, subchannel: Subchannel, outcome: Outcome, started_s: float) -> None:
        """An attempt ended that may eject its endpoint, or bring it back. From any thread; waits for nobody: where the lock is taken,
        the discovery thread considers it in a moment."""
        if self.balancer.ejector is None:
            return
        self._news.append((subchannel, outcome, started_s, self._clock.now_s()))
        while self._news:
            if not self._lock.acquire(False):
                if not self._woken:
                    self._woken = True
                    self._wake(0.0)
                return
            views: list[View] = []
            try:
                now_s = self._clock.now_s()
                views = self._arrange_locked(()) if self._consider_locked() else []
                self._wake_when_due_locked(None, now_s)
            except Exception as error:  # a policy of the user's own raised: the call that ended here did nothing wrong
                if self._on_listener_error is None:
                    raise
                self._on_listener_error(error)
            finally:
                self._lock.release()
            self.tell(views)

    def on_report(self, subchannel: Subchannel, report: LoadReport) -> None:
        """An endpoint said how loaded it is. Any thread, no lock; nothing where nobody asks for reports."""
        if self.balancer.capacities is not None:
            self.balancer.capacities.on_report(subchannel, report, self._clock.now_s())

    def was_probe(self, attempt: Attempt) -> bool:
        """Was it sent to an endpoint that was ejected, to see whether that serves again? Any thread, no lock."""
        ejector = self.balancer.ejector
        return ejector is not None and ejector.was_probe(attempt.subchannel, attempt.started_s)

    def knock(self) -> None:
        """An attempt ended where endpoints are limited: the first of each line looks whether there is room now. Any thread, no lock."""
        for line in self.lines:
            line.knock()

    def new_picker(self, candidates: Sequence[Subchannel], probes: Sequence[Subchannel]) -> Picker:
        """Under the lock; n >= 1 candidates."""
        latest = self.snapshot.latest
        return self.balancer.new_picker(candidates, probes, latest.place if latest is not None else NO_PLACE, self._rng)

    def tell(self, views: Iterable[View]) -> None:
        """Let the listeners of these views hear that something changed; not under the lock."""
        raised: Exception | None = None
        for view in views:
            try:
                view.listener.on_change()
            except Exception as error:  # noqa: BLE001 - one transport's bug must reach neither the others nor the discovery
                if self._on_listener_error is not None:
                    self._on_listener_error(error)
                else:
                    raised = raised or error
        if raised is not None:
            raise raised

    def connected_locked(self, view: View, subchannel: Subchannel) -> None:
        """Where reports count: this view's connection came up, and if no other view has one, another process may answer there now."""
        others = (other for other in self._live_views() if other is not view)
        if self.balancer.capacities is not None and not any(other.state_of(subchannel) is Connectivity.READY for other in others):
            self.balancer.capacities.on_connected(subchannel)

    def wake_locked(self, due_s: float, now_s: float) -> None:
        """A view wants a tick at ``due_s``; asked for only if none is expected by then."""
        if self._alarm.ask(due_s):
            self._wake(due_s - now_s)

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _arrange_locked(self, forgotten: Sequence[Subchannel], *, rebuild: bool = False) -> list[View]:
        """Who is kept besides the listed; the views that have to be told. Pickers first, then ``removed``."""
        news = self._roster.settle(self.balancer.ejected, self.balancer.probing)
        if not news and not rebuild and not forgotten:
            return []
        self.snapshot = self._roster.snapshot
        views = self._live_views()
        for view in views:
            view.refresh_locked(self.snapshot, forgotten, rebuild=rebuild)
        for gone in (*forgotten, *self._roster.leavers.let_go):
            gone.removed = True
        return views

    def _consider_locked(self) -> bool:
        """Whatever ended meanwhile; True if it changed anything."""
        changed = False
        while self._news:
            changed = self.balancer.heard(*self._news.popleft()) or changed
        return changed

    def _wake_when_due_locked(self, due_s: float | None, now_s: float) -> None:
        for one_s in (due_s, self.balancer.due_s()):
            if one_s is not None:
                self.wake_locked(one_s, now_s)

    def _warn(self, seen: MassRemoval, source: str, now_s: float) -> None:
        if now_s < self._warned_s + WARN_S:
            return
        self._warned_s = now_s
        _log.warning(
            "%s: of %d endpoints %d vanished and %d are not ready any more, all at once (source: %s); "
            "they stay connected for %g s as a spare, for calls that nobody else can take (see mass_removal_spare_s)",
            self.target,
            seen.pool,
            seen.unlisted,
            seen.unready,
            source,
            self._roster.leavers.spare_s,
        )

    def _new_view(self, listener: ViewListener) -> View:
        limit = self.balancer.max_in_flight
        if not limit:
            return View(self, listener, clock=self._clock, rng=self._rng, lock=self._lock)
        line = Gate(1, self._new_lock())
        return LimitedView(self, listener, clock=self._clock, rng=self._rng, lock=self._lock, line=line, max_in_flight=limit)

    def _live_views(self) -> list[View]:
        views = [view for ref in self._views if (view := ref()) is not None and not view.closed]
        if len(views) < len(self._views):
            self._views = [weakref.ref(view) for view in views]
            self.lines = tuple([view.line for view in views if isinstance(view, LimitedView)])
        return views

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return (
            f"<Pool {self.target} {self.policy.name} source={snapshot.source} "
            f"endpoints={len(snapshot.listed)} eligible={len(snapshot.eligible)} fallback={len(snapshot.fallback)}>"
        )
