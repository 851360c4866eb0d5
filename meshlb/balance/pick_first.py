"""One endpoint for everything, and another one only when it goes: for a Service whose endpoints are a leader and its stand-ins, for
caches that one client should fill once, or to leave balancing to somebody else.

The endpoints stand in an order that is each process' own (order.py), so that processes spread; without ``shuffle_address_list`` it is
discovery's, the same for all, sorted by address. The first that is ready is picked, and kept while it is ready: no newcomer displaces
it, nor one that comes back. (Only while a process starts, when connections are made one by one, may one that stands further in front
and becomes ready for the first time still take over.) When it goes, is not connected any more, or is to be avoided by a retry, the next
in the order is picked.

Two channels of one process agree on the endpoint as soon as it is ready in both: each takes, of those that are some channel's first now, the
one that has been so for longest and that it reaches. So a channel that does not reach it yet has another one meanwhile, and moves nobody.

Weights count for nothing. The pool is connected to all endpoints anyway: what gRPC saves in connections is not saved here, and what it
costs, a new connection at the worst moment, is not paid either.

Spec: gRFC A62 (``shuffle_address_list``); A61 for the meaning of "endpoint".
Deviations: A62 shuffles by default not at all, and anew with each answer of the resolver; this shuffles by default, and once. gRPC has
no next one while the first is ready; here a retry goes to the next. Above, connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.few import FewPicker
from meshlb.balance.order import Placed, place_of, placed
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PickFirst(PolicyConfig):
    """``shuffle_address_list``: the order of endpoints is each process' own (True, the default), or that of their addresses."""

    name: ClassVar[str] = "pick_first"
    shuffle_address_list: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle_address_list, bool):
            raise ConfigError(f"policy.shuffle_address_list={self.shuffle_address_list!r}: must be true or false")

    def build(self, rng: Rng) -> PickFirstPolicy:
        return PickFirstPolicy(self, rng)


class PickFirstPolicy:
    """Remembers who is some live picker's first, in the order in which they became it. The latest picker lives on here, so that what was
    chosen stays when the last channel goes."""

    __slots__ = ("_firsts", "_latest", "_pickers", "_random", "_shuffle", "name")

    def __init__(self, config: PickFirst, rng: Rng) -> None:
        self.name = config.name
        self._shuffle = config.shuffle_address_list
        self._random = rng.random
        self._firsts: list[Subchannel] = []
        self._pickers: list[weakref.ref[FirstPicker]] = []
        self._latest: FirstPicker | None = None

    def new_metric(self, now_s: float, /) -> Placed:
        return Placed(self._random() if self._shuffle else 0.0, now_s)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        if not subchannels:
            return FewPicker(subchannels)
        self._forget()
        there = frozenset(subchannels)
        kept = next((sub for sub in self._firsts if sub in there), None)
        rivals = subchannels if kept is None else [kept, *(sub for sub in subchannels if _may_displace(sub, kept))]
        first = min(rivals, key=_order)
        for subchannel in subchannels:
            placed(subchannel).seen = True
        if first not in self._firsts:  # in front of whom it displaces, so that the other channels follow
            self._firsts.insert(len(self._firsts) if kept is None else self._firsts.index(kept), first)
        self._latest = picker = FirstPicker(first, subchannels)
        self._pickers.append(weakref.ref(picker))
        return picker

    def _forget(self) -> None:
        """Whoever is the first of no live picker any more."""
        live = [(ref, picker.first) for ref in self._pickers if (picker := ref()) is not None]
        self._pickers = [ref for ref, _ in live]
        firsts = {first for _, first in live}
        self._firsts = [sub for sub in self._firsts if sub in firsts]


class FirstPicker:
    """``first`` is one of n >= 1 subchannels. Immutable; any thread."""

    __slots__ = ("__weakref__", "_others", "_subchannels", "first")

    def __init__(self, first: Subchannel, subchannels: Sequence[Subchannel]) -> None:
        self.first = first
        self._subchannels = tuple(subchannels)
        self._others: list[Subchannel] = []  # in their order; sorted when first somebody is to be avoided

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if self.first not in info.exclude:
            return self.first
        if not self._others:
            self._others = sorted(self._subchannels, key=_order)
        return next((sub for sub in self._others if sub not in info.exclude), self.first)


def _order(subchannel: Subchannel) -> tuple[float, tuple[str, int, str]]:
    return place_of(subchannel), subchannel.endpoint.identity


def _may_displace(subchannel: Subchannel, picked: Subchannel) -> bool:
    """It is ready for the first time, and was there from the start."""
    metric = placed(subchannel)
    return not metric.seen and metric.born_s <= placed(picked).born_s
