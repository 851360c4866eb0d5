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

**Weights** are discovery's, to the letter. What slow start and load reports make of them counts from a hundredth to ten times: a ring has
(sum of weights) / (the least) points, and no server's report may make that millions.

Spec: Envoy's thread-aware load balancers: hash keys of hosts, the normalised weights, no hash -> a random one.
Deviations: Envoy has a table over the healthy hosts, which moves keys between healthy hosts as well; ours is over the members, and the
ready ones among them. A host without hostname is hashed by its address (Envoy: all such hosts have one key). Order of hosts where
it matters: that of the ``EndpointSet`` (Envoy: that of its configuration or control plane).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import isfinite
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


def table_weights(subchannels: Iterable[Subchannel]) -> list[float]:
    """The weights that a table is built by: all of discovery's, and of the others' factor what is within A58's bounds."""
    weights = [sub.endpoint.weight * min(max(sub.warmth * sub.capacity, _LEAST_FACTOR), _LARGEST_FACTOR) for sub in subchannels]
    return weights if isfinite(sum(weights)) else [weight / max(weights) for weight in weights]


def boolean(field: str, value: object) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field}={value!r}: must be true or false")
    return value


class Members:
    """Who a table is over, in order, and what it was built from."""

    __slots__ = ("endpoints", "keys", "position_of", "subchannels", "table", "weights")

    def __init__(self, subchannels: Sequence[Subchannel], keys: list[bytes], weights: list[float], table: Table) -> None:
        self.subchannels = tuple(subchannels)
        self.endpoints = [sub.endpoint for sub in subchannels]
        self.keys = keys
        self.weights = weights
        self.position_of = {sub: at for at, sub in enumerate(subchannels)}
        self.table = table

    def are(self, subchannels: Sequence[Subchannel]) -> bool:
        """These very ones, as they are now."""
        return (
            self.subchannels == tuple(subchannels)
            and self.endpoints == [sub.endpoint for sub in subchannels]
            and self.weights == table_weights(subchannels)
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
        if before is not None and before.are(subchannels):
            return before
        keys = host_keys([sub.endpoint for sub in subchannels], self._use_hostname)
        weights = table_weights(subchannels)
        if before is not None and (before.keys, before.weights) == (keys, weights):  # conditions changed, or a pod's uid
            return Members(subchannels, keys, weights, before.table)
        return Members(subchannels, keys, weights, self._build(keys, weights))


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
