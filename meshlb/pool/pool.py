"""One pool a target and balancing configuration: it reconciles, keeps what must survive, and tells its views.

Threads: ``update``, ``on_error`` and ``tick`` come from the discovery thread, ``view`` and ``describe`` from any. Everything that
changes does so under ``_lock``; requests take it only when they find an endpoint unreachable (see view.py). Views are held
weakly: a channel that its user forgot takes its view along.

Order of an update, so that a drained connection may be closed: new pickers first, then ``removed`` is set, then the listeners
hear. An attempt that an old picker started is seen either by the drain (it is in the live set) or by ``begin``, which sees
``removed``.

A listener that raises harms nobody else: all views are told first, then ``on_listener_error`` hears of it.

Who is not listed any more, or not eligible, is remembered for a while: leavers.py has the rules.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import Policy
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ResolveError
from meshlb.health.selection import eligible
from meshlb.pool.alarm import Alarm
from meshlb.pool.describe import describe
from meshlb.pool.leavers import Leavers, MassRemoval
from meshlb.pool.reconcile import Plan, reconcile
from meshlb.pool.snapshot import Change, PoolSnapshot
from meshlb.pool.view import View, ViewListener

WARN_S = 60.0  # between two warnings of one pool: a partition that comes and goes is one thing to know

_log = logging.getLogger("meshlb.pool")
_endpoint_of = attrgetter("endpoint")


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
        on_listener_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """``wake(d)`` asks for a ``tick()`` in d seconds, ``resolve_now()`` for a fresh look at the sources (a hint: something could
        not be connected, or nothing is known); both may be called often, and under the pool's lock, and must only note the wish.

        ``mass_removal_spare_s``: how long those stay connected that were lost with most of the pool, 0: no longer than others.

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
        self._leavers = Leavers(mass_removal_spare_s)
        self._alarm = Alarm()
        self._by_endpoint: dict[int, Subchannel] = {}  # all that are known, by the id of their endpoint
        self._ending: tuple[Subchannel, ...] = ()  # serve while they terminate, and are not the last resort
        self._warned_s = float("-inf")
        self.over = False  # see ``end_waiting``

    # --- discovery speaks -------------------------------------------------------------------------------------------------

    def update(self, latest: EndpointSet) -> Change:
        """Take over a whole new truth. Survivors keep their record; views learn of it after the lock is released. O(n)."""
        now_s = self._clock.now_s()
        with self._lock:
            old, count, leavers = self.snapshot, len(latest.endpoints), self._leavers
            forgotten = self._expire_locked(now_s)
            vanished = leavers.vanished
            # Together, because the ClusterIP's connections move from endpoints to fallback when the pods become known.
            plan = reconcile(old.listed + old.fallback + vanished, latest.endpoints + latest.fallback, self._by_endpoint)
            placed, created = self._carry_out(plan, now_s)
            listed, fallback = placed[:count], placed[count:]
            _mark_fallback(old.fallback, fallback)
            replaced = _replaced(plan.removed, created)
            self._drop_endpoints(replaced)
            seen = self._sort_out(listed, fallback, latest, plan.removed, replaced, now_s)
            views = self._arrange_locked([*forgotten, *replaced], rebuild=True)
            due_s = leavers.due_s()
            if due_s is not None:
                self.wake_locked(due_s, now_s)
        self.tell(views)
        if seen is not None:
            self._warn(seen, latest.source, now_s)
        gone, known = set(plan.removed), set(vanished)
        back = tuple([sub for sub in vanished if sub not in gone])
        return Change(created + back, tuple([sub for sub in plan.removed if sub not in known]))

    def on_endpoints(self, latest: EndpointSet) -> None:
        """``Listener``: see ``update``."""
        self.update(latest)

    def on_error(self, error: ResolveError) -> None:
        """``Listener``: a failure never changes what is known; it explains why nothing is, if nothing is."""
        with self._lock:
            self.snapshot = replace(self.snapshot, error=error)
            views = self._live_views() if self.snapshot.latest is None else []
            for view in views:
                view.refresh_locked(self.snapshot)
        self.tell(views)

    def tick(self) -> float | None:
        """Let time pass: what left is forgotten, and a view turns to others when connecting takes too long. Returns seconds to
        the next tick; None if none is needed before one that was asked for, or before ``wake`` asks for one."""
        with self._lock:
            now_s = self._clock.now_s()
            self._alarm.rang(now_s)
            forgotten = self._expire_locked(now_s)
            changed = dict.fromkeys(self._arrange_locked(forgotten))
            views = self._live_views()
            changed.update(dict.fromkeys([view for view in views if view.tick_locked(now_s)]))
            due_s = [view.due_s() for view in views] + [self._leavers.due_s()]
            next_s = min((one_s for one_s in due_s if one_s is not None), default=None)
            again_s = next_s - now_s if next_s is not None and self._alarm.ask(next_s) else None
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
        return {
            "target": self.target,
            "policy": self.policy.name,
            "mass_removals": self._leavers.mass_removals,
            **describe(self.snapshot, views, self._clock.now_s()),
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
        if self._alarm.ask(due_s):
            self._wake(due_s - now_s)

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan, now_s: float) -> tuple[tuple[Subchannel, ...], tuple[Subchannel, ...]]:
        """The subchannels in the order of the plan, and those of them that are new."""
        placed, created, by_endpoint = list(plan.survivors), [], self._by_endpoint
        for position in plan.described:
            survivor = placed[position]
            if survivor is not None:
                by_endpoint.pop(id(survivor.endpoint), None)
        for position, endpoint in plan.described.items():
            sub = placed[position]
            if sub is None:
                placed[position] = sub = Subchannel(endpoint, self.policy.new_metric(now_s), now_s)
                created.append(sub)
            sub.endpoint = endpoint
            by_endpoint[id(endpoint)] = sub
        return tuple(placed), tuple(created)  # type: ignore[arg-type]  # each position without a survivor is described

    def _sort_out(
        self,
        listed: tuple[Subchannel, ...],
        fallback: tuple[Subchannel, ...],
        latest: EndpointSet,
        removed: Sequence[Subchannel],
        replaced: set[Subchannel],
        now_s: float,
    ) -> MassRemoval | None:
        """A new snapshot: who may be used, and who left."""
        old = self.snapshot
        chosen = eligible(map(_endpoint_of, listed), latest.place, latest.local_only)
        usable = listed
        ending: tuple[Subchannel, ...] = ()
        if len(chosen) < len(listed):
            usable = tuple(map(self._by_endpoint.__getitem__, map(id, chosen)))
        known = set(usable)
        if len(usable) < len(listed):
            ending = tuple([sub for sub in listed if sub not in known and sub.endpoint.serving and sub.endpoint.terminating])
        self._ending = ending
        self.snapshot = PoolSnapshot(listed, usable, (), fallback, (), latest, now_s)
        known.update(fallback)
        unlisted = [sub for sub in removed if sub not in replaced]
        return self._leavers.update(now_s, old.eligible, known, unlisted, replaced)

    def _arrange_locked(self, forgotten: Sequence[Subchannel], *, rebuild: bool = False) -> list[View]:
        """Who is kept besides the listed; the views that have to be told. Pickers first, then ``removed``."""
        leavers, old = self._leavers, self.snapshot
        lingering, spare = tuple(dict.fromkeys((*self._ending, *leavers.resting))), leavers.spare
        if not rebuild and not forgotten and lingering == old.lingering and spare == old.spare:
            return []
        self.snapshot = replace(old, lingering=lingering, spare=spare)
        views = self._live_views()
        for view in views:
            view.refresh_locked(self.snapshot, forgotten, rebuild=rebuild)
        for gone in (*forgotten, *leavers.let_go):
            gone.removed = True
        return views

    def _expire_locked(self, now_s: float) -> list[Subchannel]:
        forgotten = self._leavers.expire(now_s)
        self._drop_endpoints(forgotten)
        return forgotten

    def _drop_endpoints(self, forgotten: Iterable[Subchannel]) -> None:
        """Before anything is looked up again: an id may be another object's by then, and the same object another's endpoint."""
        for gone in forgotten:
            self._by_endpoint.pop(id(gone.endpoint), None)

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
            self._leavers.spare_s,
        )

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


def _replaced(removed: Sequence[Subchannel], created: Sequence[Subchannel]) -> set[Subchannel]:
    """Those at whose address another pod is now."""
    if not removed or not created:
        return set()
    taken = {(sub.endpoint.host, sub.endpoint.port) for sub in created}
    return {sub for sub in removed if (sub.endpoint.host, sub.endpoint.port) in taken}


def _mark_fallback(before: Sequence[Subchannel], after: Sequence[Subchannel]) -> None:
    for sub in before:
        if sub not in after:
            sub.fallback = False
    for sub in after:
        sub.fallback = True
