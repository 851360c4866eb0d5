"""Power of two choices: draw two distinct subchannels, keep the less loaded (sample.py). The default.

Why not the least loaded of all: own counts are exact, so a scan (``least_request``) chooses better in a small pool, but it is O(n).
Two draws are O(1) whatever n, are the same at every size, and nobody's expected share passes 2 / n, however wrong its load is.

Spec: gRFC A48 (least_request, choice_count = 2); Mitzenmacher 2001; Envoy's LeastRequest for comparing loads per weight.
Deviations: A48 and Envoy draw with replacement, so with two endpoints a busy one still gets 1/4. Distinct pairs, as Finagle and
Linkerd draw them, give it none. A48 knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.few import FewPicker
from meshlb.balance.sample import sample_picker
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import InFlight, Penalties


@dataclass(frozen=True, kw_only=True, slots=True)
class P2C(PolicyConfig):
    """``stream_weight``: what a live stream counts in unary attempts, >= 0. A stream holds its place for minutes and costs next to
    nothing meanwhile; 0.01 still spreads streams evenly among themselves."""

    name: ClassVar[str] = "p2c"
    stream_weight: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream_weight", validate.number("policy.stream_weight", self.stream_weight, minimum=0.0))

    def build(self, rng: Rng) -> P2CPolicy:
        return P2CPolicy(self)


class P2CPolicy:
    """Remembers penalties; the rest of the load lives on the subchannels."""

    __slots__ = ("_penalties", "name")

    def __init__(self, config: P2C) -> None:
        self.name = config.name
        self._penalties = Penalties(config.stream_weight)

    def new_metric(self, now_s: float, /) -> InFlight:
        return InFlight(self._penalties)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        return sample_picker(subchannels, 2, rng, self._penalties) if len(subchannels) > 1 else FewPicker(subchannels)
