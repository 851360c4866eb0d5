"""How much work a call is: seconds that an idle server of speed 1 needs, drawn for each call."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TypeAlias

Work: TypeAlias = Callable[[random.Random], float]


def constant(mean_s: float) -> Work:
    """Always the same."""
    return lambda rng: mean_s


def exponential(mean_s: float) -> Work:
    """Memoryless."""
    return lambda rng: rng.expovariate(1.0 / mean_s)


def lognormal(mean_s: float, sigma: float = 1.0) -> Work:
    """What services look like: with sigma 1, a hundredth of the calls take 6 times the mean or more."""
    mu = math.log(mean_s) - sigma * sigma / 2.0
    return lambda rng: rng.lognormvariate(mu, sigma)


def mixed(*parts: tuple[float, Work]) -> Work:
    """One of several kinds, each with its probability: ``mixed((0.95, constant(0.002)), (0.05, constant(0.04)))``."""
    shares, kinds = [share for share, _ in parts], [kind for _, kind in parts]
    return lambda rng: rng.choices(kinds, shares)[0](rng)
