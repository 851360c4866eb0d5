"""Bounded loads: C++'s random numbers, Envoy's shuffle, and who takes what is beyond the bound."""

from __future__ import annotations

from itertools import islice

import pytest

from meshlb.balance.bounded_load import Live, mt19937, shuffled
from meshlb.balance.config import PolicyConfig
from meshlb.balance.maglev import Maglev
from meshlb.balance.ring_hash import RingHash
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from tests.picking import know, seeded, subchannels_of

KEY = 0x0123456789ABCDEF


def begun(picker: Picker, key: int = KEY, exclude: frozenset[Subchannel] = frozenset()) -> Subchannel:
    """An attempt that does not end."""
    sub = picker.pick(PickInfo(hash=key, exclude=exclude), 0.0)
    assert sub is not None
    sub.unary.add(Attempt())
    sub.metric.on_start(0.0)
    return sub


def ended(sub: Subchannel) -> None:
    sub.unary.pop()
    sub.metric.on_end(1.0, 1.0, Outcome.SUCCESS)


def fleet(config: PolicyConfig, weights: list[float]) -> tuple[Picker, list[Subchannel]]:
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    know(policy, subs)
    return policy.new_picker(subs, rng), subs


def test_numbers_are_those_of_cpp() -> None:
    """The C++ standard gives the 10,000th of std::mt19937 with its default seed."""
    numbers = list(islice(mt19937(5489), 10_000))
    assert (numbers[0], numbers[-1]) == (3499211612, 4123659995)


def test_a_shuffle_is_a_permutation_that_the_lower_half_of_the_hash_decides() -> None:
    """Envoy seeds with 32 bits."""
    for n in (1, 2, 3, 10, 1000):
        assert sorted(shuffled(n, KEY)) == list(range(n))
    assert list(shuffled(10, KEY)) == list(shuffled(10, KEY + 2**32)) != list(shuffled(10, KEY + 1))


def test_a_shuffle_goes_on_where_the_remembered_numbers_end() -> None:
    """The first ones are kept for keys that come again; together they are one sequence."""
    drawn = mt19937(77)
    left, expected = list(range(50)), []
    for n in range(50, 0, -1):
        step = n
        while step >= n:
            step = next(drawn) // (2**32 // n)
        left[0], left[step] = left[step], left[0]
        expected.append(left.pop(0))
    assert list(shuffled(50, 77)) == list(shuffled(50, 77)) == expected


@pytest.mark.parametrize("config", [RingHash(hash_balance_factor=150), Maglev(hash_balance_factor=150)], ids=str)
def test_one_hot_key_does_not_load_an_endpoint_beyond_its_bound(config: PolicyConfig) -> None:
    """100 live attempts of one key on 5 endpoints: each has 1.5 * 100 / 5 = 30 slots, and may have one more; its own has."""
    picker, subs = fleet(config, [1.0] * 5)
    picked = [begun(picker) for _ in range(100)]
    own = picked[0]
    assert own.in_flight == max(sub.in_flight for sub in subs) == 31
    assert len(set(picked)) == 4  # 31 + 31 + 31, and what is left


@pytest.mark.parametrize(("factor", "expected"), [(100, "111010101"), (101, "111101010"), (200, "111111111")])
def test_slots_are_envoys_whole_numbers(factor: int, expected: str) -> None:
    """One key on two endpoints, its own written as 1: the attempt to come counts, totals are rounded up, and so are slots."""
    picker, _ = fleet(RingHash(hash_balance_factor=factor), [1.0, 1.0])
    picked = [begun(picker) for _ in range(9)]
    assert "".join("1" if sub is picked[0] else "0" for sub in picked) == expected


def test_where_all_are_beyond_their_bound_the_least_beyond_is_taken() -> None:
    """As may be where others are avoided."""
    picker, subs = fleet(RingHash(hash_balance_factor=100), [1.0] * 5)
    for sub, attempts in zip(subs, (0, 0, 50, 20, 40), strict=True):
        sub.unary.update(Attempt() for _ in range(attempts))
    for key in range(0, 2**64, 2**58):
        assert picker.pick(PickInfo(hash=key, exclude=frozenset(subs[:2])), 0.0) is subs[3]


def test_the_bound_is_by_weight() -> None:
    """Whoever weighs three times as much bears three times as much."""
    picker, subs = fleet(Maglev(hash_balance_factor=100), [3.0, 1.0])
    for _ in range(200):
        begun(picker)
    assert [sub.in_flight for sub in subs] == pytest.approx([150, 50], abs=2)


@pytest.mark.parametrize("config", [RingHash(hash_balance_factor=150), Maglev(hash_balance_factor=150)], ids=str)
def test_the_ready_have_the_slots_of_all(config: PolicyConfig) -> None:
    """5 of 10 are ready: 100 live attempts of one key leave 30 slots to each of the 5, and its own has one more."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 10)
    know(policy, subs)
    picker = policy.new_picker(subs[::2], rng)
    picked = [begun(picker) for _ in range(100)]
    assert set(picked) < set(subs[::2])
    assert picked[0].in_flight == max(sub.in_flight for sub in subs) == 31


def test_a_key_comes_home_when_there_is_room_again() -> None:
    """The bound decides at each pick."""
    picker, _ = fleet(RingHash(hash_balance_factor=100), [1.0] * 4)
    picked = [begun(picker) for _ in range(8)]
    own, elsewhere = picked[0], picked[-1]
    assert elsewhere is not own
    while own.unary:
        ended(own)
    assert begun(picker) is own


def test_who_is_avoided_is_passed_over_beyond_the_bound_too() -> None:
    """And a call that may go nowhere else goes to the avoided."""
    picker, subs = fleet(Maglev(hash_balance_factor=100), [1.0] * 4)
    for _ in range(40):
        assert begun(picker, exclude=frozenset(subs[:2])) in subs[2:]
    for _ in range(40):
        begun(picker, exclude=frozenset(subs))
    assert min(sub.in_flight for sub in subs) > 5


def test_live_attempts_are_counted_by_begin_and_end() -> None:
    """And never below none, whatever was reported twice."""
    live = Live()
    for _ in range(3):
        live.on_start(0.0)
    live.on_end(1.0, 1.0, Outcome.SUCCESS)
    assert live.attempts == 2
    for _ in range(5):
        live.on_end(1.0, 1.0, Outcome.FAILURE)
    assert live.attempts == 0
