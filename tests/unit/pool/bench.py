"""A pool in virtual time with the real policies, and short ways to say what discovery and connections do."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable

from meshlb.balance.registry import policy_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import PickInfo, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.health.subset import Subset
from meshlb.load.weight import Weight
from meshlb.pool.pool import Pool
from meshlb.pool.snapshot import Change
from meshlb.pool.view import View
from meshlb.testing.loop import ManualLoop

IDLE = Connectivity.IDLE
CONNECTING = Connectivity.CONNECTING
READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE
SHUTDOWN = Connectivity.SHUTDOWN

ANY = PickInfo("/shop.Orders/Get")


def pod(number: int, uid: str | None = None, *, weight: float = 1.0) -> Endpoint:
    """A ready pod; its uid is ``u<number>`` unless told otherwise."""
    return Endpoint(host=f"10.0.0.{number}", port=80, uid=f"u{number}" if uid is None else uid, name=f"pod-{number}", weight=weight)


def terminating(number: int) -> Endpoint:
    """A pod that still serves, and has been told to end."""
    return Endpoint(host=f"10.0.0.{number}", port=80, uid=f"u{number}", ready=False, serving=True, terminating=True)


def unready(number: int) -> Endpoint:
    """A pod whose readiness probe fails."""
    return Endpoint(host=f"10.0.0.{number}", port=80, uid=f"u{number}", ready=False, serving=False)


def cluster_ip(slot: int) -> Endpoint:
    """One of the connections to a ClusterIP."""
    return Endpoint(host="10.96.0.1", port=80, uid=f"clusterip/{slot}.0", name=f"ClusterIP #{slot}")


class Listener:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.changes = 0

    def on_change(self) -> None:
        self.changes += 1


class Bench:
    """``loop`` holds the pool's timers, as the discovery thread would; ``ticks`` counts how often it was woken."""

    def __init__(
        self,
        policy: str | Policy = "p2c",
        *,
        fallback_after_s: float = 1.0,
        seed: int = 1,
        mass_removal_spare_s: float = 30.0,
        outlier: Outlier | None = None,
        slow_start: SlowStart | None = None,
        weight: Weight | None = None,
        subset: Subset | None = None,
        locality: Locality | None = None,
        max_in_flight: int = 0,
    ) -> None:
        print(f"seed={seed}")
        self.loop = ManualLoop(1000.0)
        self.rng = random.Random(seed)
        self.ticks = 0
        self.pool = Pool(
            "orders.shop",
            policy_of(policy).build(self.rng) if isinstance(policy, str) else policy,
            clock=self.loop,
            rng=self.rng,
            new_lock=threading.Lock,
            wake=self.wake,
            fallback_after_s=fallback_after_s,
            mass_removal_spare_s=mass_removal_spare_s,
            outlier=outlier or Outlier(mode="off"),
            slow_start=slow_start or SlowStart(),
            weight=weight or Weight(),
            subset=subset or Subset(),
            locality=locality or Locality(),
            max_in_flight=max_in_flight,
        )
        self.listener = Listener()
        self.view = self.pool.view(self.listener)

    def wake(self, delay_s: float) -> None:
        self.loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self.ticks += 1
        again_s = self.pool.tick()
        if again_s is not None:
            self.wake(again_s)

    def publish(
        self, *endpoints: Endpoint, fallback: Iterable[Endpoint] = (), source: str = "kubernetes", note: str = ""
    ) -> Change:
        """Discovery says that these are all."""
        return self.pool.update(EndpointSet.of(endpoints, source, fallback=fallback, note=note))

    def sub(self, number: int) -> Subchannel:
        """The record of ``pod(number)``."""
        return next(sub for sub in self.pool.snapshot.listed if sub.endpoint.host == f"10.0.0.{number}")

    def spare(self, slot: int) -> Subchannel:
        """The record of ``cluster_ip(slot)``, wherever it is listed."""
        known = self.pool.snapshot.listed + self.pool.snapshot.fallback
        return next(sub for sub in known if sub.endpoint.uid == f"clusterip/{slot}.0")

    def connect(self, state: Connectivity, *subchannels: Subchannel, view: View | None = None) -> None:
        """The driver reports this state."""
        (view or self.view).set_states([(sub, state) for sub in subchannels])

    def picked(self, count: int = 60) -> set[Subchannel]:
        """Whom ``count`` calls went to, all ended at once."""
        attempts = [attempt for _ in range(count) if (attempt := self.view.begin(ANY)) is not None]
        for attempt in attempts:
            self.view.end(attempt)
        return {attempt.subchannel for attempt in attempts}
