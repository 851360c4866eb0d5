"""Slow start: Envoy's formula, whom it concerns and since when, and steps that stay close to it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from meshlb.health.slow_start import AWAY_S, SlowStart, Warming
from tests.picking import picks, seeded, shares, subchannels_of

ON = SlowStart.of("on")


def _subs(n: int) -> list[Subchannel]:
    return subchannels_of(P2C().build(seeded()), [1.0] * n)


def _warmths(subs: list[Subchannel]) -> list[float]:
    return [sub.warmth for sub in subs]


def _ticked(warming: Warming, until_s: float) -> list[float]:
    """The times of all ticks that were asked for until then."""
    times = []
    while (due_s := warming.due_s()) is not None and due_s <= until_s:
        warming.tick(due_s)
        times.append(due_s)
    return times


@pytest.mark.parametrize(
    ("aggression", "factors"), [(1.0, (0.1, 0.25, 0.5)), (2.0, (0.3162, 0.5, 0.7071)), (0.5, (0.1, 0.1, 0.25))]
)
def test_the_formula_is_envoys(aggression: float, factors: tuple[float, ...]) -> None:
    """At a tenth, a quarter and a half of the window: the reference's table; 1 from its end on, and the floor at its beginning."""
    settings = SlowStart(window_s=40.0, aggression=aggression)
    assert [settings.warmth(ready_for_s) for ready_for_s in (4.0, 10.0, 20.0)] == pytest.approx(factors, abs=1e-4)
    assert settings.warmth(40.0) == settings.warmth(1e9) == 1.0
    assert settings.warmth(0.0) == settings.warmth(-1.0) == 0.1


def test_the_first_millisecond_counts_as_one() -> None:
    """So that a floor below it has a meaning."""
    settings = SlowStart(window_s=1.0, min_weight_ratio=0.001, aggression=2.0)
    assert settings.warmth(0.0) == pytest.approx(0.001**0.5)


def test_off_is_off() -> None:
    """No factor, no tick."""
    subs, warming = _subs(2), Warming(SlowStart())
    assert not warming.know(subs[:1], 0.0)
    assert not warming.know(subs, 1.0)
    assert _warmths(subs) == [1.0, 1.0]
    assert warming.due_s() is None


def test_whoever_is_in_the_first_answer_is_warm() -> None:
    """Since when they are ready is not known; nothing is due."""
    subs, warming = _subs(3), Warming(ON)
    assert not warming.know(subs, 0.0)
    assert _warmths(subs) == [1.0] * 3
    assert warming.due_s() is None


def test_who_becomes_ready_later_begins_at_the_floor_and_ends_warm() -> None:
    """Counted from when it became ready, whenever it was made; and then nothing is due any more."""
    subs, warming = _subs(3), Warming(ON)
    warming.know(subs[:2], 0.0)
    assert warming.know(subs, 100.0)
    assert _warmths(subs) == [1.0, 1.0, 0.1]
    _ticked(warming, 115.0)
    assert 0.45 <= subs[2].warmth <= 0.5
    _ticked(warming, 131.0)
    assert _warmths(subs) == [1.0] * 3
    assert warming.due_s() is None


@pytest.mark.parametrize("aggression", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("window_s", [10.0, 30.0, 300.0])
def test_steps_stay_close_to_the_formula_and_are_few(aggression: float, window_s: float) -> None:
    """At any time: never ahead, at most 5 % of the final weight behind and a fifth of what the formula says; about 20 ticks in all."""
    settings = SlowStart(window_s=window_s, aggression=aggression)
    subs, warming = _subs(2), Warming(settings)
    warming.know(subs[:1], 0.0)
    warming.know(subs, 5.0)
    ticks = 0
    for step in range(3060):
        now_s = 5.0 + (step + 1) * window_s / 2990
        ticks += len(_ticked(warming, now_s))
        wanted = settings.warmth(now_s - 5.0)
        if now_s - 5.0 > 1.0:  # SOONEST_S decides before
            assert wanted - 0.051 <= subs[1].warmth <= wanted + 1e-9
            assert subs[1].warmth >= wanted * 0.79
    assert subs[1].warmth == 1.0
    assert ticks <= 24


def test_steps_are_never_closer_than_a_tenth_of_a_second() -> None:
    """A window of a second has at most ten or so; by the formula alone it would be twenty."""
    subs, warming = _subs(2), Warming(SlowStart(window_s=1.0))
    warming.know(subs[:1], 0.0)
    warming.know(subs, 5.0)
    times = [5.0, *_ticked(warming, 10.0)]
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in pairwise(times))
    assert subs[1].warmth == 1.0


def test_a_rollout_of_many_costs_no_more_than_ten_pickers_a_second() -> None:
    """A pod every 50 ms for 20 s: ticks are shared."""
    subs, warming = _subs(400), Warming(SlowStart(window_s=30.0, aggression=2.0))
    warming.know(subs[:1], 0.0)
    ticks = 0
    for at in range(2, 400):
        now_s = at * 0.05
        ticks += len(_ticked(warming, now_s))
        warming.know(subs[:at], now_s)
    assert ticks <= 20 * 10
    assert subs[10].warmth > subs[200].warmth >= 0.1


def test_a_pod_whose_readiness_flaps_is_who_it_was() -> None:
    """Away for 10 s: a warm one stays warm, and one on its way goes on from its own beginning."""
    subs, warming = _subs(3), Warming(ON)
    warming.know(subs[:2], 0.0)
    warming.know(subs, 10.0)
    warming.know(subs[:1], 15.0)
    warming.know(subs, 25.0)
    assert _warmths(subs) == [1.0, 1.0, pytest.approx(0.5)]


def test_who_was_away_for_long_begins_again() -> None:
    """After more than the pool's memory it may be another process."""
    subs, warming = _subs(2), Warming(ON)
    warming.know(subs, 0.0)
    warming.know(subs[:1], 10.0)
    warming.know(subs, 10.0 + AWAY_S + 1.0)
    assert _warmths(subs) == [1.0, 0.1]


def test_a_pool_that_is_new_as_a_whole_is_not_slowed() -> None:
    """All at once out of nothing: the factors cancel, so all are 1 and no picker is built; until another joins."""
    subs, warming = _subs(4), Warming(ON)
    warming.know((), 0.0)
    warming.know(subs[:3], 10.0)
    assert _warmths(subs) == [1.0] * 4
    assert warming.due_s() is None
    warming.know(subs, 25.0)
    assert _warmths(subs) == [pytest.approx(0.5)] * 3 + [0.1]


def test_a_pool_that_grows_from_nothing_keeps_its_ratios() -> None:
    """The second pod, 6 s later, gets half as much as the first and not a tenth; alone nobody is slowed."""
    subs, warming = _subs(2), Warming(ON)
    warming.know((), 0.0)
    warming.know(subs[:1], 10.0)
    assert subs[0].warmth == 1.0
    warming.know(subs, 16.0)
    assert _warmths(subs) == [pytest.approx(0.2), 0.1]


def test_all_replaced_at_once_is_like_a_first_answer() -> None:
    """Discovery went from the ClusterIP's address to pods: a pod that joins 5 s later is cold among warm ones."""
    subs, warming = _subs(5), Warming(ON)
    warming.know(subs[:1], 0.0)
    warming.know(subs[1:4], 1.0)
    assert _warmths(subs[1:4]) == [1.0] * 3
    warming.know(subs[1:], 6.0)
    assert _warmths(subs[1:]) == [1.0, 1.0, 1.0, 0.1]


@pytest.mark.parametrize(
    "config",
    [P2C(), RoundRobin(), LeastRequest(), LeastRequest(full_scan_limit=0), LeastRequest(full_scan_limit=0, choice_count=3)],
    ids=str,
)
@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2.0, 0.5, 3.0, 1.0]], ids=["equal", "unequal"])
@pytest.mark.parametrize("ready_for_s", [0.0, 7.5, 15.0, 30.0])
def test_shares_are_weight_times_the_formula_under_every_policy(
    config: PolicyConfig, weights: list[float], ready_for_s: float
) -> None:
    """A new pod among four, at four ages: closed form, 5 sigma of a binomial draw."""
    rng, n = seeded(), 20_000
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    warming = Warming(ON)
    warming.know(subs[:-1], 0.0)
    warming.know(subs, 100.0)
    warming.know(subs, 100.0 + ready_for_s)
    factors = [*weights[:-1], weights[-1] * ON.warmth(ready_for_s)]
    got = shares(picks(policy.new_picker(subs, rng), n), subs)
    for share, factor in zip(got, factors, strict=True):
        expected = factor / sum(factors)
        assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)


@pytest.mark.parametrize(("word", "window_s"), [("on", 30.0), ("off", 0.0)])
def test_a_word_turns_it_on_and_off(word: str, window_s: float) -> None:
    """And a dict gives its fields."""
    assert SlowStart.of(word) == SlowStart(window_s=window_s)
    assert SlowStart.of({"window_s": 5, "aggression": 2}) == SlowStart(window_s=5.0, aggression=2.0)
    assert SlowStart.of(ON) is ON


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("fast", "slow_start='fast': must be one of off, on"),
        (3, "slow_start=3: must be on, off, a dict or a SlowStart"),
        ({"windows": 3}, "slow_start.windows: unknown key; did you mean 'window_s'?"),
        ({"window_s": -1}, "slow_start.window_s=-1: must be >= 0 seconds"),
        ({"aggression": 2}, "slow_start.window_s: must be said for aggression to mean something"),
        ({"aggression": 0.0}, "slow_start.aggression=0.0: must be a finite number >= 0.1"),
        ({"min_weight_ratio": 1.5}, "slow_start.min_weight_ratio=1.5: must be a number from 0 to 1"),
        ({"min_weight_ratio": 0.0}, "slow_start.min_weight_ratio=0.0: must be >= 0.001"),
    ],
)
def test_bad_settings_are_refused(written: object, message: str) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError) as caught:
        SlowStart.of(written)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
