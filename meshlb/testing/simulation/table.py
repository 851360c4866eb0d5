"""A comparison as text: a block a scenario, a line a policy, and a bar for its p99: one more block for each tenth more than the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meshlb.testing.simulation.compare import Compared, geo_mean
from meshlb.testing.simulation.scenarios import GROUPS

LONGEST_BAR = 30
EIGHTHS = " ▏▎▍▌▋▊▉"

HEADING = f"{'':24}{'p50':>8}{'p99':>8}{'p99.9':>8}{'failed':>9}{'busiest':>9}{'in 1,000':>9}"


def block(compared: Compared) -> str:
    """One scenario."""
    least = "".join(f"{_figure(1000.0 * one_s, '.4g'):>8}" for one_s in compared.reference_s)
    lines = [f"{compared.scenario.name:24}{least}  ms: the reference"]
    for name, score in compared.scores.items():
        ratios = "".join(f"{_figure(ratio, '.2f'):>8}" for ratio in score.latency_ratios)
        even = f"{_figure(score.busiest_to_mean, '.2f'):>9}{_figure(score.busiest_in_1000, '.2f'):>9}"
        lines.append(f"  {_short(name):22}{ratios}{score.failed_ratio:>9.2%}{even}  {bar(score.latency_ratios[1])}".rstrip())
    return "\n".join(lines)


def means(compared: Sequence[Compared]) -> str:
    """The geometric means of the scenarios, a block a group."""
    lines = []
    for title, members in groups(compared).items():
        lines.append(f"geo-mean of {title}")
        for name in members[0].scores:
            ratios = geo_mean(members, name)
            lines.append(f"  {_short(name):22}" + "".join(f"{ratio:>8.3f}" for ratio in ratios) + f"{'':29}{bar(ratios[1])}")
    return "\n".join(lines)


def groups(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Those that have a reference, by the group that their scenarios are of: ``19 of main``."""
    found: dict[str, list[Compared]] = {}
    for one in compared:
        group = next((name for name, members in GROUPS.items() if one.scenario in members), "others")
        if not math.isnan(one.reference_s[0]):
            found.setdefault(group, []).append(one)
    return {f"{len(members)} of {group}": members for group, members in found.items()}


def plain(compared: Sequence[Compared], seeds: Sequence[int]) -> dict[str, Any]:
    """The same for machines; what is not a number is None."""
    scenarios = {
        one.scenario.name: {
            "reference_s": [_or_none(figure) for figure in one.reference_s],
            "policies": {
                name: {
                    "latency_ratios": [_or_none(ratio) for ratio in score.latency_ratios],
                    "failed_ratio": score.failed_ratio,
                    "busiest_to_mean": _or_none(score.busiest_to_mean),
                    "busiest_in_1000": _or_none(score.busiest_in_1000),
                }
                for name, score in one.scores.items()
            },
        }
        for one in compared
    }
    by_group: dict[str, Mapping[str, Any]] = {
        title: {name: geo_mean(members, name) for name in members[0].scores} for title, members in groups(compared).items()
    }
    return {"seeds": list(seeds), "percentiles": [50, 99, 99.9], "scenarios": scenarios, "geo_mean": by_group}


def bar(ratio: float) -> str:
    """Its logarithm to the base 1.1, in blocks; an arrow where it is longer than there is room for."""
    if math.isnan(ratio) or ratio <= 1.0:
        return ""
    length = math.log(ratio) / math.log(1.1)
    if length > LONGEST_BAR:
        return "█" * (LONGEST_BAR - 1) + "▶"
    return ("█" * int(length) + EIGHTHS[int(length % 1.0 * 8)]).rstrip()


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _short(name: str) -> str:
    return name if len(name) <= 21 else name[:20] + "…"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
