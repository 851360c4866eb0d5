"""Whom a pool knows, and what becomes of them as discovery speaks: who is listed, eligible or the fallback, who is kept besides, and
who is forgotten.

Each update is reconciled with what is known (reconcile.py), so that survivors keep their record; who leaves is remembered for a while
(leavers.py has the rules). Decisions only, all under the pool's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import LoadMetric
from meshlb.core.subchannel import Subchannel
from meshlb.health.selection import eligible
from meshlb.health.subset import Subsetting
from meshlb.pool.leavers import Leavers, MassRemoval
from meshlb.pool.reconcile import Plan, reconcile
from meshlb.pool.snapshot import Change, PoolSnapshot

_endpoint_of = attrgetter("endpoint")


class Update(NamedTuple):
    """What an update did: ``change`` for whoever called, ``forgotten`` for the views, ``mass_removal`` if it took most of the pool."""

    change: Change
    forgotten: list[Subchannel]
    mass_removal: MassRemoval | None


class Roster:
    """See the module head. ``snapshot`` is what is known now."""

    def __init__(self, new_metric: Callable[[float], LoadMetric], spare_s: float, subsetting: Subsetting | None = None) -> None:
        self.snapshot = PoolSnapshot()
        self.leavers = Leavers(spare_s)
        self._new_metric = new_metric
        self._subsetting = subsetting
        self._by_endpoint: dict[int, Subchannel] = {}  # all that are known, by the id of their endpoint
        self._ending: tuple[Subchannel, ...] = ()  # serve while they terminate, and are not the last resort

    def update(self, latest: EndpointSet, now_s: float) -> Update:
        """Take over a whole new truth; ``settle`` comes next. O(n)."""
        old, count, leavers = self.snapshot, len(latest.endpoints), self.leavers
        forgotten = self.expire(now_s)
        vanished = leavers.vanished
        # Together, because the ClusterIP's connections move from endpoints to fallback when the pods become known.
        plan = reconcile(old.listed + old.fallback + vanished, latest.endpoints + latest.fallback, self._by_endpoint)
        placed, created = self._carry_out(plan, now_s)
        listed, fallback = placed[:count], placed[count:]
        _mark_fallback(old.fallback, fallback)
        replaced = _replaced(plan.removed, created)
        self._drop_endpoints(replaced)
        seen = self._sort_out(listed, fallback, latest, plan.removed, replaced, now_s)
        gone, known = set(plan.removed), set(vanished)
        back = tuple([sub for sub in vanished if sub not in gone])
        change = Change(created + back, tuple([sub for sub in plan.removed if sub not in known]))
        return Update(change, [*forgotten, *replaced], seen)

    def expire(self, now_s: float) -> list[Subchannel]:
        """Time has passed: those that are not remembered any more."""
        forgotten = self.leavers.expire(now_s)
        self._drop_endpoints(forgotten)
        return forgotten

    def settle(self, ejected: frozenset[Subchannel], probing: tuple[Subchannel, ...]) -> bool:
        """Who is kept besides the listed, and who of them is out; True if that is news."""
        old = self.snapshot
        self.snapshot = replace(
            old,
            lingering=tuple(dict.fromkeys((*self._ending, *self.leavers.resting))),
            spare=self.leavers.spare,
            ejected=ejected,
            probing=probing,
        )
        return self.snapshot != old

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
                placed[position] = sub = Subchannel(endpoint, self._new_metric(now_s), now_s)
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
        left_out: frozenset[Subchannel] = frozenset()
        if self._subsetting is not None:
            fit, usable = usable, self._subsetting.choose(usable)
            left_out = frozenset(fit).difference(usable)
        known = set(usable)
        if len(usable) < len(listed):
            ending = tuple([sub for sub in listed if sub not in known and sub.endpoint.serving and sub.endpoint.terminating])
        self._ending = ending
        self.snapshot = PoolSnapshot(listed, usable, fallback=fallback, latest=latest, updated_s=now_s)
        known.update(fallback)
        unlisted = [sub for sub in removed if sub not in replaced]
        before = old.eligible
        if left_out:  # nothing is wrong with them: they are neither missed nor kept connected
            before = tuple([sub for sub in before if sub not in left_out])
        return self.leavers.update(now_s, before, known, unlisted, replaced)

    def _drop_endpoints(self, forgotten: Iterable[Subchannel]) -> None:
        """Before anything is looked up again: an id may be another object's by then, and the same object another's endpoint."""
        for gone in forgotten:
            self._by_endpoint.pop(id(gone.endpoint), None)


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
