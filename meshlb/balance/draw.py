"""Drawing by chance: one of n positions, in proportion to weights, outside of those already taken; and what an attempt weighs there.

Equal weights take one ``random()`` and one multiplication. Unequal ones bisect their cumulative sums, which is O(log n) at C speed
(0.1 us at 10,000) and, unlike an alias table, leaves positions out exactly: their intervals are skipped, so that no draw is ever
repeated, however much of the weight is taken.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import frexp

from meshlb.core.subchannel import Subchannel


def relative_weights(subchannels: Sequence[Subchannel]) -> tuple[float, ...] | None:
    """The weights in a unit about as large as their mean, so that a load per weight is still a number of attempts; None if all are
    equal. The unit is a power of two, which keeps quotients exact: 1 attempt on weight 2 and 3 on weight 6 are the same load."""
    weights = [sub.weight for sub in subchannels]
    if not weights or weights.count(weights[0]) == len(weights):
        return None
    unit = 2.0 ** (frexp(sum(weights) / len(weights))[1] - 1)
    return tuple([weight / unit for weight in weights])


class Steps:
    """What one more attempt adds to the load per weight of each position. Whoever is drawn later and is lighter than the first draw is
    handicapped by the difference, so that loads are compared as they would be with the attempt added; ties, and so everything in an
    idle pool, stay with the first draw. Immutable."""

    __slots__ = ("_steps",)

    def __init__(self, weights: Sequence[float]) -> None:
        self._steps = tuple([1.0 / weight for weight in weights])

    def added(self, loads: Sequence[float], positions: Sequence[int], attempt: float) -> list[float]:
        """The loads at these positions, handicapped. ``attempt``: what it counts, 1 for a unary one."""
        steps = self._steps
        first = steps[positions[0]]
        return [
            load + (steps[at] - first) * attempt if steps[at] > first else load for load, at in zip(loads, positions, strict=True)
        ]

    def added_to_all(self, loads: Sequence[float], first: int, attempt: float) -> list[float]:
        """The same for all positions."""
        own = self._steps[first]
        return [load + (step - own) * attempt if step > own else load for load, step in zip(loads, self._steps, strict=True)]


class Draw:
    """Positions in a sequence of n >= 1, by ``random`` (uniform floats in [0, 1)). Immutable; any thread.

    ``cumulative`` are the running sums of the weights; empty where all are equal.
    """

    __slots__ = ("_n", "_random", "_weights", "cumulative")

    def __init__(self, n: int, weights: Sequence[float] | None, random: Callable[[], float]) -> None:
        self._n = n
        self._random = random
        self._weights = weights
        self.cumulative = list(accumulate(weights)) if weights else []

    def one(self) -> int:
        """Any position."""
        if self._weights is None:
            return int(self._random() * self._n)
        return bisect(self.cumulative, self._random() * self.cumulative[-1])  # never the end: a product with < 1 rounds to less

    def distinct(self, count: int, avoid: Sequence[int]) -> list[int]:
        """``count`` different positions in the order of their draws, none of ``avoid`` (ascending, distinct). Fewer if no more are
        there; if all are to be avoided, as if none were."""
        taken = list(avoid) if len(avoid) < self._n else []
        count = min(count, self._n - len(taken))
        draws: list[int] = []
        if self._weights is None and not taken:
            while len(draws) < count:
                at = int(self._random() * self._n)
                if at not in draws:
                    draws.append(at)
            return draws
        for _ in range(count):
            at = self._other(taken)
            draws.append(at)
            insort(taken, at)
        return draws

    def _other(self, taken: Sequence[int]) -> int:
        """Any position but those taken, which are ascending, distinct and fewer than n."""
        if self._weights is None:
            at = int(self._random() * (self._n - len(taken)))
            for position in taken:
                at += at >= position
            return at
        weights, cumulative = self._weights, self.cumulative
        point = self._random() * (cumulative[-1] - sum([weights[position] for position in taken]))
        for position in taken:
            if point >= cumulative[position] - weights[position]:
                point += weights[position]
        at = bisect(cumulative, point, 0, self._n - 1)
        while at in taken:  # rounding hit the very edge of a skipped interval, or the end
            at = (at + 1) % self._n
        return at

    def among(self, positions: Sequence[int]) -> int:
        """One of these positions; O(their number)."""
        weights = [self._weights[position] for position in positions] if self._weights is not None else None
        return positions[Draw(len(positions), weights, self._random).one()]
