"""Our own rules: who stands out goes, in a pool of two as of a thousand, and nobody goes where all fail alike."""

from __future__ import annotations

import random

import pytest

from meshlb.core.outcome import Outcome
from meshlb.health.outlier import Outlier
from tests.support.outliers import Drawn, Field, traffic

HOUR_S = 3600.0
OVERLOADED = Outcome.OVERLOADED
UNREACHABLE = Outcome.UNREACHABLE
RUN_ONLY = Outlier(failure_ratio_above_pool=0, consecutive_connect_failures=0)
RATIO_ONLY = Outlier(consecutive_failures=0, consecutive_connect_failures=0, base_ejection_s=HOUR_S)


def _in_panic_with_the_first_out() -> Field:
    """Of four the first was ejected, then the others failed for two seconds."""
    field = Field(4, Outlier(base_ejection_s=30.0))
    field.eject(0)
    for _ in range(20):
        for i in (1, 2, 3):
            field.fail(i, 3)
        field.run(0.1)
    return field


def _reason(field: Field, i: int) -> object:
    why = field.ejector.why(field.subs[i], field.now_s)
    return why["reason"] if why is not None else None


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_five_failures_in_a_row_eject_and_four_do_not(n: int) -> None:
    """Where the others work; a tenth of a second later (half a second with 1,000 endpoints)."""
    field = Field(n, RUN_ONLY)
    field.all_succeed(10)
    field.fail(1, 4)
    field.run(1.0)
    assert field.out == set()
    field.fail(1)
    field.run(0.6)
    assert field.out == {1}
    assert _reason(field, 1) == "5 failures in a row"


def test_a_success_in_between_breaks_the_row() -> None:
    """Also one that ends after the last failure and before the sweep."""
    field = Field(3, RUN_ONLY)
    field.all_succeed(20)
    field.fail(1, 4)
    field.end(1)
    field.fail(1, 4)
    field.run(1.0)
    assert field.out == set()
    field.fail(1, 20)
    field.end(1)
    field.run(1.0)
    assert field.out == set()


def test_three_attempts_that_could_not_reach_it_eject() -> None:
    """UNREACHABLE; an attempt that did reach it starts anew."""
    field = Field(5, Outlier(failure_ratio_above_pool=0))
    field.all_succeed(30)
    field.fail(1, 2, UNREACHABLE)
    field.fail(1, 1)
    field.run(1.0)
    assert field.out == set()
    field.all_succeed(30)
    field.fail(2, 3, UNREACHABLE)
    field.run(1.0)
    assert field.out == {2}
    assert _reason(field, 2) == "3 attempts in a row could not reach it"


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CANCELLED])
def test_application_errors_and_cancelled_calls_never_count(outcome: Outcome) -> None:
    """They are a SUCCESS, or blame nobody."""
    field = Field(3)
    field.all_succeed(10)
    for _ in range(100):
        field.ejector.heard(field.subs[0], outcome, field.now_s, field.now_s)
    assert field.ejector.due_s() is None
    field.run(5.0)
    assert field.out == set()


def test_overload_counts_for_the_ratio_and_not_for_the_row() -> None:
    """Back-pressure: neither lengthens nor breaks a run; an endpoint that refuses most of its calls goes by its ratio."""
    field = Field(3, RUN_ONLY)
    field.all_succeed(20)
    field.fail(1, 50, OVERLOADED)
    field.fail(1, 4)
    field.fail(1, 50, OVERLOADED)
    field.run(1.0)
    assert field.out == set()
    field.fail(1)
    field.run(1.0)
    assert field.out == {1}
    field = Field(3, RATIO_ONLY)
    field.all_succeed(50)
    field.fail(2, 50, OVERLOADED)
    field.run(1.0)
    assert field.out == {2}


@pytest.mark.parametrize(("n", "rate_hz"), [(2, 0.1), (2, 50.0), (3, 1.0), (5, 0.1), (5, 100.0), (20, 10.0)])
def test_one_that_fails_three_in_ten_while_the_others_fail_none_goes(n: int, rate_hz: float) -> None:
    """Within about a hundred of its attempts (six seconds of them, if that is more), at any rate of traffic, in any pool."""
    seed = random.randrange(2**32)
    print("seed", seed)
    field = Field(n, RATIO_ONLY)
    start_s = field.now_s
    while not field.out and field.now_s < start_s + max(200 / rate_hz, 6.0):
        traffic(field, [0.3] + [0.0] * (n - 1), rate_hz, 5 / rate_hz, random.Random(seed + int(field.now_s * 100)))
    assert field.out == {0}
    assert "of its attempts failed lately, 0% of the others'" in str(_reason(field, 0))


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6, 1.0])
def test_a_pool_in_which_all_fail_alike_ejects_nobody(n: int, ratio: float) -> None:
    """At every ratio of failures; the seeds are fixed, since chance may once in some ten thousand attempts."""
    for seed in (1, 2):
        field = Field(n)
        traffic(field, [ratio] * n, 20.0, 1500 / 20 / n, random.Random(seed))
        assert field.ejector.describe()["ejections"] == {}


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("each", [5, 10, 60])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_burst_of_failures_over_all_at_one_moment_ejects_nobody(n: int, each: int, shuffled: bool) -> None:
    """What a process that was stalled hears when it wakes: one endpoint's failures after the other's, after an hour of good traffic."""
    field = Field(n)
    for _ in range(3600):
        field.now_s += 1.0
        field.all_succeed(2)
    order = [i for i in range(n) for _ in range(each)]
    if shuffled:
        random.Random(7).shuffle(order)
    for i in order:
        field.now_s += 0.0001
        field.fail(i)
    for _ in range(20):
        field.run(0.1)
        assert field.out == set()


def test_a_burst_is_heard_out_also_just_before_a_sweep_is_due() -> None:
    """A failure a moment ago has swept the pool; the burst's first endpoint is not judged before the last has been heard."""
    field = Field(10)
    field.all_succeed(50)
    field.run(1.0)
    field.fail(9)
    field.run(0.19)
    for i in range(10):
        field.fail(i, 8)
        field.run(0.012)
    field.run(1.0)
    assert field.out == set()


def test_at_least_one_may_go_and_never_the_last() -> None:
    """Of one none, of two and three one, of ten at most half; a ratio of 0 still lets one go."""
    for n, allowed, settings in ((1, 0, Outlier()), (2, 1, Outlier()), (3, 1, Outlier()), (10, 5, Outlier())):
        field = Field(n, settings)
        field.all_succeed(20)
        for i in range(n - n // 3 if n > 3 else n - 1 or 1):
            field.fail(i, 40)
            field.run(0.1)
        assert len(field.out) == min(allowed, n), n
    field = Field(10, Outlier(max_ejection_ratio=0.0))
    field.all_succeed(20)
    field.fail(0, 20)
    field.fail(1, 20)
    field.run(0.2)
    assert len(field.out) == 1
    assert field.ejector.describe()["refused"] == 1


def test_the_worst_goes_first_where_not_all_may() -> None:
    """Two stand out, one may go: the one with the higher ratio."""
    field = Field(10, Outlier(consecutive_failures=0, consecutive_connect_failures=0, max_ejection_ratio=0.0))
    field.all_succeed(100)
    field.fail(0, 100)
    field.fail(9, 200)
    field.run(0.2)
    assert field.out == {9}


def test_a_difference_that_is_certain_but_small_ejects_nobody() -> None:
    """36 % against 30 %, however many attempts prove it."""
    field = Field(2, RATIO_ONLY)
    for i, failed in ((0, 3600), (1, 3000)):
        field.fail(i, failed)
        field.end(i, times=10_000 - failed)
    field.run(0.2)
    assert field.out == set()


def test_a_smaller_pool_takes_back_whom_it_cannot_spare() -> None:
    """Of four two are out; when two others vanish one comes back, the one whose time is over first; when one is left, that one."""
    field = Field(4)
    field.all_succeed(50)
    field.eject(0)
    field.eject(1)
    assert field.out == {0, 1}
    field.members(0, 1, 2)
    assert field.out == {1}
    field.members(1)
    assert field.out == set()
    field.members()
    assert field.out == set()


def test_when_the_pool_itself_fails_those_who_are_out_come_back() -> None:
    """And nobody goes; once it works again, who still fails goes."""
    field = _in_panic_with_the_first_out()
    assert field.out == set()
    assert field.ejector.describe()["panic"] is True
    for _ in range(20):
        field.fail(0, 2)
        for i in (1, 2, 3):
            field.end(i, times=5)
        field.run(0.5)
        if field.out:
            break
    assert field.out == {0}
    assert field.ejector.describe()["panic"] is False


def test_who_came_back_in_a_panic_is_back() -> None:
    """When it ends, only who fails then goes."""
    field = _in_panic_with_the_first_out()
    assert field.ejector.describe()["panic"] is True
    for _ in range(20):
        field.all_succeed(20)
        field.run(0.5)
    assert field.ejector.describe()["panic"] is False
    assert field.out == set()


def test_panic_is_the_pools_failure_rate_and_no_count_of_hosts() -> None:
    """7 of 10 broken: five go, since what is left of the pool fares better. 8 of 10: all stay in."""
    broken = {}
    for count in (7, 8):
        field = Field(10)
        traffic(field, [1.0] * count + [0.0] * (10 - count), 50.0, 10.0, random.Random(3))
        broken[count] = (len(field.out), field.ejector.describe()["panic"])
    assert broken == {7: (5, False), 8: (0, True)}


def test_panic_ends_later_than_it_begins() -> None:
    """It begins at 0.7 and ends below 0.56: at 0.6 it stays as it is."""
    for before, panics in ((1.0, True), (0.0, False)):
        field = Field(10)
        traffic(field, [before] * 10, 50.0, 5.0, random.Random(5))
        traffic(field, [0.62] * 10, 50.0, 10.0, random.Random(6))
        assert field.ejector.describe()["panic"] is panics


def test_panic_ends_when_nothing_fails_any_more() -> None:
    """Also without traffic, so that no timer is left."""
    field = Field(3)
    for i in range(3):
        field.fail(i, 20)
    field.run(0.2)
    assert field.ejector.describe()["panic"] is True
    field.run(10.0)
    assert field.ejector.describe()["panic"] is False
    assert field.ejector.due_s() is None


def test_of_two_the_second_to_fail_brings_back_the_first() -> None:
    """Nobody else is left to compare it with, so its failing is the pool's."""
    field = Field(2, Outlier(base_ejection_s=30.0))
    field.eject(0)
    field.fail(1, 30)
    field.run(0.3)
    assert field.out == set()


def test_times_out_double_up_to_the_cap_and_jitter_comes_after_it() -> None:
    """1, 2, 4 … 60 s with no jitter drawn; with the most of it half of each, also at the cap."""
    for drawn, factor in ((0.0, 1.0), (0.999999, 0.5)):
        field = Field(3, Outlier(), Drawn(drawn))
        field.eject(0)
        until_s = []
        for _ in range(9):
            why = field.ejector.why(field.subs[0], field.now_s)
            assert why is not None
            until_s.append(float(str(why["until_s"])))
            field.run(float(str(why["until_s"])) + 0.001)
            assert field.claim(0)
            field.end(0, Outcome.FAILURE)
        assert until_s == pytest.approx([factor * s for s in (0.99, 2, 4, 8, 16, 32, 60, 60, 60)], abs=0.02)


@pytest.mark.parametrize(("failing", "hurries"), [(0.0, False), (0.05, False), (0.2, True)])
def test_nobody_stays_out_for_long_while_those_who_are_in_fail_too(failing: float, hurries: bool) -> None:
    """They may be too few; the endpoint that is out is asked again after the base time, however often it went."""
    field = Field(10)
    field.eject(0)
    for _ in range(6):
        field.run(100.0)
        assert field.claim(0)
        field.fail(0)
    traffic(field, [0.0] + [failing] * 9, 100.0, 2.0, random.Random(4))
    why = field.ejector.why(field.subs[0], field.now_s)
    assert (why is None or float(str(why["until_s"])) <= 1.0) == hurries


def test_good_time_takes_the_doublings_back() -> None:
    """One for each ``forgive_s`` since it came back; time spent outside is no good time."""

    def next_s(good_s: float) -> float:
        field = Field(3, Outlier(consecutive_connect_failures=0))
        field.eject(0)
        for outcome in (Outcome.FAILURE, Outcome.FAILURE, Outcome.FAILURE, Outcome.SUCCESS):
            field.run(100.0)
            assert field.claim(0)
            field.end(0, outcome)
        field.run(good_s)
        field.eject(0)
        why = field.ejector.why(field.subs[0], field.now_s)
        assert why is not None
        return round(float(str(why["until_s"])))

    assert [next_s(good_s) for good_s in (1.0, 10.0, 25.0, 35.0, 1000.0)] == [16, 8, 4, 2, 1]


def test_time_outside_forgives_nothing() -> None:
    """After a return and another ejection each probe that fails doubles, however long it waited for its turn."""
    field = Field(3)
    field.eject(0)
    field.run(100.0)
    assert field.claim(0)
    field.end(0)
    field.run(5.0)
    field.eject(0)
    until_s = []
    for _ in range(3):
        field.run(100.0)
        assert field.claim(0)
        field.end(0, Outcome.FAILURE)
        until_s.append((field.ejector.why(field.subs[0], field.now_s) or {})["until_s"])
    assert until_s == [4.0, 8.0, 16.0]


def test_an_idle_pool_costs_nothing() -> None:
    """No tick is wanted while nothing failed; one after a failure; none again after that."""
    field = Field(5)
    assert field.ejector.due_s() is None
    field.all_succeed(100)
    assert field.ejector.due_s() is None
    field.fail(0)
    assert field.ejector.due_s() == pytest.approx(field.now_s + 0.1)
    field.run(0.2)
    assert field.ejector.due_s() is None


def test_sweeps_of_a_large_pool_are_far_apart() -> None:
    """1,000 endpoints are looked at twice a second at most, ten ten times, however much fails."""
    for n, most in ((10, 11), (1000, 3)):
        field = Field(n)
        ticks, end_s = 0, field.now_s + 1.0
        while field.now_s < end_s:
            field.now_s += 0.001
            field.end(random.randrange(n), times=30)  # enough for no panic, which sweeps less often
            field.fail(random.randrange(n))
            due_s = field.ejector.due_s()
            if due_s is not None and due_s <= field.now_s:
                field.ejector.tick(field.now_s)
                ticks += 1
        assert 1 <= ticks <= most


def test_who_comes_back_begins_anew() -> None:
    """The failures that ejected it do not eject it again."""
    field = Field(3)
    field.eject(0)
    field.run(2.0)
    assert field.claim(0)
    field.end(0)
    field.fail(0, 3)
    field.run(1.0)
    assert field.out == set()


def test_what_it_served_while_it_was_out_does_not_speak_for_it() -> None:
    """Calls that it took as the only one connected: they are as old as what ejected it."""
    field = Field(3)
    field.eject(0)
    field.subs[0].succeeded += 1000
    field.run(1.0)
    assert field.claim(0)
    field.end(0)
    for _ in range(30):
        field.fail(0)
        field.all_succeed(2)
    field.run(0.2)
    assert field.out == {0}


def test_whoever_is_new_or_unknown_does_no_harm() -> None:
    """A failure of somebody who is no member, or before anybody is, is passed over."""
    field = Field(2)
    field.members(0)
    field.fail(1, 50)
    field.run(1.0)
    assert field.out == set()
    assert field.ejector.due_s() is None
