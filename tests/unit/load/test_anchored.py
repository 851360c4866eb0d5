"""What one endpoint costs: in flight, latency, failures and warming, and that nothing of it leaks."""

from __future__ import annotations

import gc
import weakref
from math import exp, log

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.load.anchored import COLD_RATIO, WARM_S, Anchored, Costs
from tests.attempts import begin_on, end
from tests.picking import seeded

FAILURES = [Outcome.FAILURE, Outcome.OVERLOADED, Outcome.UNREACHABLE]


def _endpoint(costs: Costs, at: int = 0, *, weight: float = 1.0) -> Subchannel:
    metric = Anchored(costs, 1.0)
    sub = Subchannel(Endpoint(host=f"10.0.0.{at}", port=80), metric)
    metric.seat(sub, 1.0, 0.0, 1.0 / weight)
    metric.refresh(0.0)
    return sub


def _metric(sub: Subchannel) -> Anchored:
    assert isinstance(sub.metric, Anchored)
    return sub.metric


def _cost(sub: Subchannel, costs: Costs) -> float:
    return costs.of[_metric(sub).place]


def _call(sub: Subchannel, at_s: float, took_s: float = 0.01, outcome: Outcome = Outcome.SUCCESS) -> None:
    end(begin_on(sub, at_s), at_s + took_s, outcome)


def test_the_cost_is_the_square_of_what_one_more_call_would_load() -> None:
    """1, 4, 9 for none, one and two in flight; and back again."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    seen, begun = [_cost(sub, costs)], []
    for _ in range(2):
        begun.append(begin_on(sub))
        seen.append(_cost(sub, costs))
    for attempt in begun:
        end(attempt, 0.0, Outcome.CANCELLED)
        seen.append(_cost(sub, costs))
    assert seen == [1.0, 4.0, 9.0, 4.0, 1.0]


def test_a_heavy_endpoint_is_loaded_less_by_a_call() -> None:
    """Per weight."""
    costs = Costs(0.01)
    sub = _endpoint(costs, weight=4.0)
    begin_on(sub)
    assert _cost(sub, costs) == 1.25**2


def test_streams_count_apart() -> None:
    """A stream holds its place for hours: it weighs what is configured, and how long it lived says nothing of latency."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    _call(_endpoint(costs, 1), 0.0)
    attempt = begin_on(sub, stream=True)
    assert _cost(sub, costs) == 1.01**2
    assert not costs.busy
    end(attempt, 86_400.0)
    assert _cost(sub, costs) == 1.0
    assert sub.metric.load(86_400.0) == 1.0


def test_a_lost_update_is_put_right_by_the_next() -> None:
    """Whatever the list says, it is derived anew from the live attempts."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    attempt = begin_on(sub)
    costs.of[_metric(sub).place] = 77.0
    end(attempt, 0.0, Outcome.CANCELLED)
    assert _cost(sub, costs) == 1.0
    costs.of[_metric(sub).place] = 77.0
    _metric(sub).refresh(0.0)
    assert _cost(sub, costs) == 1.0


def test_busy_is_who_has_unary_calls() -> None:
    """From the first to the last of them."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    first, second = begin_on(sub), begin_on(sub)
    end(first, 0.0)
    assert costs.busy == {sub.metric}
    end(second, 0.0)
    assert not costs.busy


def test_slow_calls_make_dear_and_are_forgotten() -> None:
    """Twice the latency costs twice as much; an hour later nothing is left."""
    costs = Costs(0.01)
    slow, *others = [_endpoint(costs, at) for at in range(10)]
    for step in range(300):
        for sub in others:
            _call(sub, step * 0.1, 0.01)
        _call(slow, step * 0.1, 0.02)
    assert slow.metric.load(30.0) / others[0].metric.load(30.0) == pytest.approx(2.0, rel=0.05)
    _metric(slow).refresh(3600.0)
    assert _cost(slow, costs) == pytest.approx(1.0)


@pytest.mark.parametrize("outcome", FAILURES)
def test_failing_fast_never_looks_fast(outcome: Outcome) -> None:
    """A black hole of 0.1 ms among calls of 10 ms: its latency is not learnt, and it is dear after the first failure."""
    costs = Costs(0.01)
    black, other = _endpoint(costs), _endpoint(costs, 1)
    for step in range(50):
        _call(other, step * 0.01)
        _call(black, step * 0.01, 0.0001, outcome)
    assert _metric(black).mean == 0.0
    assert black.metric.load(0.5) > 3.0
    assert _metric(black).shunned(0.5)
    assert not _metric(other).shunned(0.5)


def test_an_expired_deadline_is_a_sample_of_at_least_that_long() -> None:
    """A failure that took longer than usual makes its endpoint slower, one that took less does not make it faster."""
    costs = Costs(0.01)
    sub, other = _endpoint(costs), _endpoint(costs, 1)
    for step in range(50):
        _call(other, step * 0.01)
    _call(sub, 0.5, 0.1, Outcome.FAILURE)
    assert _metric(sub).mean == pytest.approx(log(10), rel=0.01)
    before = _metric(sub).mean
    _call(sub, 0.6, 0.001, Outcome.FAILURE)
    assert _metric(sub).mean == before


def test_who_gave_up_blames_nobody() -> None:
    """A cancelled call is neither a failure nor a sample."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    _call(sub, 0.0, 100.0, Outcome.CANCELLED)
    assert _cost(sub, costs) == 1.0


def test_half_of_the_calls_failing_is_seen() -> None:
    """No run of failures is needed: 50 % make an endpoint dear most of the time, beside 1 % everywhere."""
    rng, costs = seeded(), Costs(0.01)
    brown, *others = [_endpoint(costs, at) for at in range(10)]
    dear = 0
    for step in range(1_000):
        for sub in (brown, *others):
            failed = rng.random() < (0.5 if sub is brown else 0.01)
            _call(sub, step * 0.01, 0.01, Outcome.FAILURE if failed else Outcome.SUCCESS)
        dear += _metric(brown).load(step * 0.01) > 1.5 * min(_metric(sub).load(step * 0.01) for sub in others)
    assert dear > 700


def test_where_all_fail_alike_nobody_is_dearer() -> None:
    """Scores are relative to the pool: a shared dependency that is down says nothing about endpoints."""
    costs = Costs(0.01)
    subs = [_endpoint(costs, at) for at in range(5)]
    for step in range(600):
        for sub in subs:
            _call(sub, step * 0.01, 0.01, Outcome.FAILURE)
    assert max(sub.metric.load(6.0) for sub in subs) < 1.05 * min(sub.metric.load(6.0) for sub in subs)
    assert not any(_metric(sub).shunned(6.0) for sub in subs)


def test_failures_fade() -> None:
    """With each success, and with time."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    for _ in range(10):
        _call(sub, 0.0, 0.01, Outcome.FAILURE)
    _metric(sub).refresh(600.0)
    assert _cost(sub, costs) == pytest.approx(1.0, abs=0.01)
    other = _endpoint(costs, 1)
    for _ in range(10):
        _call(other, 0.0, 0.01, Outcome.FAILURE)
    for _ in range(20):
        _call(other, 0.0, 0.01)
    assert other.metric.load(0.0) == pytest.approx(1.0, abs=0.05)


def test_who_joins_warms_up() -> None:
    """A tenth at first, everything after WARM_S, in a straight line; dearer by as much."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    metric = _metric(sub)
    metric.joined_s = 100.0
    assert metric.warmth(99.0) == metric.warmth(100.0) == COLD_RATIO
    metric.refresh(100.0)
    assert _cost(sub, costs) == pytest.approx(10.0)
    assert metric.warmth(100.0 + WARM_S / 2) == pytest.approx(0.55)
    metric.refresh(100.0 + WARM_S)
    assert _cost(sub, costs) == 1.0


def test_forgive_leaves_nothing() -> None:
    """Who came back from an ejection has proved itself."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    for _ in range(10):
        _call(sub, 0.0, 0.5)
        _call(sub, 0.0, 0.01, Outcome.FAILURE)
    sub.metric.forgive()
    assert _cost(sub, costs) == 1.0
    assert sub.metric.load(0.0) == 1.0


def test_places_are_used_again() -> None:
    """A pool whose endpoints come and go for months keeps a list as long as the most it had at once."""
    costs = Costs(0.01)
    for at in range(100):
        sub = _endpoint(costs, at)
        seen = weakref.ref(sub.metric)
        del sub
        gc.collect()
        assert seen() is None
    assert len(costs.of) == 1


def test_it_says_what_it_knows() -> None:
    """For people with a debugger."""
    costs = Costs(0.01)
    sub = _endpoint(costs)
    begin_on(sub)
    assert repr(sub.metric) == "<Anchored cost=4.000 latency=+0.00 failing=0.00>"
    assert exp(0) == sub.metric.load(0.0)


def test_who_fails_more_than_the_others_is_penalised_and_who_is_slow_is_not() -> None:
    """Two failures in a row; a long latency is no failure."""
    costs = Costs(0.01)
    slow, failing = _endpoint(costs), _endpoint(costs, 1)
    for _ in range(20):
        _metric(slow).learn(2.0, 0.0)
    assert _metric(slow).shunned(0.0)
    assert not _metric(slow).penalised(0.0)
    _call(failing, 0.0, outcome=Outcome.FAILURE)
    assert not _metric(failing).penalised(0.1)
    _call(failing, 0.0, outcome=Outcome.FAILURE)
    assert _metric(failing).penalised(0.1)
    assert not _metric(failing).penalised(60.0)
