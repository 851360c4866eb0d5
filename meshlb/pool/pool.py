"""One pool a target and balancing configuration: it reconciles, keeps what must survive, and tells its views.

Threads: ``update``, ``on_error`` and ``tick`` come from the discovery thread, ``view`` and ``describe`` from any. Everything that
changes does so under ``_lock``; requests take it only when they find an endpoint unreachable (see view.py). Views are held
weakly: a channel that its user forgot takes its view along.

Order of an update, so that a drained connection may be closed: new pickers first, then ``removed`` is set, then the listeners
hear. An attempt that an old picker started is seen either by the drain (it is in the live set) or by ``begin``, which sees
``removed``.

A listener that raises harms nobody else: all views are told first, then ``on_listener_error`` hears of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import Policy
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ResolveError
from meshlb.health.selection import eligible
from meshlb.pool.reconcile import Plan, reconcile
from meshlb.pool.snapshot import Change, PoolSnapshot
from meshlb.pool.view import View, ViewListener


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
        on_listener_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """``wake(d)`` asks for a ``tick()`` in d seconds, ``resolve_now()`` for a fresh look at the sources (a hint: something could
        not be connected, or nothing is known); both may be called often, and under the pool's lock, and must only note the wish.

        ``on_listener_error`` hears, in any thread, what a view's listener raised; without one it is raised to whoever caused it.
        """
        self.target = target
        self.policy = policy
        self.fallback_after_s = fallback_after_s
        self.snapshot = PoolSnapshot()
        self.resolve_now = resolve_now
        self._wake = wake
        self._on_listener_error = on_listener_error
        self._clock = clock
        self._rng = rng
        self._lock = new_lock()
        # Not a WeakSet: its callbacks may run in one thread while another iterates.
        self._views: list[weakref.ref[View]] = []
        self._tick_due_s: float | None = None
        self.over = False  # see ``end_waiting``

    # --- discovery speaks -------------------------------------------------------------------------------------------------

    def update(self, latest: EndpointSet) -> Change:
        """Take over a whole new truth. Survivors keep their record; views learn of it after the lock is released. O(n)."""
        now_s = self._clock.now_s()
        with self._lock:
            old, count = self.snapshot, len(latest.endpoints)
            # Together, because the ClusterIP's connections move from endpoints to fallback when the pods become known.
            plan = reconcile(old.listed + old.fallback, latest.endpoints + latest.fallback)
            placed, added = self._carry_out(plan, now_s)
            for position, sub in enumerate(placed):
                sub.fallback = position >= count
            self.snapshot = _snapshot(placed[:count], placed[count:], latest, now_s)
            views = self._refresh_views()
            for gone in plan.removed:
                gone.removed = True
        self.tell(views)
        return Change(added, plan.removed)

    def on_endpoints(self, latest: EndpointSet) -> None:
        """``Listener``: see ``update``."""
        self.update(latest)

    def on_error(self, error: ResolveError) -> None:
        """``Listener``: a failure never changes what is known; it explains why nothing is, if nothing is."""
        with self._lock:
            self.snapshot = replace(self.snapshot, error=error)
            views = self._refresh_views() if self.snapshot.latest is None else []
        self.tell(views)

    def tick(self) -> float | None:
        """Let time pass: a view turns to the fallback when connecting takes too long. Returns seconds to the next tick, None if
        none is needed before ``wake`` asks for one."""
        with self._lock:
            now_s = self._clock.now_s()
            views = self._live_views()
            changed = [view for view in views if view.tick_locked(now_s)]
            self._tick_due_s = min((due_s for view in views if (due_s := view.fallback_due_s()) is not None), default=None)
            again_s = None if self._tick_due_s is None else self._tick_due_s - now_s
        self.tell(changed)
        return again_s

    # --- transports speak -------------------------------------------------------------------------------------------------

    def view(self, listener: ViewListener) -> View:
        """A new view for one transport and event loop; the caller keeps it alive, the pool does not."""
        view = View(self, listener, clock=self._clock, rng=self._rng, lock=self._lock)
        with self._lock:
            self._views.append(weakref.ref(view))
            view.refresh_locked(self.snapshot)
        return view

    def describe(self) -> dict[str, Any]:
        """What is known, as plain data: for ``status()``, the command line and people with a debugger."""
        with self._lock:
            views = self._live_views()
        snapshot = self.snapshot
        latest = snapshot.latest
        usable = set(snapshot.eligible)
        now_s = self._clock.now_s()
        return {
            "target": self.target,
            "policy": self.policy.name,
            "source": snapshot.source,
            "authoritative": latest.authoritative if latest is not None else False,
            "age_s": round(now_s - snapshot.updated_s, 3) if latest is not None else None,
            "note": latest.note if latest is not None else "",
            "error": str(snapshot.error) if snapshot.error is not None else None,
            "views": [view.describe() for view in views],
            "endpoints": [_describe_one(sub, now_s, sub in usable, views) for sub in snapshot.listed],
            "fallback": [_describe_one(sub, now_s, sub in usable, views) for sub in snapshot.fallback],
        }

    def end_waiting(self) -> None:
        """Discovery has ended for good, and with it the watch over connections: whoever waits for either hears it now."""
        self.over = True
        self.on_error(ResolveError(self.target, summary="the mesh was closed"))
        with self._lock:
            views = self._live_views()
        self.tell(views)

    # --- views speak ------------------------------------------------------------------------------------------------------

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

    def wake_locked(self, due_s: float, now_s: float) -> None:
        """A view wants a tick at ``due_s``; asked for only if none is expected by then."""
        if self._tick_due_s is None or due_s < self._tick_due_s:
            self._tick_due_s = due_s
            self._wake(due_s - now_s)

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan, now_s: float) -> tuple[tuple[Subchannel, ...], tuple[Subchannel, ...]]:
        """The subchannels in the order of the plan, and those of them that are new."""
        placed, added = [], []
        for endpoint, sub in plan.placed:
            if sub is None:
                sub = Subchannel(endpoint, self.policy.new_metric(now_s), now_s)
                added.append(sub)
            else:
                sub.endpoint = endpoint
            placed.append(sub)
        return tuple(placed), tuple(added)

    def _refresh_views(self) -> list[View]:
        views = self._live_views()
        for view in views:
            view.refresh_locked(self.snapshot)
        return views

    def _live_views(self) -> list[View]:
        views = [view for ref in self._views if (view := ref()) is not None and not view.closed]
        if len(views) < len(self._views):
            self._views = [weakref.ref(view) for view in views]
        return views

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return (
            f"<Pool {self.target} {self.policy.name} source={snapshot.source} "
            f"endpoints={len(snapshot.listed)} eligible={len(snapshot.eligible)} fallback={len(snapshot.fallback)}>"
        )


def _snapshot(listed: tuple[Subchannel, ...], fallback: tuple[Subchannel, ...], latest: EndpointSet, now_s: float) -> PoolSnapshot:
    chosen = {endpoint.identity for endpoint in eligible(sub.endpoint for sub in listed)}
    usable = tuple(sub for sub in listed if sub.endpoint.identity in chosen)
    lingering: tuple[Subchannel, ...] = ()
    if len(usable) < len(listed):
        rest = (sub for sub in listed if sub.endpoint.identity not in chosen)
        lingering = tuple(sub for sub in rest if sub.endpoint.serving and sub.endpoint.terminating)
    return PoolSnapshot(listed, usable, lingering, fallback, latest, now_s)


def _describe_one(sub: Subchannel, now_s: float, usable: bool, views: list[View]) -> dict[str, Any]:
    endpoint = sub.endpoint
    return {
        "address": endpoint.address,
        "name": endpoint.name,
        "uid": endpoint.uid,
        "zone": endpoint.locality.zone,
        "weight": endpoint.weight,
        "state": "fallback" if sub.fallback else "usable" if usable else "terminating" if endpoint.terminating else "not ready",
        "age_s": round(now_s - sub.created_s, 3),
        "connections": [view.state_of(sub).value for view in views],
        "in_flight": len(sub.unary),
        "streams": len(sub.streams),
        "load": round(len(sub.unary) + sub.metric.load(now_s), 3),
        "started": sub.started,
        "failed": sub.failed,
    }
