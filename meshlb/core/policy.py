"""The contract between a pool and a balancing policy: who may call what, when and from which thread.

A ``Policy`` lives as long as its pool and holds what must survive updates (a round-robin position). A ``Picker`` is immutable,
made anew whenever the usable subchannels change, and swapped by one store; it is called from any thread, never blocks and takes
no lock that another pick could hold for long. A ``LoadMetric`` belongs to one subchannel and survives updates with it.

Spec: gRPC's Picker and LoadBalancer contract (grpc-go balancer.go); Finagle's Distributor x Node for the split of load and
choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel


class LoadMetric(Protocol):
    """How loaded one endpoint is; lower is better. ``load`` is a pure read: it projects decay and stores nothing. ``forgive``: the endpoint
    was ejected and has proved itself, so what it is blamed for counts no more.
    """

    def on_start(self, now_s: float, /) -> None: ...

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None: ...

    def load(self, now_s: float, /) -> float: ...

    def forgive(self) -> None: ...


class PickInfo:
    """What a pick may depend on: the full method name (``/shop.Orders/Get``), subchannels to avoid while others are there, whether
    an attempt that fails may be followed by another (``replays``), so that it can be risked, and whether how it ends counts for ejection
    (``judged``)."""

    __slots__ = ("exclude", "judged", "method", "replays")

    def __init__(
        self, method: str = "", exclude: frozenset[Subchannel] = frozenset(), *, replays: bool = False, judged: bool = True
    ) -> None:
        self.method = method
        self.exclude = exclude
        self.replays = replays
        self.judged = judged

    def avoiding(self, exclude: frozenset[Subchannel]) -> PickInfo:
        """The same for a pick that avoids these."""
        return PickInfo(self.method, exclude, replays=self.replays, judged=self.judged)


class Picker(Protocol):
    """Chooses one of the subchannels it was made with; None only if it was made with none."""

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None: ...


class Policy(Protocol):
    """A way of choosing; one instance a pool. ``new_picker`` is called under the pool's lock, with n >= 0 distinct
    subchannels.
    """

    @property
    def name(self) -> str: ...

    def new_metric(self, now_s: float, /) -> LoadMetric: ...

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker: ...
