"""Draw a few distinct subchannels, keep the least loaded: for ``p2c``, and for ``least_request`` where a scan would be long.

The first is drawn in proportion to weight, each further one likewise from the rest, and loads are compared per weight. The earlier
draw wins ties, so that an idle pool is shared exactly in proportion to weight, and equal endpoints equally.

One attempt loads a light endpoint more than a heavy one, and that difference counts too (``Steps``): a new pod at a tenth of its weight
is not the better choice merely because it has nothing in flight while all others have one attempt each. Comparing loads as they are
gave it 1.5 to 1.8 times its share with two draws, and 6 times with a scan; so it is 0.7 to 1.3 times at any load (Envoy compares after
adding one as well, which leaves an idle pool to the heaviest; here the first draw keeps it).

Two draws are written out, since they are what nearly everybody uses: with equal weights one ``random()`` gives both positions
(0.2 us at any n), with unequal ones the second draw skips the first one's interval (0.3 to 0.5 us). Streams and failure penalties
(load/in_flight.py) are only looked at while there are some.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from meshlb.balance.draw import Steps, relative_weights
from meshlb.balance.drawing import DrawingPicker
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import Penalties


def sample_picker(subchannels: Sequence[Subchannel], choice_count: int, rng: Rng, penalties: Penalties) -> Picker:
    """For n >= ``choice_count`` >= 2 subchannels."""
    weights = relative_weights(subchannels)
    if choice_count == 2:
        if weights is None:
            return PairPicker(subchannels, rng, penalties)
        return WeightedPairPicker(subchannels, weights, rng, penalties)
    return SamplePicker(subchannels, weights, choice_count, rng, penalties)


class SamplePicker(DrawingPicker):
    """``weights`` are relative; None means that all are 1. Immutable; any thread."""

    __slots__ = ("_choice_count", "_peers", "_penalised", "_penalties", "_steps", "_stream_weight", "_weights")

    def __init__(
        self,
        subchannels: Sequence[Subchannel],
        weights: Sequence[float] | None,
        choice_count: int,
        rng: Rng,
        penalties: Penalties,
    ) -> None:
        super().__init__(subchannels, weights, rng)
        self._weights = weights
        self._steps = Steps(weights) if weights is not None else None
        self._choice_count = choice_count
        self._penalties = penalties
        self._penalised = penalties.penalised
        self._stream_weight = penalties.stream_weight
        self._peers = penalties.join(self._subchannels, weights)

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        draws = self._draw.distinct(self._choice_count, self._positions(info.exclude) if info.exclude else [])
        if self._penalised:
            self._penalties.turn(now_s)
        return self._subchannels[self._least(draws, now_s)]

    def _less_loaded(self, first: int, second: int, now_s: float) -> Subchannel:
        if self._penalised:
            self._penalties.turn(now_s)
        return self._subchannels[self._least((first, second), now_s)]

    def _least(self, draws: Sequence[int], now_s: float) -> int:
        """Which of these positions is the least loaded, if the first of them is where the attempt would go else."""
        loads = [self._load(at, now_s) for at in draws]
        if self._steps is not None:
            unary = any(self._subchannels[at].unary for at in draws)
            loads = self._steps.added(loads, draws, 1.0 if unary else self._stream_weight)
        return draws[loads.index(min(loads))]

    def _load(self, at: int, now_s: float) -> float:
        subchannel = self._subchannels[at]
        load = len(subchannel.unary) + self._stream_weight * len(subchannel.streams)
        if self._weights is not None:
            load /= self._weights[at]
        if subchannel.metric in self._penalised:
            load += subchannel.metric.load(now_s)
        return load


class PairPicker(SamplePicker):
    """Two draws among equal weights."""

    __slots__ = ("_others", "_pairs", "_random")

    def __init__(self, subchannels: Sequence[Subchannel], rng: Rng, penalties: Penalties) -> None:
        super().__init__(subchannels, None, 2, rng, penalties)
        self._random = rng.random
        self._others = len(subchannels) - 1
        self._pairs = len(subchannels) * self._others

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if info.exclude:
            return super().pick(info, now_s)
        pair, others = int(self._random() * self._pairs), self._others
        first = pair // others  # divmod would be a call
        second = pair - first * others
        if second >= first:
            second += 1
        subchannels = self._subchannels
        a = subchannels[first]
        b = subchannels[second]
        if a.streams or b.streams or self._penalised:
            return self._less_loaded(first, second, now_s)
        return b if len(b.unary) < len(a.unary) else a


class WeightedPairPicker(SamplePicker):
    """Two draws among unequal weights."""

    __slots__ = ("_cumulative", "_last", "_pair_weights", "_random")

    def __init__(self, subchannels: Sequence[Subchannel], weights: Sequence[float], rng: Rng, penalties: Penalties) -> None:
        super().__init__(subchannels, weights, 2, rng, penalties)
        self._random = rng.random
        self._pair_weights = weights
        self._cumulative = self._draw.cumulative
        self._last = len(subchannels) - 1

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if info.exclude:
            return super().pick(info, now_s)
        cumulative, weights, last = self._cumulative, self._pair_weights, self._last
        total = cumulative[last]
        first = bisect(cumulative, self._random() * total)
        weight = weights[first]
        point = self._random() * (total - weight)
        if point >= cumulative[first] - weight:
            point += weight
        second = bisect(cumulative, point, 0, last)
        if second == first:  # rounding hit the very edge of the skipped interval, or the end
            second = first - 1
        a = self._subchannels[first]
        b = self._subchannels[second]
        if a.streams or b.streams or self._penalised:
            return self._less_loaded(first, second, now_s)
        other = weights[second]
        if other < weight:  # see Steps
            return b if (len(b.unary) + 1) * weight < (len(a.unary) + 1) * other else a
        return b if len(b.unary) * weight < len(a.unary) * other else a
