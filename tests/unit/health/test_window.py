"""Windows of time that remember at least some attempts, and runs told by totals."""

from __future__ import annotations

from math import exp

import pytest

from meshlb.health.run import Run
from meshlb.health.window import Fading, Window
from tests.support.outliers import subchannel


def _fading(seconds: float, tau_s: float = 5.0, keep: float = 50.0) -> Fading:
    fading = Fading(tau_s, keep)
    fading.passed(seconds)
    return fading


def test_many_attempts_fade_with_time() -> None:
    """At 100 a second tau seconds are remembered: what was before counts e^(-t / tau)."""
    window = Window()
    window.add(500, 500, _fading(0.0))
    window.add(0, 0, _fading(5.0))
    assert (window.failed, window.succeeded) == pytest.approx((500 * exp(-1), 500 * exp(-1)))
    assert window.failing_ratio == pytest.approx(0.5)


def test_the_last_attempts_are_remembered_however_long_they_took() -> None:
    """One attempt every ten minutes: the last 50 of them, half of which failed."""
    window = Window()
    for at in range(300):
        window.add(at % 2, 1 - at % 2, _fading(600.0))
    assert window.total == pytest.approx(50.0, abs=1.0)
    assert window.failing_ratio == pytest.approx(0.5, abs=0.02)


def test_successes_of_a_long_time_count_as_if_evenly_spread() -> None:
    """An hour at 100 a second is 5 s at 100 a second: not 360,000 attempts beside which a failure is nothing."""
    window = Window()
    window.add(1, 360_000, _fading(3600.0))
    assert window.succeeded == pytest.approx(500.0, rel=0.01)


def test_few_successes_of_a_long_time_all_count() -> None:
    """At one a minute each of the last 50 is worth the same."""
    window = Window()
    window.add(0, 30, _fading(1800.0))
    assert window.succeeded == 30.0
    window.add(0, 30, _fading(1800.0))
    assert window.total == pytest.approx(50.0)


def test_nothing_known_fails_at_no_ratio() -> None:
    """0, and a repr that says so."""
    window = Window()
    assert (window.failing_ratio, repr(window)) == (0.0, "<Window 0.0 of 0.0 failed>")


def test_a_success_in_between_breaks_a_run_without_reporting() -> None:
    """Told by the total alone."""
    sub = subchannel(0)
    run = Run(sub)
    assert [run.failed(), run.failed(), run.broken] == [1, 2, False]
    sub.succeeded += 1
    assert (run.broken, repr(run), run.failed()) == (True, "<Run 0>", 1)
    run.reset()
    assert run.length == 0
