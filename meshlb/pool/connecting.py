"""Which connections to open and close next, and when: at most 16 connects at once, in an order and with a jitter of our own.

A thousand clients learn of a new pod in the same millisecond; the jitter (up to ``JITTER_S``) and the shuffled order keep them
from knocking in step, and the limit keeps a large Service from making one client open a thousand sockets at once. A connect
counts until it is settled, that is ready or failed once; from then on the transport's own back-off bounds it.

The fallback's connections (a handful) neither wait nor count: they are wanted when the others do not come off, and would stand in
line behind just those.

Sans-io: the driver opens, closes and reports. Used by one thread or event loop at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshlb.core.clock import Rng
from meshlb.core.subchannel import Subchannel

MAX_CONNECTS = 16  # grpc-go and Envoy open all at once; 16 is what one core opens with TLS in about 50 ms
JITTER_S = 0.005  # small beside the 20 ms in which a new pod shall take calls, large beside a SYN


class ConnectQueue:
    """The connections of one view."""

    def __init__(self, rng: Rng, *, max_connects: int = MAX_CONNECTS, jitter_s: float = JITTER_S) -> None:
        self._rng = rng
        self._max_connects = max_connects
        self._jitter_s = jitter_s
        self._open: dict[Subchannel, None] = {}  # ordered, as all three are: a seed shall reproduce a run
        self._connecting: dict[Subchannel, None] = {}
        self._waiting: dict[Subchannel, None] = {}

    def reconcile(self, wanted: Iterable[Subchannel]) -> tuple[list[tuple[Subchannel, float]], list[Subchannel]]:
        """Compare with what should be connected: (to open, each after its delay in seconds), (to close)."""
        should = dict.fromkeys(wanted)
        close = [sub for sub in self._open if sub not in should]
        for sub in close:
            del self._open[sub]
            self._connecting.pop(sub, None)
        new = [sub for sub in should if sub not in self._open and sub not in self._waiting]
        new.sort(key=lambda _: self._rng.random())
        self._waiting = {sub: None for sub in (*self._waiting, *new) if sub in should}
        at_once = [self._opened(sub) for sub in tuple(self._waiting) if sub.fallback]
        return at_once + self._next(), close

    def settled(self, subchannel: Subchannel) -> list[tuple[Subchannel, float]]:
        """A connect ended, well or badly: what to open next."""
        if subchannel not in self._connecting:
            return []
        del self._connecting[subchannel]
        return self._next()

    def _next(self) -> list[tuple[Subchannel, float]]:
        opened: list[tuple[Subchannel, float]] = []
        while self._waiting and len(self._connecting) < self._max_connects:
            sub = next(iter(self._waiting))
            self._connecting[sub] = None
            opened.append(self._opened(sub))
        return opened

    def _opened(self, subchannel: Subchannel) -> tuple[Subchannel, float]:
        del self._waiting[subchannel]
        self._open[subchannel] = None
        return subchannel, self._rng.random() * self._jitter_s
