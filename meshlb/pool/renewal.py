"""When a connection has become too old, and when the one that it was replaced by may let it go. Decisions only, for both drivers.

Make before break: a connection whose time has come gets a *successor*, which connects beside it. When that is ready, the driver swaps
the two, in one step that no call falls into; the old one is *replaced*, gets no more calls, and is let go when those that it has are
over, or when the streams' grace is. The endpoint is ready all the while, so its record, its picker and its calls hear nothing of it.

A successor that does not get ready changes nothing: it goes on trying, by the transport's own back-off, while the old one serves. If
the old one is lost meanwhile, the successor is dropped, since what the old one reconnects to is new as well.

A connection's time is ``max_age_s``, give or take ``max_age_jitter_ratio`` of it, from the moment it was seen ready: connections that
were made together are spread over a fifth of their age by the first renewal, and further by each.

Which calls run on a replaced connection the driver knows: those begun before the swap. A stream may outlive its grace only while a
unary call is on the same connection, for that is never cut short.

Spec: gRFC A9, on the client's side. Deviations: the grace counts for streams only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Generic, Protocol, TypeVar

from meshlb.core.clock import Rng
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.pool.connection_settings import Connection

DRAIN_S = 1.0  # a call that was given the connection a moment before the swap may not have reached it yet


class Ageing(Protocol):
    """A connection of a transport. ``ready_s`` is when it was first seen ready, None while it is not; ``renew_s`` when it is due."""

    ready_s: float | None
    renew_s: float


C = TypeVar("C", bound=Ageing)


class Replaced(Generic[C]):
    """A connection that gets no more calls. ``attempts`` are those that may be on it, ended ones among them."""

    __slots__ = ("attempts", "closed", "connection", "since_s", "subchannel")

    def __init__(self, connection: C, subchannel: Subchannel, attempts: Collection[Attempt], now_s: float) -> None:
        self.connection = connection
        self.subchannel = subchannel
        self.attempts = attempts
        self.since_s = now_s
        self.closed = False

    def carried(self) -> tuple[int, int]:
        """Live unary calls, and streams."""
        live = [attempt for attempt in self.attempts if attempt in attempt.live]
        unary = sum(attempt.live is self.subchannel.unary for attempt in live)
        return unary, len(live) - unary


class Renewals(Generic[C]):
    """Those of one driver, used by one thread or event loop at a time (``describe`` excepted)."""

    def __init__(self, settings: Connection, rng: Rng) -> None:
        self.successors: dict[Subchannel, C] = {}
        self.replaced: list[Replaced[C]] = []
        self._max_age_s = settings.max_age_s if settings.enabled else 0.0
        self._jitter_ratio = settings.max_age_jitter_ratio
        self._grace_s = settings.max_age_grace_s
        self._rng = rng

    def came_up(self, connection: C, now_s: float, *, renew: bool = True) -> None:
        """It is ready, and was not; ``renew``: somebody else does not renew it already."""
        connection.ready_s = now_s
        if self._max_age_s and renew:
            connection.renew_s = now_s + self._max_age_s * (1.0 + self._jitter_ratio * (2.0 * self._rng.random() - 1.0))

    def went_down(self, subchannel: Subchannel, connection: C) -> C | None:
        """It is not ready any more, or not wanted; the successor to drop."""
        connection.ready_s, connection.renew_s = None, math.inf
        return self.successors.pop(subchannel, None)

    def due(self, connections: Mapping[Subchannel, C], now_s: float) -> list[Subchannel]:
        """Those for which a successor should be opened now."""
        if not self._max_age_s:
            return []
        return [sub for sub, one in list(connections.items()) if now_s >= one.renew_s and sub not in self.successors]

    def swapped(self, subchannel: Subchannel, old: C, attempts: Collection[Attempt], now_s: float) -> None:
        """The successor took over; ``attempts`` may be on the old one."""
        del self.successors[subchannel]
        old.renew_s = math.inf
        self.replaced.append(Replaced(old, subchannel, attempts, now_s))

    def let_go(self, now_s: float) -> tuple[list[C], list[C]]:
        """(to drop, since nothing is on it; to close, since the streams' grace is over)."""
        done: list[Replaced[C]] = []
        close: list[C] = []
        for one in self.replaced:
            waited_s, (unary, streams) = now_s - one.since_s, one.carried()
            if not unary and not streams and waited_s >= DRAIN_S:
                done.append(one)
            elif self._grace_s and streams and not unary and waited_s >= self._grace_s and not one.closed:
                one.closed = True
                close.append(one.connection)
        if done:
            self.replaced[:] = [one for one in self.replaced if one not in done]
        return [one.connection for one in done], close

    def all(self) -> list[C]:
        """Every connection that is known only here."""
        return [*self.successors.values(), *(one.connection for one in self.replaced)]

    def forget_all(self) -> None:
        self.successors.clear()
        self.replaced.clear()

    def describe(self, subchannel: Subchannel, connection: C | None, now_s: float) -> dict[str, object]:
        """Plain data for ``status()``; from any thread."""
        ready_s = connection.ready_s if connection is not None else None
        return {
            "connected_for_s": None if ready_s is None else round(now_s - ready_s, 3),
            "renewing": subchannel in self.successors,
            "replaced": sum(one.subchannel is subchannel for one in self.replaced),
        }
