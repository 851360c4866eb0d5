"""Consistent hashing with bounded loads: a key whose endpoint has too much to do goes elsewhere, to the same place each time.

    slots of an endpoint = max(ceil(total * its share of the weights), 1),    total = ((live + 1) * hash_balance_factor + 99) // 100

``live`` are the live attempts on all of the pool, in whole numbers as Envoy has them; the weights that are shared are those of the ready
endpoints only, so that the slots of half a pool still bear all of its calls. Up to its slots an endpoint keeps its keys. Beyond,
the others are asked in an order shuffled by the key: the first within its slots takes the call, or, if there is none, whoever is
least beyond. (Not the next on the ring: that one would get all that overflows.)

How many attempts live on all is counted at their begin and end: adding up the endpoints would make each pick O(n). The counters are steps
of ``itertools.count``, which are not lost between threads.

The shuffle is Envoy's, number by number: C++'s mt19937, seeded with the key's lower 32 bits. Python's own ``Random`` cannot be seeded
like that; and only the first few of its numbers are needed, so that no more than these are computed (50 us), and remembered for
the keys that come most often.

Spec: Mirrokni et al., arXiv 1608.01350; random jumps, arXiv 1908.08762; Envoy's BoundedLoadHashingLoadBalancer.
Deviations: live attempts are this process's own; those who are not ready or are to be avoided are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, count, islice
from math import ceil

from meshlb.balance.hashed import NOBODY, HashPicker, HashPolicy, Members, Table, drawn
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError

_REMEMBERED_KEYS = 1024
_FIRST_NUMBERS = 8  # enough but for pools in which nearly everybody is at the bound


def balance_factor(field: str, value: object) -> int:
    """In percent: 0 is off."""
    factor = validate.integer(field, value, minimum=0)
    if 0 < factor < 100:
        raise ConfigError(f"{field}={value!r}: must be 0 (off) or >= 100")
    return factor


def hash_policy(
    name: str, build: Callable[[list[bytes], list[float]], Table], *, use_hostname: bool, hash_balance_factor: int
) -> HashPolicy:
    """The policy of these tables, with bounded loads or without."""
    if hash_balance_factor:
        return BoundedPolicy(name, build, hash_balance_factor, use_hostname=use_hostname)
    return HashPolicy(name, build, use_hostname=use_hostname)


class Live:
    """The metric that all subchannels of a pool share: how many attempts live on them together. Any thread."""

    __slots__ = ("_begin", "_begun", "_end", "_ended")

    def __init__(self) -> None:
        self._begin = count(1).__next__
        self._end = count(1).__next__
        self._begun = 0
        self._ended = 0

    @property
    def attempts(self) -> int:
        return max(0, self._begun - self._ended)

    def on_start(self, now_s: float, /) -> None:
        self._begun = self._begin()

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        self._ended = self._end()

    def load(self, now_s: float, /) -> float:
        """Always 0: nothing is added to the live attempts."""
        return 0.0

    def forgive(self) -> None:
        """Nothing."""


class BoundedPolicy(HashPolicy):
    """``factor`` >= 100, in percent."""

    def __init__(
        self, name: str, build: Callable[[list[bytes], list[float]], Table], factor: int, *, use_hostname: bool = False
    ) -> None:
        super().__init__(name, build, use_hostname=use_hostname)
        self._factor = factor
        self._live = Live()

    def new_metric(self, now_s: float, /) -> Live:
        return self._live

    def picker(self, members: Members, subchannels: Sequence[Subchannel], rng: Rng) -> Picker:
        return BoundedPicker(members, subchannels, rng, self._live, self._factor)


class BoundedPicker:
    """n >= 2 subchannels. Immutable; any thread."""

    __slots__ = ("_all", "_factor", "_hashed", "_keyless", "_live", "_share_of")

    def __init__(self, members: Members, subchannels: Sequence[Subchannel], rng: Rng, live: Live, factor: int) -> None:
        self._keyless = drawn(rng)
        self._hashed = HashPicker(members, subchannels, self._keyless)
        self._all = members.subchannels
        weights = [members.weights[members.position_of[sub]] for sub in subchannels]
        total = sum(weights)
        self._share_of = {sub: weight / total for sub, weight in zip(subchannels, weights, strict=True)}
        self._live = live
        self._factor = factor

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        digest = info.hash
        if digest is None:
            digest = self._keyless()
        sub = self._hashed.choose(digest, info.exclude)
        total = ((self._live.attempts + 1) * self._factor + 99) // 100
        return sub if self._overload(sub, total) <= 1.0 else self._elsewhere(sub, digest, total, info.exclude)

    def _overload(self, sub: Subchannel, total: int) -> float:
        return sub.in_flight / max(ceil(total * self._share_of[sub]), 1)

    def _elsewhere(self, first: Subchannel, digest: int, total: int, exclude: frozenset[Subchannel]) -> Subchannel:
        """Another one for a key whose own endpoint is ``first``."""
        if first in exclude:  # so are all
            exclude = NOBODY
        everybody, share_of = self._all, self._share_of
        least, least_overload = first, self._overload(first, total)
        for position in shuffled(len(everybody), digest):
            sub = everybody[position]
            if sub is first or sub not in share_of or sub in exclude:
                continue
            overload = self._overload(sub, total)
            if overload <= 1.0:
                return sub
            if overload < least_overload:
                least, least_overload = sub, overload
        return least


def shuffled(n: int, seed: int) -> Iterator[int]:
    """The positions 0 to n - 1, in Envoy's order for this hash; each is found when it is asked for."""
    numbers = _numbers(seed & 0xFFFFFFFF)
    moved: dict[int, int] = {}
    for at in range(n):
        left = n - at
        step = left
        while step >= left:
            step = next(numbers) // (2**32 // left)
        other = at + step
        yield moved.get(other, other)
        moved[other] = moved.get(at, at)


def _numbers(seed: int) -> Iterator[int]:
    return chain(_first_numbers(seed), islice(mt19937(seed), _FIRST_NUMBERS, None))


@lru_cache(_REMEMBERED_KEYS)
def _first_numbers(seed: int) -> tuple[int, ...]:
    return tuple(islice(mt19937(seed), _FIRST_NUMBERS))


def mt19937(seed: int) -> Iterator[int]:
    """C++'s ``std::mt19937(seed)``: 32-bit numbers without end."""
    state = [seed]

    def word(at: int) -> int:
        while len(state) <= at:
            last = state[-1]
            state.append((1812433253 * (last ^ last >> 30) + len(state)) & 0xFFFFFFFF)
        return state[at]

    while True:
        for at in range(624):
            following, distant = (at + 1) % 624, (at + 397) % 624
            mixed = word(at) & 0x80000000 | word(following) & 0x7FFFFFFF
            state[at] = word(distant) ^ mixed >> 1 ^ (0x9908B0DF if mixed & 1 else 0)
            number = state[at]
            number ^= number >> 11
            number ^= number << 7 & 0x9D2C5680
            number ^= number << 15 & 0xEFC60000
            yield number ^ number >> 18
