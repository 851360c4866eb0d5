"""Latency by its peaks: Tower's rule, and what failures, cancellations and streams do to it."""

from __future__ import annotations

from math import exp

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.load.ewma import LEAST_S, PeakLatency

TAU_S = 10.0


def _metric() -> PeakLatency:
    return PeakLatency(0.0, 0.03, TAU_S, 5.0)


def test_who_has_not_answered_yet_has_the_default_which_fades() -> None:
    """30 ms, and e^-1 of it after tau."""
    metric = _metric()
    assert metric.load(0.0) == 0.03
    assert metric.load(TAU_S) == pytest.approx(0.03 / 2.718281828)


def test_a_slower_answer_counts_at_once_and_whole() -> None:
    """A peak is not averaged away."""
    metric = _metric()
    metric.on_end(1.0, 0.2, Outcome.SUCCESS)
    assert metric.load(1.0) == 0.2


def test_a_faster_answer_counts_by_the_time_that_has_passed() -> None:
    """estimate * w + rtt * (1 - w), w = exp(-dt / tau), dt since the last end: hardly at once, nearly wholly after some tau."""
    for passed_s in (0.0, 0.1, 1.0, 10.0, 100.0):
        metric = _metric()
        metric.on_end(1.0, 0.2, Outcome.SUCCESS)
        metric.on_end(1.0 + passed_s, 0.01, Outcome.SUCCESS)
        w = exp(-passed_s / TAU_S)
        assert metric.load(1.0 + passed_s) == pytest.approx(0.2 * w + 0.01 * (1 - w))


def test_the_sequence_of_towers_own_test() -> None:
    """Default 20 ms, tau 1 s; two calls of 200 ms that end 100 ms apart, and silence (tower: compound_decay)."""
    metric = PeakLatency(0.0, 0.02, 1.0, 5.0)
    metric.on_end(0.3, 0.2, Outcome.SUCCESS)
    assert metric.load(0.3) * 2 == 0.4
    metric.on_end(0.4, 0.2, Outcome.SUCCESS)
    assert metric.load(0.4) == pytest.approx(0.2)
    assert metric.load(1.4) < 0.1
    assert metric.load(11.4) == LEAST_S


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.OVERLOADED, Outcome.UNREACHABLE])
def test_a_failure_counts_as_five_seconds_and_is_forgotten_after_51(outcome: Outcome) -> None:
    """tau * ln(5 / 0.03) = 51.2 s, however quickly it failed."""
    metric = _metric()
    metric.on_end(0.0, 0.001, outcome)
    assert metric.load(0.0) == 5.0
    assert metric.load(51.0) > 0.03
    assert metric.load(51.5) < 0.03


def test_failures_do_not_add_up_and_leave_a_worse_estimate_alone() -> None:
    """max(penalty, what it is by now)."""
    metric = _metric()
    for _ in range(10):
        metric.on_end(0.0, 0.001, Outcome.FAILURE)
    assert metric.load(0.0) == 5.0
    metric.on_end(0.0, 60.0, Outcome.SUCCESS)
    metric.on_end(10.0, 0.001, Outcome.FAILURE)
    assert metric.load(10.0) == pytest.approx(60.0 / 2.718281828)


def test_a_cancelled_call_raises_the_estimate_and_never_lowers_it() -> None:
    """It took at least as long as it was waited for."""
    metric = _metric()
    metric.on_end(1.0, 0.001, Outcome.CANCELLED)
    assert metric.load(1.0) == pytest.approx(0.03 * exp(-0.1))
    metric.on_end(2.0, 1.5, Outcome.CANCELLED)
    assert metric.load(2.0) == 1.5


def test_of_a_stream_only_the_failure_counts() -> None:
    """Its length says nothing of latency."""
    metric = _metric()
    subchannel = Subchannel(Endpoint(host="10.0.0.1", port=80), metric)
    attempt = Attempt()
    attempt.subchannel, attempt.started_s, attempt.live = subchannel, 0.0, subchannel.streams
    metric.on_attempt_end(attempt, 100.0, Outcome.SUCCESS)
    metric.on_attempt_end(attempt, 100.0, Outcome.CANCELLED)
    assert metric.load(0.0) == 0.03
    metric.on_attempt_end(attempt, 100.0, Outcome.FAILURE)
    assert metric.load(100.0) == 5.0
    attempt.live = subchannel.unary
    metric.on_attempt_end(attempt, 107.0, Outcome.SUCCESS)
    assert metric.load(107.0) == 107.0


def test_the_forgiven_has_the_default_again() -> None:
    """Who comes back from an ejection has proved itself."""
    metric = _metric()
    metric.on_end(4.0, 0.001, Outcome.FAILURE)
    assert metric.penalised(4.0)
    metric.forgive()
    assert repr(metric) == "<PeakLatency forgiven>"
    assert not metric.penalised(34.0)
    assert metric.load(34.0) == 0.03
    assert metric.load(34.0 + TAU_S) == pytest.approx(0.03 / 2.718281828)
    assert repr(metric) == "<PeakLatency 0.030000 s at 34.000>"
    metric.forgive()
    metric.on_end(90.0, 0.2, Outcome.SUCCESS)
    assert metric.load(90.0) == 0.2


def test_a_failure_is_held_against_it_for_tau() -> None:
    """However slow it is, neither an answer nor who gave up is one; nor is a failure that costs nothing."""
    metric = _metric()
    metric.on_end(1.0, 9.0, Outcome.SUCCESS)
    metric.on_end(1.0, 9.0, Outcome.CANCELLED)
    assert not metric.penalised(1.0)
    metric.on_end(2.0, 0.001, Outcome.FAILURE)
    assert metric.penalised(2.0 + 0.9 * TAU_S)
    assert not metric.penalised(2.0 + TAU_S)
    free = PeakLatency(0.0, 0.03, TAU_S, 0.0)
    free.on_end(2.0, 0.001, Outcome.FAILURE)
    assert not free.penalised(2.0)


def test_a_clock_read_late_by_another_thread_does_no_harm() -> None:
    """An earlier time than the last end's counts as that."""
    metric = _metric()
    metric.on_end(10.0, 0.2, Outcome.SUCCESS)
    assert metric.load(9.0) == 0.2
    metric.on_end(9.0, 0.1, Outcome.SUCCESS)
    assert metric.load(9.0) == 0.2
