"""The least loaded of all; above ``full_scan_limit`` endpoints the least loaded of ``choice_count`` distinct draws.

Why a scan at all: what a process has in flight itself is exact and fresh, so sampling two only throws knowledge away. Why not
always: a scan is O(n). 64 take about 2 us, written as whole-sequence operations of the interpreter; 10,000 would take 300.

Ties are the rule (most counts are 0 most of the time) and are broken at random, in proportion to weight: an idle pool is shared
exactly by weight, and callers do not all begin at the same endpoint. Loads are compared per weight, and where weights differ a draw by
weight comes first, which a lighter endpoint must beat with the attempt added (see sample.py).

Spec: Envoy's LeastRequest with FULL_SCAN; gRFC A48 for choice_count: at least 2, and above 10 it is 10.
Deviations: draws are distinct (A48 and Envoy draw with replacement). Envoy reads weights when it re-adds a host to its heap, hence
late; ours take part in every pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import truediv
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.draw import Draw, Steps, relative_weights
from meshlb.balance.few import FewPicker
from meshlb.balance.sample import sample_picker
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import InFlight, Penalties

_MAX_CHOICE_COUNT = 10  # A48
_REDRAWS = 4  # beyond, listing the ties is quicker


@dataclass(frozen=True, kw_only=True, slots=True)
class LeastRequest(PolicyConfig):
    """``choice_count`` (2 to 10; more is 10): draws a pick among more than ``full_scan_limit`` (>= 0) endpoints.
    ``stream_weight``: what a live stream counts in unary attempts, see ``P2C``."""

    name: ClassVar[str] = "least_request"
    choice_count: int = 2
    full_scan_limit: int = 64
    stream_weight: float = 0.01

    def __post_init__(self) -> None:
        choice_count = validate.integer("policy.choice_count", self.choice_count, minimum=2)
        object.__setattr__(self, "choice_count", min(choice_count, _MAX_CHOICE_COUNT))  # A48: above 10 is 10
        validate.integer("policy.full_scan_limit", self.full_scan_limit, minimum=0)
        object.__setattr__(self, "stream_weight", validate.number("policy.stream_weight", self.stream_weight, minimum=0.0))

    def build(self, rng: Rng) -> LeastRequestPolicy:
        return LeastRequestPolicy(self)


class LeastRequestPolicy:
    """Remembers penalties; the rest of the load lives on the subchannels."""

    __slots__ = ("_config", "_penalties", "name")

    def __init__(self, config: LeastRequest) -> None:
        self.name = config.name
        self._config = config
        self._penalties = Penalties(config.stream_weight)

    def new_metric(self, now_s: float, /) -> InFlight:
        return InFlight(self._penalties)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        choices = self._config.choice_count
        if len(subchannels) <= max(choices, self._config.full_scan_limit):
            return ScanPicker(subchannels, rng, self._penalties)
        return sample_picker(subchannels, choices, rng, self._penalties)


class ScanPicker:
    """n >= 2 subchannels, all looked at. Immutable; any thread."""

    __slots__ = ("_draw", "_peers", "_penalties", "_position_of", "_steps", "_streams", "_subchannels", "_unary", "_weights")

    def __init__(self, subchannels: Sequence[Subchannel], rng: Rng, penalties: Penalties) -> None:
        self._subchannels = tuple(subchannels)
        self._weights = relative_weights(subchannels)
        self._steps = Steps(self._weights) if self._weights is not None else None
        self._draw = Draw(len(subchannels), self._weights, rng.random)
        self._penalties = penalties
        self._peers = penalties.join(self._subchannels, self._weights)
        self._unary = [sub.unary for sub in subchannels]
        self._streams = [sub.streams for sub in subchannels]
        self._position_of = {sub.metric: at for at, sub in enumerate(subchannels)}

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        loads: list[float] = list(map(len, self._unary))
        if any(self._streams):
            stream_weight = self._penalties.stream_weight
            loads = [load + stream_weight * streams for load, streams in zip(loads, map(len, self._streams), strict=True)]
        if self._weights is not None:
            loads = list(map(truediv, loads, self._weights))
        if self._penalties.penalised:
            self._penalise(loads, now_s)
        if info.exclude:
            self._put_last(loads, info.exclude)
        if self._steps is not None:
            first = self._first(info.exclude)
            if loads[first] <= min(loads):
                return self._subchannels[first]
            loads = self._steps.added_to_all(loads, first, 1.0 if any(self._unary) else self._penalties.stream_weight)
            if loads[first] <= min(loads):
                return self._subchannels[first]
        least = min(loads)
        at = loads.index(least) if loads.count(least) == 1 else self._one_of_ties(loads, least)
        return self._subchannels[at]

    def _penalise(self, loads: list[float], now_s: float) -> None:
        self._penalties.turn(now_s)
        for metric in tuple(self._penalties.penalised):
            at = self._position_of.get(metric)
            if at is not None:
                loads[at] += metric.load(now_s)

    def _put_last(self, loads: list[float], exclude: frozenset[Subchannel]) -> None:
        avoided = self._positions(exclude)
        if len(avoided) < len(loads):
            for at in avoided:
                loads[at] = inf

    def _first(self, exclude: frozenset[Subchannel]) -> int:
        return self._draw.distinct(1, self._positions(exclude))[0] if exclude else self._draw.one()

    def _positions(self, exclude: frozenset[Subchannel]) -> list[int]:
        return sorted([at for sub in exclude if (at := self._position_of.get(sub.metric)) is not None])

    def _one_of_ties(self, loads: list[float], least: float) -> int:
        """Drawing until a tie is met is exact, and quick while ties are many; else they are listed."""
        for _ in range(_REDRAWS):
            at = self._draw.one()
            if loads[at] == least:
                return at
        ties = [at for at, load in enumerate(loads) if load == least]
        return self._draw.among(ties)
