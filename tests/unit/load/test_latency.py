"""The memory of latencies: relative to what is usual for a method, by logarithms, and soon forgotten."""

from __future__ import annotations

from math import exp, log

import pytest

from meshlb.load.latency import FORGET_S, MAX_METHODS, MEMORY_S, OUTERMOST, Latencies, Latency
from tests.picking import seeded

GET, SEARCH = "/shop.Orders/Get", "/shop.Orders/Search"


def _used(method: str = GET, took_s: float = 0.01) -> Latencies:
    """A pool in which a method always takes as long."""
    latencies = Latencies()
    for _ in range(200):
        latencies.residual(method, took_s)
    return latencies


def test_twice_as_long_as_usual_is_the_logarithm_of_two() -> None:
    """A residual is a ratio, whatever the scale."""
    assert _used(took_s=0.01).residual(GET, 0.02) == pytest.approx(log(2))
    assert _used(took_s=10.0).residual(GET, 20.0) == pytest.approx(log(2))


def test_the_first_call_of_a_method_is_what_is_usual() -> None:
    """It says nothing about its endpoint: a new method would else make whoever gets it first free, or frozen."""
    assert Latencies().residual(GET, 30.0) == 0.0
    assert _used().residual(SEARCH, 30.0) == 0.0


def test_an_expensive_method_does_not_blacken_its_endpoint() -> None:
    """One endpoint gets all of what takes a hundred times as long; it is as fast as the other."""
    latencies = Latencies()
    cheap, dear = Latency(latencies), Latency(latencies)
    for at in range(500):
        cheap.learn(latencies.residual(GET, 0.001), at * 0.01)
        dear.learn(latencies.residual(SEARCH, 0.1), at * 0.01)
    assert abs(cheap.mean - dear.mean) < 0.01


def test_what_slows_all_down_blackens_nobody() -> None:
    """A stalled process inflates every latency alike: soon that is what is usual, and the endpoints stay equal."""
    latencies = _used()
    both = [Latency(latencies), Latency(latencies)]
    for at in range(1_000):
        for one in both:
            one.learn(latencies.residual(GET, 0.05), at * 0.01)
    assert abs(both[0].mean - both[1].mean) < 0.02
    assert abs(latencies.residual(GET, 0.05)) < 0.01


def test_one_long_call_does_not_rule() -> None:
    """A mean, not a peak: after ten ordinary calls, one of a thousand times as long makes its endpoint at most 1.5 times dearer, and one
    that hung for an hour no more."""
    for took_s in (10.0, 3600.0):
        latencies = _used()
        one = Latency(latencies)
        for _ in range(10):
            one.learn(latencies.residual(GET, 0.01), 1.0)
        assert 0.0 < one.learn(latencies.residual(GET, took_s), 1.0) <= OUTERMOST / 11
        assert exp(one.mean) < 1.5


def test_recent_calls_outweigh_old_ones() -> None:
    """After MEMORY_S a sample weighs 1/e."""
    one = Latency(Latencies())
    one.learn(1.0, 0.0)
    assert one.learn(0.0, MEMORY_S) == pytest.approx(exp(-1) / (1 + exp(-1)))


def test_who_is_not_asked_is_forgiven() -> None:
    """The memory fades towards the mean of the pool, from both sides, and never beyond: neither frozen nor free."""
    for x in (2.0, -2.0):
        one = Latency(Latencies())
        one.learn(x, 0.0)
        assert one.at(FORGET_S) == pytest.approx(x / exp(1))
        assert one.at(1e6) == pytest.approx(0.0)


def test_a_clock_that_was_read_before_changes_nothing_else() -> None:
    """Threads read the clock before they store."""
    one = Latency(Latencies())
    one.learn(1.0, 5.0)
    assert one.at(4.0) == 1.0
    assert one.learn(1.0, 4.0) == 1.0


def test_standing_out_takes_more_than_chance_explains() -> None:
    """Log-normal latencies of one distribution stand out in a few of a hundred looks, twice the latency in nearly all of them."""
    rng, latencies = seeded(), Latencies()
    ordinary, slow = Latency(latencies), Latency(latencies)
    seen = {ordinary: 0, slow: 0}
    for at in range(2_000):
        now_s = at * 0.05
        for _ in range(8):
            latencies.residual(GET, rng.lognormvariate(0.0, 0.5))
        ordinary.learn(latencies.residual(GET, rng.lognormvariate(0.0, 0.5)), now_s)
        slow.learn(latencies.residual(GET, 2.0 * rng.lognormvariate(0.0, 0.5)), now_s)
        for one in seen:
            seen[one] += one.stands_out(now_s)
    assert seen[ordinary] < 2_000 * 0.05
    assert seen[slow] > 2_000 * 0.9


def test_who_was_never_called_does_not_stand_out() -> None:
    """Unknown is usual."""
    assert not Latency(Latencies()).stands_out(0.0)
    forgotten = Latency(Latencies())
    forgotten.learn(3.0, 0.0)
    forgotten.forget()
    assert forgotten.at(0.0) == 0.0


def test_methods_without_end_take_no_memory_without_end() -> None:
    """Names that contain a number, say; those beyond the limit share one mean, the known ones keep theirs."""
    latencies = _used()
    for at in range(3 * MAX_METHODS):
        latencies.residual(f"/shop.Orders/Get{at}", 0.01)
    assert len(latencies._usual) == MAX_METHODS
    assert latencies.residual(GET, 0.02) == pytest.approx(log(2))
    assert latencies.residual("/yet/another", 0.01) == pytest.approx(0.0)


@pytest.mark.parametrize("took_s", [0.0, -1.0, 1e-12])
def test_no_time_at_all_is_very_short(took_s: float) -> None:
    """Coarse clocks: no error, and not below all bounds."""
    assert _used().residual(GET, took_s) == -OUTERMOST


def test_surplus_is_what_a_failure_took_beyond_the_usual() -> None:
    """Nothing for who failed at once or is not known, and nothing is learnt."""
    latencies = _used()
    assert latencies.surplus(GET, 0.02) == pytest.approx(log(2))
    assert latencies.surplus(GET, 0.0001) == latencies.surplus(GET, 0.0) == 0.0
    assert latencies.surplus(SEARCH, 5.0) == 0.0
    assert latencies.surplus(GET, 0.02) == pytest.approx(log(2))
