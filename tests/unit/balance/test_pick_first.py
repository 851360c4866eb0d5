"""Pick first: one endpoint while it is there, then the next in an order of the process' own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from meshlb.balance.pick_first import PickFirst, PickFirstPolicy
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from tests.picking import hold, picks, seeded, subchannels_of


def _fleet(count: int, *, shuffle: bool = True) -> tuple[PickFirstPolicy, list[Subchannel]]:
    policy = PickFirst(shuffle_address_list=shuffle).build(seeded())
    return policy, subchannels_of(policy, [1.0] * count)


def _first(policy: PickFirstPolicy, ready: list[Subchannel]) -> Subchannel:
    (first,) = set(picks(policy.new_picker(ready, seeded()), 10))
    return first


def _newcomer(policy: PickFirstPolicy, number: int) -> Subchannel:
    return Subchannel(Endpoint(host=f"10.0.9.{number}", port=80), policy.new_metric(60.0), 60.0)


def test_one_endpoint_gets_all_however_busy_it_is() -> None:
    """Weights and loads count for nothing."""
    policy, subs = _fleet(5)
    first = _first(policy, subs)
    hold(first.unary, 100)
    assert _first(policy, subs) is first


def _firsts(processes: int, count: int, life: Callable[[PickFirstPolicy, list[Subchannel]], Subchannel]) -> Counter[str]:
    """Whom each of so many processes ends up with, that begins with the same ``count`` endpoints."""
    rng = seeded()
    policies = [PickFirst().build(rng) for _ in range(processes)]
    return Counter(life(policy, subchannels_of(policy, [1.0] * count)).endpoint.host for policy in policies)


def test_processes_spread_over_the_endpoints() -> None:
    """Each has its own order."""
    firsts = _firsts(1_000, 4, _first)
    assert len(firsts) == 4
    assert all(200 < count < 300 for count in firsts.values())


def test_without_shuffling_it_is_the_first_address() -> None:
    """The same in all processes; the order in which connections become ready changes nothing."""
    policy, subs = _fleet(4, shuffle=False)
    assert _first(policy, subs[2:]) is subs[2]
    assert _first(policy, subs[1:]) is subs[1]
    assert _first(policy, subs[::-1]) is subs[0]


def test_when_it_goes_the_next_in_the_order_has_all() -> None:
    """And stays: who comes back does not displace it."""
    policy, subs = _fleet(4, shuffle=False)
    assert _first(policy, subs) is subs[0]
    assert _first(policy, subs[1:]) is subs[1]
    assert _first(policy, subs) is subs[1]
    assert _first(policy, [subs[0], subs[2]]) is subs[0]
    assert _first(policy, subs) is subs[0]


def test_newcomers_displace_nobody() -> None:
    """Whatever place they draw: 50 of them, one after the other."""
    policy, subs = _fleet(3)
    first = _first(policy, subs)
    for number in range(50):
        subs.append(_newcomer(policy, number))
        assert _first(policy, subs) is first


def test_after_a_roll_out_processes_do_not_meet_at_the_oldest_pod() -> None:
    """All pods are replaced, one by one: the firsts of 300 processes are spread over the new ones."""

    def roll_out(policy: PickFirstPolicy, subs: list[Subchannel]) -> Subchannel:
        for number in range(3):
            _first(policy, subs)
            subs.append(_newcomer(policy, number))
            _first(policy, subs)
            subs.pop(0)
        return _first(policy, subs)

    firsts = _firsts(300, 3, roll_out)
    assert len(firsts) == 3
    assert min(firsts.values()) > 20


def test_a_retry_goes_to_the_next_in_the_order() -> None:
    """And the one after that; if all are to be avoided, to the first."""
    policy, subs = _fleet(3, shuffle=False)
    picker = policy.new_picker(subs, seeded())
    assert picks(picker, 2, exclude=subs[:1]) == [subs[1]] * 2
    assert picks(picker, 2, exclude=subs[:2]) == [subs[2]] * 2
    assert picks(picker, 2, exclude=subs) == [subs[0]] * 2


def test_two_channels_agree_as_soon_as_both_can() -> None:
    """One of them does not reach the first yet."""
    policy, subs = _fleet(3, shuffle=False)
    assert _first(policy, subs) is subs[0]
    assert _first(policy, subs[1:]) is subs[1]
    assert _first(policy, subs) is _first(policy, subs)


def test_a_channel_that_connects_in_another_order_moves_nobody() -> None:
    """It has a stand-in until it reaches the first of the other, which stays where it is when it is asked again; in any order."""
    for seed in range(20):
        policy = PickFirst().build(random.Random(seed))
        subs = subchannels_of(policy, [1.0] * 3)
        one = policy.new_picker(subs, seeded())
        (first,) = set(picks(one, 3))
        reached = next(sub for sub in subs if sub is not first)
        other = policy.new_picker([reached], seeded())
        assert picks(other, 1) == [reached]
        other = policy.new_picker(subs, seeded())
        one = policy.new_picker(subs, seeded())
        assert picks(other, 1) == picks(one, 1) == [first]


def test_a_stand_in_stays_where_the_first_is_gone_from_all_channels() -> None:
    """The first leaves one channel, then the other: both are on the stand-in then, and stay when it is back."""
    policy, subs = _fleet(3, shuffle=False)
    one, other = policy.new_picker(subs, seeded()), policy.new_picker(subs, seeded())
    one = policy.new_picker(subs[1:], seeded())
    other = policy.new_picker(subs[1:], seeded())
    assert picks(one, 1) == picks(other, 1) == [subs[1]]
    other = policy.new_picker(subs, seeded())
    one = policy.new_picker(subs, seeded())
    assert picks(one, 1) == picks(other, 1) == [subs[1]]


def test_who_displaces_the_first_in_one_channel_does_so_in_the_other() -> None:
    """While a process starts: the third connects first, then the first of the list, in one channel and then in the other."""
    policy, subs = _fleet(3, shuffle=False)
    one, other = policy.new_picker(subs[2:], seeded()), policy.new_picker(subs[2:], seeded())
    one = policy.new_picker(subs, seeded())
    other = policy.new_picker(subs, seeded())
    assert picks(one, 1) == picks(other, 1) == [subs[0]]
    assert picks(policy.new_picker(subs, seeded()), 1) == [subs[0]]


@pytest.mark.parametrize("value", ["true", 1, None])
def test_a_switch_must_be_one(value: object) -> None:
    """Field, value and rule."""
    with pytest.raises(ConfigError) as caught:
        PickFirst(shuffle_address_list=value)  # type: ignore[arg-type]
    assert str(caught.value) == f"policy.shuffle_address_list={value!r}: must be true or false"
