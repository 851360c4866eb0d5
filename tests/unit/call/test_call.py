"""A call's decisions: try now, wait and for how long, go elsewhere, or give up and why."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from typing import Any

import pytest

from meshlb.call.call import AGAIN_S, MAX_ELSEWHERE, Call, CallLimits
from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ClosedError, DeadlineExceededError, NoEndpointError, ResolveError, ServiceNotFoundError
from meshlb.load.in_flight import LiveOnly
from meshlb.retry.budget import BudgetSettings, RetryBudget
from meshlb.retry.rules import rules_of
from meshlb.retry.settings import Retry
from meshlb.retry.tries import Failure
from tests.unit.pool.bench import ANY, CONNECTING, READY, TRANSIENT_FAILURE, Bench, cluster_ip, pod, unready

UNREACHABLE = Outcome.UNREACHABLE


class Caller:
    """Plays an adapter: asks at the bench's time, and knows the limits."""

    def __init__(
        self,
        bench: Bench,
        *,
        timeout_s: float | None = None,
        wait_for_ready: bool = False,
        stream: bool = False,
        tokens: float = 100.0,
        exclude: frozenset[Subchannel] = frozenset(),
        retry: Any = "on",
    ) -> None:
        self.bench = bench
        settings = BudgetSettings(ratio=0.0, min_per_s=tokens / 60.0, ttl_s=60.0)
        self.budget = RetryBudget(bench.loop, threading.Lock(), settings=settings)
        limits = CallLimits(self.budget, first_answer_timeout_s=5.0, connect_timeout_s=3.0, rng=bench.rng)
        deadline_s = None if timeout_s is None else bench.loop.now_s() + timeout_s
        info = PickInfo("/shop.Orders/Get", exclude)
        rules = rules_of(Retry.of(retry), info.method)
        self.call = Call(
            bench.view,
            limits,
            info,
            deadline_s=deadline_s,
            wait_for_ready=wait_for_ready,
            stream=stream,
            rules=rules,
            idempotent=rules.idempotent,
        )

    def begin(self) -> Attempt | None:
        return self.call.begin_attempt(self.bench.loop.now_s())

    def sent(self) -> Attempt:
        attempt = self.begin()
        assert attempt is not None
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, failure: Failure | None = None) -> float | None:
        return self.call.end_attempt(attempt, outcome, self.bench.loop.now_s(), failure)

    def waits(self) -> float | None:
        """Seconds for which the adapter is told to wait; None without limit."""
        assert self.begin() is None
        until_s = self.call.wait_until_s
        assert until_s is None or until_s > self.bench.loop.now_s()  # never a hot loop
        return None if until_s is None else until_s - self.bench.loop.now_s()


def connected(*numbers: int) -> Bench:
    bench = Bench()
    bench.publish(*(pod(number) for number in numbers))
    bench.connect(READY, *bench.view.wanted())
    return bench


# --- the ordinary call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not UNREACHABLE])
def test_a_call_that_was_sent_is_over_when_it_ends(outcome: Outcome) -> None:
    """Whatever came of it: it may have been processed."""
    caller = Caller(connected(1, 2))
    attempt = caller.sent()
    assert caller.end(attempt, outcome) is None
    assert attempt.subchannel.in_flight == 0
    assert caller.budget.tokens == 100.0


def test_a_stream_is_counted_as_one() -> None:
    """Unary attempts and streams weigh differently."""
    bench = connected(1)
    Caller(bench, stream=True).sent()
    Caller(bench).sent()
    assert (len(bench.sub(1).streams), len(bench.sub(1).unary)) == (1, 1)


def test_what_the_caller_excludes_is_avoided() -> None:
    """While another is ready."""
    bench = connected(1, 2)
    exclude = frozenset({bench.sub(1)})
    assert {Caller(bench, exclude=exclude).sent().subchannel for _ in range(30)} == {bench.sub(2)}
    bench.connect(CONNECTING, bench.sub(2))
    assert Caller(bench, exclude=exclude).sent().subchannel is bench.sub(1)


# --- waiting for the first answer -----------------------------------------------------------------------------------------


def test_without_a_deadline_the_first_answer_is_waited_for_within_its_limit() -> None:
    """Counted from the first question, however often the caller is woken."""
    bench = Bench()
    caller = Caller(bench)
    assert caller.waits() == 5.0
    bench.loop.advance(4.0)
    assert caller.waits() == 1.0
    bench.loop.advance(1.0)
    with pytest.raises(
        ResolveError, match=r"^orders\.shop: no answer within first_answer_timeout_s=5 \(no source has answered yet\)$"
    ):
        caller.begin()


def test_with_a_deadline_the_first_answer_is_waited_for_until_then() -> None:
    """The user's limit replaces ours, shorter or longer."""
    bench = Bench()
    short, long = Caller(bench, timeout_s=0.5), Caller(bench, timeout_s=60.0)
    assert (short.waits(), long.waits()) == (0.5, 60.0)
    bench.loop.advance(0.5)
    with pytest.raises(DeadlineExceededError, match="no source has answered yet"):
        short.begin()
    assert long.waits() == 59.5


def test_the_answer_ends_the_waiting() -> None:
    """And then the connection is waited for, with a limit of its own, counted from there."""
    bench = Bench()
    caller = Caller(bench)
    caller.waits()
    bench.loop.advance(4.0)
    bench.publish(pod(1))
    assert caller.waits() == 3.0
    bench.loop.advance(2.0)
    bench.connect(READY, bench.sub(1))
    assert caller.sent().subchannel is bench.sub(1)


def test_when_no_source_knows_anything_the_call_fails_at_once_and_says_what_each_answered() -> None:
    """The error is the resolver's, in its kind."""
    bench = Bench()
    bench.pool.on_error(ServiceNotFoundError("orders.shop", ["api: 404", "dns: NXDOMAIN"]))
    for timeout_s in (None, 60.0):
        with pytest.raises(ServiceNotFoundError, match="api: 404; dns: NXDOMAIN"):
            Caller(bench, timeout_s=timeout_s).begin()


def test_calls_that_fail_alike_share_no_error_object() -> None:
    """One object raised again and again would hold the frames of every call that it ended."""
    bench = Bench()
    error = ResolveError("orders.shop", ["dns: SERVFAIL"])
    bench.pool.on_error(error)
    raised = []
    for _ in range(3):
        with pytest.raises(ResolveError) as caught:
            Caller(bench).begin()
        raised.append(caught.value)
    assert len({id(one) for one in [*raised, error]}) == 4
    assert error.__traceback__ is None
    assert len({len(traceback.extract_tb(one.__traceback__)) for one in raised}) == 1


def test_an_answer_counts_more_than_an_error() -> None:
    """A source that fails later takes nothing away."""
    bench = connected(1)
    bench.pool.on_error(ResolveError("orders.shop", ["api: 403"]))
    assert Caller(bench).sent().subchannel is bench.sub(1)


# --- waiting for a connection ---------------------------------------------------------------------------------------------


def test_without_a_deadline_a_connection_is_waited_for_within_its_limit() -> None:
    """Then the call fails and says how the connections are."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    caller = Caller(bench)
    assert caller.waits() == 3.0
    bench.loop.advance(2.5)
    bench.connect(CONNECTING, bench.sub(2))
    assert caller.waits() == 0.5
    bench.loop.advance(0.5)
    said = r"^orders\.shop: no connection within connect_timeout_s=3: 2 endpoints known .* none connected: 1 connecting, 1 idle$"
    with pytest.raises(NoEndpointError, match=said):
        caller.begin()


def test_with_a_deadline_a_connection_is_waited_for_until_then() -> None:
    """As gRPC waits while it connects."""
    bench = Bench()
    bench.publish(pod(1))
    caller = Caller(bench, timeout_s=10.0)
    assert caller.waits() == 10.0
    bench.loop.advance(10.0)
    with pytest.raises(DeadlineExceededError, match=r"^orders\.shop: deadline exceeded while waiting: 1 endpoint known .* 1 idle$"):
        caller.begin()


def test_the_deadline_is_counted_once_over_resolving_waiting_and_every_attempt() -> None:
    """Each attempt gets what is left."""
    bench = Bench()
    caller = Caller(bench, timeout_s=10.0)
    now_s = bench.loop.now_s
    assert caller.call.remaining_s(now_s()) == 10.0
    caller.waits()
    bench.loop.advance(2.0)
    bench.publish(pod(1), pod(2))
    assert caller.waits() == 8.0
    bench.loop.advance(3.0)
    bench.connect(READY, *bench.view.wanted())
    attempt = caller.sent()
    assert caller.call.remaining_s(now_s()) == 5.0
    bench.loop.advance(4.0)
    assert caller.end(attempt, UNREACHABLE) == 0.0
    attempt = caller.sent()
    assert caller.call.remaining_s(now_s()) == 1.0
    bench.loop.advance(1.0)
    assert caller.call.remaining_s(now_s()) == 0.0
    assert caller.end(attempt, Outcome.CANCELLED) is None


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_deadline_that_is_over_before_the_first_attempt_sends_nothing(timeout_s: float) -> None:
    """Even where an endpoint is ready."""
    bench = connected(1)
    with pytest.raises(DeadlineExceededError, match="1 connection ready"):
        Caller(bench, timeout_s=timeout_s).begin()
    assert bench.sub(1).started == 0


def test_a_deadline_that_comes_between_two_attempts_ends_the_call() -> None:
    """No attempt is begun that could only fail."""
    bench = connected(1, 2)
    caller = Caller(bench, timeout_s=1.0)
    attempt = caller.sent()
    bench.loop.advance(1.0)
    assert caller.end(attempt, UNREACHABLE) == 0.0
    with pytest.raises(DeadlineExceededError):
        caller.begin()
    assert caller.call.remaining_s(bench.loop.now_s()) == 0.0


def test_no_ready_endpoint_fails_the_call_at_once_and_says_so() -> None:
    """Zero pods, or none of them ready: waiting would be waiting for a deployment."""
    for endpoints in ((), (unready(1), unready(2))):
        bench = Bench()
        bench.publish(*endpoints)
        with pytest.raises(NoEndpointError, match=f"{len(endpoints)} endpoints known from kubernetes, none ready"):
            Caller(bench, timeout_s=60.0).begin()


# --- nothing can be connected ---------------------------------------------------------------------------------------------


def test_when_nothing_is_connectable_a_call_makes_one_attempt_and_no_second() -> None:
    """It hears the transport's own reason; there is no amplification, and nothing is taken from the bucket."""
    bench = Bench()
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
    caller = Caller(bench)
    attempt = caller.sent()
    assert caller.end(attempt, UNREACHABLE) is None
    assert sum(sub.started for sub in bench.view.wanted()) == 1
    assert caller.budget.tokens == 100.0


def test_the_calls_spread_their_one_attempt_over_all_endpoints() -> None:
    """Each of them may be the first to be back."""
    bench = Bench()
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
    assert {Caller(bench).sent().subchannel for _ in range(60)} == set(bench.view.wanted())


def test_the_last_endpoint_that_turns_out_unreachable_ends_the_call() -> None:
    """There is nowhere else to go."""
    bench = connected(1)
    caller = Caller(bench)
    assert caller.end(caller.sent(), UNREACHABLE) is None
    assert caller.budget.tokens == 100.0


def test_while_the_fallback_connects_calls_wait_for_it() -> None:
    """All pods failed, the ClusterIP is on its way."""
    bench = Bench()
    bench.publish(pod(1), fallback=[cluster_ip(0)])
    bench.connect(READY, bench.sub(1))
    caller = Caller(bench)
    assert caller.end(caller.sent(), UNREACHABLE) == 0.0
    assert caller.waits() == 3.0
    bench.connect(READY, bench.spare(0))
    assert caller.sent().subchannel is bench.spare(0)


def test_a_call_that_waited_and_then_finds_all_failed_tries_one() -> None:
    """The wait is over when the last endpoint has failed."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    caller = Caller(bench)
    caller.waits()
    bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
    assert caller.sent() is not None


# --- wait_for_ready -------------------------------------------------------------------------------------------------------


def test_wait_for_ready_waits_for_everything_without_limit() -> None:
    """For the first answer, despite an error, for a ready pod, for a connection, and while all fail."""
    bench = Bench()
    caller = Caller(bench, wait_for_ready=True)
    assert caller.waits() is None
    bench.pool.on_error(ResolveError("orders.shop", ["dns: SERVFAIL"]))
    bench.loop.advance(3600.0)
    assert caller.waits() is None
    bench.publish()
    assert caller.waits() is None
    bench.publish(pod(1))
    bench.loop.advance(3600.0)
    assert caller.waits() is None
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    assert caller.waits() is None
    bench.connect(READY, bench.sub(1))
    assert caller.sent().subchannel is bench.sub(1)


def test_wait_for_ready_ends_with_the_deadline() -> None:
    """In each of these states."""
    for states in ((), (pod(1),)):
        bench = Bench()
        if states:
            bench.publish(*states)
            bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
        caller = Caller(bench, wait_for_ready=True, timeout_s=2.0)
        assert caller.waits() == 2.0
        bench.loop.advance(2.0)
        with pytest.raises(DeadlineExceededError):
            caller.begin()


def test_wait_for_ready_waits_again_after_an_unreachable_endpoint() -> None:
    """Where another call would give up, since nothing else is connectable."""
    bench = connected(1)
    caller = Caller(bench, wait_for_ready=True)
    assert caller.end(caller.sent(), UNREACHABLE) == 0.0
    assert caller.waits() is None
    bench.connect(READY, bench.sub(1))
    assert caller.sent().subchannel is bench.sub(1)  # tried before, and there is no other


def test_wait_for_ready_waits_again_however_often_an_endpoint_is_lost() -> None:
    """Neither the limit nor an empty bucket ends it; from then on it pauses before each try, and never beyond its deadline."""
    bench = connected(1, 2)
    caller = Caller(bench, wait_for_ready=True, tokens=1.0, timeout_s=1.02)
    assert caller.end(caller.sent(), UNREACHABLE) == 0.0
    for _ in range(20):
        bench.connect(READY, *bench.view.wanted())
        assert caller.end(caller.sent(), UNREACHABLE) == AGAIN_S
        bench.connect(READY, *bench.view.wanted())
        assert caller.waits() is not None
        bench.loop.advance(AGAIN_S)
    assert caller.budget.tokens == 0.0
    assert caller.end(caller.sent(), UNREACHABLE) == AGAIN_S
    assert 0.0 < (caller.waits() or 0.0) < AGAIN_S
    bench.loop.advance(0.03)
    with pytest.raises(DeadlineExceededError):
        caller.begin()


# --- elsewhere ------------------------------------------------------------------------------------------------------------


class Stubborn:
    """Always the first that is not to be avoided: whoever tries another was told to."""

    name = "stubborn"

    def __init__(self, subchannels: Sequence[Subchannel] = ()) -> None:
        self._subchannels = subchannels

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Stubborn:
        return Stubborn(subchannels)

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel:
        return next(sub for sub in self._subchannels if sub not in info.exclude)


def test_what_never_left_goes_elsewhere_at_most_twice_each_time_to_another_endpoint() -> None:
    """Three endpoints see the call; it is paid for twice. Even if each is ready again by then."""
    bench = Bench()
    bench.pool.balancer.policy = Stubborn()
    bench.publish(pod(1), pod(2), pod(3), pod(4))
    bench.connect(READY, *bench.view.wanted())
    caller = Caller(bench)
    tried, again = [], []
    for _ in range(3):
        attempt = caller.sent()
        tried.append(attempt.subchannel)
        again.append(caller.end(attempt, UNREACHABLE))
        bench.connect(READY, attempt.subchannel)
    assert tried == [bench.sub(1), bench.sub(2), bench.sub(3)]
    assert again == [0.0, 0.0, None]
    assert caller.budget.tokens == 98.0
    assert MAX_ELSEWHERE == 2


def test_what_the_caller_excludes_stays_excluded_elsewhere() -> None:
    """The call's own exclusions come on top, and the method stays."""
    bench = Bench()
    bench.pool.balancer.policy = Stubborn()
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(READY, *bench.view.wanted())
    caller = Caller(bench, exclude=frozenset({bench.sub(1)}))
    first = caller.sent()
    assert caller.end(first, UNREACHABLE) == 0.0
    assert [first.subchannel, caller.sent().subchannel] == [bench.sub(2), bench.sub(3)]
    assert caller.call.info.method == ANY.method


@pytest.mark.parametrize("policy", ["random", "round_robin", "p2c", "maglev"])
def test_a_retry_does_not_return_while_only_the_callers_wish_speaks_against_the_others(policy: str) -> None:
    """Two pods, one of which the caller wants to avoid: the other fails, so the retry goes where it was not."""
    for seed in range(20):
        bench = Bench(policy, seed=seed)
        bench.publish(pod(1), pod(2))
        bench.connect(READY, *bench.view.wanted())
        caller = Caller(bench, exclude=frozenset({bench.sub(2)}), retry={**IDEMPOTENT, "wait": lambda state: 0.0})
        first = caller.sent()
        assert caller.end(first, Outcome.FAILURE, LOST) == 0.0
        assert [first.subchannel, caller.sent().subchannel] == [bench.sub(1), bench.sub(2)]


def test_an_empty_bucket_ends_the_call() -> None:
    """With what it got."""
    bench = connected(1, 2, 3)
    caller = Caller(bench, tokens=1.0)
    assert caller.end(caller.sent(), UNREACHABLE) == 0.0
    assert caller.end(caller.sent(), UNREACHABLE) is None


def test_an_attempt_ended_twice_counts_once() -> None:
    """In flight, that is; the call does not go elsewhere for a second report either."""
    bench = connected(1, 2, 3)
    caller = Caller(bench)
    attempt = caller.sent()
    caller.end(attempt, Outcome.SUCCESS)
    caller.end(attempt, Outcome.SUCCESS)
    assert attempt.subchannel.in_flight == 0


# --- once more -------------------------------------------------------------------------------------------------------------

IDEMPOTENT = {"idempotent": ["*"]}
LOST = Failure("UNAVAILABLE", lost=True)


def test_another_attempt_waits_for_its_time_and_goes_elsewhere() -> None:
    """The delay is what it answers, and what the adapter is told to wait; nobody may begin before."""
    bench = Bench()
    bench.pool.balancer.policy = Stubborn()
    bench.publish(pod(1), pod(2))
    bench.connect(READY, *bench.view.wanted())
    caller = Caller(bench, retry={**IDEMPOTENT, "wait": lambda state: 0.5})
    first = caller.sent()
    assert caller.end(first, Outcome.FAILURE, LOST) == 0.5
    assert caller.call.previous_attempts == 1
    assert caller.waits() == 0.5
    bench.loop.advance(0.25)
    assert caller.waits() == 0.25
    bench.loop.advance(0.25)
    second = caller.sent()
    assert [first.subchannel, second.subchannel] == [bench.sub(1), bench.sub(2)]
    assert caller.end(second, Outcome.SUCCESS) is None
    assert caller.budget.granted == 1


def test_the_budget_is_the_last_who_is_asked_and_covers_every_tier() -> None:
    """What is refused for another reason costs nothing; one token pays for one attempt of either tier."""
    bench = connected(1, 2, 3)
    assert Caller(bench, retry=IDEMPOTENT).end(Caller(bench).sent(), Outcome.FAILURE, Failure("INTERNAL")) is None
    caller = Caller(bench, retry=IDEMPOTENT, tokens=2.0)
    assert caller.end(caller.sent(), UNREACHABLE) == 0.0
    assert caller.end(caller.sent(), Outcome.FAILURE, LOST) is not None
    bench.loop.advance(1.0)
    bench.connect(READY, *bench.view.wanted())
    assert caller.end(caller.sent(), Outcome.FAILURE, LOST) is None
    assert "(no more: the target's retry budget)" in caller.call.story()
    assert (caller.budget.granted, caller.budget.refused) == (2, 1)


def test_off_goes_nowhere_else() -> None:
    """Not even what never left; a call that waits for readiness goes on waiting."""
    bench = connected(1, 2)
    caller = Caller(bench, retry={"enabled": False, "idempotent": ["*"]})
    assert caller.end(caller.sent(), UNREACHABLE) is None
    bench.connect(READY, *bench.view.wanted())
    assert caller.end(caller.sent(), Outcome.FAILURE, LOST) is None
    assert Caller(bench, retry="off", wait_for_ready=True).end(Caller(bench).sent(), UNREACHABLE) == AGAIN_S
    assert caller.budget.granted == 0


def test_an_attempt_may_take_its_own_limit_or_what_is_left() -> None:
    """Whichever is shorter."""
    bench = connected(1)
    caller = Caller(bench, timeout_s=1.0, retry={"per_try_timeout_s": 0.4})
    attempt = caller.sent()
    assert caller.call.attempt_timeout_s(bench.loop.now_s()) == 0.4
    assert not caller.call.timed_out(attempt, bench.loop.now_s())
    bench.loop.advance(0.75)
    assert caller.call.timed_out(attempt, bench.loop.now_s())
    assert caller.call.attempt_timeout_s(bench.loop.now_s()) == 0.25
    assert Caller(bench, retry={"per_try_timeout_s": 0.4}).call.attempt_timeout_s(bench.loop.now_s()) == 0.4
    assert Caller(bench).call.attempt_timeout_s(bench.loop.now_s()) is None


def test_a_view_that_closes_ends_a_back_off() -> None:
    """Nobody waits for an attempt that cannot be."""
    bench = connected(1, 2)
    caller = Caller(bench, timeout_s=1.0, retry={**IDEMPOTENT, "wait": lambda state: 0.875})
    assert caller.end(caller.sent(), Outcome.FAILURE, LOST) == 0.875
    assert caller.waits() == 0.875
    bench.view.close()
    with pytest.raises(ClosedError):
        caller.begin()


def test_the_story_is_short_and_says_what_was_tried() -> None:
    """Nothing where there was one attempt and no word against another."""
    bench = connected(1, 2)
    caller = Caller(bench, retry=IDEMPOTENT)
    caller.end(caller.sent(), Outcome.FAILURE, Failure("INTERNAL"))
    assert caller.call.story() == ""
    waiting = Caller(bench, wait_for_ready=True, tokens=0.0)
    for _ in range(50):
        bench.connect(READY, *bench.view.wanted())
        waiting.end(waiting.sent(), UNREACHABLE)
        bench.loop.advance(AGAIN_S)
    assert waiting.call.story().count("never sent") <= 9


# --- closing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait_for_ready", [False, True])
def test_a_call_on_a_closed_view_waits_for_nothing(wait_for_ready: bool) -> None:
    """It would wait for ever: nobody reports connections any more."""
    bench = Bench()
    waiting = Caller(bench, wait_for_ready=wait_for_ready)
    waiting.waits()
    bench.view.close()
    for caller in (waiting, Caller(bench, wait_for_ready=wait_for_ready)):
        with pytest.raises(ClosedError, match=r"orders\.shop"):
            caller.begin()
