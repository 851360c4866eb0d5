"""Each in its turn, in the order of the endpoints; with unequal weights each in proportion, smoothly.

One counter a policy, started at random, is shared by all views of the pool and survives every update, so that processes do not move
in step, and neither a rebuild nor a second channel sends the next call to the first endpoint again. A new picker goes on with whose
turn it was, or who stands after it: a flapping endpoint changes nothing for the others. ``next(itertools.count())`` is one operation
of the interpreter: no lock, and no turn is given twice (without the GIL, at worst one is).

Equal weights: the counter mod n. Unequal weights: the static stride scheduler. The counter is read as rounds over all n
endpoints; in round g endpoint i of scaled weight w (the largest is K) takes its turn if (w g + i K/2) mod K >= K - w, which is so
in w of any K rounds, evenly spread over them; else the counter moves on. Lock-free, O(1), exact over K rounds. A pick passes over
(largest / mean) - 1 turns on average: at most 9, since a weight above 10 times the mean counts as 10 times.

A pick that avoids somebody goes on drawing turns, so that the others get what they are worth, and not the neighbour all.

Round robin does not look at load, so what fails fast gets exactly its share, neither more nor less.

Beside ``weighted_round_robin``: the scheduler is one and the same, and so is the answer to weights from load reports. Here the smallest
weights are kept to 1 of K, so that what is configured is what is got; there to 1 % of the mean, as A58 has it.

Spec: gRPC's round_robin (Envoy's too, where weights are equal); gRFC A58 and grpc's static_stride_scheduler.cc for the scheduler and its
cap.
Deviations: gRPC's round_robin knows no weights. Envoy orders weighted hosts by deadlines in a heap, which needs a lock; the shares are
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.draw import relative_weights
from meshlb.balance.few import FewPicker
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly

_SCALE = 65535  # A58: weights are scaled to 16 bits
_OFFSET = _SCALE // 2
_MAX_RELATIVE_WEIGHT = 10.0  # A58
_TURNS = 1000  # looked at by a pick that avoids somebody: enough but where all others weigh next to nothing
_ANY = PickInfo()
_STARTS = 2**32  # far more than n, so that every endpoint is equally likely to be the first


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRobin(PolicyConfig):
    """Nothing to configure."""

    name: ClassVar[str] = "round_robin"

    def build(self, rng: Rng) -> RoundRobinPolicy:
        return RoundRobinPolicy(rng)


class Turns:
    """The counter, and the last turn it gave (about: threads may store it out of order, and only new pickers look)."""

    __slots__ = ("last", "next")

    def __init__(self, start: int) -> None:
        self.next = count(start).__next__
        self.last = start - 1


class RoundRobinPolicy:
    """Remembers whose turn it is. ``least_ratio``: of the mean, what the smallest weight counts at least."""

    __slots__ = ("_latest", "_least_ratio", "_turns", "name")

    def __init__(self, rng: Rng, name: str = RoundRobin.name, least_ratio: float = 0.0) -> None:
        self.name = name
        self._least_ratio = least_ratio
        self._turns = Turns(int(rng.random() * _STARTS))
        self._latest: EvenPicker | None = None

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        weights = relative_weights(subchannels)
        whose_turn = self._latest.whose_turn() if self._latest is not None else None
        if weights is None:
            self._latest = EvenPicker(subchannels, self._turns, whose_turn)
        else:
            self._latest = StridePicker(subchannels, strides(weights, self._least_ratio), self._turns, whose_turn)
        return self._latest


class EvenPicker:
    """n >= 2 subchannels of equal weight; goes on with ``whose_turn``. Immutable but for the policy's turns; any thread."""

    __slots__ = ("_n", "_shift", "_subchannels", "_turns")

    def __init__(self, subchannels: Sequence[Subchannel], turns: Turns, whose_turn: Subchannel | None = None) -> None:
        self._subchannels = tuple(subchannels)
        self._n = n = len(subchannels)
        self._turns = turns
        # Less than a round, so that the strides below stay where they are.
        self._shift = (_position(subchannels, whose_turn) - turns.last - 1) % n if whose_turn is not None else 0

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if info.exclude:
            return self._pick_outside(info.exclude)
        turns = self._turns
        turns.last = turn = turns.next()
        return self._subchannels[(turn + self._shift) % self._n]

    def whose_turn(self) -> Subchannel:
        """Who would be next."""
        return self._subchannels[(self._turns.last + 1 + self._shift) % self._n]

    def _pick_outside(self, exclude: frozenset[Subchannel]) -> Subchannel | None:
        """Turns are drawn until one is nobody's who is to be avoided; if all are, any turn. After too many of them, who follows."""
        subchannels, turns, n = self._subchannels, self._turns, self._n
        if len(exclude) >= n and exclude.issuperset(subchannels):
            return self.pick(_ANY, 0.0)
        turn = 0
        for _ in range(_TURNS):
            turns.last = turn = turns.next()
            subchannel = subchannels[(turn + self._shift) % n]
            if subchannel not in exclude and self._takes(turn):
                return subchannel
        following = (subchannels[(turn + self._shift + step) % n] for step in range(1, n + 1))
        return next(subchannel for subchannel in following if subchannel not in exclude)

    def _takes(self, turn: int) -> bool:
        """Does whose turn it is take it?"""
        return True


class StridePicker(EvenPicker):
    """The same for unequal weights."""

    __slots__ = ("_strides",)

    def __init__(
        self, subchannels: Sequence[Subchannel], strides: Sequence[int], turns: Turns, whose_turn: Subchannel | None = None
    ) -> None:
        super().__init__(subchannels, turns, whose_turn)
        self._strides = strides

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if info.exclude:
            return self._pick_outside(info.exclude)
        turns, n, shift, strides = self._turns, self._n, self._shift, self._strides
        while True:
            turn = turns.next()
            generation, at = divmod(turn + shift, n)
            stride = strides[at]
            if (stride * generation + at * _OFFSET) % _SCALE >= _SCALE - stride:
                turns.last = turn
                return self._subchannels[at]

    def _takes(self, turn: int) -> bool:
        generation, at = divmod(turn + self._shift, self._n)
        stride = self._strides[at]
        return (stride * generation + at * _OFFSET) % _SCALE >= _SCALE - stride


def strides(weights: Sequence[float], least_ratio: float) -> tuple[int, ...]:
    """Weights (all > 0) as whole numbers up to K: those above 10 times the mean count as that, those below ``least_ratio`` of it as that."""
    mean = sum(weights) / len(weights)
    scale = _SCALE / min(max(weights), _MAX_RELATIVE_WEIGHT * mean)
    least = max(1, _rounded(_rounded(mean * scale) * least_ratio))
    return tuple([max(least, min(_SCALE, _rounded(weight * scale))) for weight in weights])


def _rounded(number: float) -> int:
    return int(number + 0.5)  # halves go up, as in C; ``round`` has them go to the even


def _position(subchannels: Sequence[Subchannel], whose_turn: Subchannel) -> int:
    """Where it stands, or who follows it in the order of endpoints."""
    if whose_turn in subchannels:
        return subchannels.index(whose_turn)
    key = _order(whose_turn)
    return next((at for at, sub in enumerate(subchannels) if _order(sub) > key), 0)


def _order(subchannel: Subchannel) -> tuple[str, int, str]:
    endpoint = subchannel.endpoint
    return (endpoint.host, endpoint.port, endpoint.uid)
