"""What tests of policies share: a seeded rng that says its seed, subchannels of a policy, live attempts, and shares of picks."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from meshlb.core.endpoint import Endpoint
from meshlb.core.policy import Picker, PickInfo, Policy
from meshlb.core.subchannel import Attempt, Subchannel


def seeded() -> random.Random:
    """The same numbers on each run, other ones with TEST_SEED=<n>; pytest shows the seed of what fails."""
    seed = int(os.environ.get("TEST_SEED", "12345"))
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


def subchannels_of(policy: Policy, weights: Sequence[float]) -> list[Subchannel]:
    """One subchannel a weight, in the order of their addresses."""
    endpoints = [
        Endpoint(host=f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", port=80, weight=weight) for at, weight in enumerate(weights)
    ]
    return [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in endpoints]


def hold(live: set[Attempt], count: int = 1) -> None:
    """Let attempts live in ``subchannel.unary`` or ``subchannel.streams``."""
    live.update(Attempt() for _ in range(count))


def picks(picker: Picker, count: int, exclude: Iterable[Subchannel] = (), now_s: float = 0.0) -> list[Subchannel]:
    """Subchannels picked one after the other, with nothing begun on them."""
    info = PickInfo("/shop.Orders/Get", frozenset(exclude))
    picked = [picker.pick(info, now_s) for _ in range(count)]
    return [subchannel for subchannel in picked if subchannel is not None]


def shares(picked: Sequence[Subchannel], subchannels: Sequence[Subchannel]) -> list[float]:
    """The part of the picks that each subchannel got."""
    counts = Counter(picked)
    return [counts[subchannel] / len(picked) for subchannel in subchannels]
