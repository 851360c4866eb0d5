"""The live record of an endpoint: exact counts, and what people see of it."""

from __future__ import annotations

from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.load.in_flight import LiveOnly
from tests.unit.pool.bench import pod


def test_in_flight_are_the_live_attempts_of_both_kinds() -> None:
    """Unary attempts and streams are counted apart and add up."""
    sub = Subchannel(pod(1), LiveOnly())
    for live in (sub.unary, sub.unary, sub.streams):
        live.add(Attempt())
    assert (len(sub.unary), len(sub.streams), sub.in_flight) == (2, 1, 3)


def test_the_repr_says_who_it_is_how_busy_and_whether_it_drains() -> None:
    """It is what a debugger shows."""
    sub = Subchannel(pod(1), LiveOnly())
    sub.unary.add(Attempt())
    assert repr(sub) == "<Subchannel pod-1 (10.0.0.1:80) unary=1 streams=0>"
    sub.removed = True
    assert repr(sub).endswith("streams=0 draining>")


def test_the_repr_of_an_attempt_says_whether_it_lives() -> None:
    """Live until it is taken out of the set that counts it."""
    sub = Subchannel(pod(1), LiveOnly())
    attempt = Attempt()
    attempt.subchannel, attempt.live, attempt.started_s = sub, sub.unary, 0.0
    sub.unary.add(attempt)
    assert repr(attempt) == "<Attempt on pod-1 (10.0.0.1:80) live>"
    sub.unary.remove(attempt)
    assert repr(attempt) == "<Attempt on pod-1 (10.0.0.1:80) ended>"


def test_subchannels_and_attempts_are_told_apart_by_what_they_are_not_by_what_they_hold() -> None:
    """Two records of one endpoint, or two attempts on it, are never equal: sets and dicts count them both."""
    assert len({Subchannel(pod(1), LiveOnly()), Subchannel(pod(1), LiveOnly())}) == 2
    assert len({Attempt(), Attempt()}) == 2


def test_a_pick_avoids_nobody_unless_told() -> None:
    """The defaults of what a pick may depend on."""
    assert (PickInfo().method, PickInfo().exclude) == ("", frozenset())


def test_words_for_states_and_outcomes_are_plain_data() -> None:
    """``status()`` and JSON show the values."""
    assert [state.value for state in Connectivity] == ["idle", "connecting", "ready", "transient_failure", "shutdown"]
    assert [outcome.value for outcome in Outcome] == ["success", "failure", "overloaded", "unreachable", "cancelled"]
