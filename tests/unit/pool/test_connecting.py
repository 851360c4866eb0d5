"""When connections are opened: few at a time, shuffled, jittered; the fallback's at once."""

from __future__ import annotations

import random

import pytest

from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.pool.connecting import JITTER_S, MAX_CONNECTS, ConnectQueue
from tests.unit.pool.bench import cluster_ip, pod


def subs(count: int) -> list[Subchannel]:
    return [Subchannel(pod(number), LiveOnly()) for number in range(count)]


def spares(count: int) -> list[Subchannel]:
    made = [Subchannel(cluster_ip(slot), LiveOnly()) for slot in range(count)]
    for sub in made:
        sub.fallback = True
    return made


def queue(seed: int = 1) -> ConnectQueue:
    print(f"seed={seed}")
    return ConnectQueue(random.Random(seed))


def opened(to_open: list[tuple[Subchannel, float]]) -> list[Subchannel]:
    return [sub for sub, _ in to_open]


def test_at_most_16_connect_at_once_and_each_that_settles_makes_room_for_one() -> None:
    """However large the Service: all are opened in the end, each once."""
    wanted, connects = subs(100), queue()
    to_open, to_close = connects.reconcile(wanted)
    under_way = opened(to_open)
    assert len(under_way) == MAX_CONNECTS == 16
    assert to_close == []
    seen = list(under_way)
    while under_way:
        following = opened(connects.settled(under_way.pop()))
        assert len(following) <= 1
        under_way += following
        seen += following
        assert len(under_way) <= MAX_CONNECTS
    assert len(seen) == 100
    assert set(seen) == set(wanted)


def test_each_connect_is_delayed_by_a_jitter_of_its_own() -> None:
    """Clients that hear of a pod in one millisecond do not knock in step."""
    delays = [delay_s for _, delay_s in queue().reconcile(subs(16))[0]]
    assert all(0.0 <= delay_s < JITTER_S for delay_s in delays)
    assert len(set(delays)) == 16


def test_the_order_is_shuffled_and_a_seed_reproduces_it() -> None:
    """Clients differ among themselves, simulations do not."""
    wanted = subs(16)
    first, again, other = (opened(queue(seed).reconcile(wanted)[0]) for seed in (1, 1, 2))
    assert first == again
    assert first != wanted
    assert first != other


def test_what_is_open_is_not_opened_again_and_what_is_not_wanted_is_closed() -> None:
    """Comparing twice does no harm."""
    wanted, connects = subs(3), queue()
    connects.reconcile(wanted)
    assert connects.reconcile(wanted) == ([], [])
    assert connects.reconcile(wanted[:2]) == ([], [wanted[2]])
    assert opened(connects.reconcile(wanted)[0]) == [wanted[2]]


def test_what_waits_and_is_not_wanted_any_more_is_never_opened_and_need_not_be_closed() -> None:
    """It has no connection."""
    wanted, connects = subs(40), queue()
    under_way = opened(connects.reconcile(wanted)[0])
    assert connects.reconcile(under_way) == ([], [])
    assert [connects.settled(sub) for sub in under_way] == [[]] * 16


def test_closing_a_connect_that_is_under_way_makes_room() -> None:
    """Its end is not waited for, and does not count twice when it is reported late."""
    wanted, connects = subs(20), queue()
    under_way = opened(connects.reconcile(wanted)[0])
    gone = under_way[:3]
    to_open, to_close = connects.reconcile([sub for sub in wanted if sub not in gone])
    assert set(to_close) == set(gone)
    assert len(to_open) == 3
    assert connects.settled(gone[0]) == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_connect_settles_once(times: int) -> None:
    """What fails again and again is the transport's own back-off and gives nobody a place."""
    connects = queue()
    under_way = opened(connects.reconcile(subs(40))[0])
    assert [len(connects.settled(under_way[0])) for _ in range(times)] == [1] + [0] * (times - 1)


def test_the_fallback_is_opened_at_once_and_takes_nobodys_place() -> None:
    """It is wanted when 16 connects hang: waiting for one of them would be waiting for what failed."""
    pods, spare, connects = subs(40), spares(4), queue()
    connects.reconcile(pods)
    to_open, _ = connects.reconcile([*pods, *spare])
    assert opened(to_open) == [sub for sub in opened(to_open) if sub in spare]
    assert set(opened(to_open)) == set(spare)
    assert [connects.settled(sub) for sub in spare] == [[]] * 4
    assert connects.reconcile(pods) == ([], opened(to_open))
