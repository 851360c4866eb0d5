"""Of a large fleet each process uses a few endpoints only: a random subset, by the processes' own choice.

A process that calls 1,000 pods holds 1,000 connections, and each pod one from every caller; few of them are warm, and what a caller has in
flight itself says little about any. With a subset of 20 each pod has callers * 20 / pods, and load is seen by those who cause it.

    the ``size`` endpoints whose XXH64(address, seed) is lowest; the seed is the process' own, drawn once

Rendezvous hashing: an endpoint that comes displaces one at most, one that goes is replaced by one at most, and everybody else stays.

**Why it is off by default.** Nobody coordinates the choice. A pod is in the subset of a caller with probability size / n, so with c callers
it has a binomial number of them: mean c * size / n, deviation about its root. With 10 callers and 200 pods of which 20 are taken each, the
mean is 1, a third of the pods has no caller at all, and one in 14 has three or more; a lone caller leaves n - size pods idle. It
pays where callers are many: with c * size / n = 100 the pods' loads are within 10 % of each other (one sigma). Subsets that know how many
callers there are (ordinals, an aperture) are even with few; they need that knowledge.

**Below ``min_endpoints``** (100) nothing is left out. Where a fleet moves about that number, as in each roll-out, 80 connections would come
and go with one pod; so who takes a subset goes on doing so down to three quarters of it, which is what a roll-out by default leaves of a
fleet at least.

What is chosen from are the endpoints that may be used (``selection``): a subset of those hinted for the caller's zone where there are
hints. The fallback is never left out: the ClusterIP is there for when all of a subset cannot be reached. Hash policies have another table in
each process then: a key keeps its endpoint in one process, and has another one in the next.

Spec: gRFC A68 (random_subsetting): XXH64 of an endpoint's first address with a per-process seed, the lowest ``subsetSize``.
Deviations: ``min_endpoints``, which A68 has not; the child policy sees them in the order they were in. Ties go by the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from heapq import nsmallest
from typing import Any

from meshlb.core import validate
from meshlb.core.subchannel import Subchannel
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

ON = 20  # the least that Google's SRE book gives; one that is slow or gone is 5 % of the load then
_STAYS_RATIO = 0.75  # Kubernetes' default for maxUnavailable is a quarter


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """Whether a process uses only some of a large fleet (default: no); see the module head for when that pays.

    ``size``: how many are used (0, the default: all of them; ``on`` is 20). ``min_endpoints``: with fewer than these all are used
    (>= ``size``, default 100).
    """

    size: int = 0
    min_endpoints: int = 100

    def __post_init__(self) -> None:
        validate.integer("subset.size", self.size, minimum=0)
        validate.integer("subset.min_endpoints", self.min_endpoints, minimum=1)
        if self.min_endpoints < self.size:
            raise ConfigError(f"subset.min_endpoints={self.min_endpoints!r}: must be >= size={self.size}")

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Subset) -> Subset:
        """``on``, ``off``, a dict of the fields, or a Subset."""
        if isinstance(value, Mapping):
            validate.known_keys("subset", value, [field.name for field in fields(cls)])
            if value and "size" not in value:
                raise ConfigError(f"subset.size: must be said for {', '.join(value)} to mean something")
            return cls(**value)
        if isinstance(value, str):
            return cls(size=ON if validate.one_of("subset", value, ("on", "off")) == "on" else 0)
        if not isinstance(value, cls):
            raise ConfigError(f"subset={value!r}: must be on, off, a dict or a Subset")
        return value


class Subsetting:
    """One pool's; under its lock only. ``seed``: of this process (0 to 2**64 - 1), another one in each, and in each forked child."""

    def __init__(self, settings: Subset, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._hashes: dict[Subchannel, int] = {}  # of those that were there the last time
        self._some = False  # a subset was taken the last time

    def choose(self, eligible: Sequence[Subchannel]) -> tuple[Subchannel, ...]:
        """Whom this process uses, in the order given. O(n), and a hash for each that is new."""
        settings = self._settings
        least = settings.min_endpoints * (_STAYS_RATIO if self._some else 1.0)
        self._some = 0 < settings.size < len(eligible) >= least
        if not self._some:
            self._hashes = {}
            return tuple(eligible)
        known, seed = self._hashes, self._seed
        self._hashes = hashes = {
            sub: known[sub] if sub in known else xxh64(sub.endpoint.address.encode(), seed) for sub in eligible
        }
        chosen = set(nsmallest(settings.size, eligible, key=hashes.__getitem__))
        return tuple([sub for sub in eligible if sub in chosen])
