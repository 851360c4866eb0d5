"""Who left, what of them is kept and for how long; and the guard against losing most of a pool at once."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable
from dataclasses import replace

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.endpoint import Endpoint, EndpointSet, Place
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.pool.leavers import KEPT_S, WINDOW_S
from meshlb.pool.pool import Pool
from meshlb.testing.clock import ManualClock
from tests.unit.pool.bench import ANY, IDLE, READY, TRANSIENT_FAILURE, Bench, Listener, cluster_ip, pod, terminating, unready

SIX = [pod(number) for number in range(1, 7)]


def connected(*endpoints: Endpoint, spare_s: float = 30.0) -> Bench:
    bench = Bench(mass_removal_spare_s=spare_s)
    bench.publish(*endpoints)
    bench.connect(READY, *bench.view.wanted())
    return bench


def numbers(subchannels: Iterable[Subchannel]) -> list[int]:
    return sorted(int(sub.endpoint.host.rpartition(".")[2]) for sub in subchannels)


def spare(bench: Bench) -> list[int]:
    return numbers(bench.pool.snapshot.spare)


# --- readiness that flaps ---------------------------------------------------------------------------------------------------


def test_a_pod_whose_readiness_flaps_gets_no_call_meanwhile_and_keeps_its_connection() -> None:
    """When it is ready again, its next call waits for nothing."""
    bench = connected(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.publish(unready(1), pod(2))
    assert bench.picked() == {two}
    assert set(bench.view.wanted()) == {one, two}
    bench.publish(pod(1), pod(2))
    assert bench.sub(1) is one
    assert bench.picked() == {one, two}


def test_after_30_s_its_connection_is_let_go_and_its_record_stays() -> None:
    """The record for as long as it is listed."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    bench.publish(unready(1), pod(2))
    bench.loop.advance(KEPT_S - 0.1)
    heard = bench.listener.changes
    assert one in bench.view.wanted()
    bench.loop.advance(0.1)
    assert one not in bench.view.wanted()
    assert bench.listener.changes == heard + 1
    assert not bench.loop.timers
    bench.publish(pod(1), pod(2))
    assert bench.sub(1) is one


def test_a_connection_that_ends_meanwhile_is_not_made_again() -> None:
    """Nobody may call it now."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    bench.publish(unready(1), pod(2))
    bench.connect(IDLE, one)
    assert bench.view.wanted() == (bench.sub(2),)


def test_nor_is_one_tried_that_only_keeps_its_connection() -> None:
    """Not even by a call that tries what is not ready."""
    bench = connected(pod(1), pod(2))
    two = bench.sub(2)
    bench.publish(unready(1), pod(2))
    bench.connect(TRANSIENT_FAILURE, two)
    for _ in range(40):
        attempt = bench.view.begin_unready(ANY)
        assert attempt is not None
        assert attempt.subchannel is two


def test_each_flap_counts_anew() -> None:
    """30 s from when it was last ready."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    bench.publish(unready(1), pod(2))
    bench.loop.advance(20.0)
    bench.publish(pod(1), pod(2))
    bench.publish(unready(1), pod(2))
    bench.loop.advance(20.0)
    assert one in bench.view.wanted()


# --- vanishing and coming back ------------------------------------------------------------------------------------------------


def test_a_pod_that_vanishes_and_comes_back_is_who_it_was() -> None:
    """Statistics and penalty, for 30 s; its connection is where the driver left it."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    attempt = bench.view.begin(ANY)
    while attempt is not None and attempt.subchannel is not one:
        bench.view.end(attempt)
        attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.view.end(attempt, Outcome.FAILURE)
    assert bench.publish(pod(2)).removed == (one,)
    assert one.removed
    assert bench.view.wanted() == (bench.sub(2),)
    bench.connect(IDLE, one)
    bench.loop.advance(KEPT_S - 0.1)
    assert bench.publish(pod(1), pod(2)).added == (one,)
    assert not one.removed
    assert one.failed == 1
    assert one in bench.view.wanted()
    assert bench.picked() == {bench.sub(2)}
    bench.connect(READY, one)
    assert one in bench.picked()


def test_one_that_comes_back_before_its_connection_was_closed_is_used_at_once() -> None:
    """The driver has said nothing else."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    bench.publish(pod(2))
    bench.publish(pod(1), pod(2))
    assert one in bench.picked()


def test_after_30_s_it_is_forgotten() -> None:
    """And nothing is left of it."""
    bench = connected(pod(1), pod(2))
    one = bench.sub(1)
    bench.publish(pod(2))
    bench.loop.advance(KEPT_S)
    assert bench.pool.update(EndpointSet.of([pod(1), pod(2)], "kubernetes")).added == (bench.sub(1),)
    assert bench.sub(1) is not one
    assert one.removed
    assert one not in bench.view._choice.states


def test_one_that_comes_back_in_the_very_answer_that_finds_it_forgotten_is_new() -> None:
    """Even as the same object, and if no tick came between: a record that is over never takes calls, nor is it waited for."""
    one, two, clock, rng = pod(1), pod(2), ManualClock(), random.Random(1)
    pool = Pool("orders", policy_of("p2c").build(rng), clock=clock, rng=rng, new_lock=threading.Lock)
    both, less = EndpointSet.of([one, two], "kubernetes"), EndpointSet.of([two], "kubernetes")
    view = pool.view(Listener())
    old = pool.update(both).added[0]
    pool.update(less)
    clock.advance(KEPT_S)
    change = pool.update(both)
    assert change.added[0] is not old
    assert not change.added[0].removed
    view.set_states([(sub, READY) for sub in view.wanted()])
    assert {attempt.subchannel for _ in range(40) if (attempt := view.begin(ANY))} == set(pool.snapshot.listed)


def test_another_pod_at_its_address_starts_afresh_and_ends_the_memory() -> None:
    """Health and load of a pod do not pass to the one that took over its IP, nor back."""
    bench = connected(pod(1, "a"), pod(2))
    old = bench.sub(1)
    bench.publish(pod(2))
    bench.publish(pod(1, "b"), pod(2))
    assert bench.sub(1) is not old
    bench.publish(pod(1, "a"), pod(2))
    assert bench.sub(1) is not old
    assert old.removed


def test_ten_thousand_events_leave_nothing_behind() -> None:
    """Records, states, timers."""
    bench = connected(pod(1))
    for event in range(10_000):
        bench.publish(pod(1), pod(2 + event % 50, f"uid{event}"))
        bench.connect(READY, *bench.view.wanted())
        bench.loop.advance(1.0)
    bench.publish(pod(1))
    bench.loop.advance(KEPT_S)
    assert not bench.loop.timers
    pool, view = bench.pool, bench.view
    assert (len(pool._roster._by_endpoint), len(view._choice.states), len(view._choice.ready), pool._roster.leavers.vanished) == (
        1,
        1,
        1,
        (),
    )


# --- the guard ----------------------------------------------------------------------------------------------------------------


def test_most_of_a_pool_that_vanishes_at_once_is_a_spare_for_30_s() -> None:
    """It takes calls while nobody else can, and never beside others."""
    bench = connected(*SIX)
    lost = {bench.sub(number) for number in (1, 2, 3, 4)}
    bench.publish(pod(5), pod(6))
    five, six = bench.sub(5), bench.sub(6)
    assert spare(bench) == [1, 2, 3, 4]
    assert bench.picked() == {five, six}
    bench.connect(TRANSIENT_FAILURE, five)
    assert bench.picked() == {six}
    bench.connect(TRANSIENT_FAILURE, six)
    assert bench.picked(200) == lost
    assert bench.view.state is READY
    assert bench.view.explain() == "2 endpoints known from kubernetes, 4 connections ready (of a spare)"
    bench.connect(READY, six)
    assert bench.picked() == {six}
    bench.connect(TRANSIENT_FAILURE, six)
    bench.loop.advance(30.0)
    assert spare(bench) == []
    assert set(bench.view.wanted()) == {five, six}
    assert bench.view.begin(ANY) is None
    assert all(sub.removed and sub.in_flight == 0 for sub in lost)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (SIX, SIX[:3], []),
        (SIX, SIX[:2], [3, 4, 5, 6]),
        (SIX, [], [1, 2, 3, 4, 5, 6]),
        (SIX, [*SIX[:2], *map(unready, (3, 4, 5, 6))], [3, 4, 5, 6]),
        (SIX, [*SIX[:2], unready(3), unready(4)], [3, 4, 5, 6]),
        (SIX, [*SIX[:2], *map(terminating, (3, 4, 5, 6))], []),
        (SIX, [*SIX[:2], terminating(3), unready(4), unready(5), unready(6)], []),
        (SIX[:4], SIX[:1], [2, 3, 4]),
        (SIX[:3], [], []),
        (SIX, [pod(11), pod(12), pod(13), pod(14), pod(15), pod(16)], [1, 2, 3, 4, 5, 6]),
        (SIX, [pod(number, "other") for number in range(1, 7)], []),
    ],
    ids=[
        "half is not most",
        "vanished",
        "all vanished",
        "not ready",
        "some of both",
        "terminating ones leave on purpose",
        "so they do not count as lost",
        "four are a pool",
        "three are none",
        "all of them replaced at other addresses",
        "all of them replaced at their addresses",
    ],
)
def test_what_a_mass_removal_is(before: list[Endpoint], after: list[Endpoint], kept: list[int]) -> None:
    """More than half of four or more, lost, not gone on purpose."""
    bench = connected(*before)
    bench.publish(*after)
    assert spare(bench) == kept


def test_a_service_none_of_whose_pods_is_ready_is_served_by_the_spare() -> None:
    """A readiness probe that asks what all share; kube-proxy would refuse. Those that pass again take over at once."""
    bench = connected(*SIX, cluster_ip(0))
    bench.publish(*[unready(number) for number in range(1, 7)], fallback=[cluster_ip(0)])
    assert numbers(bench.picked(200)) == [1, 2, 3, 4, 5, 6]
    assert not bench.view.describe()["on_fallback"]
    bench.publish(pod(1), *[unready(number) for number in range(2, 7)], fallback=[cluster_ip(0)])
    assert numbers(bench.picked()) == [1]
    assert spare(bench) == [2, 3, 4, 5, 6]


def test_the_cluster_ip_goes_before_the_spare_once_it_is_connected() -> None:
    """Its kernel knows better who may be called; and until it is, no call waits for it."""
    bench = connected(*SIX)
    bench.publish(pod(5), pod(6), fallback=[cluster_ip(0)])
    bench.connect(TRANSIENT_FAILURE, bench.sub(5), bench.sub(6))
    assert bench.spare(0) in bench.view.wanted()
    assert numbers(bench.picked(200)) == [1, 2, 3, 4]
    bench.connect(READY, bench.spare(0))
    assert bench.picked() == {bench.spare(0)}


def test_one_removal_that_comes_in_steps_is_one() -> None:
    """Slice after slice, 50 ms apart: those that went first are connected yet."""
    bench = connected(*SIX)
    first = bench.sub(1)
    for number in range(1, 5):
        bench.publish(*SIX[number:])
        assert first in bench.view.wanted()
        assert bench.picked(100) == {bench.sub(left) for left in range(number + 1, 7)}
        bench.loop.advance(0.05)
    assert spare(bench) == [1, 2, 3, 4]
    assert bench.pool.describe()["mass_removals"] == 1
    bench.loop.advance(30.0)
    assert spare(bench) == []


def test_what_leaves_slowly_is_no_mass_removal() -> None:
    """And is let go when the window has passed."""
    bench = connected(*SIX)
    first = bench.sub(1)
    for number in range(1, 6):
        bench.publish(*SIX[number:])
        bench.loop.advance(WINDOW_S)
        assert first not in bench.view.wanted()
    assert spare(bench) == []
    assert first.removed


def test_a_rolling_update_is_no_mass_removal() -> None:
    """A new pod, then an old one that terminates and later vanishes, through all of them, twice, 200 ms a step."""
    bench = connected(*SIX)
    now = list(SIX)
    for number in range(11, 23):
        now.append(pod(number))
        bench.publish(*now)
        bench.connect(READY, *bench.view.wanted())
        old = now.pop(0)
        leaving = replace(old, ready=False, serving=True, terminating=True)
        bench.publish(*now, leaving)
        bench.loop.advance(0.1)
        bench.publish(*now)
        bench.loop.advance(0.1)
        assert spare(bench) == []
        assert bench.pool.snapshot.lingering == ()
        assert len(bench.view.wanted()) == 6
    assert bench.pool.describe()["mass_removals"] == 0


def test_a_recreated_deployment_and_a_scale_to_zero_are_none_either() -> None:
    """All terminate at once, then vanish; the Service has nobody, and says so."""
    bench = connected(*SIX)
    bench.publish(*[terminating(number) for number in range(1, 7)])
    assert numbers(bench.picked(200)) == [1, 2, 3, 4, 5, 6]
    bench.publish(*[terminating(number) for number in range(4, 7)])
    bench.publish()
    assert spare(bench) == []
    assert bench.view.begin(ANY) is None
    assert bench.view.wanted() == ()


def test_a_service_that_is_empty_without_a_word_is_served_for_30_s_at_most() -> None:
    """What cannot be told from a partition; the price of the guard."""
    bench = connected(*SIX)
    bench.publish()
    bench.loop.advance(29.0)
    assert bench.picked()
    bench.publish()
    bench.loop.advance(1.0)
    assert bench.view.begin(ANY) is None
    assert bench.view.wanted() == ()


def test_one_of_the_spare_that_is_told_to_end_leaves_it() -> None:
    """A node that is drained after all."""
    bench = connected(*SIX)
    bench.publish(*SIX[:2], *map(unready, (3, 4, 5, 6)))
    bench.publish(*SIX[:2], terminating(3), *map(unready, (4, 5, 6)))
    assert spare(bench) == [4, 5, 6]


def test_one_of_the_spare_that_comes_back_is_who_it_was_and_still_connected() -> None:
    """Same uid, or a source that knows none."""
    bench = connected(*SIX)
    one, two = bench.sub(1), bench.sub(2)
    bench.publish(*SIX[4:])
    bench.publish(pod(1), pod(2, ""), *SIX[4:])
    assert (bench.sub(1), bench.sub(2)) == (one, two)
    assert spare(bench) == [3, 4]
    assert {one, two} <= bench.picked(200)


def test_another_pod_at_the_address_of_the_spare_is_a_new_endpoint() -> None:
    """The spare at that address is dropped."""
    bench = connected(*SIX)
    one = bench.sub(1)
    bench.publish(*SIX[4:])
    bench.publish(pod(1, "another"), *SIX[4:])
    assert bench.sub(1) is not one
    assert one.removed
    assert spare(bench) == [2, 3, 4]


def test_the_spare_is_never_connected_again() -> None:
    """Its addresses may be another's by then."""
    bench = connected(*SIX)
    one = bench.sub(1)
    bench.publish(*SIX[4:])
    bench.connect(IDLE, one)
    assert one not in bench.view.wanted()
    assert one.endpoint.host in [entry["address"].partition(":")[0] for entry in bench.pool.describe()["spare"]]


def test_a_call_on_the_spare_finishes_and_none_is_left_counted() -> None:
    """Draining, as ever."""
    bench = connected(*SIX)
    bench.publish(*SIX[4:])
    bench.connect(TRANSIENT_FAILURE, bench.sub(5), bench.sub(6))
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.loop.advance(31.0)
    assert attempt.subchannel.removed
    assert attempt.subchannel.in_flight == 1
    assert bench.view.end(attempt)
    assert attempt.subchannel.in_flight == 0


def test_the_cluster_ips_connections_are_no_spare() -> None:
    """They stood in for pods that are known now."""
    bench = connected(*[cluster_ip(slot) for slot in range(4)])
    bench.publish(pod(1))
    assert bench.pool.snapshot.spare == ()


def test_topology_that_is_switched_on_is_no_mass_removal() -> None:
    """The others are ready; they serve other zones."""
    from meshlb.core.endpoint import Hints

    bench = connected(*SIX)
    zoned = [replace(one, hints=Hints(zones=("a" if number < 2 else "b",))) for number, one in enumerate(SIX)]
    bench.pool.update(EndpointSet.of(zoned, "kubernetes", place=Place(zone="a")))
    assert len(bench.pool.snapshot.eligible) == 2
    assert spare(bench) == []


def test_the_cluster_ip_that_gives_way_to_what_slices_say_is_none() -> None:
    """Four connections to it were used until the slices came; that none of the pods is ready is no loss of four endpoints."""
    bench = connected(*map(cluster_ip, range(4)))
    bench.pool.update(EndpointSet.of([unready(1), unready(2)], "kubernetes"))
    assert (spare(bench), bench.pool.snapshot.eligible) == ([], ())


def test_the_guard_can_be_turned_off_and_tuned() -> None:
    """0: who vanished is let go at once."""
    bench = connected(*SIX, spare_s=0.0)
    bench.publish(*SIX[4:])
    assert spare(bench) == []
    assert set(bench.view.wanted()) == {bench.sub(5), bench.sub(6)}
    bench = connected(*SIX, spare_s=90.0)
    one = bench.sub(1)
    bench.publish(*SIX[4:])
    bench.loop.advance(89.0)
    assert spare(bench) == [1, 2, 3, 4]
    bench.publish(*SIX)
    assert bench.sub(1) is one
    assert spare(bench) == []


def test_it_warns_once_with_counts_and_source_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute, whatever flaps; each one is counted."""
    bench = connected(*SIX)
    with caplog.at_level(logging.WARNING, "meshlb.pool"):
        bench.publish(*SIX[:2], unready(3))
        bench.publish(*SIX)
        bench.publish(*SIX[:2])
    assert [record.message for record in caplog.records] == [
        "orders.shop: of 6 endpoints 3 vanished and 1 are not ready any more, all at once (source: kubernetes); "
        "they stay connected for 30 s as a spare, for calls that nobody else can take (see mass_removal_spare_s)"
    ]
    described = bench.pool.describe()
    assert described["mass_removals"] == 2
    assert [entry["state"] for entry in described["spare"]] == ["spare"] * 4
    bench.publish(*SIX)
    bench.loop.advance(60.0)
    with caplog.at_level(logging.WARNING, "meshlb.pool"):
        bench.publish(*SIX[:2])
    assert len(caplog.records) == 2
