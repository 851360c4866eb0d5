"""Weighted round robin: grpc's static stride scheduler, with its cap and its floor."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest

from meshlb.balance.round_robin import StridePicker, Turns, strides
from meshlb.balance.weighted_round_robin import WeightedRoundRobin
from tests.picking import picks, seeded, shares, subchannels_of

K = 65_535


def grpcs_strides(weights: list[float]) -> list[int]:
    """StaticStrideScheduler::Make as it is, for weights that are all known."""
    unscaled_mean = sum(weights) / len(weights)
    unscaled_max = max(weights)
    if unscaled_max / unscaled_mean > 10:
        unscaled_max = 10 * unscaled_mean
    scaling_factor = K / unscaled_max
    mean = int(scaling_factor * unscaled_mean + 0.5)
    lower_bound = max(1, int(mean * 0.01 + 0.5))
    return [max(int(min(weight, unscaled_max) * scaling_factor + 0.5), lower_bound) for weight in weights]


def grpcs_picks(scaled: list[int], first: int, many: int) -> list[int]:
    """StaticStrideScheduler::Pick as it is, from this sequence number on."""
    picked: list[int] = []
    for sequence in count(first):
        index, generation = sequence % len(scaled), sequence // len(scaled)
        if (scaled[index] * generation + index * (K // 2)) % K >= K - scaled[index]:
            picked.append(index)
            if len(picked) == many:
                return picked
    raise AssertionError


def test_strides_are_grpcs() -> None:
    """1000 random fleets, from even ones to weights of 1e-3 beside 1e3."""
    rng = seeded()
    for _ in range(1_000):
        spread = rng.choice([0.1, 1.0, 3.0])
        weights = [10.0 ** rng.uniform(-spread, spread) for _ in range(rng.randint(2, 40))]
        assert list(strides(weights, 0.01)) == grpcs_strides(weights)


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], [1.0, 1e-6, 5.0, 2.0], [1000.0, *[1.0] * 30], [0.3, 0.1]])
def test_turns_are_grpcs_wherever_they_begin(weights: list[float]) -> None:
    """From ten random sequence numbers, skipped turns and all."""
    rng = seeded()
    subs = subchannels_of(WeightedRoundRobin().build(rng), weights)
    for first in [rng.randrange(2**32) for _ in range(10)]:
        picker = StridePicker(subs, strides(weights, 0.01), Turns(first))
        assert [subs.index(sub) for sub in picks(picker, 200)] == grpcs_picks(grpcs_strides(weights), first, 200)


def test_a_weight_near_zero_counts_as_one_percent_of_the_mean() -> None:
    """Who gets no calls cannot report better."""
    policy = WeightedRoundRobin().build(seeded())
    subs = subchannels_of(policy, [1e-9, 1.0, 1.0, 1.0])
    got = shares(picks(policy.new_picker(subs, seeded()), 100_000), subs)
    assert got[0] == pytest.approx(0.0075 / 3.0075, rel=0.05)


def test_a_weight_counts_at_most_ten_times_the_mean() -> None:
    """1000 beside thirty of 1: as 10 times the mean of 33.2."""
    policy = WeightedRoundRobin().build(seeded())
    subs = subchannels_of(policy, [1000.0, *[1.0] * 30])
    got = shares(picks(policy.new_picker(subs, seeded()), 50_000), subs)
    capped = 10 * 1030 / 31
    assert got[0] == pytest.approx(capped / (capped + 30), abs=0.01)


def test_measured_capacities_are_weights() -> None:
    """What load reports make of an endpoint is in its weight when the picker is made."""
    policy = WeightedRoundRobin().build(seeded())
    subs = subchannels_of(policy, [1.0, 1.0])
    subs[1].capacity = 3.0
    assert Counter(picks(policy.new_picker(subs, seeded()), 4_000))[subs[1]] == pytest.approx(3_000, abs=2)


def test_equal_weights_are_plain_turns() -> None:
    """As where fewer than two endpoints have reported."""
    policy = WeightedRoundRobin().build(seeded())
    subs = subchannels_of(policy, [1.0] * 5)
    assert set(Counter(picks(policy.new_picker(subs, seeded()), 50)).values()) == {10}
