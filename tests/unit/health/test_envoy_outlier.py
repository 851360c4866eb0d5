"""``outlier="envoy"``: worked examples, number by number."""

from __future__ import annotations

import pytest

from meshlb.core.outcome import Outcome
from meshlb.health.outlier import Outlier
from meshlb.health.sweeps import success_rate_threshold
from tests.support.outliers import Drawn, Field

NO_RUNS = {"consecutive_5xx": 0, "consecutive_gateway_failure": 0}


def envoy(**said: object) -> Outlier:
    return Outlier.of({"mode": "envoy", **said})


def test_envoys_own_example_of_a_threshold() -> None:
    """50, 100, 100, 100, 100: mean 90, population deviation 20, threshold 90 - 1.9 * 20 = 52."""
    assert success_rate_threshold([50, 100, 100, 100, 100], 1.9) == pytest.approx(52.0)


def test_the_fifth_5xx_in_a_row_ejects_at_once() -> None:
    """At the failure itself, without a sweep; a success before it starts the count anew, and so does a 429."""
    field = Field(10, envoy())
    field.fail(0, 4)
    field.end(0)
    field.fail(0, 4)
    field.fail(0, 1, Outcome.OVERLOADED)
    field.fail(0, 4)
    assert field.out == set()
    field.fail(0)
    assert field.out == {0}


@pytest.mark.parametrize(
    ("n", "ratio", "out"), [(10, 0.1, 1), (9, 0.1, 0), (2, 0.1, 0), (10, 0.29, 2), (10, 0.3, 3), (4, 0.5, 2), (100, 0.29, 29)]
)
def test_how_many_may_go(n: int, ratio: float, out: int) -> None:
    """100 * (out + 1) / hosts <= max_ejection_percent: with 10 % and nine hosts nobody."""
    field = Field(n, envoy(max_ejection_ratio=ratio))
    for i in range(n):
        field.fail(i, 5)
    assert len(field.out) == out
    assert field.ejector.describe()["refused"] == 2 * (n - out)  # by either counter


def test_one_host_may_always_go_only_if_asked_for() -> None:
    """``always_eject_one_host``."""
    field = Field(3, envoy(always_eject_one_host=True))
    field.fail(0, 5)
    field.fail(1, 5)
    assert field.out == {0}


def test_it_comes_back_at_a_sweep_only_and_stays_out_for_n_times_the_base() -> None:
    """Base 25 s, interval 10 s: 25 s are over at the sweep of 30 s; the second time 50 s, at that of 80 s; no more than the maximum."""
    field = Field(10, envoy(base_ejection_s=25.0, max_ejection_s=60.0))
    for stay_s in (30.0, 50.0, 60.0, 60.0):
        field.fail(0, 5)
        assert field.out == {0}
        field.run(stay_s - 0.1)
        assert field.out == {0}, stay_s
        field.run(0.1)
        assert field.out == set(), stay_s


def test_the_multiplier_falls_by_one_at_each_sweep_after_an_interval_of_being_in() -> None:
    """Twice out (n = 2); after its return the first sweep that counts is an interval later: n = 1, then 0; so 60 s, 30 s again."""

    def third_stay_s(good_s: float) -> float:
        field = Field(10, envoy())
        for stay_s in (30.0, 60.0):
            field.fail(0, 5)
            field.run(stay_s)
            assert field.out == set()
        field.run(good_s)
        field.fail(0, 5)
        began_s = field.now_s
        while field.out:
            field.run(0.5)
        return field.now_s - began_s

    assert [third_stay_s(good_s) for good_s in (0.0, 10.0, 20.0)] == pytest.approx([90.0, 60.0, 30.0])


def test_the_multiplier_is_raised_while_n_times_base_is_below_max_and_base() -> None:
    """Base 100, max 150: n goes to 3 (2 * 100 < 250) and no further, so three good sweeps are needed to be as new."""
    field = Field(10, envoy(base_ejection_s=100.0, max_ejection_s=150.0))
    levels = []
    for stay_s in (100.0, 150.0, 150.0, 150.0, 150.0):
        field.fail(0, 5)
        levels.append(field.ejector._book.standing[field.subs[0]].level)
        field.run(stay_s)
        assert field.out == set()
    assert levels == [1, 2, 3, 3, 3]


def test_jitter_is_added_after_the_cap() -> None:
    """min(30 * 1, 300) + 0.5 * 20 = 40 s."""
    field = Field(10, envoy(max_ejection_jitter_s=20.0), Drawn(0.5))
    field.fail(0, 5)
    field.run(39.9)
    assert field.out == {0}
    field.run(0.2)
    assert field.out == set()


def test_counters_are_cleared_on_return() -> None:
    """Failures that it heard of while it was out do not count afterwards."""
    field = Field(10, envoy())
    field.fail(0, 9)
    field.run(30.0)
    assert field.out == set()
    field.fail(0, 4)
    assert field.out == set()


def test_a_run_that_was_not_enforced_starts_anew() -> None:
    """The draw is 50 of 100 and the percentage 50: not below it. The tenth failure is judged again."""
    rng = Drawn(0.5)
    field = Field(10, envoy(enforcing_consecutive_5xx_ratio=0.5), rng)
    field.fail(0, 9)
    assert field.out == set()
    assert field.ejector.describe()["not_enforced"] == {"consecutive_5xx": 1, "consecutive_gateway_failure": 1}
    rng.value = 0.49
    field.fail(0)
    assert field.out == {0}


def test_gateway_failures_have_a_counter_of_their_own() -> None:
    """Two, enforced."""
    field = Field(10, envoy(consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure_ratio=1.0))
    field.fail(0, 2, Outcome.UNREACHABLE)
    assert field.out == {0}
    assert field.ejector.describe()["ejections"] == {"consecutive_gateway_failure": 1}


def test_a_429_ends_a_row_of_gateway_failures() -> None:
    """It is no 5xx, so whoever answered it stood behind no broken gateway."""
    field = Field(10, envoy(consecutive_5xx=0, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure_ratio=1.0))
    field.fail(0)
    field.fail(0, 1, Outcome.OVERLOADED)
    field.fail(0)
    assert field.out == set()
    field.fail(0)
    assert field.out == {0}


def _rates(field: Field, rates: list[int], volume: int = 100) -> None:
    """Each endpoint succeeds so many times in a hundred of its attempts of this interval; a failure comes first, to start it."""
    for i, rate in enumerate(rates):
        field.fail(i, (100 - rate) * volume // 100)
    for i, rate in enumerate(rates):
        field.end(i, times=rate * volume // 100)


@pytest.mark.parametrize(
    ("rates", "volume", "out"),
    [
        ([51, 100, 100, 100, 100], 100, {0}),  # mean 90.2, stdev 19.6, threshold 52.96
        ([60, 80, 80, 80, 80], 100, {0}),  # mean 76, stdev 8, threshold 60.8
        ([62, 80, 80, 80, 58], 100, set()),  # mean 72, stdev 9.84, threshold 53.3
        ([0, 100, 100, 100], 100, set()),  # four hosts
        ([0, 100, 100, 100, 100], 99, set()),  # 99 attempts
    ],
)
def test_success_rates_far_below_the_mean_eject(rates: list[int], volume: int, out: set[int]) -> None:
    """Mean - 1.9 population deviations, at the sweep, of at least five hosts with at least 100 attempts."""
    field = Field(len(rates), envoy(**NO_RUNS, max_ejection_ratio=1.0))
    _rates(field, rates, volume)
    field.run(9.99)
    assert field.out == set()
    field.run(0.01)
    assert field.out == out


def test_the_volume_of_one_interval_counts_and_not_that_of_two() -> None:
    """The buckets are swapped: 60 attempts in each of two intervals are not 120."""
    field = Field(5, envoy(**NO_RUNS, max_ejection_ratio=1.0))
    for _ in range(2):
        _rates(field, [10, 100, 100, 100, 100], 60)
        field.run(10.0)
        assert field.out == set()
    _rates(field, [10, 100, 100, 100, 100], 100)
    field.run(10.0)
    assert field.out == {0}


@pytest.mark.parametrize(("rate", "out"), [(15, {0}), (16, set())])
def test_the_failure_percentage_ejects_from_its_threshold_on(rate: int, out: set[int]) -> None:
    """85 % and more, if it is enforced, which it is not by default."""
    enforcing = envoy(**NO_RUNS, enforcing_failure_percentage_ratio=1.0, enforcing_success_rate_ratio=0.0, max_ejection_ratio=1.0)
    field = Field(5, enforcing)
    _rates(field, [rate, 100, 100, 100, 100])
    field.run(10.0)
    assert field.out == out
    field = Field(5, envoy(**NO_RUNS, enforcing_success_rate_ratio=0.0, max_ejection_ratio=1.0))
    _rates(field, [0, 100, 100, 100, 100])
    field.run(10.0)
    assert field.out == set()
    assert field.ejector.describe()["not_enforced"] == {"success_rate": 1, "failure_percentage": 1}


@pytest.mark.parametrize(
    ("bad", "threshold", "panics"), [(5, 0.5, False), (6, 0.5, True), (6, 0.0, False), (2, 0.9, False), (3, 0.9, True)]
)
def test_panic_is_a_share_of_hosts(bad: int, threshold: float, panics: bool) -> None:
    """Of ten: with 5 in (50 %) none, with 4 all are used; a threshold of 0 is never; with 8 in, 1.4 * 80 % is the whole."""
    field = Field(10, envoy(max_ejection_ratio=1.0, healthy_panic_threshold_ratio=threshold))
    for i in range(bad):
        field.fail(i, 5)
    assert len(field.out) == (0 if panics else bad)
    assert field.ejector.describe()["panic"] is panics
    why = field.ejector.why(field.subs[0], field.now_s)
    assert why is not None
    assert why["state"] == ("used nevertheless: too many are out" if panics else "ejected")


def test_nobody_is_out_while_everybody_would_be() -> None:
    """Also with the panic threshold at 0, where Envoy fails every call."""
    field = Field(3, envoy(max_ejection_ratio=1.0, healthy_panic_threshold_ratio=0.0))
    for i in range(3):
        field.fail(i, 5)
    assert field.out == set()


def test_there_are_no_probes() -> None:
    """It comes back by time alone."""
    field = Field(10, envoy())
    field.fail(0, 5)
    field.run(29.0)
    assert (field.probing, field.claim(0), field.subs[0].watched) == (set(), False, False)


def test_the_timer_rests_while_nothing_fails() -> None:
    """It starts at the first failure and ends when a whole interval had none, nobody is out and no multiplier is left."""
    field = Field(10, envoy())
    field.all_succeed(1000)
    assert field.ejector.due_s() is None
    field.fail(0)
    assert field.ejector.due_s() == field.now_s + 10.0
    field.run(20.0)
    assert field.ejector.due_s() is None
    field.fail(0, 5)
    field.run(39.0)  # out for 30 s, and the multiplier is 1 until the sweep of 40 s
    assert field.ejector.due_s() is not None
    field.run(2.0)
    assert field.ejector.due_s() is None
