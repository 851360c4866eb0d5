"""Least request: the least of all, fair among ties; above the limit the least of a few."""

from __future__ import annotations

import pytest

from meshlb.balance.least_request import LeastRequest
from meshlb.errors import ConfigError
from tests.picking import hold, picks, seeded, shares, subchannels_of


@pytest.mark.parametrize("n", [2, 3, 10, 64])
def test_the_only_idle_endpoint_gets_every_pick_up_to_the_limit(n: int) -> None:
    """All are looked at, so the least loaded is found with certainty."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    for sub in subs[1:]:
        hold(sub.unary)
    assert set(picks(policy.new_picker(subs, rng), 500)) == {subs[0]}


def test_above_the_limit_two_are_drawn() -> None:
    """65 endpoints, one idle: 2/65 of the picks, not all."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [1.0] * 65)
    for sub in subs[1:]:
        hold(sub.unary)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs)[0] == pytest.approx(2 / 65, abs=0.006)


@pytest.mark.parametrize("choice_count", [2, 3, 5, 10])
def test_choice_count_distinct_ones_are_drawn(choice_count: int) -> None:
    """The only idle one of 20 is among d distinct draws with probability d/20; with replacement it would be less."""
    rng = seeded()
    policy = LeastRequest(choice_count=choice_count, full_scan_limit=0).build(rng)
    subs = subchannels_of(policy, [1.0] * 20)
    for sub in subs[1:]:
        hold(sub.unary)
    got = shares(picks(policy.new_picker(subs, rng), 20_000), subs)
    assert got[0] == pytest.approx(choice_count / 20, abs=0.02)


def test_all_are_looked_at_where_there_are_no_more_than_choices() -> None:
    """Three draws out of three are a scan."""
    rng = seeded()
    policy = LeastRequest(choice_count=3, full_scan_limit=0).build(rng)
    subs = subchannels_of(policy, [1.0] * 3)
    hold(subs[0].unary)
    hold(subs[1].unary)
    assert set(picks(policy.new_picker(subs, rng), 100)) == {subs[2]}


@pytest.mark.parametrize("busy", [2, 8, 14])
def test_ties_are_shared_evenly_wherever_they_stand(busy: int) -> None:
    """16 endpoints, the first few busy: the idle ones get the same each, those behind a gap no more."""
    rng, n = seeded(), 16
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    for sub in [*subs[1:busy], subs[-2]]:
        hold(sub.unary)
    idle = [sub for sub in subs if not sub.unary]
    got = shares(picks(policy.new_picker(subs, rng), 20_000), idle)
    assert got == pytest.approx([1 / len(idle)] * len(idle), abs=0.02)


def test_what_is_not_kept_goes_to_the_least_loaded() -> None:
    """Weights 3, 3, 3, 1, the first two busy: what is drawn there goes to the idle one of the same weight, never to the light one,
    which an attempt would load more; and that keeps what it is drawn for."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [3.0, 3.0, 3.0, 1.0])
    hold(subs[0].unary)
    hold(subs[1].unary)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs) == pytest.approx([0, 0, 0.9, 0.1], abs=0.02)


def test_ties_are_shared_by_weight() -> None:
    """Twice weight 2 in front of weights 2 and 6, all but these with 3 attempts: what leaves the busy ones goes to both, 1 to 3."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [2.0, 2.0, 2.0, 6.0])
    hold(subs[0].unary, 3)
    hold(subs[1].unary, 3)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs) == pytest.approx([0, 0, 0.25, 0.75], abs=0.02)


def test_a_scan_does_not_herd_onto_who_is_light_and_idle() -> None:
    """Nine endpoints with an attempt each and an idle one of a tenth of their weight: it gets 1 / 91, not everything."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [1.0] * 9 + [0.1])
    for sub in subs[:9]:
        hold(sub.unary)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs)[9] == pytest.approx(1 / 91, abs=0.004)


def test_the_first_draw_of_unequal_ones_avoids_whom_it_should() -> None:
    """Weights 8, 1, 1 and the heavy one tried already: the others, evenly."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [8.0, 1.0, 1.0])
    got = shares(picks(policy.new_picker(subs, rng), 10_000, exclude=subs[:1]), subs)
    assert got == pytest.approx([0, 0.5, 0.5], abs=0.03)


@pytest.mark.parametrize(("heavy", "light"), [(10.0, 30.0), (1.0, 3.0), (0.25, 0.75), (7.0, 21.0)])
def test_equal_loads_per_weight_are_ties(heavy: float, light: float) -> None:
    """1 attempt on one weight and 3 on three times as much are the same load, in floats too."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [heavy, light])
    hold(subs[0].unary, 1)
    hold(subs[1].unary, 3)
    assert shares(picks(policy.new_picker(subs, rng), 10_000), subs) == pytest.approx([0.25, 0.75], abs=0.03)


def test_streams_count_their_weight() -> None:
    """A hundred streams and one more outweigh one attempt; the fewest streams win among equals."""
    rng = seeded()
    policy = LeastRequest().build(rng)
    subs = subchannels_of(policy, [1.0] * 3)
    hold(subs[0].unary)
    hold(subs[1].streams, 101)
    hold(subs[2].unary)
    hold(subs[2].streams)
    assert set(picks(policy.new_picker(subs, rng), 100)) == {subs[0]}


def test_above_ten_choices_are_ten() -> None:
    """A48 clamps here, and so does the configuration."""
    assert LeastRequest(choice_count=50) == LeastRequest(choice_count=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choice_count": 1}, "policy.choice_count=1: must be >= 2"),
        ({"choice_count": 2.0}, "policy.choice_count=2.0: must be a whole number"),
        ({"full_scan_limit": -1}, "policy.full_scan_limit=-1: must be >= 0"),
        ({"stream_weight": -1}, "policy.stream_weight=-1: must be a finite number >= 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError) as caught:
        LeastRequest(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == message
