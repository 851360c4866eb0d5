"""Policies side by side: each run as a ratio to the reference of the same scenario and seed, then the median over the seeds.

Paired, because a seed with a heavy hour is heavy for everybody: the ratio of one seed to another's would measure the hour. What fails
is counted apart and never traded for latency: the percentiles are those of successful calls.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from meshlb.config import Config
from meshlb.testing.simulation.play import play
from meshlb.testing.simulation.references import PERCENTILES, reference_s
from meshlb.testing.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Score:
    """``latency_ratios``: p50, p99 and p99.9 by the reference's; NaN where there is none (a closed loop, or nothing succeeded).
    ``busiest_to_mean`` of the whole run, and ``busiest_in_1000``, the worst of any thousand calls that followed each other."""

    latency_ratios: tuple[float, ...]
    failed_ratio: float
    busiest_to_mean: float
    busiest_in_1000: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One scenario: the median of the reference in seconds, and of each policy's scores, figure by figure."""

    scenario: Scenario
    reference_s: tuple[float, ...]
    scores: Mapping[str, Score]


def score(scenario: Scenario, config: Config, seed: int) -> Score:
    """One run."""
    played = play(scenario, config, seed)
    least_s = reference_s(scenario, seed)
    ratios = tuple(played.latency_s(ratio) / one_s for ratio, one_s in zip(PERCENTILES, least_s, strict=True))
    return Score(ratios, played.failed_ratio, played.busiest_to_mean(), max(played.busiest_in_windows(), default=math.nan))


def median_score(scores: Sequence[Score]) -> Score:
    """Of runs with several seeds, figure by figure."""
    return Score(
        tuple(median(one.latency_ratios[at] for one in scores) for at in range(len(PERCENTILES))),
        median(one.failed_ratio for one in scores),
        median(one.busiest_to_mean for one in scores),
        median(one.busiest_in_1000 for one in scores),
    )


def compare(
    scenarios: Sequence[Scenario], policies: Mapping[str, Config], seeds: Sequence[int], *, jobs: int = 1
) -> Iterator[Compared]:
    """Each scenario as soon as it is done, in their order. With ``jobs`` > 1 in so many processes, which need to be able to import the
    policies' classes and what the scenarios are made of."""
    tasks = [(scenario, config, seed) for scenario in scenarios for seed in seeds for config in policies.values()]
    if jobs == 1:
        yield from _collected(scenarios, policies, seeds, map(_run, tasks))
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(tasks)), initializer=_begin_process) as pool:
        yield from _collected(scenarios, policies, seeds, pool.imap(_run, tasks))


def geo_mean(compared: Sequence[Compared], policy: str) -> tuple[float, ...]:
    """Of a policy's latency ratios, over the scenarios that have them."""
    figures = [one.scores[policy].latency_ratios for one in compared if not math.isnan(one.scores[policy].latency_ratios[0])]
    return tuple(math.exp(fmean(map(math.log, column))) for column in zip(*figures, strict=True))


def _collected(
    scenarios: Sequence[Scenario], policies: Mapping[str, Config], seeds: Sequence[int], scores: Iterator[Score]
) -> Iterator[Compared]:
    for scenario in scenarios:
        got: dict[str, list[Score]] = {name: [] for name in policies}
        for _ in seeds:
            for name in policies:
                got[name].append(next(scores))
        references_s = zip(*(reference_s(scenario, seed) for seed in seeds), strict=True)
        yield Compared(scenario, tuple(map(median, references_s)), {name: median_score(of) for name, of in got.items()})


def _run(task: tuple[Scenario, Config, int]) -> Score:
    return score(*task)


def _begin_process() -> None:
    """Ctrl-C is the parent's to handle; ejections are what a scenario is about, and nobody's worry."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("meshlb").setLevel(logging.ERROR)
