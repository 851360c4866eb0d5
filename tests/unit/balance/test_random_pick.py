"""Random: shares by weight, each pick for itself."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshlb.balance.random_pick import Random
from tests.picking import hold, picks, seeded, shares, subchannels_of


def test_shares_go_by_weight_whatever_the_loads() -> None:
    """Nothing is looked at: 1 : 2 : 5, with the first idle and the last busy."""
    rng = seeded()
    policy = Random().build(rng)
    subs = subchannels_of(policy, [1.0, 2.0, 5.0])
    hold(subs[2].unary, 100)
    got = shares(picks(policy.new_picker(subs, rng), 40_000), subs)
    assert got == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.012)


def test_a_pick_does_not_depend_on_the_one_before() -> None:
    """Of four equals the same one follows itself in a quarter of the picks, as with iptables."""
    rng = seeded()
    policy = Random().build(rng)
    subs = subchannels_of(policy, [1.0] * 4)
    picked = picks(policy.new_picker(subs, rng), 40_000)
    again = sum(one is other for one, other in pairwise(picked)) / len(picked)
    assert again == pytest.approx(0.25, abs=0.012)


def test_without_the_avoided_the_rest_keep_their_proportions() -> None:
    """1 : 2 : 5 without the last is 1 : 2."""
    rng = seeded()
    policy = Random().build(rng)
    subs = subchannels_of(policy, [1.0, 2.0, 5.0])
    got = shares(picks(policy.new_picker(subs, rng), 40_000, exclude=subs[2:]), subs)
    assert got == pytest.approx([1 / 3, 2 / 3, 0.0], abs=0.013)
