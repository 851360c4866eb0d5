"""The contract between a pool and a balancing policy: who may call what, when and from which thread.

A ``Policy`` lives as long as its pool and holds what must survive updates (a round-robin position). A ``Picker`` is immutable,
made anew whenever the usable subchannels change, and swapped by one store; it is called from any thread, never blocks and takes
no lock that another pick could hold for long. A ``LoadMetric`` belongs to one subchannel and survives updates with it.

A policy may have more than ``Policy`` asks for; each is looked for by its name, once a pool or metric, so that a simple policy needs none:

- ``hashes: bool``: True where picks depend on ``PickInfo.hash``, which is computed only then;
- ``know(members, now_s)``: all that are eligible now, ready or not, in the order of the endpoint set; before the pickers that follow from
  it. For tables that must be the same whoever is connected;
- ``on_endpoints(latest)``: what discovery said, before that: the Service's own settings are in it;
- ``tick(now_s) -> bool`` and ``due_s() -> float | None``: let time pass, and say whether pickers must be made anew, and when it wants the
  next tick;
- of a metric, ``on_attempt_end(attempt, now_s, outcome)``: called in place of ``on_end``, by whom the method or the kind of call matters;
- of a metric, ``penalised(now_s) -> bool``: are failures held against it now? The caller's zone is then no reason to send a call there
  (health/prefer_zone.py). What ``load`` says is the policy's own number, and means nothing to others.

All of a policy's are called under the pool's lock; a metric's from any thread, without one.

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
    an attempt that fails may be followed by another (``replays``), so that it can be risked, whether how it ends counts for ejection
    (``judged``), and the 64-bit hash of the call's key (``hash``; None: it has none, or the policy does not ask for it)."""

    __slots__ = ("exclude", "hash", "judged", "method", "replays")

    def __init__(
        self,
        method: str = "",
        exclude: frozenset[Subchannel] = frozenset(),
        *,
        replays: bool = False,
        judged: bool = True,
        hash: int | None = None,
    ) -> None:
        self.method = method
        self.exclude = exclude
        self.hash = hash
        self.replays = replays
        self.judged = judged

    def avoiding(self, exclude: frozenset[Subchannel]) -> PickInfo:
        """The same for a pick that avoids these."""
        return PickInfo(self.method, exclude, replays=self.replays, judged=self.judged, hash=self.hash)


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
