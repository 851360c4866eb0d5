"""What calls amount to over ten seconds, in closed form and in virtual time."""

from __future__ import annotations

import pytest

from meshlb.server.meter import STEP_S, WINDOW_S, Meter


def steady(meter: Meter, from_s: float, seconds: float, *, per_s: int, takes_s: float, every_fails: int = 0) -> float:
    """One call after the other, evenly; looked at after each."""
    for number in range(int(seconds * per_s)):
        at_s = from_s + number / per_s
        meter.began(at_s, at_s / 2)
        meter.ended(at_s + takes_s, failed=bool(every_fails) and not (number + 1) % every_fails)
        meter.rates(at_s + takes_s, (at_s + takes_s) / 2)
    return from_s + seconds


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    """20 calls a second of 10 ms each, one of 20 failed: 20, 1, 0.2 at once, half a processor."""
    meter = Meter(0.0, 0.0)
    end_s = steady(meter, 0.0, 100.0, per_s=20, takes_s=0.01)
    end_s = steady(meter, end_s, 10.0, per_s=20, takes_s=0.01, every_fails=20)
    rates = meter.rates(end_s, end_s / 2)
    assert rates == pytest.approx((20.0, 1.0, 0.2, 0.5), rel=0.03)


def test_calls_over_running_calls_is_the_time_of_a_call_from_the_first_on() -> None:
    """Whatever the window: both are of the same stretch of time."""
    meter = Meter(0.0, 0.0)
    for at_s in (0.001, 0.02, 0.3, 5.0, 5.5):
        meter.began(at_s, 0.0)
        meter.ended(at_s + 0.008, failed=False)
        rates = meter.rates(at_s + 0.008, 0.0)
        assert rates.running / rates.qps == pytest.approx(0.008)


def test_calls_under_way_count_as_they_pass() -> None:
    """Not only when they end."""
    meter = Meter(0.0, 0.0)
    for _ in range(3):
        meter.began(0.0, 0.0)
    assert meter.rates(5.0, 0.0).running == pytest.approx(3.0)
    meter.ended(5.0, failed=True)
    assert meter.rates(10.0, 0.0).running == pytest.approx(2.5)
    assert meter.running == 2


def test_a_pause_is_not_averaged_over() -> None:
    """After an hour without calls, the first call's rate is that of its moment, and the first second's that second's."""
    meter = Meter(0.0, 0.0)
    end_s = steady(meter, 0.0, 10.0, per_s=20, takes_s=0.01)
    assert meter.rates(end_s + 60.0, 0.0).qps == 0.0
    end_s = steady(meter, 3600.0, 0.05, per_s=20, takes_s=0.01)
    assert meter.rates(end_s, 0.0).qps == pytest.approx(1 / STEP_S)
    end_s = steady(meter, end_s, 1.0, per_s=20, takes_s=0.01)
    assert meter.rates(end_s, 0.0).qps == pytest.approx(20.0, rel=0.05)


def test_no_moment_is_shorter_than_a_step_and_memory_is_bounded() -> None:
    """One call in a microsecond is no million a second."""
    meter = Meter(0.0, 0.0)
    meter.began(1e-6, 0.0)
    meter.ended(2e-6, failed=False)
    assert meter.rates(3e-6, 0.0).qps == pytest.approx(1 / STEP_S)
    for number in range(10_000):
        meter.rates(number / 100, 0.0)
    assert len(meter._noted) <= WINDOW_S / STEP_S + 2
