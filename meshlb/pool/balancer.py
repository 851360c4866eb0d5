"""How a pool picks: its policy, and what stands around it. Zones, limits and probes wrap the policy's picker, so a pick pays for nothing
that is not in use; ejection and slow start decide beforehand who is picked from, and with what weight.

Every method is called under the pool's lock, but for the two that describe: these only read, from any thread. So does a pick.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from meshlb.balance.session import Session, SessionPolicy
from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet, Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.health.ejection import Ejector
from meshlb.health.locality import Localities, Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart, Warming
from meshlb.load.capacity import Capacities
from meshlb.load.weight import Weight

_log = logging.getLogger("meshlb.pool")


class Balancer:
    """One a pool. What is None is off; ``max_in_flight`` is an endpoint's, 0: without limit. ``affinity``: a Service's ClientIP affinity is
    kept, as its ClusterIP keeps it."""

    def __init__(
        self,
        target: str,
        policy: Policy,
        rng: Rng,
        *,
        outlier: Outlier,
        slow_start: SlowStart,
        locality: Locality,
        weight: Weight = Weight(),  # noqa: B008 - immutable
        affinity: bool = False,
        max_in_flight: int = 0,
    ) -> None:
        self.policy = policy
        self._target = target
        self.hashes: bool = getattr(policy, "hashes", False)
        self.keyless = 0  # calls that a policy which goes by keys got without one; a plain integer, as the subchannels' totals
        self._affinity = affinity
        self._sessions = policy if isinstance(policy, SessionPolicy) else None
        self._tell(policy)
        self.ejector = Ejector(outlier, rng, target) if outlier.mode != "off" else None
        self.localities = Localities(locality, rng) if locality.mode != "off" else None
        self._by_key = self.hashes and self._sessions is None  # a key has one endpoint, whatever its zone and load
        if self.localities is not None and self._by_key:
            reason = f"the policy {policy.name} goes by keys"
            self.localities.stand_back(reason)
            _log.info("%s: locality=%r changes nothing: %s", target, locality.mode, reason)
        self._warming = Warming(slow_start) if slow_start.window_s else None
        self.capacities = Capacities(weight) if weight.source != "static" else None
        self.max_in_flight = max_in_flight

    @property
    def ejected(self) -> frozenset[Subchannel]:
        return self.ejector.out if self.ejector is not None else frozenset()

    @property
    def probing(self) -> tuple[Subchannel, ...]:
        return self.ejector.probing if self.ejector is not None else ()

    def know(self, latest: EndpointSet, members: Sequence[Subchannel], now_s: float) -> None:
        """These are eligible now, of what discovery said."""
        if self.ejector is not None:
            self.ejector.know(members, now_s)
        if self._warming is not None:
            self._warming.know(members, now_s)
        if self.capacities is not None:
            self.capacities.know(members, now_s)
        if self._affinity and (latest.affinity_s > 0.0) is not (self._sessions is not None):
            self._keep_sessions(latest.affinity_s)
        if self._policy_hears is not None:
            self._policy_hears(latest)
        if self._know_of_policy is not None:  # the last: it may read the weights
            self._know_of_policy(members, now_s)

    def on_own_endpoints(self, latest: EndpointSet) -> bool:
        """The caller's own Service; True if pickers must be built anew."""
        return self.localities is not None and self.localities.on_own_endpoints(latest)

    def heard(self, subchannel: Subchannel, outcome: Outcome, started_s: float, now_s: float) -> bool:
        """An attempt ended; True if somebody is ejected, due for a probe or back now who was not before."""
        return self.ejector is not None and self.ejector.heard(subchannel, outcome, started_s, now_s)

    def tick(self, now_s: float) -> bool:
        """True if weights changed, or the policy wants pickers made anew."""
        if self.ejector is not None:
            self.ejector.tick(now_s)
        changed = self._warming is not None and self._warming.tick(now_s)
        if self.capacities is not None:
            changed = self.capacities.tick(now_s) or changed
        if self._tick_of_policy is not None:
            changed = self._tick_of_policy(now_s) or changed
        return changed

    def due_s(self) -> float | None:
        """When it wants a tick."""
        due_s = [part.due_s() for part in (self.ejector, self._warming, self.capacities) if part is not None]
        if self._due_of_policy is not None:
            due_s.append(self._due_of_policy())
        return min((one_s for one_s in due_s if one_s is not None), default=None)

    def new_picker(self, candidates: Sequence[Subchannel], probes: Sequence[Subchannel], place: Place, rng: Rng) -> Picker:
        """n >= 1 candidates."""
        policy = self.policy.first if isinstance(self.policy, SessionPolicy) else self.policy

        def by_policy(subchannels: Sequence[Subchannel]) -> Picker:
            return policy.new_picker(subchannels, rng)

        localities = self.localities if not self._by_key else None
        picker = localities.new_picker(candidates, place, by_policy) if localities is not None else by_policy(candidates)
        if self._sessions is not None:  # around the zones, which make pickers over parts
            picker = self._sessions.around(picker, candidates)
        if probes and self.ejector is not None:
            picker = _Probing(picker, probes, self.ejector, self.max_in_flight or math.inf)
        return picker

    def _keep_sessions(self, affinity_s: float) -> None:
        """The Service's own wish has changed, and nobody named a policy."""
        self._sessions = None
        if affinity_s:
            self._sessions = SessionPolicy(Session(), self.policy)
            _log.info(
                "%s: all calls of this process go to one endpoint, as the Service's sessionAffinity: ClientIP (%g s) wants it, and the "
                "ClusterIP does it; a policy that is named, as in Config(policy='p2c'), balances them nevertheless",
                self._target,
                affinity_s,
            )
        self._tell(self.policy if self._sessions is None else self._sessions)

    def _tell(self, policy: Policy) -> None:
        """This one hears what a policy may ask for."""
        self._policy_hears: Callable[[EndpointSet], object] | None = getattr(policy, "on_endpoints", None)
        self._know_of_policy: Callable[[Sequence[Subchannel], float], object] | None = getattr(policy, "know", None)
        self._tick_of_policy: Callable[[float], bool] | None = getattr(policy, "tick", None)
        self._due_of_policy: Callable[[], float | None] | None = getattr(policy, "due_s", None)

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        said: dict[str, Any] = {"policy": self.policy.name}
        if self.hashes:
            said["keyless"] = self.keyless
        if self._sessions is not None:
            said["sessions"] = len(self._sessions.leases)
        if self.ejector is not None:
            said["outlier"] = self.ejector.describe()
        if self.localities is not None:
            said["locality"] = self.localities.describe()
        if self.capacities is not None:
            said.update(self.capacities.describe())
        return said

    def describe_one(self, subchannel: Subchannel, now_s: float) -> dict[str, Any]:
        """What of it concerns one endpoint; empty for most."""
        why = self.ejector.why(subchannel, now_s) if self.ejector is not None else None
        said: dict[str, Any] = {} if why is None else {"ejected": why}
        if self.capacities is not None:
            said.update(self.capacities.describe_one(subchannel, now_s))
        return said if subchannel.warmth == 1.0 else {**said, "warmth": round(subchannel.warmth, 3)}


class _Probing:
    """Those whose ejection is over come first, with one call each; whether they stay is decided by how it ends. Not with a call that has
    failed already (it shall not be its last attempt that is risked), nor one whose end does not count, nor on one that has as many calls as
    it may."""

    __slots__ = ("_ejector", "_limit", "_picker", "_probes")

    def __init__(self, picker: Picker, probes: Sequence[Subchannel], ejector: Ejector, limit: float) -> None:
        self._picker = picker
        self._probes = probes
        self._ejector = ejector
        self._limit = limit

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if info.judged and not info.exclude:
            for subchannel in self._probes:
                if subchannel.in_flight < self._limit and self._ejector.claim(subchannel, now_s, replays=info.replays):
                    return subchannel
        return self._picker.pick(info, now_s)
