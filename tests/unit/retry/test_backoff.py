"""Delays between attempts: exponential, capped, then jittered."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from meshlb.retry.backoff import Backoff


def drawing(*values: float) -> Any:
    return SimpleNamespace(random=iter(values).__next__)


def test_full_jitter_comes_after_the_cap() -> None:
    """Uniform in [0, cap(n)): once the cap is reached, half a draw is half the cap and not the cap itself."""
    backoff = Backoff(0.025, 0.25, 2.0)
    assert [backoff.cap_s(retry) for retry in range(1, 7)] == [0.025, 0.05, 0.1, 0.2, 0.25, 0.25]
    assert [backoff.delay_s(retry, drawing(0.5)) for retry in (1, 2, 6)] == [0.0125, 0.025, 0.125]
    assert backoff.delay_s(9, drawing(0.0)) == 0.0


def test_the_delays_are_spread_evenly() -> None:
    """Closed form: the mean of a uniform in [0, 0.25) is 0.125, its standard error over 20,000 draws 0.0005."""
    rng = random.Random(7)
    drawn = [Backoff(0.25, 0.25, 2.0).delay_s(3, rng) for _ in range(20_000)]
    assert abs(sum(drawn) / len(drawn) - 0.125) < 0.003
    assert 0.0 <= min(drawn) < 0.001
    assert 0.249 < max(drawn) < 0.25


def test_grpcs_own_jitter_is_a_fifth_to_either_side() -> None:
    """A6, for policies of a service config."""
    backoff = Backoff(0.1, 1.0, 2.0, full_jitter=False)
    assert [round(backoff.delay_s(2, drawing(drawn)), 9) for drawn in (0.0, 0.5, 1.0)] == [0.16, 0.2, 0.24]
    assert round(backoff.delay_s(9, drawing(1.0)), 9) == 1.2


def test_a_number_of_attempts_beyond_all_floats_is_the_cap() -> None:
    """Somebody who never stops."""
    assert Backoff(0.1, 5.0, 10.0).cap_s(100_000) == 5.0
