"""What a policy must reach on the simulated scenarios: figures that another simulator found to be possible, and rules among policies.

The full form, about an hour of one core (``--jobs`` divides it)::

    python -m tests.simulation.gates --policy anchor --jobs 2

runs the policy and its five peers over all scenarios with seeds 101 to 105 (101 to 109 where chance is large), prints the table and then
each gate that does not hold. ``test_gates.py`` runs a reduced form.

The gates, on medians over the seeds of ratios to the reference of the same seed:

- each percentile of each main scenario at most its figure in ``LATENCY`` and 3 % (10 % in ``NOISY``), the share of errors at most ``FAILED``;
- p99 at most 1.03 times the best of the peers', in every scenario that has a reference; geometric mean of the main ones' p99 at most 1.24;
- the busiest server at most 1.15 times the mean where all are alike, and at most 1.5 times in any thousand calls of
  one or three clients that make one call after the other (5 to 30 % load). Poisson arrivals of few clients are printed beside it: with
  several calls at once such a client looks like one of many, and what evens its calls out costs those their tail (balance/anchor.py);
- where all fail alike, or hardly anything does (``CALM``): p99 at most 1.1 times what it is without that; in all edge cases at most 1.1
  times the errors of that peer which has the fewest.

All policies run with meshlb's default ejection, the peers too.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from meshlb.config import Config
from meshlb.testing.simulation import SCENARIOS, Compared, Scenario, Score, compare, geo_mean
from meshlb.testing.simulation.scenarios import EDGE, GROUPS
from meshlb.testing.simulation.table import HEADING, block, means

PEERS: dict[str, object] = {
    "random": "random",
    "round_robin": "round_robin",
    "p2c": "p2c",
    "least_request": {"name": "least_request", "choice_count": 100},  # full: more than there are servers
    "peak_ewma": "peak_ewma",
}

BEST_PEERS = {name: PEERS[name] for name in ("least_request", "peak_ewma")}  # one of them nearly everywhere

LATENCY = {
    "homog70": (1.29, 1.08, 1.04),
    "homog90": (1.43, 1.26, 1.10),
    "homog95": (1.38, 1.31, 1.14),
    "hetero70": (1.51, 1.19, 1.13),
    # Its p99.9 in their milliseconds: the figure is by a reference of 171 ms, and ours is 211 over these seeds.
    "antag65": (1.44, 1.64, 1.85 * 171 / 211),
    "gc50": (1.16, 1.81, 1.30),
    "roll65": (1.30, 1.09, 1.04),
    "low30": (1.08, 1.03, 1.01),
    "gateway85": (1.07, 1.05, 1.01),
    "ps80": (1.21, 1.28, 1.27),
    "black60": (1.24, 1.08, 1.03),
    "brown60": (1.23, 1.08, 1.03),
    "many70": (1.74, 1.35, 1.12),
    "wide80": (2.53, 2.83, 2.85),
    "pareto80": (1.16, 1.02, 1.01),
    "bimodal70": (1.01, 1.00, 1.06),
    "skew75": (1.39, 1.13, 1.06),
    "stream60": (1.13, 1.01, 1.01),
    "burst": (1.18, 1.18, 1.18),
}
FAILED = {"black60": 0.0005, "brown60": 0.0015}
NOISY = ("antag65", "gc50", "wide80")
ALIKE = ("homog70", "homog90", "homog95", "low30", "gateway85", "many70")
CALM = ("edge-all-fail-20", "edge-1-percent-errors", "edge-flapping")

SLACK, NOISY_SLACK = 1.03, 1.10
BEST_PEER_SLACK = 1.03
GEO_MEAN_P99 = 1.24
BUSIEST, BUSIEST_OF_FEW = 1.15, 1.5
CALM_SLACK = 1.1

SEEDS = (101, 102, 103, 104, 105)
NOISY_SEEDS = (*SEEDS, 106, 107, 108, 109)


def seeds_for(scenario: Scenario) -> tuple[int, ...]:
    return NOISY_SEEDS if scenario.name in NOISY else SEEDS


def without_trouble(name: str) -> Scenario:
    """The same calls with nothing that happens."""
    return replace(SCENARIOS[name], disturbances=())


def broken(compared: Sequence[Compared], policy: str, calm: Mapping[str, Score]) -> list[str]:
    """Each gate that does not hold, in words; ``calm``: the policy's scores ``without_trouble``, of those of ``CALM`` that were run."""
    said = [line for one in compared for line in (*_latency(one, policy), *_peers(one, policy), *_even(one, policy))]
    said += [line for one in compared if one.scenario.name in calm for line in _calm(one, policy, calm[one.scenario.name])]
    main = [one for one in compared if one.scenario.name in LATENCY]
    if len(main) == len(LATENCY):
        said += _at_most("main: geometric mean of p99", geo_mean(main, policy)[1], GEO_MEAN_P99)
    return said


def _latency(one: Compared, policy: str) -> Iterator[str]:
    name, score = one.scenario.name, one.scores[policy]
    if name in LATENCY:
        slack = NOISY_SLACK if name in NOISY else SLACK
        for percentile, ratio, most in zip(("p50", "p99", "p99.9"), score.latency_ratios, LATENCY[name], strict=True):
            yield from _at_most(f"{name}: {percentile}", ratio, most * slack)
        yield from _at_most(f"{name}: failed", score.failed_ratio, FAILED.get(name, 0.0))


def _peers(one: Compared, policy: str) -> Iterator[str]:
    peers = {name: score for name, score in one.scores.items() if name != policy}
    if not peers:
        return
    name, score = one.scenario.name, one.scores[policy]
    best = min(peers, key=lambda peer: peers[peer].latency_ratios[1])
    if not math.isnan(score.latency_ratios[1]):
        yield from _at_most(
            f"{name}: p99 beside {best}'s", score.latency_ratios[1], BEST_PEER_SLACK * peers[best].latency_ratios[1]
        )
    if one.scenario in EDGE:
        fewest = min(score.failed_ratio for score in peers.values())
        yield from _at_most(f"{name}: failed beside the peers'", score.failed_ratio, 1.1 * fewest)


def _even(one: Compared, policy: str) -> Iterator[str]:
    name, score = one.scenario.name, one.scores[policy]
    if name in ALIKE:
        yield from _at_most(f"{name}: busiest to mean", score.busiest_to_mean, BUSIEST)
    if one.scenario.concurrency:
        yield from _at_most(f"{name}: busiest to mean in 1,000 calls", score.busiest_in_1000, BUSIEST_OF_FEW)


def _calm(one: Compared, policy: str, calm: Score) -> Iterator[str]:
    p99 = one.scores[policy].latency_ratios[1]
    yield from _at_most(f"{one.scenario.name}: p99 beside that without", p99, CALM_SLACK * calm.latency_ratios[1])


def _at_most(what: str, value: float, most: float) -> Iterator[str]:
    if not value <= most:  # a NaN, too
        yield f"{what} is {value:.4g}, more than {most:.4g}"


def run(
    policy: str, scenarios: Sequence[Scenario], *, peers: Mapping[str, object] = PEERS, seeds: Sequence[int] = (), jobs: int = 1
) -> Iterator[Compared]:
    """The policy and its peers, on each of these."""
    policies = {name: Config(policy=written) for name, written in ({**peers, policy: policy}).items()}  # type: ignore[arg-type]
    for scenario in scenarios:
        yield from compare([scenario], policies, seeds or seeds_for(scenario), jobs=jobs)


def run_calm(policy: str, names: Sequence[str], *, seeds: Sequence[int] = SEEDS, jobs: int = 1) -> dict[str, Score]:
    """The policy alone, without trouble."""
    found = run(policy, [without_trouble(name) for name in names], peers={}, seeds=seeds, jobs=jobs)
    return {one.scenario.name: one.scores[policy] for one in found}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.gates", description="The gates of a policy, in full.")
    parser.add_argument("--policy", default="anchor")
    parser.add_argument("--groups", default=",".join(GROUPS), help=f"default {','.join(GROUPS)}")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    groups = asked.groups.split(",")
    compared = []
    print(HEADING)
    for one in run(asked.policy, [scenario for group in groups for scenario in GROUPS[group]], jobs=asked.jobs):
        compared.append(one)
        print(block(one), flush=True)
    calm = run_calm(asked.policy, CALM, jobs=asked.jobs) if "edge" in groups else {}
    print(means(compared))
    failures = broken(compared, asked.policy, calm)
    print("\n".join(failures) or "all gates hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
