"""A cluster in virtual time as one client's connections see it: pods come and go, addresses change hands, and calls find out.

Everything of ours is real: the chain, the publisher, the pool, its view, the call. What is modelled is the network: an address has
one occupant at a time or none; a connection holds on to the occupant that it found, and ends with it; a ClusterIP's connection gets
a random pod of the Service.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from meshlb.balance.registry import policy_of
from meshlb.call.call import Call, CallLimits
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import MeshError
from meshlb.pool.pool import Pool
from meshlb.retry.budget import RetryBudget
from meshlb.testing.loop import ManualLoop

CONNECT_S, SILENCE_S = 0.002, 1.0  # a handshake, and how long nobody answers for an address that has no occupant
MIN_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
CLUSTER_IP = "10.96.0.7"


@dataclass(eq=False)
class Pod:
    """``ours``: of the Service that the client means."""

    address: str
    ours: bool = True
    calls: int = 0


@dataclass
class Network:
    """Who has which address."""

    rng: random.Random
    occupants: dict[str, Pod] = field(default_factory=dict)

    def start(self, address: str, *, ours: bool = True) -> Pod:
        assert address not in self.occupants
        pod = self.occupants[address] = Pod(address, ours)
        return pod

    @property
    def ours(self) -> list[Pod]:
        return [pod for pod in self.occupants.values() if pod.ours]

    def reached_by(self, address: str) -> Pod | None:
        return self.rng.choice(self.ours) if address == CLUSTER_IP and self.ours else self.occupants.get(address)


class Client:
    """One view with a driver of its connections, as the transports have one. ``failed`` has what calls raised or who else answered."""

    def __init__(self, loop: ManualLoop, network: Network, rng: random.Random, policy: str = "p2c") -> None:
        self.loop = loop
        self.network = network
        self.rng = rng
        self.failed: list[str] = []
        self.on_hint: Callable[[], None] = lambda: None
        self.pool = Pool(
            "orders.shop:grpc",
            policy_of(policy).build(rng),
            clock=loop,
            rng=rng,
            new_lock=threading.Lock,
            wake=self._wake,
            resolve_now=self._hint,
            fallback_after_s=1.0,
        )
        self._connections: dict[Subchannel, Pod] = {}
        self._driven: dict[Subchannel, int] = {}  # and how often in a row it could not be connected
        self.view = self.pool.view(self)
        budget = RetryBudget(loop, threading.Lock())
        self._limits = CallLimits(budget, first_answer_timeout_s=5.0, connect_timeout_s=3.0, rng=rng)

    # --- the chain's listener -------------------------------------------------------------------------------------------------

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.pool.update(endpoints)

    def on_error(self, error: object, /) -> None:
        raise AssertionError(error)

    # --- the driver -----------------------------------------------------------------------------------------------------------

    def on_change(self) -> None:
        self.loop.call_soon(self._reconcile)

    def _reconcile(self) -> None:
        wanted = set(self.view.wanted())
        for sub in [sub for sub in self._driven if sub not in wanted]:
            del self._driven[sub]
            self._connections.pop(sub, None)
            self.view.set_states([(sub, Connectivity.IDLE)])
        for sub in self.view.wanted():
            if sub not in self._driven:
                self._driven[sub] = 0
                self._dial(sub)

    def _dial(self, sub: Subchannel) -> None:
        if sub not in self._driven:
            return
        self.view.set_states([(sub, Connectivity.CONNECTING)])
        found = self.network.reached_by(sub.endpoint.host)
        self.loop.call_later(CONNECT_S if found is not None else SILENCE_S, lambda: self._settle(sub))

    def _settle(self, sub: Subchannel) -> None:
        if sub not in self._driven or sub in self._connections:
            return
        found = self.network.reached_by(sub.endpoint.host)
        if found is not None:
            self._connections[sub] = found
            self._driven[sub] = 0
            self.view.set_states([(sub, Connectivity.READY)])
            return
        self._driven[sub] += 1
        self.view.set_states([(sub, Connectivity.TRANSIENT_FAILURE)])
        backoff_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2.0 ** (self._driven[sub] - 1))
        self.loop.call_later(backoff_s * (0.8 + 0.4 * self.rng.random()), lambda: self._dial(sub))

    def end_pod(self, pod: Pod) -> None:
        """It says goodbye, as servers do that end in order: its connections are gone at that moment."""
        del self.network.occupants[pod.address]
        for sub in [sub for sub, held in self._connections.items() if held is pod]:
            del self._connections[sub]
            self.view.set_states([(sub, Connectivity.IDLE)])
            if sub in self._driven:
                self._dial(sub)

    # --- calls ----------------------------------------------------------------------------------------------------------------

    def call(self) -> None:
        call = Call(self.view, self._limits, PickInfo("/shop.Orders/Get"), deadline_s=None)
        while True:
            try:
                attempt = call.begin_attempt(self.loop.now_s())
            except MeshError as error:
                self.failed.append(f"{self.loop.now_s():.3f}: {error}")
                return
            if attempt is None:
                self.loop.advance(CONNECT_S / 2)
                continue
            held = self._connections.get(attempt.subchannel)
            again_s = call.end_attempt(attempt, Outcome.UNREACHABLE if held is None else Outcome.SUCCESS, self.loop.now_s())
            if again_s is not None:
                self.loop.advance(again_s)
                continue
            if held is None:
                self.failed.append(f"{self.loop.now_s():.3f}: {attempt.subchannel.endpoint} cannot be reached")
            else:
                held.calls += 1
                if not held.ours:
                    self.failed.append(f"{self.loop.now_s():.3f}: {attempt.subchannel.endpoint} is somebody else's by now")
            return

    def _wake(self, delay_s: float) -> None:
        self.loop.call_later(delay_s, self._tick)

    def _hint(self) -> None:
        self.loop.call_soon(self.on_hint)

    def _tick(self) -> None:
        again_s = self.pool.tick()
        if again_s is not None:
            self._wake(again_s)
