"""Who left, what of them is kept and for how long; and the guard against losing most of a pool at once.

There are three ways to leave, and for each a time after which nothing is left of it:

==============================  ============================  ===============================  ==================================
an endpoint is                  new calls                     its connection, if it has one    its record (statistics, penalty)
==============================  ============================  ===============================  ==================================
listed, not eligible any more   none                          stays for ``KEPT_S``             stays for as long as it is listed
not listed any more             none                          is let go, gently                is remembered for ``KEPT_S``
lost with most of the others    while nobody else is ready    stays for ``spare_s``            is remembered for ``spare_s`` or more
==============================  ============================  ===============================  ==================================

So a pod whose readiness flaps, or that an answer misses, comes back as who it was. Identity decides whether it is the same (see
reconcile.py). As soon as a new endpoint has the address of one that is not listed any more, that one is forgotten.

The guard. A partition of nodes, or a readiness probe that asks what all pods share, takes most of a Service away while it serves as
well as before. Whoever believes that, sends everything to the few that are left. So endpoints that were *lost*, more than half of a
pool of ``LEAST_POOL`` or more within ``WINDOW_S``, become its *spare*.

- Lost means: not listed any more, or not ready. A terminating endpoint leaves on purpose, and so does one that is ready but that
  hints or policies gave to other callers; hence a roll-over is none, nor is a topology that is switched on. The ClusterIP's connections
  are never lost. The pool is whoever was eligible in the window, also those that left on purpose or came meanwhile.
- A window, because one event of the cluster comes as many: slice after slice, in at most 20 sets a second; a controller that writes
  20 slices a second needs 2.5 s for the half of 10,000 endpoints. A connection that may yet be part of a spare is kept that long.
- The spare only ever shrinks by connections that end: it is never connected again, for its addresses may be another's by then.
- Nobody can tell a partition from pods that were deleted without a grace period, or from a Service that its DNS does not list any
  more since it was scaled to zero: their connections may carry calls for ``spare_s`` more, if they still work. That is the price.
  With grace the endpoints were terminating, and there is no spare.

Everything here happens under the pool's lock, and is O(those that left).

Spec: none; Envoy's panic threshold and Eureka's self-preservation for the idea.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import takewhile
from typing import NamedTuple

from meshlb.core.subchannel import Subchannel

KEPT_S = 30.0  # three periods of a readiness probe: one that failed once has passed again by then
WINDOW_S = 5.0
LEAST_POOL = 4
MOST_RATIO = 0.5


class MassRemoval(NamedTuple):
    """What the guard saw: of ``pool`` endpoints ``unlisted`` vanished and ``unready`` are listed and not ready."""

    pool: int
    unlisted: int
    unready: int


class Leavers:
    """See the module head. ``spare_s``: how long a spare is kept, 0 turns the guard off; ``mass_removals`` counts what it saw."""

    def __init__(self, spare_s: float) -> None:
        self.spare_s = spare_s
        self.mass_removals = 0
        self._remembered_s = max(KEPT_S, spare_s)
        # Each in the order of its times, so that what is over stands first.
        self._left_s: dict[Subchannel, float] = {}  # eligible until then, and not since
        self._vanished_s: dict[Subchannel, float] = {}  # not listed since then
        self._lost_s: dict[Subchannel, float] = {}  # within the window
        self._spare_s: dict[Subchannel, float] = {}  # when they were lost
        self._pool = 0  # how many there were in the window when somebody left last

    @property
    def vanished(self) -> tuple[Subchannel, ...]:
        """Those that are remembered although nobody lists them."""
        return tuple(self._vanished_s)

    @property
    def spare(self) -> tuple[Subchannel, ...]:
        return tuple(self._spare_s)

    @property
    def resting(self) -> tuple[Subchannel, ...]:
        """Those that may take no call, and keep the connection that they have."""
        resting = [sub for sub in self._left_s if sub not in self._vanished_s]
        return tuple([sub for sub in dict.fromkeys((*resting, *self._held)) if sub not in self._spare_s])

    @property
    def let_go(self) -> list[Subchannel]:
        """Those that are remembered, and whose connection is not kept."""
        held = self._held
        return [sub for sub in self._vanished_s if sub not in held and sub not in self._spare_s]

    def update(
        self,
        now_s: float,
        was: Sequence[Subchannel],
        usable: Set[Subchannel],
        unlisted: Sequence[Subchannel],
        replaced: Set[Subchannel] = frozenset(),
    ) -> MassRemoval | None:
        """Discovery spoke: ``was`` were eligible, ``usable`` are, or have become the fallback; of all that were remembered,
        ``unlisted`` are not listed, and another pod has the address of the ``replaced``, who are gone for good.

        Whoever is listed again is not ``removed`` any more when this returns, nor is whoever keeps its connection.
        """
        for sub in replaced:
            self._vanished_s.pop(sub, None)
            self._forget_leaving(sub)
        self._look_who_vanished(now_s, unlisted)
        for sub in [sub for sub in (*self._left_s, *self._spare_s) if sub in usable]:
            self._forget_leaving(sub)
        for sub in [sub for sub in (*self._lost_s, *self._spare_s) if sub.endpoint.terminating]:  # listed again, to say so
            self._lost_s.pop(sub, None)
            self._spare_s.pop(sub, None)
        gone = [sub for sub in was if sub not in usable and sub not in replaced]
        return self._leave(now_s, gone, len(was)) if gone else None

    def expire(self, now_s: float) -> list[Subchannel]:
        """Time has passed. Those that are not remembered any more."""
        _drop_until(self._left_s, KEPT_S, now_s)
        _drop_until(self._lost_s, WINDOW_S, now_s)
        _drop_until(self._spare_s, self.spare_s, now_s)
        return _drop_until(self._vanished_s, self._remembered_s, now_s)

    def due_s(self) -> float | None:
        """When something expires next."""
        lasting = (
            (self._left_s, KEPT_S),
            (self._lost_s, WINDOW_S),
            (self._spare_s, self.spare_s),
            (self._vanished_s, self._remembered_s),
        )
        return min((next(iter(since_s.values())) + length_s for since_s, length_s in lasting if since_s), default=None)

    # --- inside -----------------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> dict[Subchannel, float]:
        """Those that may yet be part of a spare."""
        return self._lost_s if self._pool >= LEAST_POOL else {}

    def _look_who_vanished(self, now_s: float, unlisted: Sequence[Subchannel]) -> None:
        if not unlisted and not self._vanished_s:
            return
        still = set(unlisted)
        for sub in [sub for sub in self._vanished_s if sub not in still]:
            del self._vanished_s[sub]
            sub.removed = False
        for sub in unlisted:
            self._vanished_s.setdefault(sub, now_s)

    def _leave(self, now_s: float, gone: Sequence[Subchannel], eligible_before: int) -> MassRemoval | None:
        """These were eligible up to now."""
        since_s = now_s - WINDOW_S
        earlier = sum(1 for _ in takewhile(lambda left_s: left_s > since_s, reversed(self._left_s.values())))
        self._pool = eligible_before + earlier
        for sub in gone:
            self._left_s[sub] = now_s
        if not self.spare_s:
            return None
        lost = [sub for sub in gone if self._is_lost(sub)]
        self._lost_s.update(dict.fromkeys(lost, now_s))
        for sub in self._held:
            sub.removed = False
        if not lost or self._pool < LEAST_POOL or len(self._lost_s) <= MOST_RATIO * self._pool:
            return None
        return self._keep_spare()

    def _keep_spare(self) -> MassRemoval | None:
        """Everyone that was lost in the window; None if that is no news, but more of the same."""
        news = not self._spare_s
        for sub, lost_s in self._lost_s.items():
            self._spare_s.setdefault(sub, lost_s)
        self.mass_removals += news
        unlisted = sum(1 for sub in self._spare_s if sub in self._vanished_s)
        return MassRemoval(self._pool, unlisted, len(self._spare_s) - unlisted) if news else None

    def _is_lost(self, sub: Subchannel) -> bool:
        endpoint = sub.endpoint
        if endpoint.uid.startswith("clusterip/"):  # no endpoint of the Service: those that are known now say what became of it
            return False
        return not endpoint.terminating and (sub in self._vanished_s or not endpoint.ready)

    def _forget_leaving(self, sub: Subchannel) -> None:
        for since_s in (self._left_s, self._lost_s, self._spare_s):
            since_s.pop(sub, None)


def _drop_until(since_s: dict[Subchannel, float], length_s: float, now_s: float) -> list[Subchannel]:
    over = list(takewhile(lambda sub: since_s[sub] + length_s <= now_s, since_s))
    for sub in over:
        del since_s[sub]
    return over
