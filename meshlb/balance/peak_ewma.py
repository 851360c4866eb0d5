"""Linkerd's way: of two distinct draws the one with the lower peak-sensitive latency times the number of calls it would have.

    cost = latency * (pending + 1)            pending = (live unary + stream_weight * live streams) / weight

``latency`` is load/ewma.py's, with its penalty for failures. Where weights differ, draws are by weight and pending is per weight, and
a lighter second draw bears what one attempt weighs more there than on the first (sample.py), so that equally fast idle endpoints are
shared in proportion to weight. (Dividing the whole cost by weight would give an idle pool's heavier endpoint every pick in which it is
drawn: at weights 3 : 1 all of them, not three quarters.)

What it is for: servers of lasting different speeds under low load, where counts of calls in flight say little. What it is not: the best
of two by latency is still one of two, peaks are noise as often as news, and a server that is merely slow for a moment is avoided for
tens of seconds.

Streams: only their failures are measured, so where nothing but streams is called, use ``p2c``: the estimates fade from the default as an
endpoint ages, and a new one would wait for its first stream for up to a minute.

Spec: Tower's PeakEwma as linkerd2-proxy uses it: default 30 ms, tau 10 s, two distinct draws, the first wins ties; failures 5 s.
Deviations: weights (Linkerd has none); pending as above, where Linkerd counts a call until the first frame of its answer; load/ewma.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.draw import Steps, relative_weights
from meshlb.balance.drawing import DrawingPicker
from meshlb.balance.few import FewPicker
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.ewma import PeakLatency


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakEwma(PolicyConfig):
    """``default_rtt_s``: the latency of who has not answered yet. ``tau_s``: in this time without news an estimate falls to 1/e, and
    outlived peaks with it. ``failure_penalty_s``: what a failure counts as latency; 0: it changes nothing, so that failing fast draws
    calls. ``stream_weight``: what a live stream counts in unary attempts, see ``P2C``."""

    name: ClassVar[str] = "peak_ewma"
    default_rtt_s: float = 0.03
    tau_s: float = 10.0
    failure_penalty_s: float = 5.0
    stream_weight: float = 0.01

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "default_rtt_s", validate.seconds("policy.default_rtt_s", self.default_rtt_s))
        set_field(self, "tau_s", validate.seconds("policy.tau_s", self.tau_s))
        penalty_s = validate.seconds("policy.failure_penalty_s", self.failure_penalty_s, exclusive=False)
        set_field(self, "failure_penalty_s", penalty_s)
        set_field(self, "stream_weight", validate.number("policy.stream_weight", self.stream_weight, minimum=0.0))

    def build(self, rng: Rng) -> PeakEwmaPolicy:
        return PeakEwmaPolicy(self)


class PeakEwmaPolicy:
    """Remembers nothing itself: what is known of an endpoint is its metric's."""

    __slots__ = ("_config", "name")

    def __init__(self, config: PeakEwma) -> None:
        self.name = config.name
        self._config = config

    def new_metric(self, now_s: float, /) -> PeakLatency:
        config = self._config
        return PeakLatency(now_s, config.default_rtt_s, config.tau_s, config.failure_penalty_s)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        return PeakEwmaPicker(subchannels, relative_weights(subchannels), rng, self._config.stream_weight)


class PeakEwmaPicker(DrawingPicker):
    """n >= 2 subchannels. Immutable; any thread."""

    __slots__ = ("_steps", "_stream_weight", "_weights")

    def __init__(self, subchannels: Sequence[Subchannel], weights: Sequence[float] | None, rng: Rng, stream_weight: float) -> None:
        super().__init__(subchannels, weights, rng)
        self._weights = weights
        self._steps = Steps(weights) if weights is not None else None
        self._stream_weight = stream_weight

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        draws = self._draw.distinct(2, self._positions(info.exclude) if info.exclude else ())
        if len(draws) == 1:
            return self._subchannels[draws[0]]
        a, b = self._subchannels[draws[0]], self._subchannels[draws[1]]
        pending_a: float = len(a.unary)
        pending_b: float = len(b.unary)
        if a.streams or b.streams:
            pending_a += self._stream_weight * len(a.streams)
            pending_b += self._stream_weight * len(b.streams)
        if self._weights is not None and self._steps is not None:
            loads = (pending_a / self._weights[draws[0]], pending_b / self._weights[draws[1]])
            attempt = 1.0 if a.unary or b.unary else self._stream_weight
            pending_a, pending_b = self._steps.added(loads, draws, attempt)
        cost_a = a.metric.load(now_s) * (pending_a + 1.0)
        cost_b = b.metric.load(now_s) * (pending_b + 1.0)
        return b if cost_b < cost_a else a
