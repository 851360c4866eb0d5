"""Round robin by weights that are measured: gRPC's ``weighted_round_robin``, for weights from load reports.

The turns are round_robin.py's, with its static stride scheduler. The one difference is the floor: a weight below 1 % of the mean counts
as that, since a measured weight near zero may be a mistake, and who gets no calls has no chance to report a better one.

Where the weights come from is not decided here: ``Config(weight="a58")`` or ``"reported"`` measures them (load/capacity.py; who has not
reported for long enough has the mean, and while fewer than two have, all are equal: plain round robin). Without it they are those of
discovery, as for every policy, and equal ones make this ``round_robin``.

Spec: gRFC A58; grpc's static_stride_scheduler.cc.
Deviations: weights are doubles, there floats. The counter goes on over updates; grpc begins anew at random with each scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.round_robin import RoundRobinPolicy
from meshlb.core.clock import Rng

_LEAST_RATIO = 0.01  # A58


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedRoundRobin(PolicyConfig):
    """Nothing to configure; see ``Config(weight=…)``."""

    name: ClassVar[str] = "weighted_round_robin"

    def build(self, rng: Rng) -> RoundRobinPolicy:
        return RoundRobinPolicy(rng, self.name, _LEAST_RATIO)
