"""Endpoints that are full are not picked, whatever the policy; and the others as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.limit.picker import pick_with_room
from tests.picking import hold, picks, seeded, subchannels_of

POLICIES = ["p2c", "round_robin", "least_request"]


class Limited:
    """As a view with a limit picks."""

    def __init__(self, inner: Picker, subchannels: Sequence[Subchannel], limit: int) -> None:
        self._inner, self._subchannels, self._limit = inner, subchannels, limit

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        picked = self._inner.pick(info, now_s)
        if picked is None or picked.in_flight < self._limit:
            return picked
        return pick_with_room(self._inner, self._subchannels, self._limit, info, now_s)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
def test_who_is_full_is_not_picked_and_nobody_is_when_all_are(policy: str, count: int) -> None:
    """Unary calls and streams together; each endpoint in turn, until none has room."""
    rng, made = seeded(), policy_of(policy)
    built = made.build(rng)
    subs = subchannels_of(built, [1.0] * count)
    picker = Limited(built.new_picker(subs, rng), subs, 2)
    full = []
    for sub in subs:
        hold(sub.unary)
        hold(sub.streams)
        full.append(sub)
        picked = picks(picker, 20)
        assert not set(picked) & set(full)
        assert len(picked) == (20 if len(full) < count else 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_call_avoids_it_gets_only_while_nobody_else_has_room(policy: str) -> None:
    """As without a limit; a full one not even then."""
    rng = seeded()
    built = policy_of(policy).build(rng)
    subs = subchannels_of(built, [1.0] * 3)
    picker = Limited(built.new_picker(subs, rng), subs, 1)
    assert set(picks(picker, 30, exclude=subs[:1])) == set(subs[1:])
    hold(subs[1].unary)
    assert set(picks(picker, 30, exclude=subs[:1])) == {subs[2]}
    hold(subs[2].unary)
    assert set(picks(picker, 30, exclude=subs[:1])) == {subs[0]}


class Stubborn:
    """A policy that takes the first, whatever one asks it to avoid."""

    def __init__(self, subs: list[object]) -> None:
        self._first = subs[0]

    def pick(self, info: PickInfo, now_s: float, /) -> object:
        return self._first


def test_a_policy_that_cannot_avoid_gets_the_least_loaded_with_room() -> None:
    """Room that is there is used."""
    built = policy_of("p2c").build(seeded())
    subs = subchannels_of(built, [1.0] * 4)
    hold(subs[0].unary, 3)
    hold(subs[1].unary, 2)
    hold(subs[2].unary, 1)
    hold(subs[3].unary, 2)
    assert set(picks(Limited(Stubborn(subs), subs, 3), 5)) == {subs[2]}  # type: ignore[arg-type]


def test_the_load_is_even_at_the_limit() -> None:
    """Three attempts each on a hundred endpoints that may have three: every place is found."""
    rng = seeded()
    built = policy_of("p2c").build(rng)
    subs = subchannels_of(built, [1.0] * 100)
    picker = Limited(built.new_picker(subs, rng), subs, 3)
    for _ in range(300):
        picked = picker.pick(PickInfo(), 0.0)
        assert picked is not None
        picked.unary.add(Attempt())
    assert Counter(len(sub.unary) for sub in subs) == {3: 100}
    assert picker.pick(PickInfo(), 0.0) is None
