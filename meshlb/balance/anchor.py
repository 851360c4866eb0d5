"""The cheapest of all, in an order that each process keeps to itself: least request with a memory. Our own; opt-in.

    cost = rank * e ** latency * (1 + handicap + in_flight / weight) ** 2 * failing * warming       (load/anchored.py, load/latency.py)
    pick = the least cost of all ready endpoints, up to 64; above that of an aperture of 32

Over the nineteen main scenarios of meshlb/testing/simulation its p50, p99 and p99.9 are 1.31, 1.24 and 1.15 times the best that is possible
(geometric means), where least request has 1.54, 1.61 and 1.39. What that consists of, with the p99 that studies of such scenarios found
without it:

- **All are looked at** (2.08 with two draws, 1.67 with five, 1.32 with all, on ten of them). What a process has in flight is exact and fresh, so sampling, which is against
  herding on what all know alike, only throws knowledge away. Squared, so that a home spills over before it queues; 1.5 to 3 is a plateau.
- **Ties are broken by what lasts.** Most of the time all counts are 0, so the tie-break is the policy: 1.60 by chance, 1.75 by least
  recently used. The memory of latencies and the ``rank``, 1 to 1.3 along an order drawn once a process, let clients settle on different
  homes; then few share an endpoint, and own counts tell the truth. The order is drawn with weights, and survives whoever comes and goes.
- **Latency is remembered as a mean of logarithms**, by method, and soon forgotten (1.93 with peaks, on the same ten).
- **Failures make dear**, as a rate above the pool's (without: up to 45 % errors with one endpoint of ten that fails fast). Ejection is
  ``health``'s; this policy only meets who is not ejected.
- **Who joins warms up** within 5 s, and is as fast as the mean until it is known: neither free (46 times the p99 while pods roll)
  nor frozen.

**Not pinned.** An order that lasts sends everything a client does to one endpoint if it does one thing at a time; that is what people came
here to escape. It helps against contention, and who never meets a call of its own cannot see any. So there are two hands:

- *The turn.* While nothing is in flight, and of late fewer than 15 % of the picks met another call of this process (``ALONE_RATIO``), picks
  go round: 20 to each in the order, in proportion to weight (``TURN``; fewer where there are more than ten endpoints, so that a round has 200),
  passing over who is clearly slower (by a tenth and two sigmas) or fails clearly more. One to three clients with one call at a time: the
  busiest of ten gets 1.0 to 1.3 times the mean in any thousand calls (10 and 4 times without this hand); a hundred such clients at 70 %:
  p99 3 % above the lasting order. Turns of one pick cost 20 % there, and half as much again where endpoints pause: a call that is stuck
  warns the one client that sent it, so clients should be in few places.
- *The home.* The rank begins at another endpoint every ``HOME_S`` = 10 s. p50 is 1 % above that of an order that never moves, p99 the same;
  a new home every 20 picks cost 5 % and 2 %.

What is left: a client with several calls at once, far below what would be contended, still prefers some endpoints: Poisson arrivals at 5 %
load give the busiest 4 times the mean of a thousand calls (15 %: 2.4, 30 %: 1.6), another one every few seconds. What would even that out
was tried: thresholds on the memory, usage debts, vetoes, turns that end with a slow call. All cost 3 to 10 % of p99 with a hundred clients,
each of which looks exactly like one of three alone: own calls do not tell how many others there are. Nor do latencies, in time: one call
after the other on one endpoint they correlate by 0.07 at 70 % with ten clients, which takes thousands of calls to be seen.

Above 64 endpoints an aperture of 32 in the order is looked at, beginning at the home, twice as many while there is more than one call in
flight on each of them, and fewer again below a quarter: what a pick costs grows with the client's own load and not with the fleet. An
aperture that does not grow with the load collapses (361 times the p99 with 8 of 10). Turns go round all.

What lost, besides: least recently and most recently used among the cheapest, shrinking a mean by its error, chance among the best (5 % of
it cost 2 %), memories of 2 to 20 s (the same within 1 %), more weight on the unknown.

Spec: none. Nearest: Finagle's and Linkerd's peak EWMA, C3 (Suresh et al., NSDI 2015), local shortest queues (Vargaftik et al., 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

from meshlb.balance.anchor_picker import AnchorPicker, Hands
from meshlb.balance.config import PolicyConfig
from meshlb.balance.few import FewPicker
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Subchannel
from meshlb.load.anchored import Anchored, Costs


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor(PolicyConfig):
    """``full_scan_limit`` (>= 2): up to so many endpoints all are looked at. ``aperture`` (2 to ``full_scan_limit``): above that so many, and
    more while there is more than one call in flight on each. ``stream_weight``: what a live stream counts in unary attempts, see ``P2C``."""

    name: ClassVar[str] = "anchor"
    full_scan_limit: int = 64
    aperture: int = 32
    stream_weight: float = 0.01

    def __post_init__(self) -> None:
        validate.integer("policy.full_scan_limit", self.full_scan_limit, minimum=2)
        validate.integer("policy.aperture", self.aperture, minimum=2, maximum=self.full_scan_limit)
        object.__setattr__(self, "stream_weight", validate.number("policy.stream_weight", self.stream_weight, minimum=0.0))

    def build(self, rng: Rng) -> AnchorPolicy:
        return AnchorPolicy(self, rng)


class AnchorPolicy:
    """Remembers what each endpoint costs, in which order this process looks at them, and how far the hands have moved."""

    __slots__ = ("_config", "_costs", "_hands", "_known", "_rng", "name")

    def __init__(self, config: Anchor, rng: Rng) -> None:
        self.name = config.name
        self._config = config
        self._rng = rng
        self._costs = Costs(config.stream_weight)
        self._hands = Hands(config.full_scan_limit, config.aperture, rng.random())
        self._known = False

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        """Who joins a pool that was there already warms up; a whole pool that is new does not."""
        metrics = [metric for sub in members if isinstance(metric := sub.metric, Anchored)]
        new = [metric for metric in metrics if not metric.known]
        for metric in new:
            metric.known = True
            if self._known and len(new) < len(metrics):
                metric.joined_s = now_s
        self._known = self._known or bool(members)

    def new_metric(self, now_s: float, /) -> Anchored:
        return Anchored(self._costs, -log(1.0 - self._rng.random()))

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        return AnchorPicker(subchannels, self._costs, self._hands)
