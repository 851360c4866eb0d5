"""The live record of one endpoint, and of one try to use it.

Live attempts are kept in two sets, unary and streams apart, and their sizes are the in-flight counts: ``set.add`` and
``set.remove`` are single operations of the interpreter, atomic with and without the GIL, the removal says whether the attempt was
still live (so an end counts once however often it is reported), and the sets are the drain list. A plain ``n += 1`` promises
none of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshlb.core.endpoint import Endpoint

if TYPE_CHECKING:
    from meshlb.core.policy import LoadMetric, PickInfo


class Subchannel:
    """What a pool remembers of one endpoint for as long as discovery knows it; shared by every view of the pool.

    ``endpoint``, ``removed``, ``fallback``, ``watched``, ``warmth`` and ``capacity`` are written under the pool's lock, by single stores; reading needs
    no lock. ``started``, ``succeeded`` and ``failed`` are totals: plain integers that may lose an update under threads, so what is decided
    by them must stand an error of a few. How an attempt ended is counted only if its ``info`` says that it is ``judged``.
    """

    __slots__ = (
        "__weakref__",
        "by_attempt",
        "capacity",
        "created_s",
        "endpoint",
        "failed",
        "fallback",
        "metric",
        "removed",
        "started",
        "streams",
        "succeeded",
        "unary",
        "warmth",
        "watched",
    )

    def __init__(self, endpoint: Endpoint, metric: LoadMetric, created_s: float = 0.0) -> None:
        self.endpoint = endpoint
        self.metric = metric
        self.by_attempt = hasattr(metric, "on_attempt_end")  # it wants whole attempts (core/policy.py)
        self.created_s = created_s
        self.unary: set[Attempt] = set()
        self.streams: set[Attempt] = set()
        self.removed = False  # discovery no longer lists it: draining, no new attempts
        self.fallback = False  # the ClusterIP's: whoever needs it has waited long enough, so it is connected at once
        self.watched = False  # ``health`` wants to hear how each attempt ends, not of failures alone
        self.warmth = 1.0  # slow start's factor on the weight, in (0, 1]
        self.capacity = 1.0  # the factor that follows from load reports, > 0
        self.started = 0
        self.succeeded = 0
        self.failed = 0

    @property
    def weight(self) -> float:
        """What it can bear beside the others, now."""
        return self.endpoint.weight * self.warmth * self.capacity

    @property
    def in_flight(self) -> int:
        """Live attempts of both kinds."""
        return len(self.unary) + len(self.streams)

    def __repr__(self) -> str:
        state = " draining" if self.removed else ""
        return f"<Subchannel {self.endpoint} unary={len(self.unary)} streams={len(self.streams)}{state}>"


class Attempt:
    """One try of a call on one subchannel; ended once, a second end is ignored. ``live`` is the set that counts it, ``info`` what it was
    picked by.

    Made empty and filled by whoever counts it (see ``View.begin``): four stores are a tenth of a begin and end cheaper than a
    call of ``__init__``.
    """

    __slots__ = ("info", "live", "started_s", "subchannel")

    info: PickInfo
    live: set[Attempt]
    started_s: float
    subchannel: Subchannel

    def __repr__(self) -> str:
        return f"<Attempt on {self.subchannel.endpoint} {'live' if self in self.live else 'ended'}>"
