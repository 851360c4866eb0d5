"""Maglev: a table of prime size in which every endpoint has its share of the entries, to about one; a key belongs to the entry at its
hash modulo the size.

Even shares are what it has over ``ring_hash``, and a pick without a search. If an endpoint goes, its keys move and a few others with
them (a percent or so of all, with 65537 entries and 100 endpoints).

**Filling.** Each endpoint has its own order of all entries, entry(c) = (offset + skip * c) mod size, and in its turn takes the first of
them that is free. Equal weights take turns; else an endpoint has a turn in round r unless r * weight < (the largest weight) * (turns
it had), so that the heaviest has one in every round.

**Cost.** The rule as written looks at size * ln(size) entries, most of them for the last ones. Turns are computed first, and
once the free entries are fewer than sqrt(size), whose turn it is computes for each of them when it would come to it
(c = (entry - offset) / skip mod size) and takes the soonest. The answer is the same; 65537 entries take 15 to 25 ms
for up to 1000 endpoints, whatever their weights. A pick takes 0.15 us.

Spec: Eisenbud et al., Maglev (NSDI 2016), listing 1; Envoy's MAGLEV for weights, hashes and the limit of sizes.
Deviations: see hashed.py.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice
from math import ceil, isqrt
from typing import ClassVar

from meshlb.balance.bounded_load import balance_factor, hash_policy
from meshlb.balance.config import PolicyConfig
from meshlb.balance.hashed import HashPolicy, boolean
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

_log = logging.getLogger("meshlb.balance")
_LARGEST = 5_000_011  # Envoy
_HASHES = 2**64


@dataclass(frozen=True, kw_only=True, slots=True)
class Maglev(PolicyConfig):
    """``table_size``: a prime, 2 to 5000011; far more than there are endpoints: with fewer, some get no key, and a warning says so once. An
    entry takes 4 bytes for good, and 0.3 us (of 65537) to 1 to 3 us (of 5000011) at each change of members or weights, with the pool's lock
    held: 25 ms in all by default, 5 to 15 s with the largest. ``hash_balance_factor``: the most that an endpoint may be loaded, in percent
    of its share, before calls go to others (bounded_load.py); 0: off, else >= 100. ``use_hostname_for_hashing``: hash endpoints by their
    hostname where they have one, see hashed.py."""

    name: ClassVar[str] = "maglev"
    table_size: int = 65537
    hash_balance_factor: int = 0
    use_hostname_for_hashing: bool = False

    def __post_init__(self) -> None:
        size = validate.integer("policy.table_size", self.table_size, minimum=2, maximum=_LARGEST)
        if any(size % divisor == 0 for divisor in range(2, isqrt(size) + 1)):
            raise ConfigError(f"policy.table_size={size!r}: must be a prime number")
        balance_factor("policy.hash_balance_factor", self.hash_balance_factor)
        boolean("policy.use_hostname_for_hashing", self.use_hostname_for_hashing)

    def build(self, rng: Rng) -> HashPolicy:
        return hash_policy(
            self.name,
            Tables(self.table_size).table,
            use_hostname=self.use_hostname_for_hashing,
            hash_balance_factor=self.hash_balance_factor,
        )


class Tables:
    """Builds tables of one size, and says once if that is too small."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._said = False

    def table(self, keys: list[bytes], weights: list[float]) -> MaglevTable:
        """The table of n >= 1 hosts."""
        if len(keys) > self._size and not self._said:
            self._said = True
            _log.warning(
                "maglev: table_size=%d for %d endpoints: at least %d get no key", self._size, len(keys), len(keys) - self._size
            )
        return MaglevTable(filled(keys, weights, self._size))


class MaglevTable:
    """``owners[h % size]`` is whose the keys of that hash are."""

    __slots__ = ("owners", "size")

    def __init__(self, owners: list[int]) -> None:
        self.owners = array("I", owners)  # an eighth of a list's memory
        self.size = len(owners)

    def first(self, digest: int, /) -> int:
        return self.owners[digest % self.size]

    def others(self, digest: int, /) -> Iterator[int]:
        """Envoy's further attempts: the same hash with its upper bits turned over, counting down."""
        owners, size = self.owners, self.size
        for mask in range(_HASHES - 1, 0, -1):
            yield owners[(digest ^ mask) % size]


def filled(keys: list[bytes], weights: list[float], size: int) -> list[int]:
    """The positions of n >= 1 hosts in a table of this size."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    offsets = [xxh64(key) % size for key in keys]
    skips = [xxh64(key, 1) % (size - 1) + 1 for key in keys]
    owners = [-1] * size
    turns = _turns([weights[at] for at in order], size)
    late = isqrt(size)
    nexts = offsets.copy()
    for at in islice(turns, size - late):
        at = order[at]
        entry, skip = nexts[at], skips[at]
        while owners[entry] >= 0:
            entry += skip
            if entry >= size:
                entry -= size
        owners[entry] = at
        nexts[at] = entry
    _fill_the_last(owners, [order[at] for at in islice(turns, late)], offsets, skips)
    return owners


def _fill_the_last(owners: list[int], turns: list[int], offsets: list[int], skips: list[int]) -> None:
    """Few are free, so whose turn it is looks at them, not at all that are taken on its way there."""
    size = len(owners)
    free = [entry for entry, owner in enumerate(owners) if owner < 0]
    for at in turns:
        offset, inverse = offsets[at], pow(skips[at], -1, size)
        reached = [(entry - offset) * inverse % size for entry in free]
        owners[free.pop(reached.index(min(reached)))] = at


def _turns(weights: list[float], size: int) -> Iterator[int]:
    """Who takes the next entry, ``size`` times at least."""
    if weights.count(weights[0]) == len(weights):
        return cycle(range(len(weights)))
    total = sum(weights)
    shares = [weight / total for weight in weights]
    largest = max(shares)
    last = ceil(size * largest) + 1  # by then everybody had turns in proportion, and one before
    rounds_of = {share: _rounds(share, largest, last) for share in set(shares)}
    turns: list[list[int]] = [[] for _ in range(last + 1)]
    for at, share in enumerate(shares):
        for number in rounds_of[share]:
            turns[number].append(at)
    return chain.from_iterable(turns)


def _rounds(share: float, largest: float, last: int) -> Iterable[int]:
    """The rounds, from 1 to ``last``, in which one of this share has a turn. Sums and products are rounded as Envoy's are."""
    if share == largest:
        return range(1, last + 1)
    rounds: list[int] = []
    number, target = 1, 0.0
    while number <= last:
        rounds.append(number)
        target += largest
        if last * share < target:
            break
        number = max(number + 1, int(target / share) - 1)
        while number * share < target:
            number += 1
    return rounds
