"""How much work a call is: seconds that an idle server of speed 1 needs, drawn for each call.

Objects rather than closures: a scenario that has one can be sent to another process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Work: TypeAlias = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class constant:
    """Always the same."""

    mean_s: float

    def __call__(self, rng: random.Random) -> float:
        return self.mean_s


@dataclass(frozen=True, slots=True)
class exponential:
    """Memoryless."""

    mean_s: float

    def __call__(self, rng: random.Random) -> float:
        return rng.expovariate(1.0 / self.mean_s)


@dataclass(frozen=True, slots=True)
class lognormal:
    """What services look like: with sigma 1, a hundredth of the calls take 6 times the mean or more."""

    mean_s: float
    sigma: float = 1.0

    def __call__(self, rng: random.Random) -> float:
        return rng.lognormvariate(math.log(self.mean_s) - self.sigma * self.sigma / 2.0, self.sigma)


@dataclass(frozen=True, slots=True)
class pareto:
    """Bounded: most calls are short, and a few take up to ``spread`` times as long as the shortest."""

    mean_s: float
    alpha: float = 1.5
    spread: float = 100.0

    def __call__(self, rng: random.Random) -> float:
        tail = 1.0 - math.pow(self.spread, -self.alpha)
        shortest = tail * (1.0 - 1.0 / self.alpha) / (1.0 - math.pow(self.spread, 1.0 - self.alpha)) * self.mean_s
        return shortest * math.pow(1.0 - rng.random() * tail, -1.0 / self.alpha)


def mixed(*parts: tuple[float, Work]) -> Work:
    """One of several kinds, each with its probability: ``mixed((0.95, constant(0.002)), (0.05, constant(0.04)))``."""
    return _Mixed(tuple(share for share, _ in parts), tuple(kind for _, kind in parts))


@dataclass(frozen=True, slots=True)
class _Mixed:
    shares: tuple[float, ...]
    kinds: tuple[Work, ...]

    def __call__(self, rng: random.Random) -> float:
        return rng.choices(self.kinds, self.shares)[0](rng)
