"""One endpoint a key, for as long as the key keeps coming: what ``sessionAffinity: ClientIP`` does, inside the process.

The first call of a key is placed by another policy (``first``); from then on the endpoint is leased to the key, and each call renews the
lease (a sliding time-out, as kube-proxy's). Unlike a hash policy this moves nobody when pods are added, and places keys by load. The
price is memory, and that the table is this process' own: another replica of the caller places the same key elsewhere.

A call without a key belongs to the process' own: all of them go to one endpoint, as with ClientIP, where the client is the pod.

Who gets a call whose endpoint is leased:

- the leased one, while it is among those that take traffic;
- another one, this once, if the call is to avoid it (a retry, ``hints(exclude=…)``): the lease stays as it is;
- if it has left the Service: another one, to which the lease goes;
- if it is there, but takes no traffic (its connection is being made anew, a second channel is still connecting, it is ejected): a
  stand-in, the same one for each call; after ``AWAY_S`` the stand-in has the lease. So a connection's hiccup costs no session, and an
  ejection costs one.

Leases are kept in the order of their use, so the oldest are in front: each new one drops the first that have lapsed (at most two: O(1),
and more go than come), and the least recently used when there are more than ``max_keys``. Who is dropped is placed anew at its next call.
About 200 bytes a key.

Threads: single operations of one ``OrderedDict`` and single stores, no lock. Two first calls of one key at the same time agree on one
endpoint (``setdefault``); two that find their endpoint gone may differ, once.

Limits: an endpoint that one channel reaches and another channel of the process does not for long keeps the lease, and the other channel's
calls go to any.

Spec: kube-proxy's ClientIP affinity (``recent --seconds T --reap``: idle time, 10800 s). ``lease_s`` of the Service where it has one.
Deviations: kube-proxy decides for each connection, this for each call; a lease outlives no process.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import LoadMetric, Picker, PickInfo, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError

LEASE_S = 10800.0  # kube-proxy
_DROPPED = 2  # of those that lapsed, with each new one
AWAY_S = 5.0  # a pod that is there connects within milliseconds, and within a few seconds if packets were lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Session(PolicyConfig):
    """``lease_s``: after how long without a call a key is forgotten (> 0); None (default): the Service's own ``timeoutSeconds`` where it
    has ClientIP affinity and can be read, else 10800. ``first``: the name of the policy that places a key (default ``p2c``).
    ``max_keys``: how many keys are remembered (>= 1, default 100,000)."""

    name: ClassVar[str] = "session"
    lease_s: float | None = None
    first: str = "p2c"
    max_keys: int = 100_000

    def __post_init__(self) -> None:
        from meshlb.balance.registry import POLICIES  # which knows this one, too

        if self.lease_s is not None:
            object.__setattr__(self, "lease_s", validate.seconds("policy.lease_s", self.lease_s))
        if not isinstance(self.first, str) or self.first == self.name or self.first not in POLICIES:
            others = [name for name in POLICIES if name != self.name]
            raise ConfigError(f"policy.first={self.first!r}: must be another policy; {validate.nearest(self.first, others)}")
        validate.integer("policy.max_keys", self.max_keys, minimum=1)

    def build(self, rng: Rng) -> SessionPolicy:
        from meshlb.balance.registry import policy_of

        return SessionPolicy(self, policy_of(self.first).build(rng))


class SessionPolicy:
    """Has the leases; the rest is the policy's that places keys, ``first``."""

    hashes = True

    def __init__(self, config: Session, first: Policy) -> None:
        self.name = config.name
        self.first = first
        self.leases = Leases(config.max_keys, config.lease_s or LEASE_S)
        self._said_s = config.lease_s
        self._hears: Callable[[EndpointSet], object] | None = getattr(first, "on_endpoints", None)
        self._know: Callable[[Sequence[Subchannel], float], None] | None = getattr(first, "know", None)
        self._tick: Callable[[float], bool] | None = getattr(first, "tick", None)
        self._due_s: Callable[[], float | None] | None = getattr(first, "due_s", None)

    def on_endpoints(self, latest: EndpointSet) -> None:
        """What the Service wants, unless the configuration has said."""
        if self._said_s is None:
            self.leases.lease_s = latest.affinity_s or LEASE_S
        if self._hears is not None:
            self._hears(latest)

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        """Whoever is not among them has left."""
        self.leases.members = frozenset(members)
        if self._know is not None:
            self._know(members, now_s)

    def tick(self, now_s: float) -> bool:
        return self._tick is not None and self._tick(now_s)

    def due_s(self) -> float | None:
        return None if self._due_s is None else self._due_s()

    def new_metric(self, now_s: float, /) -> LoadMetric:
        return self.first.new_metric(now_s)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        return self.around(self.first.new_picker(subchannels, rng), subchannels)

    def around(self, first: Picker, subchannels: Sequence[Subchannel]) -> Picker:
        """Where keys are placed by another picker over the same subchannels."""
        return SessionPicker(first, subchannels, self.leases)


class Lease:
    """One key's endpoint. ``used_s``: its last call. ``stand_in``: who serves while the endpoint takes no traffic, and since when."""

    __slots__ = ("stand_in", "subchannel", "used_s")

    def __init__(self, subchannel: Subchannel, used_s: float) -> None:
        self.subchannel = subchannel
        self.used_s = used_s
        self.stand_in: tuple[Subchannel, float] | None = None


class Leases:
    """Of one pool: by the hash of the key; None is the process' own. ``lease_s`` and ``members`` (None: nobody said) may be replaced."""

    __slots__ = ("_by_key", "_max_keys", "get", "lease_s", "members", "renew")

    def __init__(self, max_keys: int, lease_s: float) -> None:
        self._by_key: OrderedDict[int | None, Lease] = OrderedDict()
        self._max_keys = max_keys
        self.lease_s = lease_s
        self.members: frozenset[Subchannel] | None = None
        self.get = self._by_key.get
        self.renew = self._by_key.move_to_end

    def __len__(self) -> int:
        return len(self._by_key)

    def made(self, key: int | None, subchannel: Subchannel, now_s: float) -> Lease:
        """A new lease, or the one that another thread has just made."""
        by_key = self._by_key
        lease = by_key.setdefault(key, Lease(subchannel, now_s))
        with contextlib.suppress(
            StopIteration, RuntimeError, KeyError
        ):  # another thread changed it: the next new lease looks again
            for _ in range(_DROPPED):
                oldest = next(iter(by_key))
                if now_s - by_key[oldest].used_s >= self.lease_s:
                    del by_key[oldest]
            while len(by_key) > self._max_keys:
                by_key.popitem(last=False)
        return lease


class SessionPicker:
    """Immutable but for the leases; any thread."""

    __slots__ = ("_first", "_leases", "_ready")

    def __init__(self, first: Picker, subchannels: Sequence[Subchannel], leases: Leases) -> None:
        self._first = first
        self._ready = frozenset(subchannels)
        self._leases = leases

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        leases, key = self._leases, info.hash
        lease = leases.get(key)
        if lease is None or now_s - lease.used_s >= leases.lease_s:
            chosen = self._first.pick(info, now_s)
            if chosen is None:
                return None
            if lease is None:
                lease = leases.made(key, chosen, now_s)
            else:
                lease.subchannel, lease.stand_in = chosen, None
        lease.used_s = now_s
        try:  # noqa: SIM105 - ``suppress`` takes as long as all the rest
            leases.renew(key)
        except KeyError:  # another thread dropped it meanwhile, to make room
            pass
        subchannel = lease.subchannel
        if subchannel not in self._ready:
            return self._instead_of(lease, info, now_s)
        if info.exclude and subchannel in info.exclude:
            return self._first.pick(info, now_s)
        if lease.stand_in is not None:
            lease.stand_in = None
        return subchannel

    def _instead_of(self, lease: Lease, info: PickInfo, now_s: float) -> Subchannel | None:
        """The leased one takes no traffic here."""
        absent, stand_in, members = lease.subchannel, lease.stand_in, self._leases.members
        chosen: Subchannel | None
        if stand_in is not None and stand_in[0] in self._ready:
            chosen, since_s = stand_in
            if chosen in info.exclude:
                return self._first.pick(info, now_s)
        else:
            chosen, since_s = self._first.pick(info, now_s), now_s if stand_in is None else stand_in[1]
        if chosen is None:
            return None
        if members is None or absent not in members or now_s - since_s >= AWAY_S:
            lease.subchannel, lease.stand_in = chosen, None
        else:
            lease.stand_in = (chosen, since_s)
        return chosen
