"""Scenarios that chance made, over the ranges of those with a name: each number is always the same one.

Drawn: servers (3 to 40), workers (1 to 8), clients (1 to 60), FIFO or sharing, kind and length of work, load, and none to two troubles.
The load stays below what the servers can do while they are in trouble: no picking helps a fleet that is too small.
"""

from __future__ import annotations

import random

from meshlb.testing.simulation.changes import Blips, Disturbance, Episodes, Failing, Rolling, Speeds
from meshlb.testing.simulation.scenario import Burst, Scenario
from meshlb.testing.simulation.work import Work, constant, exponential, lognormal, mixed, pareto

RATES_PER_S = (250.0, 1200.0)  # enough calls for a p99.9, and few enough for an afternoon


def fuzz(number: int) -> Scenario:
    """The scenario of that number, ``fuzz00`` and so on."""
    rng = random.Random(f"fuzz {number}")
    servers, workers = rng.choice((3, 5, 8, 10, 20, 40)), rng.choice((1, 2, 4, 8))
    length_s, warm_up_s = 50.0, 10.0
    troubles, left_ratio = _troubles(rng, servers)
    load_ratio = round(rng.uniform(0.35, 0.9) * left_ratio, 2)
    least_s, most_s = (load_ratio * servers * workers / rate for rate in reversed(RATES_PER_S))
    mean_s = min(max(rng.choice((0.005, 0.010, 0.025, 0.050)), least_s), most_s)
    burst = Burst(factor=rng.uniform(1.2, 1.6)) if load_ratio < 0.5 and rng.random() < 0.3 else None
    clients = rng.choice((1, 3, 10, 20, 60))
    return Scenario(
        name=f"fuzz{number:02}",
        load_ratio=load_ratio,
        clients=clients,
        servers=servers,
        workers=workers,
        sharing=rng.random() < 0.25,
        mean_s=mean_s,
        work=_work(rng, mean_s),
        length_s=length_s,
        warm_up_s=warm_up_s,
        shares=tuple(1.0 / (k + 1) for k in range(clients)) if rng.random() < 0.25 else (),
        burst=burst,
        disturbances=troubles,
    )


def _work(rng: random.Random, mean_s: float) -> Work:
    short_s = mean_s / (0.95 + 0.05 * 20)
    kinds: list[Work] = [
        lognormal(mean_s, rng.uniform(0.5, 1.5)),
        exponential(mean_s),
        mixed((0.95, constant(short_s)), (0.05, constant(20 * short_s))),
        pareto(mean_s),
    ]
    return kinds[rng.choices(range(4), (4, 2, 1, 1))[0]]


def _troubles(rng: random.Random, servers: int) -> tuple[tuple[Disturbance, ...], float]:
    """None to two of them, and what they leave of the servers."""
    few = tuple(rng.sample(range(servers), max(1, servers // 5)))
    left = 1.0 - len(few) / servers
    known: list[tuple[Disturbance, float]] = [
        (Speeds(of=few, speed=rng.uniform(0.3, 0.7)), 1.0),
        (Episodes(gap_s=rng.uniform(4.0, 10.0), episode_s=rng.uniform(0.5, 3.0), slower=(2.0, 5.0)), 0.75),
        (Episodes(gap_s=rng.uniform(3.0, 8.0), episode_s=rng.uniform(0.1, 0.5), slower=None), 0.75),
        (Blips(every_s=rng.uniform(0.5, 2.0), blip_s=0.02), 0.9),
        (Failing(of=few, ratio=rng.choice((0.3, 0.6, 1.0)), from_s=20.0, until_s=40.0), left),
        (Rolling(from_s=11.0, every_s=rng.uniform(3.0, 8.0), away_s=1.5, speed=0.2, warm_s=5.0), left),
    ]
    chosen = rng.sample(known, rng.choices((0, 1, 2), (1, 3, 1))[0])
    ratio = 1.0
    for _, one in chosen:
        ratio *= one
    return tuple(trouble for trouble, _ in chosen), ratio
