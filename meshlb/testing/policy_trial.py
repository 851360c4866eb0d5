"""A fleet that a policy is tried on: subchannels without connections, live attempts, picks, and their shares."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FrameType

from meshlb.balance.config import PolicyConfig
from meshlb.core.endpoint import Endpoint
from meshlb.core.policy import Picker, PickInfo, Policy
from meshlb.core.subchannel import Attempt, Subchannel


def subchannels_of(policy: Policy, weights: Sequence[float], kind: type[Subchannel] = Subchannel) -> list[Subchannel]:
    """One subchannel a weight, in the order of their addresses."""
    endpoints = [
        Endpoint(host=f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", port=80, weight=weight) for at, weight in enumerate(weights)
    ]
    return [kind(endpoint, policy.new_metric(0.0)) for endpoint in endpoints]


def know(policy: Policy, subchannels: Sequence[Subchannel], now_s: float = 0.0) -> None:
    """Tell a policy that wants to hear of it who there is, as a pool does."""
    tell = getattr(policy, "know", None)
    if tell is not None:
        tell(subchannels, now_s)


def hold(live: set[Attempt], count: int = 1) -> None:
    """Let attempts live in ``subchannel.unary`` or ``subchannel.streams``."""
    live.update(Attempt() for _ in range(count))


def picks(
    picker: Picker, count: int, exclude: Iterable[Subchannel] = (), now_s: float = 0.0, *, key: int | None = None
) -> list[Subchannel]:
    """Subchannels picked one after the other, with nothing begun on them; ``key`` is the calls' hash."""
    info = PickInfo("/shop.Orders/Get", frozenset(exclude), hash=key)
    picked = [picker.pick(info, now_s) for _ in range(count)]
    return [subchannel for subchannel in picked if subchannel is not None]


def shares(picked: Sequence[Subchannel], subchannels: Sequence[Subchannel]) -> list[float]:
    """The part of the picks that each subchannel got."""
    counts = Counter(picked)
    return [counts[subchannel] / len(picked) for subchannel in subchannels]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a rule is given: the configuration, chance, and how an idle pool is shared (see ``check_policy``)."""

    config: PolicyConfig
    rng: random.Random
    shares: str

    def fleet(self, weights: Sequence[float], kind: type[Subchannel] = Subchannel) -> tuple[Policy, list[Subchannel]]:
        """A new policy, as in a new process, and one subchannel a weight, of which it knows."""
        policy = self.config.build(self.rng)
        subs = subchannels_of(policy, weights, kind)
        know(policy, subs)
        return policy, subs

    def picker(self, weights: Sequence[float]) -> tuple[Picker, list[Subchannel]]:
        """A picker over such a fleet."""
        policy, subs = self.fleet(weights)
        return policy.new_picker(subs, self.rng), subs

    def hashes(self) -> bool:
        """Does a call's key decide?"""
        return bool(getattr(self.config.build(self.rng), "hashes", False))


class Counted(Subchannel):
    """Reads of its attributes, and of how many attempts live, are calls of Python, which a profile function hears of."""

    __slots__ = ()

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.unary = _CountedSet()
        self.streams = _CountedSet()

    def __getattribute__(self, name: str) -> object:
        return super().__getattribute__(name)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _CountedSet(set[Attempt]):
    def __len__(self) -> int:
        return super().__len__()


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of Python are made meanwhile; counted rather than timed, so that a busy machine changes nothing."""
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made
