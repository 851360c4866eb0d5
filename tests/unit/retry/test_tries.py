"""Whether and when another attempt follows one that was sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from meshlb.retry.rules import Rules, rules_of
from meshlb.retry.settings import MethodRetry, Retry
from meshlb.retry.tries import MIN_LEFT_S, Failure, Tries

GET = "/shop.Orders/Get"
HALF: Any = SimpleNamespace(random=lambda: 0.5)
LOST = Failure("UNAVAILABLE", lost=True)


def rules(**said: Any) -> Rules:
    return rules_of(Retry.of(said), GET)


def tries(*, idempotent: bool | None = None, **said: Any) -> Tries:
    own = rules(**said)
    return Tries(own, idempotent=own.idempotent if idempotent is None else idempotent, started_s=100.0)


def ask(one: Tries, failure: Failure = LOST, *, now_s: float = 100.0, deadline_s: float | None = None) -> float | None:
    return one.delay_s(failure, now_s, deadline_s, HALF, None)


def test_what_may_have_been_processed_is_for_idempotent_calls() -> None:
    """Whatever the status is called."""
    assert ask(tries()) is None
    assert ask(tries(idempotent=True)) == 0.0125
    assert ask(tries(idempotent=True), Failure("INTERNAL", lost=True)) == 0.0125
    assert ask(tries(idempotent=True), Failure("INTERNAL")) is None


def test_named_codes_are_for_all_unless_the_server_began_to_answer() -> None:
    """A6: its initial metadata commits the call; an idempotent one goes on, when it was lost."""
    assert ask(tries(codes=["ABORTED"]), Failure("ABORTED")) == 0.0125
    assert ask(tries(codes=["ABORTED"]), Failure("UNAVAILABLE", lost=True)) is None
    assert ask(tries(codes=["ABORTED"]), Failure("ABORTED", answered=True)) is None
    assert ask(tries(codes=["UNAVAILABLE"], idempotent=True), Failure("UNAVAILABLE", lost=True, answered=True)) == 0.0125


def test_attempts_are_counted_with_the_first() -> None:
    """Three: two more after it, with growing delays."""
    one = tries(idempotent=True)
    assert [ask(one), ask(one), ask(one)] == [0.0125, 0.025, None]
    assert (one.sent, one.why) == (3, "max_attempts=3")
    assert ask(tries(idempotent=True, max_attempts=1)) is None


def test_a_pushback_is_exactly_that_time_and_the_back_off_starts_over() -> None:
    """And a refusal ends it, for named codes as for idempotent calls."""
    one = tries(idempotent=True, max_attempts=5)
    assert [ask(one), ask(one)] == [0.0125, 0.025]
    assert ask(one, Failure("UNAVAILABLE", lost=True, pushback_s=3.0)) == 3.0
    assert ask(one) == 0.0125
    one = tries(idempotent=True)
    assert ask(one, Failure("UNAVAILABLE", lost=True, pushback_s=-1.0)) is None
    assert one.why == "the server's grpc-retry-pushback-ms refuses"
    assert ask(tries(), Failure("UNAVAILABLE", pushback_s=0.1)) is None  # a wish makes nothing retryable


def test_no_attempt_begins_that_the_deadline_would_leave_no_time_for() -> None:
    """At least MIN_LEFT_S is left for it when its delay is over."""
    assert ask(tries(idempotent=True), deadline_s=100.0125 + 2 * MIN_LEFT_S) == 0.0125
    one = tries(idempotent=True)
    assert ask(one, deadline_s=100.0125 + MIN_LEFT_S / 2) is None
    assert one.why == "the deadline"
    assert ask(tries(idempotent=True), Failure("UNAVAILABLE", lost=True, pushback_s=5.0), deadline_s=104.0) is None


def test_the_most_specific_word_counts_field_by_field() -> None:
    """The method's, its service's, gRPC's policy, then the channel's."""
    retry = Retry.of(
        {
            "codes": ["ABORTED"],
            "max_attempts": 4,
            "per_try_timeout_s": 9,
            "methods": {GET: {"max_attempts": 2}, "/shop.Orders/*": {"max_attempts": 3, "per_try_timeout_s": 1}},
        }
    )
    lifted = MethodRetry(codes=("UNAVAILABLE",), max_attempts=5, base_s=0.1, max_s=0.1, multiplier=1.0)
    own = rules_of(retry, GET, lifted)
    assert (own.max_attempts, own.per_try_timeout_s, own.codes) == (2, 1.0, {"UNAVAILABLE"})
    assert own.backoff.delay_s(1, HALF) == pytest.approx(0.1)  # a6: 0.8 + 0.4 / 2
    other = rules_of(retry, "/shop.Carts/Get")
    assert (other.max_attempts, other.per_try_timeout_s, other.codes) == (4, 9.0, {"ABORTED"})
    assert rules_of(retry, GET, per_try=False).per_try_timeout_s == 0.0


def test_what_may_retry_is_known_before_anything_failed() -> None:
    """So that only such calls pay for it."""
    assert not rules().retries
    assert rules(codes=["ABORTED"]).retries
    assert not rules(codes=["ABORTED"], max_attempts=1).retries
    assert not rules(codes=["ABORTED"], enabled=False).retries
    assert rules(idempotent=["*"], max_attempts=1, stop=tenacity.stop_after_attempt(7)).retries
    said = rules(idempotent_metadata="X-Safe")
    assert [said.may_retry(metadata) for metadata in (None, (("x-safe", "1"),), (("x-safe", "no"),))] == [False, True, False]
    declared = rules(idempotent_metadata="x-safe", idempotent=["*"])
    assert [declared.is_idempotent(metadata) for metadata in ((), (("x-safe", "0"),))] == [True, False]


# --- tenacity --------------------------------------------------------------------------------------------------------------------


def test_tenacitys_stop_and_wait_are_asked_when_an_attempt_is_due() -> None:
    """With the state that they know: the number of the attempt, the time since the first, the delay that is planned."""
    one = tries(
        idempotent=True,
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(50),
        wait=tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)) + tenacity.wait_incrementing(0, 1),
    )
    assert [ask(one), ask(one), ask(one), ask(one)] == [1.0, 3.0, 4.0, None]
    assert one.why == "the configured stop"
    slow = tries(idempotent=True, stop=tenacity.stop_after_delay(50))
    assert ask(slow, now_s=149.0) == 0.0125
    assert ask(slow, now_s=150.0) is None


@pytest.mark.parametrize(
    ("wait", "low_s", "high_s"),
    [
        (tenacity.wait_none(), 0.0, 0.0),
        (tenacity.wait_random(1, 2), 1.0, 2.0),
        (tenacity.wait_exponential(multiplier=0.5, max=10), 0.5, 0.5),
        (tenacity.wait_random_exponential(multiplier=0.5, max=10), 0.0, 0.5),
        (tenacity.wait_exponential_jitter(1, 10), 1.0, 2.0),
        (lambda state: -5.0, 0.0, 0.0),
    ],
    ids=["none", "random", "exponential", "random exponential", "exponential jitter", "a callable"],
)
def test_every_wait_of_tenacity_is_understood(wait: Any, low_s: float, high_s: float) -> None:
    """And any callable of the kind; a negative time is none."""
    delay_s = ask(tries(idempotent=True, wait=wait))
    assert delay_s is not None
    assert low_s <= delay_s <= high_s


def test_waits_and_stops_may_look_at_the_error_and_the_planned_delay() -> None:
    """``stop_before_delay`` and ``wait_exception``, where this tenacity has them."""
    error = ValueError("the caller's")
    if hasattr(tenacity, "wait_exception"):
        wait = tenacity.wait_exception(lambda raised: 7.0 if raised is error else 0.0)
        assert ask(tries(idempotent=True, wait=wait), Failure("UNAVAILABLE", lost=True, error=lambda: error)) == 7.0
    if hasattr(tenacity, "stop_before_delay"):
        assert ask(tries(idempotent=True, wait=tenacity.wait_fixed(5), stop=tenacity.stop_before_delay(5))) is None
        assert ask(tries(idempotent=True, wait=tenacity.wait_fixed(5), stop=tenacity.stop_before_delay(6))) == 5.0


def test_a_wait_for_ever_ends_the_call() -> None:
    """Infinite, or no number at all."""
    for wait_s in (float("inf"), float("nan")):
        assert ask(tries(idempotent=True, wait=lambda state, wait_s=wait_s: wait_s)) is None
