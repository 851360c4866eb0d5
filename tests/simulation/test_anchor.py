"""anchor with meshlb's real pools and ejection, in short forms of the scenarios that it was made for. The gates proper: gates.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshlb.config import Config
from meshlb.testing.simulation.play import Played, play
from meshlb.testing.simulation.scenarios import SCENARIOS

SEED = 2


def _played(name: str, policy: str, **changed: Any) -> Played:
    return play(replace(SCENARIOS[name], **changed), Config(policy=policy), SEED)


@pytest.mark.parametrize("name", ["few-1x1", "few-3x1"])
@pytest.mark.parametrize("workers", [1, 2])
def test_clients_with_one_call_at_a_time_pin_nobody(name: str, workers: int) -> None:
    """One and three of them, 5 to 30 % of what ten pods can do: of any thousand calls the busiest gets at most 1.5 times the mean."""
    played = _played(name, "anchor", workers=workers, length_s=60.0)
    assert max(played.busiest_in_windows(1_000)) <= 1.5


def test_contended_servers_answer_sooner_than_with_a_scan_alone() -> None:
    """Ten clients at 70 %: p99 at least a twentieth below least request's, the median a tenth."""
    ours, theirs = (_played("homog70", policy, length_s=30.0) for policy in ("anchor", "least_request"))
    assert ours.latency_s(0.99) < 0.95 * theirs.latency_s(0.99)
    assert ours.latency_s(0.5) < 0.9 * theirs.latency_s(0.5)
    assert ours.busiest_to_mean() <= 1.15


def test_pods_that_roll_are_not_herded_upon() -> None:
    """Each returns at a fifth of its speed: nobody fails, and p99 is at most two thirds of least request's."""
    ours, theirs = (_played("roll65", policy, length_s=45.0) for policy in ("anchor", "least_request"))
    assert ours.failed_ratio == 0.0
    assert ours.latency_s(0.99) < theirs.latency_s(0.99) / 1.5


def test_a_black_hole_draws_nothing() -> None:
    """Of ten pods one fails at once for half of the run: fewer than one call in a thousand fails."""
    assert _played("black60", "anchor").failed_ratio <= 0.001
