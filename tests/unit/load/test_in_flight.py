"""The failure penalty in closed form: how high, how long, for whom, and what it costs those who do not fail."""

from __future__ import annotations

import gc
import weakref

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import InFlight, LiveOnly, Peers, Penalties
from tests.picking import hold


def _fleet(n: int, weights: list[float] | None = None) -> tuple[Penalties, list[Subchannel], Peers]:
    penalties = Penalties(stream_weight=0.01)
    subs = [Subchannel(Endpoint(host=f"10.0.0.{at}", port=1), InFlight(penalties)) for at in range(n)]
    return penalties, subs, penalties.join(subs, weights)


def _fail(sub: Subchannel, times: int = 1, now_s: float = 0.0, outcome: Outcome = Outcome.FAILURE) -> None:
    for _ in range(times):
        sub.metric.on_start(now_s)
        sub.metric.on_end(now_s, 0.001, outcome)


def _load(sub: Subchannel, now_s: float = 0.0) -> float:
    return sub.metric.load(now_s)


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.OVERLOADED, Outcome.UNREACHABLE])
def test_every_kind_of_failure_is_penalised(outcome: Outcome) -> None:
    """The endpoint is behind idle peers at once."""
    penalties, (failed, peer), _peers = _fleet(2)
    _fail(failed, outcome=outcome)
    assert _load(failed) == 2.0
    assert _load(peer) == 0.0
    assert list(penalties.penalised) == [failed.metric]


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CANCELLED])
def test_who_did_not_fail_bears_nothing(outcome: Outcome) -> None:
    """A success is none, and who gave up blames nobody; pickers need not even ask."""
    penalties, (sub, _), _peers = _fleet(2)
    _fail(sub, 20, outcome=outcome)
    assert _load(sub) == 0.0
    assert not penalties.penalised


def test_the_penalty_is_what_the_peers_carry_and_two_attempts() -> None:
    """Streams count their weight; the endpoint's own attempts do not count, they stand beside the penalty."""
    _, subs, _peers = _fleet(3)
    hold(subs[0].unary, 50)
    hold(subs[1].unary, 3)
    hold(subs[2].unary, 4)
    hold(subs[2].streams, 100)
    _fail(subs[0])
    assert _load(subs[0]) == pytest.approx((3 + 4 + 1) / 2 + 2)


def test_it_falls_by_one_a_turn_to_nothing() -> None:
    """Three endpoints: every third pick."""
    penalties, subs, _peers = _fleet(3)
    hold(subs[1].unary, 2)
    hold(subs[2].unary, 2)
    _fail(subs[0])
    readings = []
    for _ in range(18):
        readings.append(_load(subs[0]))
        penalties.turn(0.0)
    assert readings == pytest.approx([max(0.0, 4 - picks / 3) for picks in range(18)])


def test_by_weight_turns_and_attempts_have_other_sizes() -> None:
    """A quarter of the mean weight: a turn is four rounds, and an attempt counts four, so two turns are 2 * 4 n picks."""
    penalties, subs, _peers = _fleet(4, [0.25, 1.25, 1.25, 1.25])
    _fail(subs[0])
    assert _load(subs[0]) == pytest.approx(8.0)
    for _ in range(16):
        penalties.turn(0.0)
    assert _load(subs[0]) == pytest.approx(4.0)
    for _ in range(16):
        penalties.turn(0.0)
    assert _load(subs[0]) == 0.0


def test_the_load_of_the_peers_is_per_weight() -> None:
    """Peers of weight 0.5 with 3 attempts each carry 6."""
    _, subs, _peers = _fleet(3, [2.0, 0.5, 0.5])
    hold(subs[1].unary, 3)
    hold(subs[2].unary, 3)
    _fail(subs[0])
    assert _load(subs[0]) == pytest.approx(6 + 2 / 2.0)


def test_a_hundredth_failure_is_no_worse_than_the_first() -> None:
    """A new penalty replaces the old one."""
    _, subs, _peers = _fleet(3)
    hold(subs[1].unary, 2)
    _fail(subs[0])
    first = _load(subs[0])
    _fail(subs[0], 99)
    assert _load(subs[0]) == first


def test_what_the_peers_carried_is_forgotten_within_a_minute() -> None:
    """After a burst the endpoint is not kept away for as many turns as the burst was high."""
    _, subs, _peers = _fleet(2)
    hold(subs[1].unary, 90)
    _fail(subs[0])
    assert [_load(subs[0], now_s) for now_s in (0.0, 30.0, 60.0, 600.0)] == pytest.approx([92.0, 47.0, 2.0, 2.0])


def test_who_stands_out_is_kept_away_for_five_seconds() -> None:
    """From the fifth failure in a row on (1 - 0.9^5 = 0.41), however many picks pass."""
    for failures, expected in ((4, [0.0, 0.0, 0.0, 0.0]), (5, [2.0, 1.0, 0.04, 0.0])):
        penalties, subs, _peers = _fleet(3)
        _fail(subs[0], failures)
        for _ in range(50):
            penalties.turn(0.0)
        assert [_load(subs[0], now_s) for now_s in (0.0, 2.5, 4.9, 5.0)] == pytest.approx(expected, abs=1e-9)


def test_who_is_forgiven_bears_nothing_and_begins_to_stand_out_anew() -> None:
    """Neither the penalty is left nor the failures that it came of: the next one counts as the first."""
    penalties, subs, _peers = _fleet(3)
    _fail(subs[0], 20)
    subs[0].metric.forgive()
    assert _load(subs[0]) == 0.0
    _fail(subs[0])
    for _ in range(50):
        penalties.turn(0.0)
    assert _load(subs[0], 1.0) == 0.0


def test_a_clock_read_before_the_failure_is_the_moment_of_the_failure() -> None:
    """Threads read the clock first and look at loads later."""
    _, subs, _peers = _fleet(2)
    hold(subs[1].unary, 3)
    _fail(subs[0], now_s=10.0)
    assert _load(subs[0], 9.0) == _load(subs[0], 10.0) == 5.0


def test_nobody_stands_out_where_all_fail_alike() -> None:
    """Only picks count then."""
    penalties, subs, _peers = _fleet(3)
    for _ in range(50):
        for sub in subs:
            _fail(sub)
    for _ in range(50):
        penalties.turn(0.0)
    assert [_load(sub) for sub in subs] == [0.0] * 3


def test_successes_wear_the_failures_off() -> None:
    """The share of failures falls by a tenth with each success, and 20 later one more failure does not stand out."""
    _, subs, _peers = _fleet(2)
    metric = subs[0].metric
    assert isinstance(metric, InFlight)
    _fail(subs[0], 10)
    failing = metric.failing_ratio
    assert failing == pytest.approx(1 - 0.9**10)
    _fail(subs[0], 1, outcome=Outcome.SUCCESS)
    assert metric.failing_ratio == pytest.approx(failing * 0.9)
    _fail(subs[0], 1, outcome=Outcome.CANCELLED)
    assert metric.failing_ratio == pytest.approx(failing * 0.9)
    _fail(subs[0], 19, outcome=Outcome.SUCCESS)
    assert metric.failing_ratio == pytest.approx(failing * 0.9**20)


def test_pickers_stop_asking_once_nobody_has_anything_left() -> None:
    """The quick way is open again some picks after the last penalty ended."""
    penalties, subs, _peers = _fleet(2)
    _fail(subs[0])
    for _ in range(4):
        penalties.turn(0.0)
    assert _load(subs[0]) == 0.0
    for _ in range(200):
        penalties.turn(0.0)
    assert not penalties.penalised


def test_who_still_has_something_left_is_kept_in_mind() -> None:
    """Looking for those who are done does not forget the others."""
    penalties, subs, _peers = _fleet(2)
    _fail(subs[0])
    _fail(subs[1], 10)
    for _ in range(500):
        penalties.turn(1.0)
    assert list(penalties.penalised) == [subs[1].metric]


def test_alone_there_is_nobody_to_be_compared_with() -> None:
    """The only endpoint of a pool is as good as it gets."""
    penalties, subs, _peers = _fleet(1)
    _fail(subs[0], 10)
    assert _load(subs[0]) == 0.0
    assert not penalties.penalised


def test_a_view_that_knows_few_does_not_hide_the_others() -> None:
    """The peers are those of the largest picker that lives, not of the last one made."""
    penalties, subs, _peers = _fleet(3)
    small = penalties.join(subs[:1], None)
    _fail(subs[0])
    assert _load(subs[0]) == 2.0
    assert small.subchannels == subs[:1]


def test_a_picker_that_is_gone_is_forgotten() -> None:
    """Its peers are no longer compared with, and nothing keeps its subchannels alive."""
    penalties, subs, peers = _fleet(3)
    del peers
    survivors = subs[:2]
    joined = penalties.join(survivors, None)
    gone = weakref.ref(subs.pop())
    gc.collect()
    assert gone() is None
    hold(survivors[1].unary, 5)
    _fail(survivors[0])
    assert _load(survivors[0]) == pytest.approx(7.0)
    assert joined.total_weight == 2.0


def test_a_failure_costs_the_same_in_a_large_pool() -> None:
    """At most 16 peers are looked at, other ones each time, and their mean is that of all."""
    penalties, subs, _peers = _fleet(4_000)
    for at, sub in enumerate(subs):
        hold(sub.unary, at % 5)
    sampled = [penalties._sample(_peers, subs[7].metric) for _ in range(250)]  # type: ignore[arg-type]
    assert {len(sample) for sample in sampled} <= {15, 16}
    assert len({sub for sample in sampled for sub in sample}) > 3_900
    assert subs[7] not in {sub for sample in sampled for sub in sample}


def test_live_only_adds_nothing() -> None:
    """For policies that do not look."""
    metric = LiveOnly()
    metric.on_start(0.0)
    metric.on_end(0.0, 0.001, Outcome.FAILURE)
    assert metric.load(0.0) == 0.0


def test_repr_says_how_it_stands() -> None:
    """The debugger's view."""
    _, subs, _peers = _fleet(2)
    _fail(subs[0])
    assert repr(subs[0].metric).startswith("<InFlight failing=0.10 penalty=(0.0, 0.0, 0.0, 0, 2.0, 1.0)")


def test_penalised_is_who_has_something_left_to_bear() -> None:
    """Not who only carries calls, nor who never failed, nor who is forgiven."""
    _, (failed, peer), _peers = _fleet(2)
    hold(peer.unary, 5)
    _fail(failed)
    assert isinstance(failed.metric, InFlight)
    assert isinstance(peer.metric, InFlight)
    assert failed.metric.penalised(0.0)
    assert not peer.metric.penalised(0.0)
    failed.metric.forgive()
    assert not failed.metric.penalised(0.0)
