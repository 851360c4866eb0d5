"""What ipvs does in the kernel, by its rules: ``ipvs:lc``, ``ipvs:sed`` and ``ipvs:nq``. (``sh`` and ``dh``: ipvs_hash.py.)

- **lc**, least connection: the least ``256 * active + inactive``; weights count for nothing.
- **sed**, shortest expected delay: the least ``(active + 1) / weight``.
- **nq**, never queue: the first that is idle, whatever its weight; if nobody is, as sed.

The first in the list wins ties. ``active`` are live calls, streams among them; ``inactive`` is 0: the kernel counts connections that were
closed in the last two minutes, and a call leaves nothing behind.

So who makes one call at a time sends all of them to the first in the list (lc, nq) or to the heaviest (sed), as these rules have it for
connections. That is rarely what is wanted of calls: ``least_request`` shares ties by weight. And what fails at once is idle, hence drawn.

Exact, but not by looking at all: endpoints stand heaviest first, and by their place in the list within a weight. Whoever is left of
such a row can do no better than its next one would if it were idle, so that a scan ends as soon as that is worse than the best so far. It
looks at about as many endpoints as the process has calls in flight: the first 8, then 64 at a time, as whole-sequence operations (5 us
where all of 64 are busy, 1 us where one of the first is idle).

Spec: Linux net/netfilter/ipvs ip_vs_lc.c, ip_vs_sed.c, ip_vs_nq.c.
Deviations: the list is each process' own (order.py). The kernel starts at the head of the list that kube-proxy wrote, which is
the same on all nodes; with a process instead of a node, and calls instead of connections, all would begin at one pod. Weights may be
fractions. Overloaded destinations (``IP_VS_DEST_F_OVERLOAD``) are ``max_in_flight_per_endpoint``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from operator import add, truediv
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.few import FewPicker
from meshlb.balance.order import Placed, place_of
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel

_NOBODY: frozenset[Subchannel] = frozenset()
_ONE_MORE = (1.0).__add__
_FIRST_BLOCK, _BLOCK = 8, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsLc(PolicyConfig):
    """Least connection; nothing to configure."""

    name: ClassVar[str] = "ipvs:lc"

    def build(self, rng: Rng) -> IpvsPolicy:
        return IpvsPolicy(self.name, rng, weighted=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsSed(PolicyConfig):
    """Shortest expected delay; nothing to configure."""

    name: ClassVar[str] = "ipvs:sed"

    def build(self, rng: Rng) -> IpvsPolicy:
        return IpvsPolicy(self.name, rng, weighted=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsNq(PolicyConfig):
    """Never queue; nothing to configure."""

    name: ClassVar[str] = "ipvs:nq"

    def build(self, rng: Rng) -> IpvsPolicy:
        return IpvsPolicy(self.name, rng, weighted=True, idle_first=True)


class IpvsPolicy:
    """Draws the places in the list. ``idle_first``: an idle one comes before all that are not, whatever the weights."""

    __slots__ = ("_idle_first", "_random", "_weighted", "name")

    def __init__(self, name: str, rng: Rng, *, weighted: bool, idle_first: bool = False) -> None:
        self.name = name
        self._random = rng.random
        self._weighted = weighted
        self._idle_first = idle_first

    def new_metric(self, now_s: float, /) -> Placed:
        return Placed(self._random(), now_s)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        row = Row(subchannels, weighted=self._weighted)
        return IpvsPicker(row, Row(subchannels, weighted=False) if self._idle_first else None)


class IpvsPicker:
    """The best of ``row``; but of ``idle``, if it has an idle one. Immutable; any thread."""

    __slots__ = ("_idle", "_row")

    def __init__(self, row: Row, idle: Row | None) -> None:
        self._row = row
        self._idle = idle

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        return self._best(info.exclude) or self._best(_NOBODY)  # if all are excluded, nobody is

    def _best(self, exclude: frozenset[Subchannel]) -> Subchannel | None:
        idle = self._idle.idle(exclude) if self._idle is not None else None
        return idle or self._row.best(exclude)


class Row:
    """n >= 1 subchannels in blocks, the heaviest first, those of one weight by their places. Immutable; any thread."""

    __slots__ = ("_blocks",)

    def __init__(self, subchannels: Sequence[Subchannel], *, weighted: bool) -> None:
        row = [(-subchannel.weight if weighted else -1.0, place_of(subchannel), subchannel) for subchannel in subchannels]
        row.sort(key=lambda entry: entry[:2])
        ends = [*range(_FIRST_BLOCK, len(row), _BLOCK), len(row)]
        self._blocks = [_Block(row[start:end]) for start, end in pairwise([0, *ends])]

    def best(self, exclude: frozenset[Subchannel]) -> Subchannel | None:
        """Whose cost is the least, the first in the list of those; None if all are excluded."""
        least = (inf, -1.0)  # before any place: who is excluded costs as much
        found: Subchannel | None = None
        for block in self._blocks:
            if block.bound > least:
                break
            cost, at = block.best(exclude)
            if (cost, block.places[at]) < least:
                least, found = (cost, block.places[at]), block.subchannels[at]
        return found

    def idle(self, exclude: frozenset[Subchannel]) -> Subchannel | None:
        """The first in the list that is idle, of an unweighted row; None if nobody is, or only those excluded."""
        for block in self._blocks:
            if not all(block.unary):
                cost, at = block.best(exclude)
                if cost == 1.0:
                    return block.subchannels[at]
        return None


class _Block:
    """``bound``: the least cost and place that are possible here and in the blocks that follow."""

    __slots__ = ("_even", "_streams", "_weights", "bound", "places", "subchannels", "unary")

    def __init__(self, row: Sequence[tuple[float, float, Subchannel]]) -> None:
        self._weights = [-weight for weight, _, _ in row]
        self._even = self._weights[0] == self._weights[-1]
        self.places = [place for _, place, _ in row]
        self.subchannels = [subchannel for _, _, subchannel in row]
        self.bound = (1.0 / self._weights[0], self.places[0])
        self.unary = [subchannel.unary for subchannel in self.subchannels]
        self._streams = [subchannel.streams for subchannel in self.subchannels]

    def best(self, exclude: frozenset[Subchannel]) -> tuple[float, int]:
        """The least cost and its position; infinite if all are excluded."""
        if not (self.unary[0] or self._streams[0] or exclude):
            return self.bound[0], 0
        active: list[float] = list(map(len, self.unary))
        if any(self._streams):
            active = list(map(add, active, map(len, self._streams)))
        if exclude:
            active = [inf if sub in exclude else count for sub, count in zip(self.subchannels, active, strict=True)]
        if self._even:
            count = min(active)
            return (count + 1.0) / self._weights[0], active.index(count)
        costs = list(map(truediv, map(_ONE_MORE, active), self._weights))
        cost = min(costs)
        at = first = costs.index(cost)
        for _ in range(costs.count(cost) - 1):
            at = costs.index(cost, at + 1)
            if self.places[at] < self.places[first]:
                first = at
        return cost, first
