"""What of a broken pod a caller meets depends on how often it calls: the share over rates, quiet callers, and many of them at once.

``python -m tests.simulation.fault_rates`` prints the tables.
"""

from __future__ import annotations

import sys
from typing import Any

from meshlb.testing.simulation import SETTLE_S, Record, Simulation, constant
from tests.simulation.faults import FAULT_S, SEED, Scene, fleet

RATES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
PLENTY = 1000  # workers: nobody waits, so that only the rate counts


def one_broken(n: int, rate_per_s: float, *, clients: int = 1, seed: int = SEED, **config: Any) -> Scene:
    """One pod of n fails fast from 6 s on, for ever."""
    scene = fleet(n, clients=clients, rate_per_s=rate_per_s, work=constant(0.010), workers=PLENTY, seed=seed, **config)
    scene.hit = scene.pods[:1]
    scene.sim.at(FAULT_S, scene.hit[0].fail)
    return scene


def shares(n: int, rate_per_s: float, **kind: Any) -> tuple[float, float, float]:
    """Of the broken pod: in the first second, from 1 s to 11 s, and from 60 s to 120 s after it broke; the last only at low rates."""
    scene = one_broken(n, rate_per_s, **kind)
    record = scene.sim.run(FAULT_S + (120.0 if rate_per_s <= 1000.0 else 11.0))
    spans = ((0.0, 1.0), (1.0, 11.0), (60.0, 120.0))
    first, soon, later = (record.between(FAULT_S + since, FAULT_S + until).share(scene.hit_addresses) for since, until in spans)
    return first, soon, later


def quiet_hour(n: int = 3, rate_per_s: float = 1.0, *, hours: float = 1.0, **kind: Any) -> tuple[Record, int]:
    """One caller, one call a second, one of n pods broken all the time: the record of an hour or more, and the attempts that met it."""
    scene = fleet(n, clients=1, rate_per_s=rate_per_s, **kind)
    scene.sim.at(0.0, scene.pods[0].fail)
    record = scene.sim.run(SETTLE_S + 3600.0 * hours)
    return record, record.count(scene.pods[0].endpoint.address)


def crowd(clients: int = 50, *, lasts_s: float = 60.0, rate_per_s: float = 1000.0, **kind: Any) -> tuple[Simulation, Record, str]:
    """Many processes, one of whose ten pods breaks at 6 s for a minute; 30 s more."""
    scene = one_broken(10, rate_per_s, clients=clients, **kind)
    scene.sim.at(FAULT_S + lasts_s, scene.hit[0].heal)
    return scene.sim, scene.sim.run(FAULT_S + lasts_s + 30.0), scene.hit[0].endpoint.address


def main(words: list[str]) -> None:
    mode = words[0] if words else "on"
    print(
        f"outlier={mode} seed={SEED}: share of a pod that fails fast, one caller\n{'pods':>5} {'calls/s':>8} {'first s':>8} {'1-11 s':>8} {'60-120 s':>8}"
    )
    for n in (2, 3, 10):
        for rate in RATES:
            print(f"{n:>5} {rate:>8g} " + " ".join(f"{share:>8.2%}" for share in shares(n, rate, outlier=mode)), flush=True)
    for n, rate in ((2, 1.0), (3, 1.0), (3, 0.1), (10, 1.0)):
        record, met = quiet_hour(n, rate, outlier=mode)
        print(f"an hour at {rate:g}/s, one of {n} broken: {met} of {len(record.calls)} calls met it, {record.failed} failed")
    _, record, address = crowd(outlier=mode)
    print("50 callers, probes of one pod in each second of its outage:")
    print(*(record.between(FAULT_S + at, FAULT_S + at + 1).count(address) for at in range(75)))


if __name__ == "__main__":
    main(sys.argv[1:])
