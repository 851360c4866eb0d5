"""Power of two choices: shares in closed form."""

from __future__ import annotations

import pytest

from meshlb.balance.p2c import P2C
from meshlb.errors import ConfigError
from tests.picking import hold, picks, seeded, shares, subchannels_of

PICKS = 60_000


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_one_busy_endpoint_among_idle_ones_gets_nothing(n: int) -> None:
    """Draws are distinct, so the busy one is always compared with an idle one; with replacement it would keep 1/n^2."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    hold(subs[0].unary)
    assert subs[0] not in picks(policy.new_picker(subs, rng), PICKS)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_one_idle_endpoint_among_busy_ones_gets_two_in_n(n: int) -> None:
    """It wins whenever it is drawn: 2/n, the most that anybody can draw; the rest share the rest."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    for sub in subs[1:]:
        hold(sub.unary)
    got = shares(picks(policy.new_picker(subs, rng), PICKS), subs)
    assert got == pytest.approx([2 / n] + [(1 - 2 / n) / (n - 1)] * (n - 1), abs=0.01)


def test_ranks_get_the_shares_of_the_better_of_two() -> None:
    """With loads 0, 1, 2, 3 the one of rank k wins against all behind it: 2 (n - k) / (n (n - 1))."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [1.0] * 4)
    for load, sub in enumerate(subs):
        hold(sub.unary, load)
    got = shares(picks(policy.new_picker(subs, rng), PICKS), subs)
    assert got == pytest.approx([6 / 12, 4 / 12, 2 / 12, 0.0], abs=0.01)


def test_a_stream_counts_a_hundredth_of_an_attempt() -> None:
    """Streams spread among themselves, and one unary attempt outweighs 99 of them."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [1.0] * 2)
    picker = policy.new_picker(subs, rng)
    hold(subs[0].streams, 99)
    assert set(picks(picker, 100)) == {subs[1]}
    hold(subs[1].unary)
    assert set(picks(picker, 100)) == {subs[0]}
    hold(subs[0].streams, 2)
    assert set(picks(picker, 100)) == {subs[1]}


def test_a_stream_weight_of_zero_makes_streams_weightless() -> None:
    """A thousand streams are a tie with none."""
    rng = seeded()
    policy = P2C(stream_weight=0.0).build(rng)
    subs = subchannels_of(policy, [1.0] * 2)
    hold(subs[0].streams, 1000)
    assert shares(picks(policy.new_picker(subs, rng), 10_000), subs) == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize(
    ("attempts", "winners"),
    [((3, 1), {0}), ((4, 1), {0, 1}), ((8, 2), {0, 1}), ((9, 2), {0, 1}), ((11, 2), {0, 1}), ((12, 2), {1})],
)
def test_loads_are_compared_per_weight(attempts: tuple[int, int], winners: set[int]) -> None:
    """Weights 4 and 1. Between 2 and 3 attempts for each of its weight the heavy one is the busier, and the light one would be so with
    another attempt: both keep what is drawn for them."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [4.0, 1.0])
    for sub, count in zip(subs, attempts, strict=True):
        hold(sub.unary, count)
    assert set(picks(policy.new_picker(subs, rng), 400)) == {subs[at] for at in winners}


def test_equal_loads_per_weight_are_shared_by_weight() -> None:
    """At 4 attempts on weight 4 and 1 on weight 1 both are equally busy: the first draw decides, which goes by weight."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [4.0, 1.0])
    hold(subs[0].unary, 4)
    hold(subs[1].unary, 1)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs) == pytest.approx([0.8, 0.2], abs=0.02)


def test_the_weight_of_the_first_draw_is_not_in_the_second() -> None:
    """Weights 2, 1, 1 and a busy heavy one: it never wins, and the light ones share evenly."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [2.0, 1.0, 1.0])
    hold(subs[0].unary, 3)
    assert shares(picks(policy.new_picker(subs, rng), PICKS), subs) == pytest.approx([0.0, 0.5, 0.5], abs=0.01)


def test_a_light_idle_endpoint_wins_as_often_as_it_is_drawn() -> None:
    """Weights 8, 1, 1, the last one idle: drawn first in 1/10, second in 8/10 * 1/2 + 1/10 * 1/9."""
    rng = seeded()
    policy = P2C().build(rng)
    subs = subchannels_of(policy, [8.0, 1.0, 1.0])
    hold(subs[0].unary, 8)
    hold(subs[1].unary, 1)
    got = shares(picks(policy.new_picker(subs, rng), PICKS), subs)
    assert got[2] == pytest.approx(1 / 10 + 8 / 10 / 2 + 1 / 10 / 9, abs=0.01)


@pytest.mark.parametrize("stream_weight", [-0.1, float("nan"), "1", True])
def test_a_bad_stream_weight_is_refused(stream_weight: float) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError, match=r"policy\.stream_weight=.*must be a finite number >= 0"):
        P2C(stream_weight=stream_weight)
