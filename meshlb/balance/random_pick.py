"""Any endpoint, in proportion to weight, whatever went before: what iptables does with a Service's endpoints, but a call, not a connection.

For comparison, and for callers so many and so seldom that nobody knows anything: it remembers nothing, looks at nothing, and needs no
two processes to agree. Of n calls at once one endpoint gets about ln n / ln ln n; ``p2c`` costs as much and gives ln ln n.

Spec: kube-proxy's iptables mode (``statistic mode random``): each of the n endpoints of a Service with the same probability.
Deviations: weights, which kube-proxy knows none of. The file is not called ``random``, as the standard library has that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.draw import relative_weights
from meshlb.balance.drawing import DrawingPicker
from meshlb.balance.few import FewPicker
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly


@dataclass(frozen=True, kw_only=True, slots=True)
class Random(PolicyConfig):
    """Nothing to configure."""

    name: ClassVar[str] = "random"

    def build(self, rng: Rng) -> RandomPolicy:
        return RandomPolicy()


class RandomPolicy:
    """Remembers nothing."""

    __slots__ = ()

    name = Random.name

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        return RandomPicker(subchannels, relative_weights(subchannels), rng)


class RandomPicker(DrawingPicker):
    """n >= 2 subchannels. Immutable; any thread."""

    __slots__ = ()

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        draw = self._draw
        at = draw.distinct(1, self._positions(info.exclude))[0] if info.exclude else draw.one()
        return self._subchannels[at]
