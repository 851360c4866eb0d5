"""Hash policies in a real pool: views agree, and connections, roll-outs, slow start and the ClusterIP move no more keys than they must."""

from __future__ import annotations

import pytest

from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.health.slow_start import SlowStart
from meshlb.pool.view import View
from tests.unit.pool.bench import READY, TRANSIENT_FAILURE, Bench, Listener, cluster_ip, pod

KEYS = range(0, 2**64, 2**54 - 54321)  # 1024 of them


@pytest.fixture(params=["ring_hash", "maglev"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def owners(view: View) -> list[Subchannel]:
    """Whom each key's call goes to; all ended at once."""
    chosen = []
    for key in KEYS:
        attempt = view.begin(PickInfo("/shop.Orders/Get", hash=key))
        assert attempt is not None
        view.end(attempt)
        chosen.append(attempt.subchannel)
    return chosen


def test_views_with_other_connections_agree_on_whom_both_can_reach(policy: str) -> None:
    """One table a pool, whatever is connected where."""
    bench = Bench(policy)
    bench.publish(*map(pod, range(1, 6)))
    subs = [bench.sub(number) for number in range(1, 6)]
    other = bench.pool.view(Listener())
    bench.connect(READY, *subs)
    bench.connect(READY, *subs[2:], view=other)
    for one, two in zip(owners(bench.view), owners(other), strict=True):
        assert one is two or one in subs[:2]


def test_a_broken_connection_moves_its_own_keys_until_it_is_back(policy: str) -> None:
    """And nobody else's."""
    bench = Bench(policy)
    bench.publish(*map(pod, range(1, 6)))
    bench.connect(READY, *(bench.sub(number) for number in range(1, 6)))
    before = owners(bench.view)
    bench.connect(TRANSIENT_FAILURE, bench.sub(2))
    during = owners(bench.view)
    assert bench.sub(2) not in during
    assert all(one is two or one is bench.sub(2) for one, two in zip(before, during, strict=True))
    bench.connect(READY, bench.sub(2))
    assert owners(bench.view) == before


def test_a_replaced_pod_moves_few_keys_of_others(policy: str) -> None:
    """Five pods, one of them with another address: a fifth moves, and of the rest no more than a twentieth."""
    bench = Bench(policy)
    bench.publish(*map(pod, range(1, 6)))
    bench.connect(READY, *(bench.sub(number) for number in range(1, 6)))
    before, leaver = owners(bench.view), bench.sub(3)
    bench.publish(*map(pod, (1, 2, 4, 5, 6)))
    bench.connect(READY, bench.sub(6))
    after = owners(bench.view)
    assert leaver not in after
    changed = [(one, two) for one, two in zip(before, after, strict=True) if one is not two]
    assert len([one for one, two in changed if one is not leaver and two is not bench.sub(6)]) <= 0.05 * len(KEYS)


def test_a_new_pod_gets_its_keys_little_by_little(policy: str) -> None:
    """Slow start is a weight, which a table follows as time passes."""
    bench = Bench(policy, slow_start=SlowStart(window_s=30.0))
    bench.publish(*map(pod, range(1, 5)))
    bench.publish(*map(pod, range(1, 6)))
    bench.connect(READY, *(bench.sub(number) for number in range(1, 6)))
    parts = []
    for _ in range(4):
        parts.append(owners(bench.view).count(bench.sub(5)) / len(KEYS))
        bench.loop.advance(10.5)
    assert parts[0] < 0.06
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(0.2, abs=0.06)


def test_the_cluster_ip_takes_over_where_no_pod_can_be_reached(policy: str) -> None:
    """Its connections are no members of the table; keys have one of them each."""
    bench = Bench(policy)
    bench.publish(pod(1), pod(2), fallback=[cluster_ip(slot) for slot in range(4)])
    bench.loop.advance(1.5)
    bench.connect(READY, *(bench.spare(slot) for slot in range(4)))
    assert set(owners(bench.view)) == {bench.spare(slot) for slot in range(4)}
    assert owners(bench.view) == owners(bench.view)
    bench.connect(READY, bench.sub(1), bench.sub(2))
    assert set(owners(bench.view)) == {bench.sub(1), bench.sub(2)}
