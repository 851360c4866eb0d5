"""The owner of ejection: probes, stragglers, forgetting, a clock that jumps, and what it says of itself."""

from __future__ import annotations

import logging
import random
import threading

import pytest

from meshlb.core.outcome import Outcome
from meshlb.health.ejection import Ejector
from meshlb.health.outlier import Outlier
from meshlb.health.relative import PATIENT_FOR
from tests.support.outliers import Drawn, Field, subchannel

FAILURE = Outcome.FAILURE
CANCELLED = Outcome.CANCELLED
OVERLOADED = Outcome.OVERLOADED
HOUR_S = 3600.0


def _ready_for_its_probe() -> Field:
    field = Field(3)
    field.eject(0)
    field.run(1.0)
    assert field.probing == {0}
    return field


def test_a_probe_is_due_when_the_time_is_over_and_not_before() -> None:
    """``probing`` holds it then, and ``claim`` says yes to one caller; it stays in ``out`` until the probe succeeds."""
    field = Field(3)
    field.eject(0)
    assert (field.probing, field.claim(0)) == (set(), False)
    due_s = field.ejector.due_s()
    assert due_s is not None
    assert field.now_s < due_s <= field.now_s + 1.0
    field.now_s = due_s
    assert field.ejector.tick(due_s) is True
    assert (field.probing, field.out) == ({0}, {0})
    assert [field.claim(0) for _ in range(3)] == [True, False, False]
    assert field.ejector.tick(due_s) is False


def test_of_many_threads_one_gets_the_probe() -> None:
    """No lock, one winner; a hundred times."""
    for _ in range(100):
        field = _ready_for_its_probe()
        won: list[bool] = []
        go = threading.Barrier(4)

        def claim(field: Field = field, won: list[bool] = won, go: threading.Barrier = go) -> None:
            go.wait()
            won.extend(field.claim(0) for _ in range(5))

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) == 1


def test_the_probes_success_brings_it_back() -> None:
    """And nobody has to be told how its attempts end any more."""
    field = _ready_for_its_probe()
    assert field.subs[0].watched
    assert field.claim(0)
    assert field.ejector.heard(field.subs[0], Outcome.SUCCESS, field.now_s, field.now_s + 0.1) is True
    assert (field.out, field.probing, field.subs[0].watched) == (set(), set(), False)
    assert field.ejector.why(field.subs[0], field.now_s) is None


@pytest.mark.parametrize("outcome", [FAILURE, OVERLOADED, Outcome.UNREACHABLE])
def test_the_probes_failure_sends_it_out_again_for_longer(outcome: Outcome) -> None:
    """Overload included: it cannot take work. The reason remembers the first."""
    field = _ready_for_its_probe()
    assert field.claim(0)
    field.end(0, outcome)
    why = field.ejector.why(field.subs[0], field.now_s)
    assert why is not None
    assert (why["until_s"], why["times"], why["state"]) == (2.0, 2, "ejected")
    assert why["since_s"] == pytest.approx(1.0, abs=0.05)  # the whole stay
    assert str(why["reason"]).startswith("its probe failed; before: 20 failures in a row")
    assert (field.out, field.probing) == ({0}, set())


def test_stragglers_decide_nothing() -> None:
    """Attempts that began before the claim: their success brings nothing back, their failure makes nothing longer."""
    field = _ready_for_its_probe()
    field.end(0, began_s=field.now_s - 5.0)
    field.end(0)  # also not without a claim
    assert field.out == {0}
    field.now_s += 0.5
    assert field.claim(0)
    field.end(0, FAILURE, began_s=field.now_s - 0.1)
    field.end(0, began_s=field.now_s - 0.1)
    assert (field.out, field.probing) == ({0}, {0})
    field.end(0)
    assert field.out == set()


def test_stragglers_that_fail_after_its_return_do_not_count() -> None:
    """Calls that hung since before it was ejected say nothing of what it is now."""
    field = _ready_for_its_probe()
    assert field.claim(0)
    field.end(0)
    field.end(0, FAILURE, times=50, began_s=field.now_s - 1.5)
    field.run(1.0)
    assert field.out == set()


def test_a_probe_that_is_cancelled_gives_its_place_away() -> None:
    """It said nothing; the third in a row counts as failed, since callers give up on what does not answer."""
    field = _ready_for_its_probe()
    for _ in range(2):
        assert field.claim(0)
        assert not field.claim(0)
        field.end(0, CANCELLED)
        assert (field.out, field.probing) == ({0}, {0})
    assert field.claim(0)
    field.end(0, CANCELLED)
    assert (field.out, field.probing) == ({0}, set())


def test_a_probe_that_never_ends_holds_the_place_for_a_while_only() -> None:
    """Ten seconds; then another may go, and whichever ends first decides."""
    field = _ready_for_its_probe()
    assert field.claim(0)
    first_s = field.now_s
    field.now_s += 9.9
    assert not field.claim(0)
    field.now_s += 0.2
    assert [field.claim(0), field.claim(0)] == [True, False]
    field.end(0, began_s=first_s)
    assert field.out == set()


def test_a_claim_for_somebody_who_is_in_or_unknown_is_refused() -> None:
    """False, never an error."""
    field = Field(2)
    assert not field.claim(0)
    assert not field.ejector.claim(subchannel(9), field.now_s)


@pytest.mark.parametrize("mode", ["on", "envoy", "grpc"])
def test_who_is_gone_is_forgotten(mode: str) -> None:
    """Its state with it: should it come back it is in, and has never been out."""
    field = Field(10, Outlier(mode=mode))
    field.all_succeed(200)
    field.fail(0, 200)
    field.run(10.5) if mode != "on" else field.run(0.2)
    assert field.out == {0}
    field.members(*range(1, 10))
    assert field.out == set()
    field.members(*range(10))
    assert field.out == set()
    assert field.ejector.why(field.subs[0], field.now_s) is None
    assert not field.subs[0].watched


def test_membership_that_changes_nothing_is_no_news() -> None:
    """The pool need not build its pickers anew."""
    field = Field(3)
    assert field.ejector.know(field.subs, field.now_s) is False
    field.eject(0)
    assert field.ejector.know(field.subs, field.now_s) is False
    assert field.ejector.know(field.subs[1:], field.now_s) is True


def test_a_clock_that_jumps_back_keeps_nobody_out_for_longer() -> None:
    """By an hour: the time that was left is still left, on the new clock."""
    field = Field(3, Outlier(base_ejection_s=30.0))
    field.eject(0)
    field.run(10.0)
    field.now_s -= HOUR_S
    field.ejector.tick(field.now_s)
    why = field.ejector.why(field.subs[0], field.now_s)
    due_s = field.ejector.due_s()
    assert why is not None
    assert due_s is not None
    assert float(str(why["until_s"])) == pytest.approx(20.0, abs=0.2) == due_s - field.now_s
    field.run(21.0)
    assert field.probing == {0}
    assert field.claim(0)
    field.end(0, began_s=field.now_s + HOUR_S)  # began before the jump, so long before the claim
    assert field.out == {0}
    field.end(0)
    assert field.out == set()


def test_after_a_jump_a_tick_at_the_very_moment_it_is_due_does_its_work() -> None:
    """However the sums are rounded: else a timer that fires on time would fire again at once, for ever."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(200):
        field = Field(3)
        field.now_s += rng.random()
        field.eject(0)
        field.now_s -= 1e6 * rng.random()
        field.ejector.tick(field.now_s)
        due_s = field.ejector.due_s()
        assert due_s is not None
        field.ejector.tick(due_s)
        assert field.probing == {0}


def test_two_threads_that_read_the_clock_in_another_order_are_no_jump() -> None:
    """Some milliseconds back: nothing moves."""
    field = Field(3)
    field.eject(0)
    due_s = field.ejector.due_s()
    field.ejector.tick(field.now_s - 0.005)
    assert field.ejector.due_s() == due_s


def test_off_does_nothing() -> None:
    """No tick, nobody out, whatever fails."""
    field = Field(3, Outlier(mode="off"))
    field.fail(0, 1000)
    field.run(10.0)
    assert (field.out, field.ejector.due_s(), field.claim(0)) == (set(), None, False)
    assert field.ejector.describe() == {"mode": "off"}
    assert field.ejector.why(field.subs[0], field.now_s) is None


def test_it_explains_itself() -> None:
    """Since when, until when, why and how often, in plain data; and repr shows the state."""
    field = Field(3)
    field.eject(0)
    field.run(0.4)
    assert field.ejector.why(field.subs[0], field.now_s) == {
        "state": "ejected",
        "reason": "20 failures in a row",
        "since_s": 0.41,
        "until_s": 0.59,
        "times": 1,
    }
    field.run(0.6)
    assert field.claim(0)
    assert (field.ejector.why(field.subs[0], field.now_s) or {})["state"] == "waits for its probe to end"
    assert field.ejector.describe() == {
        "mode": "on",
        "panic": False,
        "probing": 1,
        "out": 1,
        "ejections": {"consecutive_failures": 1},
        "not_enforced": {},
        "refused": 0,
        "returns": 0,
    }
    assert repr(field.ejector) == "<Ejector on out=1 probing=1 due_s=None>"


def test_to_be_asked_why_leaves_no_trace() -> None:
    """``status()`` asks without the pool's lock, also of an endpoint that is just being forgotten."""
    field = _ready_for_its_probe()
    standing = field.ejector._book.standing
    standing.clear()
    assert (field.ejector.why(field.subs[0], field.now_s) or {})["times"] == 0
    assert not standing


def test_each_that_goes_and_comes_back_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """With the endpoint, the time and the reason."""
    with caplog.at_level(logging.INFO, "meshlb.health"):
        field = _ready_for_its_probe()
        field.claim(0)
        field.end(0)
    assert caplog.messages == [
        "pod-0 (10.0.0.1:80) is ejected for 1 s: 20 failures in a row",
        "pod-0 (10.0.0.1:80) is back after 1.01 s: its probe succeeded",
    ]


def test_a_storm_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines at once and one a second; the next one says how many were left out."""
    with caplog.at_level(logging.INFO, "meshlb.health"):
        field = Field(100)
        field.all_succeed(50)
        for i in range(30):
            field.fail(i, 40)
        field.run(0.2)
        assert len(field.out) == 30
        assert len(caplog.messages) == 10
        field.run(1.3)
        assert field.claim(0)
        field.end(0)
    assert "is back" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("(20 lines like this were left out)")


def test_success_pays_nothing_until_something_failed() -> None:
    """Nobody who is in is watched, in any mode: the hot path adds one to an integer and no more."""
    for mode in ("on", "envoy", "grpc", "off"):
        ejector = Ejector(Outlier(mode=mode), Drawn())
        subs = [subchannel(i) for i in range(3)]
        ejector.know(subs, 0.0)
        ejector.heard(subs[0], FAILURE, 0.0, 0.0)
        assert not any(sub.watched for sub in subs)


@pytest.mark.parametrize(("n", "calls"), [(2, 6), (10, 30), (200, 100)])
def test_who_calls_rarely_probes_after_some_calls_and_not_after_each_pause(n: int, calls: int) -> None:
    """Three for each endpoint and 100 at most, those included that were made while its time was not over; and again after each failure."""
    field = Field(n)
    field.eject(0)
    for made_before in (0, calls // 2):
        field.subs[1].started += made_before
        field.run(120.0)
        assert field.probing == {0}
        for _ in range(calls - made_before):
            assert not field.claim(0, busy=False)
            field.run(30.0)
        assert [field.claim(0, busy=False) for _ in range(2)] == [True, False]
        field.fail(0)
    field.run(120.0)
    assert field.claim(0)


def test_calls_to_endpoints_that_are_gone_are_not_made_up_for() -> None:
    """With them their counts are gone: what is left is waited for once."""
    field = Field(3)
    field.subs[2].started = 10_000
    field.eject(0)
    field.members(0, 1)
    field.run(120.0)
    assert [field.claim(0, busy=False) for _ in range(7)] == [False] * 6 + [True]


def test_while_the_others_fail_too_nobody_waits_for_calls() -> None:
    """What is out may be the capacity that they lack."""
    field = Field(10)
    field.eject(0)
    for _ in range(5):
        field.all_succeed(2)
        for i in range(1, 10):
            field.fail(i)
        field.run(0.25)
    assert field.out == {0}
    field.run(1.0)
    assert field.claim(0, busy=False)


def test_a_call_for_which_all_others_are_full_does_not_wait_for_other_calls() -> None:
    """Only for the time; and it is one call, as ever."""
    field = Field(10)
    field.eject(0)
    assert not field.ejector.claim(field.subs[0], field.now_s, alone=True)
    field.run(1.0)
    assert not field.claim(0, busy=False)
    assert [field.ejector.claim(field.subs[0], field.now_s, alone=True) for _ in range(2)] == [True, False]


def test_calls_are_waited_for_no_longer_than_sixty_times_the_longest_ejection() -> None:
    """After its time is over; each failure begins this anew."""
    field = Field(10, Outlier(max_ejection_s=2.0))
    field.eject(0)
    for out_s in (1.0, 2.0):
        field.run(out_s + 2.0 * PATIENT_FOR - 0.5)
        assert not field.claim(0, busy=False)
        field.run(0.5)
        assert field.claim(0, busy=False)
        field.fail(0)


def test_it_says_how_many_calls_a_probe_waits_for() -> None:
    """One less with each that is picked; to be asked is none of them."""
    field = Field(2)
    field.eject(0)

    def state() -> object:
        return (field.ejector.why(field.subs[0], field.now_s) or {})["state"]

    assert state() == "ejected"
    field.run(1.0)
    assert [state(), state()] == ["waits for 6 more calls, then for a probe"] * 2
    for _ in range(5):
        assert not field.claim(0, busy=False)
    assert state() == "waits for 1 more call, then for a probe"
    assert not field.claim(0, busy=False)
    assert state() == "waits for a probe"
    assert field.claim(0, busy=False)
    assert state() == "waits for its probe to end"
