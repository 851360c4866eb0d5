"""Round robin: exact turns, kept over updates and shared by views; weights by static stride."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest

from meshlb.balance.round_robin import RoundRobin, RoundRobinPolicy, StridePicker, Turns, strides
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.testing.policy_trial import calls_of
from tests.picking import hold, picks, seeded, shares, subchannels_of


def _fleet(weights: list[float]) -> tuple[RoundRobinPolicy, list[Subchannel]]:
    policy = RoundRobin().build(seeded())
    return policy, subchannels_of(policy, weights)


def test_equal_endpoints_take_turns_in_their_order() -> None:
    """Each follows its neighbour, whatever their loads."""
    policy, subs = _fleet([1.0] * 5)
    hold(subs[2].unary, 100)
    picked = picks(policy.new_picker(subs, seeded()), 50)
    assert all((subs.index(one) + 1) % 5 == subs.index(other) for one, other in pairwise(picked))
    assert set(Counter(picked).values()) == {10}


def test_a_new_picker_goes_on_where_the_old_one_was() -> None:
    """A picker a pick, as a flapping endpoint causes: the turns go round all the same."""
    policy, subs = _fleet([1.0] * 4)
    picked = [picks(policy.new_picker(subs, seeded()), 1)[0] for _ in range(40)]
    assert set(Counter(picked).values()) == {10}


def test_views_share_the_turns() -> None:
    """Two channels to one pool are one round, not two in step."""
    policy, subs = _fleet([1.0] * 4)
    one, other = policy.new_picker(subs, seeded()), policy.new_picker(subs, seeded())
    picked = [sub for _ in range(4) for sub in (*picks(one, 1), *picks(other, 1))]
    assert picked[:4] == picked[4:]
    assert set(picked) == set(subs)


def test_a_flapping_endpoint_changes_nothing_for_the_others() -> None:
    """One call between each coming and going of the fifth: the others get the same each, and it no more."""
    policy, subs = _fleet([1.0] * 5)
    picked = [picks(policy.new_picker(subs[: 4 + step % 2], seeded()), 1)[0] for step in range(4_000)]
    got = shares(picked, subs)
    assert got[:4] == pytest.approx([got[0]] * 4, abs=0.01)
    assert got[4] < got[0]


@pytest.mark.parametrize("leaver", [0, 1, 2, 3])
def test_who_leaves_passes_its_turn_to_the_next(leaver: int) -> None:
    """Wherever the turn stands when somebody leaves, it goes on in the order of the rest."""
    for position in range(4):
        policy, subs = _fleet([1.0] * 4)
        before = policy.new_picker(subs, seeded())
        while picks(before, 1) != [subs[position - 1]]:
            pass
        rest = [sub for sub in subs if sub is not subs[leaver]]
        following = [sub for sub in subs[position:] + subs[:position] if sub in rest]
        assert picks(policy.new_picker(rest, seeded()), 3) == following


def test_a_newcomer_takes_its_place_in_the_order() -> None:
    """The second of three appears while it is the third one's turn: the round goes on, and it is reached in the next."""
    policy, subs = _fleet([1.0] * 3)
    before = policy.new_picker([subs[0], subs[2]], seeded())
    while picks(before, 1) != [subs[0]]:
        pass
    assert picks(policy.new_picker(subs, seeded()), 4) == [subs[2], subs[0], subs[1], subs[2]]


def test_strides_go_on_when_pickers_are_made_between_all_picks() -> None:
    """Weights 1, 2, 5 and a new picker a pick: the shares are the same."""
    policy, subs = _fleet([1.0, 2.0, 5.0])
    picked = [picks(policy.new_picker(subs, seeded()), 1)[0] for _ in range(4_000)]
    assert shares(picked, subs) == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)


def test_failures_do_not_move_the_turns() -> None:
    """What fails fast gets exactly its share, and no load either."""
    policy, subs = _fleet([1.0] * 3)
    picker = policy.new_picker(subs, seeded())
    for sub in picks(picker, 300):
        if sub is subs[0]:
            sub.metric.on_end(0.0, 0.001, Outcome.FAILURE)
    assert shares(picks(picker, 300), subs) == pytest.approx([1 / 3] * 3)
    assert subs[0].metric.load(0.0) == 0.0


def test_a_turn_is_given_once_under_threads() -> None:
    """Eight threads, 4000 picks: every endpoint exactly its share."""
    policy, subs = _fleet([1.0] * 4)
    picker = policy.new_picker(subs, seeded())
    picked: list[list[Subchannel]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own: own.extend(picks(picker, 500)), args=(own,)) for own in picked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(Counter(sub for own in picked for sub in own).values()) == {1000}


def test_the_stride_follows_the_published_sequence() -> None:
    """Weights 1, 2, 3 from sequence number 0, as grpc's static_stride_scheduler gives them."""
    _, subs = _fleet([1.0, 2.0, 3.0])
    picker = StridePicker(subs, strides([0.5, 1.0, 1.5], 0.0), Turns(0))
    assert [subs.index(sub) for sub in picks(picker, 18)] == [1, 2, 2, 0, 1, 2] * 3


def test_strides_are_exact_over_a_period_and_smooth_within() -> None:
    """Weights 1, 2, 5: in 8,000 picks 1000, 2000 and 5000, and never more than one off in any 8 in a row."""
    policy, subs = _fleet([1.0, 2.0, 5.0])
    picked = picks(policy.new_picker(subs, seeded()), 8_000)
    assert [Counter(picked)[sub] for sub in subs] == pytest.approx([1000, 2000, 5000], abs=2)
    for at in range(7_000):
        window = Counter(picked[at : at + 8])
        assert all(abs(window[sub] - weight) <= 1 for sub, weight in zip(subs, (1, 2, 5), strict=True))


def test_a_weight_counts_at_most_ten_times_the_mean() -> None:
    """1000 among 99 of 1: as 10 times the mean, hence about half of the picks instead of nine tenths (A58)."""
    policy, subs = _fleet([1000.0] + [1.0] * 99)
    capped = 10 * (1099 / 100)
    got = shares(picks(policy.new_picker(subs, seeded()), 20_000), subs)
    assert got[0] == pytest.approx(capped / (capped + 99), abs=0.01)


def test_a_tiny_weight_still_gets_its_turn() -> None:
    """No weight above zero is nothing."""
    policy, subs = _fleet([1e-9, 1.0])
    assert subs[0] in picks(policy.new_picker(subs, seeded()), 2 * 65_535)


def test_avoiding_takes_further_turns() -> None:
    """What is to be avoided is shared by all others, not its neighbour's alone."""
    policy, subs = _fleet([1.0] * 4)
    picker = policy.new_picker(subs, seeded())
    picked = picks(picker, 300, exclude=[subs[1]])
    assert shares(picked, subs) == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 3])
    assert set(picks(picker, 40, exclude=subs)) == set(subs)


@pytest.mark.parametrize("avoided", [0, 2])
def test_avoiding_minds_weights(avoided: int) -> None:
    """Of the rest each gets what it is worth, one at a tenth of its weight too."""
    weights = [1.0, 0.1, 5.0, 1.0, 1.0]
    policy, subs = _fleet(weights)
    picked = picks(policy.new_picker(subs, seeded()), 4_000, exclude=[subs[avoided]])
    weights[avoided] = 0.0
    assert shares(picked, subs) == pytest.approx([weight / sum(weights) for weight in weights], abs=0.01)


def test_avoiding_ends_where_the_others_weigh_next_to_nothing() -> None:
    """Their turn comes once in 65,535 rounds: somebody is picked sooner."""
    policy, subs = _fleet([1.0, 1e-9])
    picker = policy.new_picker(subs, seeded())
    assert calls_of(lambda: picks(picker, 1, exclude=subs[:1])) < 10_000
    assert picks(picker, 3, exclude=subs[:1]) == [subs[1]] * 3


def test_avoiding_copies_nothing_in_a_large_pool() -> None:
    """A tuple of 10,000 would be 80,000 bytes, and 20 us, a pick."""
    policy, subs = _fleet([1.0] * 10_000)
    picker = policy.new_picker(subs, seeded())
    tracemalloc.start()
    try:
        picks(picker, 1, exclude=subs[:1])
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
