"""What happens to the servers of a scenario, drawn beforehand: a list of changes, so that every policy and both bounds meet the same.

A *disturbance* draws changes for a run; these are the ones of which the scenarios are made, and a user's own is any object with
``changes``. Servers are numbered from 0: a number is a place in the fleet, and after ``REPLACE`` another pod has it.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

RAMP_STEPS = 10


class What(enum.Enum):
    """What may become of a server."""

    SPEED = "speed"  # work takes 1/value of its time, also what has begun; 0 is a pause
    FAILING = "failing"  # this share of what arrives fails at once
    LEAVE = "leave"  # discovery no longer lists it; what it has, it finishes
    COME_BACK = "come back"  # the same pod is listed again
    REPLACE = "replace"  # a new pod, with nothing in its queue, is listed in its place


SPEEDS = (What.SPEED, What.REPLACE)  # those whose value is one


class Change(NamedTuple):
    """``value`` is a speed or a share."""

    at_s: float
    server: int
    what: What
    value: float = 0.0


class Disturbance(Protocol):
    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        """Those of one run, in any order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """These servers have this speed, always."""

    of: tuple[int, ...]
    speed: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        for server in self.of:
            yield Change(0.0, server, What.SPEED, self.speed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """On each server, again and again: all is well for exp(``gap_s``); then, for ``episode_s`` x U(0.5, 1.5), it has the speed
    1/U(``slower``), or stands still where that is None."""

    gap_s: float
    episode_s: float
    slower: tuple[float, float] | None

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        for server in range(servers):
            now_s = rng.expovariate(1.0 / self.gap_s)
            while now_s < length_s:
                speed = 0.0 if self.slower is None else 1.0 / rng.uniform(*self.slower)
                yield Change(now_s, server, What.SPEED, speed)
                now_s += self.episode_s * rng.uniform(0.5, 1.5)
                yield Change(now_s, server, What.SPEED, 1.0)
                now_s += rng.expovariate(1.0 / self.gap_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blips:
    """Each server stands still for ``blip_s``, every ``every_s``; not all at the same time."""

    every_s: float
    blip_s: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        for server in range(servers):
            now_s = rng.random() * self.every_s
            while now_s < length_s:
                yield Change(now_s, server, What.SPEED, 0.0)
                yield Change(now_s + self.blip_s, server, What.SPEED, 1.0)
                now_s += self.every_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Failing:
    """This share of what arrives at these servers fails at once, within this time."""

    of: tuple[int, ...]
    ratio: float
    from_s: float
    until_s: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        for server in self.of:
            yield Change(self.from_s, server, What.FAILING, self.ratio)
            yield Change(self.until_s, server, What.FAILING, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rolling:
    """From ``from_s`` on, every ``every_s``, one server after the other leaves; ``away_s`` later a new pod has its place, at a speed of
    ``speed`` that rises to 1 within ``warm_s`` in ten steps."""

    from_s: float
    every_s: float
    away_s: float
    speed: float
    warm_s: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        leaves_s, turn = self.from_s, 0
        while leaves_s < length_s:
            server = turn % servers
            yield Change(leaves_s, server, What.LEAVE)
            back_s = leaves_s + self.away_s
            yield Change(back_s, server, What.REPLACE, self.speed)
            for step in range(1, RAMP_STEPS + 1):
                speed = self.speed + (1.0 - self.speed) * step / RAMP_STEPS
                yield Change(back_s + self.warm_s * step / RAMP_STEPS, server, What.SPEED, speed)
            leaves_s += self.every_s
            turn += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Flapping:
    """Every ``every_s`` the next server is not listed for ``away_s``, while it works on."""

    every_s: float
    away_s: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        for turn in range(1, int(length_s / self.every_s)):
            yield Change(turn * self.every_s, turn % servers, What.LEAVE)
            yield Change(turn * self.every_s + self.away_s, turn % servers, What.COME_BACK)
