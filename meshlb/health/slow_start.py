"""A pod that has just become ready gets its share little by little: a factor on its weight, which every policy reads.

    warmth = max((max(t, 1 ms) / window_s) ^ (1 / aggression), min_weight_ratio)        0 <= t < window_s; then 1

**Since when.** t runs from the moment discovery calls the endpoint ready (a slice's ready true, or first listed where a source knows no
conditions), not from the pod's creation: a pod that loads a model for a minute is as cold then as one that took a second.

- Who is there in the first answer is warm: since when they are ready is not known, and most of them have been for long.
- Whoever was away for less than ``AWAY_S`` comes back as who it was, warm or on its way, as the pool's memory of it has it (leavers.py):
  one failed readiness probe cools nothing, and most of those fail *because* of load, which others would have to take. The price: a
  container that restarts within that time is not slowed. Envoy starts again with each unhealthy -> healthy.
- Ejection (health/ejection.py) and lost connections do not count; a pod that comes back from there has its own probe.
- Endpoints that terminate are eligible only as a last resort, and then those that were ready before keep their factor.

**Whole pools.** If all became ready at one and the same moment their factors cancel, and all are 1. If others take the place of all
members at once, that is discovery changing its mind (from the ClusterIP's address to pods, from one selector to another) and is taken
like a first answer. A pool that grows from nothing has each pod on its own way, whose ratios count.

**Steps.** Pickers are built for given weights. A new one is due when some factor has grown by a quarter of itself or by a twentieth of
the whole, whichever is sooner, and no sooner than ``SOONEST_S`` after the last; then all factors become what the formula says. So a
factor is never ahead of the formula, and behind by <= 5 % of the final weight (and a fifth of the formula's value): about 20 pickers a
pod, fewer where several warm up together, and never more than 10 a second, however many do. With windows below about 4 s, or a very
large aggression, ``SOONEST_S`` decides and steps are larger. While nobody warms up nothing is due.

Spec: Envoy's slow start (time_factor, aggression, min_weight_percent, its defaults); Istio's warmup.
Deviations: anchored at readiness; the whole pool is skipped; steps instead of a reading at each pick; not with Envoy's EDF scheduler but
as a weight, so least request keeps looking at load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from meshlb.core import validate
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError

AWAY_S = 30.0  # as long as the pool remembers who is not listed (pool/leavers.py)
ON_S = 30.0  # compilers, connection pools and caches are warm by then; neither Envoy nor Istio has a default
SOONEST_S = 0.1
_EARLIEST_S = 0.001  # Envoy
_GROWTH = 1.25
_STEP = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowStart:
    """``window_s``: how long it takes (0, the default: off; ``on`` is 30). ``aggression``: 1 is linear, above 1 gives more early, below 1
    less; >= 0.1. ``min_weight_ratio``: the least of its weight that an endpoint has, above 0 (0.001) to 1."""

    window_s: float = 0.0
    aggression: float = 1.0
    min_weight_ratio: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_s", validate.seconds("slow_start.window_s", self.window_s, exclusive=False))
        object.__setattr__(self, "aggression", validate.number("slow_start.aggression", self.aggression, minimum=0.1))
        ratio = validate.ratio("slow_start.min_weight_ratio", self.min_weight_ratio)
        if ratio < 0.001:
            raise ConfigError(f"slow_start.min_weight_ratio={self.min_weight_ratio!r}: must be >= 0.001")
        object.__setattr__(self, "min_weight_ratio", ratio)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | SlowStart) -> SlowStart:
        """``on``, ``off``, a dict of the fields, or a SlowStart."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(window_s=ON_S if validate.one_of("slow_start", value, ("on", "off")) == "on" else 0.0)
        if not isinstance(value, Mapping):
            raise ConfigError(f"slow_start={value!r}: must be on, off, a dict or a SlowStart")
        validate.known_keys("slow_start", value, [field.name for field in fields(cls)])
        settings = cls(**value)
        if value and "window_s" not in value:
            raise ConfigError(f"slow_start.window_s: must be said for {', '.join(value)} to mean something")
        return settings

    def warmth(self, ready_for_s: float) -> float:
        """The factor of an endpoint that has been ready for so long: Envoy's formula."""
        if ready_for_s >= self.window_s:
            return 1.0
        passed_ratio = min(1.0, max(ready_for_s, _EARLIEST_S) / self.window_s)
        return float(max(passed_ratio ** (1.0 / self.aggression), self.min_weight_ratio))

    def reached_s(self, warmth: float) -> float:
        """After how long an endpoint has this factor, at most 1."""
        return float(min(1.0, warmth) ** self.aggression * self.window_s)


class Warming:
    """One pool's; sets ``Subchannel.warmth``. Called under the pool's lock only. See the module head for the rules."""

    def __init__(self, settings: SlowStart) -> None:
        self._settings = settings
        self._members: dict[Subchannel, None] = {}
        self._since_s: dict[Subchannel, float] = {}  # ready since then, and not warm yet; also those that are away
        self._left_s: dict[Subchannel, float] = {}  # in the order of their times
        self._known = False
        self._due_s: float | None = None

    def know(self, members: Sequence[Subchannel], now_s: float) -> bool:
        """These are ready now. True if a factor changed. O(n)."""
        if not self._settings.window_s:
            return False
        before, self._members = self._members, dict.fromkeys(members)
        self._expire(now_s)
        for gone in before.keys() - self._members.keys():
            self._left_s[gone] = now_s
        joined = [sub for sub in members if sub not in before]
        new = [sub for sub in joined if self._left_s.pop(sub, None) is None]
        if self._known and not (before and len(new) == len(members)):
            self._since_s.update(dict.fromkeys(new, now_s))
        self._known = True
        return self._set(now_s)

    def tick(self, now_s: float) -> bool:
        """Time passed. True if a factor changed."""
        return self._due_s is not None and now_s >= self._due_s and self._set(now_s)

    def due_s(self) -> float | None:
        """When some factor has its next step; None while nobody warms up."""
        return self._due_s

    def _set(self, now_s: float) -> bool:
        settings, since_s = self._settings, self._since_s
        for sub in [sub for sub, ready_s in since_s.items() if now_s - ready_s >= settings.window_s]:
            del since_s[sub]
        warming = [sub for sub in since_s if sub in self._members]
        if len(warming) == len(self._members) and len({since_s[sub] for sub in warming}) == 1:
            warming = []  # they cancel
        changed, next_s = False, float("inf")
        factors = {sub: settings.warmth(now_s - since_s[sub]) for sub in warming}
        for sub in self._members:
            factor = factors.get(sub, 1.0)
            changed = changed or sub.warmth != factor
            sub.warmth = factor
        for sub, factor in factors.items():
            grown = min(factor * _GROWTH, factor + _STEP)
            next_s = min(next_s, since_s[sub] + settings.reached_s(grown))
        self._due_s = max(next_s, now_s + SOONEST_S) if warming else None
        return changed

    def _expire(self, now_s: float) -> None:
        """Forget those who are away for too long."""
        for sub, left_s in list(self._left_s.items()):
            if now_s - left_s <= AWAY_S:
                break
            del self._left_s[sub]
            self._since_s.pop(sub, None)
