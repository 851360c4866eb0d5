"""What the policies that hash a call's key share: one table over all members, and pickers that pass over who may not be picked.

The table is over everybody who is eligible, ready or not, so that a connection that breaks moves its own keys only, and every view of
a pool sends a key to the same endpoint. It belongs to the policy, is built when members or weights change (in ``know``, hence
in the thread that brings the news) and at no other time; a picker is a list of who may be picked, by their position in the table.

Who is not ready or is to be avoided is passed over at the pick, in an order that the key decides: a retry goes to the same second
endpoint each time, and so does every process. After ``WALK`` steps in vain, where few are ready of many (a start) or nearly all are
avoided, the key draws among those who are left, in their order. So a pick is bounded, and still a function of the key; but such keys
may move when one more becomes ready.

A call without a key goes to a random endpoint: the hash is drawn, as Envoy does it.

**Host keys** are addresses, as Envoy's are: a pod that is replaced has a new one, and the keys of the old one spread over all. Where
pods keep their names (a StatefulSet behind a headless Service), ``use_hostname_for_hashing`` gives a successor what its predecessor had.
Of endpoints with the same key (connections to one ClusterIP, two pods that had one address after the other) all but the first have their
uid in it, so that each has keys of its own.

**Weights** are discovery's, to the letter. The factor that slow start and load reports make of them counts from a hundredth to ten times
(a ring has (sum of weights) / (the least) points, and no server's report may make that millions), and as a power of two: the nearest
(1/128 to 8), and then the same until the factor is half or double of it. To the letter, reports that waver by a tenth would
move a twelfth of all keys each second under ``maglev`` and ``ring_hash``, and half under ``ipvs:sh``; like this they move none. So an
endpoint's share follows what it reports within a factor of two: whoever needs it finer wants a policy without keys. Which step is kept
is a process's own history: with load reports, two processes may give a key to different endpoints.

Spec: Envoy's thread-aware load balancers: hash keys of hosts, the normalised weights, no hash -> a random one.
Deviations: Envoy has a table over the healthy hosts, which moves keys between healthy hosts as well; ours is over the members, and the
ready ones among them. A host without hostname is hashed by its address (Envoy: all such hosts have one key). Order of hosts where
it matters: that of the ``EndpointSet`` (Envoy: that of its configuration or control plane).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import isfinite, log2
from typing import Protocol

from meshlb.balance.few import FewPicker
from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.policy import LoadMetric, Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from meshlb.load.in_flight import LiveOnly

WALK = 256
NOBODY: frozenset[Subchannel] = frozenset()
_HASHES = 2.0**64
_LEAST_FACTOR, _LARGEST_FACTOR = 0.01, 10.0


class Table(Protocol):
    """Positions of members by hash. Immutable; any thread."""

    def first(self, digest: int, /) -> int:
        """Whose the key is."""
        ...

    def others(self, digest: int, /) -> Iterable[int]:
        """Who comes next, one by one; the same may come several times, and it may never end."""
        ...


def host_keys(endpoints: Iterable[Endpoint], use_hostname: bool = False) -> list[bytes]:
    """What stands for each endpoint in a table: different as far as endpoints are."""
    keys: list[bytes] = []
    seen: set[str] = set()
    for endpoint in endpoints:
        key = (use_hostname and endpoint.hostname) or endpoint.address
        keys.append((f"{key}#{endpoint.address}#{endpoint.uid}" if key in seen else key).encode())
        seen.add(key)
    return keys


def coarse_factor(factor: float, before: float | None) -> float:
    """A power of two near it, within A58's bounds; ``before``, the last answer, until it is off by two."""
    factor = min(max(factor, _LEAST_FACTOR), _LARGEST_FACTOR)
    if before is not None and before / 2.0 < factor < before * 2.0:
        return before
    return 2.0 ** round(log2(factor))


def coarse_factors(subchannels: Iterable[Subchannel], before: Mapping[Subchannel, float]) -> dict[Subchannel, float]:
    """What slow start and load reports make of each one's weight in a table; ``before``: in the last one."""
    return {sub: coarse_factor(sub.warmth * sub.capacity, before.get(sub)) for sub in subchannels}


def table_weights(factors: Mapping[Subchannel, float]) -> list[float]:
    """The weights that a table is built by: all of discovery's, times these."""
    weights = [sub.endpoint.weight * factor for sub, factor in factors.items()]
    return weights if isfinite(sum(weights)) else [weight / max(weights) for weight in weights]


def boolean(field: str, value: object) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field}={value!r}: must be true or false")
    return value


class Members:
    """Who a table is over, in order, and what it was built from."""

    __slots__ = ("endpoints", "factors", "keys", "position_of", "subchannels", "table", "weights")

    def __init__(self, factors: dict[Subchannel, float], keys: list[bytes], weights: list[float], table: Table) -> None:
        self.subchannels = tuple(factors)
        self.endpoints = [sub.endpoint for sub in factors]
        self.factors = factors
        self.keys = keys
        self.weights = weights
        self.position_of = {sub: at for at, sub in enumerate(factors)}
        self.table = table

    def are(self, factors: dict[Subchannel, float]) -> bool:
        """These very ones, as they are now."""
        return (
            self.subchannels == tuple(factors) and self.endpoints == [sub.endpoint for sub in factors] and self.factors == factors
        )


class HashPolicy:
    """``build`` makes a table of host keys and weights, of n >= 2 members. All methods are called under the pool's lock."""

    hashes = True

    def __init__(self, name: str, build: Callable[[list[bytes], list[float]], Table], *, use_hostname: bool = False) -> None:
        self.name = name
        self._build = build
        self._use_hostname = use_hostname
        self._members: Members | None = None  # those of ``know``
        self._others: Members | None = None  # of a picker over somebody else: the ClusterIP, or a policy that is used alone

    def new_metric(self, now_s: float, /) -> LoadMetric:
        return LiveOnly()

    def know(self, members: Sequence[Subchannel], now_s: float, /) -> None:
        """These are eligible."""
        self._members = self._renewed(self._members, members) if len(members) > 1 else None

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if len(subchannels) < 2:
            return FewPicker(subchannels)
        known = self._members
        if known is not None and all(sub in known.position_of for sub in subchannels):
            self._members = members = self._renewed(known, known.subchannels)  # weights may have changed since
        else:
            self._others = members = self._renewed(self._others, subchannels)
        return self.picker(members, subchannels, rng)

    def picker(self, members: Members, subchannels: Sequence[Subchannel], rng: Rng) -> Picker:
        """A picker of these n >= 2 among the members."""
        return HashPicker(members, subchannels, drawn(rng))

    def _renewed(self, before: Members | None, subchannels: Sequence[Subchannel]) -> Members:
        factors = coarse_factors(subchannels, {} if before is None else before.factors)
        if before is not None and before.are(factors):
            return before
        keys = host_keys([sub.endpoint for sub in factors], self._use_hostname)
        weights = table_weights(factors)
        if before is not None and (before.keys, before.weights) == (keys, weights):  # conditions changed, or a pod's uid
            return Members(factors, keys, weights, before.table)
        return Members(factors, keys, weights, self._build(keys, weights))


class HashPicker:
    """n >= 2 subchannels; ``keyless`` is the hash of a call that has no key. Immutable; any thread."""

    __slots__ = ("_first", "_keyless", "_others", "_subchannels", "_who")

    def __init__(self, members: Members, subchannels: Sequence[Subchannel], keyless: Callable[[], int]) -> None:
        self._first = members.table.first
        self._others = members.table.others
        self._subchannels = tuple(subchannels)
        self._keyless = keyless
        self._who: list[Subchannel | None] = [None] * len(members.subchannels)
        for sub in subchannels:
            self._who[members.position_of[sub]] = sub

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        digest = info.hash
        return self.choose(self._keyless() if digest is None else digest, info.exclude)

    def choose(self, digest: int, exclude: frozenset[Subchannel]) -> Subchannel:
        """Whose the key is, as far as they may be picked."""
        sub = self._who[self._first(digest)]
        return self._other(digest, exclude) if sub is None or sub in exclude else sub

    def _other(self, digest: int, exclude: frozenset[Subchannel]) -> Subchannel:
        who = self._who
        for position in islice(self._others(digest), WALK):
            sub = who[position]
            if sub is not None and sub not in exclude:
                return sub
        subchannels = self._subchannels
        n = len(subchannels)
        start = digest % n
        for step in range(n):
            sub = subchannels[(start + step) % n]
            if sub not in exclude:
                return sub
        return self.choose(digest, NOBODY)


def drawn(rng: Rng) -> Callable[[], int]:
    """A hash by chance, another one each time."""
    random = rng.random
    return lambda: int(random() * _HASHES)
