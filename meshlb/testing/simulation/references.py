"""What each run is compared with: p50, p99 and p99.9 of the better bound, stored for the seeds that are used again and again.

``references.json`` has both bounds of the named scenarios, for the seeds 1 to 5, 11 to 15 and 101 to 105 (106 to 109 where chance is
large); whatever it does not have is reckoned when it is asked for. ``reckon.py`` fills it; a test reckons some of it again.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TypeAlias

from meshlb.testing.simulation.bounds import central_queue, clairvoyant
from meshlb.testing.simulation.record import percentile
from meshlb.testing.simulation.scenario import Scenario
from meshlb.testing.simulation.scenarios import SCENARIOS

PERCENTILES = (0.5, 0.99, 0.999)
FILE = Path(__file__).with_name("references.json")

Bounds: TypeAlias = dict[str, list[float]]


def reference_s(scenario: Scenario, seed: int) -> tuple[float, ...]:
    """p50, p99 and p99.9 of the better bound, figure by figure; NaN for a closed loop, which has none. Takes seconds if it is not stored."""
    if scenario.concurrency:
        return (float("nan"),) * len(PERCENTILES)
    bounds = bounds_s(scenario, seed)
    return tuple(min(figures) for figures in zip(*(bounds[name] for name in bounds if name in scenario.bounds), strict=True))


@cache
def bounds_s(scenario: Scenario, seed: int) -> Bounds:
    """Of each bound, by its name."""
    if SCENARIOS.get(scenario.name) == scenario:
        known = stored().get(scenario.name, {}).get(str(seed))
        if known is not None:
            return known
    return reckoned_s(scenario, seed)


def reckoned_s(scenario: Scenario, seed: int) -> Bounds:
    """The same, whatever is stored."""
    bounds = {"clairvoyant": clairvoyant} if scenario.sharing else {"central_queue": central_queue, "clairvoyant": clairvoyant}
    took_s = {name: bound(scenario, seed) for name, bound in bounds.items()}
    return {name: [round(percentile(ascending, ratio), 6) for ratio in PERCENTILES] for name, ascending in took_s.items()}


@cache
def stored() -> dict[str, dict[str, Bounds]]:
    """By scenario and seed."""
    known: dict[str, dict[str, Bounds]] = json.loads(FILE.read_text(encoding="utf-8"))
    return known
