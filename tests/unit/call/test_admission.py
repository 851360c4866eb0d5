"""A call's way past its limits, in virtual time: in turn, for so long, and with nothing left behind."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import pytest

from meshlb.call.call import Call, CallLimits
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.errors import DeadlineExceededError, NoEndpointError, OverLimitError
from meshlb.limit.gates import Gates
from meshlb.limit.settings import Limits
from meshlb.pool.limited_view import LimitedView
from meshlb.retry.budget import RetryBudget
from meshlb.retry.rules import rules_of
from meshlb.retry.settings import Retry
from meshlb.retry.tries import Failure
from tests.unit.pool.bench import READY, TRANSIENT_FAILURE, Bench, pod

GET, REPORT = "/shop.Orders/Get", "/shop.Orders/Report"
CANCELLED = Outcome.CANCELLED


class Shop:
    """A pool with limits, in virtual time."""

    def __init__(self, pods: int = 2, **limits: Any) -> None:
        self.limits = Limits.of(limits)
        self.bench = Bench(max_in_flight=self.limits.max_in_flight_per_endpoint)
        self.gates = Gates(self.limits, threading.Lock)
        self.bench.publish(*(pod(number) for number in range(1, pods + 1)))
        self.bench.connect(READY, *self.bench.view.wanted())
        self.calls: list[Caller] = []

    def call(self, method: str = GET, **arguments: Any) -> Caller:
        """One that asked for the first time."""
        caller = self.idle_call(method, **arguments)
        caller.ask()
        return caller

    def idle_call(self, method: str = GET, **arguments: Any) -> Caller:
        """One that has not asked yet."""
        caller = Caller(self, method, **arguments)
        self.calls.append(caller)
        return caller

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """In flight, waiting and rejected, by the limit's path."""
        return {said["limit"]: (said["in_flight"], said["waiting"], said["rejected"]) for said in self.gates.describe()}

    @property
    def in_flight(self) -> int:
        return sum(sub.in_flight for sub in self.bench.pool.snapshot.listed)

    def nothing_is_left(self) -> bool:
        for caller in self.calls:
            caller.end()
        line = not self.bench.view.line.inside if isinstance(self.bench.view, LimitedView) else True
        return line and self.in_flight == 0 and all(counts[:2] == (0, 0) for counts in self.counts().values())


class Caller:
    """Plays an adapter: asks when it is woken."""

    def __init__(
        self, shop: Shop, method: str, *, timeout_s: float | None = None, retry: Any = "on", wait_for_ready: bool = False
    ) -> None:
        self.shop = shop
        self.attempt: Attempt | None = None
        self.error: Exception | None = None
        self.woken = 0
        bench = shop.bench
        limits = CallLimits(
            RetryBudget(bench.loop, threading.Lock()),
            first_answer_timeout_s=5.0,
            connect_timeout_s=3.0,
            rng=bench.rng,
            gates=shop.gates,
        )
        rules = rules_of(Retry.of(retry), method)
        self.call = Call(
            bench.view,
            limits,
            PickInfo(method),
            deadline_s=None if timeout_s is None else bench.loop.now_s() + timeout_s,
            rules=rules,
            idempotent=rules.idempotent,
            wait_for_ready=wait_for_ready,
        )
        self.call.wake_with(self.wake)

    def wake(self) -> bool:
        self.woken += 1
        return True

    def ask(self) -> None:
        if self.attempt is None and self.error is None:
            try:
                self.attempt = self.call.begin_attempt(self.shop.bench.loop.now_s())
            except Exception as error:  # noqa: BLE001 - looked at by the test
                self.error = error
                self.call.close()

    def end(self, outcome: Outcome = Outcome.SUCCESS) -> None:
        if self.attempt is not None:
            self.shop.bench.view.end(self.attempt, outcome)
        self.call.close()

    @property
    def waits_s(self) -> float:
        assert (self.attempt, self.error) == (None, None)
        until_s = self.call.wait_until_s
        assert until_s is not None
        return until_s - self.shop.bench.loop.now_s()


# --- at the target's limit -------------------------------------------------------------------------------------------------------


def test_calls_over_the_limit_wait_in_the_order_they_came() -> None:
    """Each end lets in exactly the one that has waited longest, and wakes nobody else."""
    shop = Shop(max_in_flight=2)
    first = [shop.call() for _ in range(2)]
    waiting = [shop.call() for _ in range(3)]
    assert [caller.attempt is not None for caller in (*first, *waiting)] == [True, True, False, False, False]
    assert shop.counts() == {"limits.max_in_flight": (2, 3, 0)}
    first[1].end()
    assert [caller.woken for caller in waiting] == [1, 0, 0]
    late = shop.call()  # nobody who comes later is quicker
    waiting[0].ask()
    assert [caller.attempt is not None for caller in (*waiting, late)] == [True, False, False, False]
    waiting[1].call.close()  # gives up, and costs nobody his turn
    waiting[0].end()
    assert [caller.woken for caller in (*waiting, late)] == [1, 0, 1, 0]
    assert shop.nothing_is_left()


def test_the_queue_is_bounded_and_who_is_refused_hears_the_limit_its_value_and_where_it_is_set() -> None:
    """At once, and it leaves nothing behind."""
    shop = Shop(max_in_flight=1, max_waiting=1)
    callers = [shop.call() for _ in range(3)]
    error = callers[2].error
    assert isinstance(error, OverLimitError)
    assert (error.limit, error.value) == ("limits.max_in_flight", 1)
    assert str(error) == "orders.shop: limits.max_in_flight=1: 1 calls are in flight, and 1 wait, which is all that may"
    assert shop.counts() == {"limits.max_in_flight": (1, 1, 1)}
    assert shop.nothing_is_left()


@pytest.mark.parametrize("queue", [{"max_waiting": 0}, {"max_wait_s": 0}])
def test_without_a_queue_every_call_over_the_limit_is_refused(queue: dict[str, Any]) -> None:
    """By its length or by its time."""
    shop = Shop(max_in_flight=1, **queue)
    shop.call()
    with pytest.raises(OverLimitError, match=r"1 calls are in flight, and none may wait$"):
        raise shop.call().error or AssertionError
    assert shop.nothing_is_left()


def test_nobody_waits_longer_than_he_may() -> None:
    """``max_wait_s``, or the call's own deadline if that comes first; the others keep their turn."""
    shop = Shop(max_in_flight=1, max_wait_s=2.0)
    shop.call()
    patient, hurried, late = shop.call(), shop.call(timeout_s=0.5), shop.call(timeout_s=60.0)
    assert (patient.waits_s, hurried.waits_s, late.waits_s) == (2.0, 0.5, 2.0)
    shop.bench.loop.advance(0.5)
    hurried.ask()
    with pytest.raises(DeadlineExceededError, match=r"while waiting: its turn, with limits\.max_in_flight=1$"):
        raise hurried.error or AssertionError
    shop.bench.loop.advance(1.5)
    patient.ask()
    with pytest.raises(OverLimitError, match=r"limits\.max_in_flight=1: no turn within max_wait_s=2$"):
        raise patient.error or AssertionError
    shop.calls[0].end()
    late.ask()
    assert late.attempt is not None
    assert shop.counts() == {"limits.max_in_flight": (1, 0, 1)}
    assert shop.nothing_is_left()


def test_an_attempt_that_follows_another_has_its_place_already() -> None:
    """Through the back-off too: nobody takes it in between, and it does not queue again."""
    shop = Shop(max_in_flight=1)
    caller = shop.call(retry={"idempotent": ["*"], "base_s": 0.1, "max_s": 0.1})
    waiting = shop.call()
    assert caller.attempt is not None
    delay_s = caller.call.end_attempt(caller.attempt, Outcome.FAILURE, shop.bench.loop.now_s(), Failure("UNAVAILABLE", lost=True))
    assert delay_s is not None
    assert (waiting.woken, shop.in_flight) == (0, 0)
    shop.bench.loop.advance(delay_s)
    caller.attempt = None
    caller.ask()
    assert caller.attempt is not None
    assert waiting.woken == 0
    caller.end()
    assert waiting.woken == 1
    assert shop.nothing_is_left()


def test_who_cannot_be_served_anyway_takes_no_place() -> None:
    """A call that waits for a connection stands in nobody's way, and is not rejected for it."""
    shop = Shop(max_in_flight=1, max_waiting=0)
    shop.bench.connect(TRANSIENT_FAILURE, *shop.bench.view.wanted())
    callers = [shop.call(wait_for_ready=True) for _ in range(5)]
    assert [(caller.attempt, caller.error) for caller in callers] == [(None, None)] * 5
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}
    assert shop.nothing_is_left()


def test_a_call_that_was_given_up_while_it_entered_keeps_no_place() -> None:
    """``close`` may come from another thread at any moment."""
    shop = Shop(max_in_flight=1)
    caller = Caller(shop, GET)
    caller.call.close()
    shop.calls.append(caller)
    caller.ask()
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}
    caller.end()
    assert shop.nothing_is_left()


def test_when_the_mesh_is_closed_nobody_waits_for_a_turn() -> None:
    """Nobody keeps times any more."""
    shop = Shop(max_in_flight=1)
    shop.call()
    waiting = shop.call()
    shop.bench.pool.end_waiting()
    waiting.ask()
    with pytest.raises(NoEndpointError, match="the mesh was closed"):
        raise waiting.error or AssertionError
    assert shop.nothing_is_left()


# --- by method -------------------------------------------------------------------------------------------------------------------


def test_a_methods_limit_holds_beside_the_targets_and_comes_first() -> None:
    """Who waits for the turn of its method takes no place of the others'."""
    shop = Shop(max_in_flight=3, methods={REPORT: {"max_in_flight": 1, "max_waiting": 1}})
    reports = [shop.call(REPORT) for _ in range(3)]
    gets = [shop.call() for _ in range(3)]
    assert [caller.attempt is not None for caller in (*reports, *gets)] == [True, False, False, True, True, False]
    with pytest.raises(OverLimitError, match=r"limits\.methods /shop\.Orders/Report\.max_in_flight=1: 1 calls are in flight"):
        raise reports[2].error or AssertionError
    gets[0].end()
    reports[0].end()
    for caller in (reports[1], gets[2]):
        caller.ask()
        assert caller.attempt is not None
    assert shop.counts() == {f"limits.methods {REPORT}.max_in_flight": (1, 0, 1), "limits.max_in_flight": (3, 0, 0)}
    assert shop.nothing_is_left()


def test_a_services_limit_counts_its_methods_together() -> None:
    """And other services not at all."""
    shop = Shop(methods={"/shop.Orders/*": {"max_in_flight": 2}})
    for method in (GET, REPORT):
        assert shop.call(method).attempt is not None
    assert shop.call(GET).attempt is None
    assert shop.call("/shop.Carts/Get").attempt is not None
    assert shop.nothing_is_left()


# --- at the endpoints' limit -----------------------------------------------------------------------------------------------------


def test_full_endpoints_are_passed_over_and_when_all_are_calls_wait_in_line() -> None:
    """The end of any attempt wakes the first in line, and whoever is served wakes the next."""
    shop = Shop(pods=2, max_in_flight_per_endpoint=2)
    running = [shop.call() for _ in range(4)]
    assert sorted(sub.in_flight for sub in shop.bench.pool.snapshot.listed) == [2, 2]
    waiting = [shop.call() for _ in range(3)]
    assert [caller.attempt for caller in waiting] == [None] * 3
    woken = [caller.woken for caller in waiting]
    running[0].end()
    assert [caller.woken - before for caller, before in zip(waiting, woken, strict=True)] == [1, 0, 0]
    late = shop.call()
    assert late.attempt is None
    running[1].end()
    waiting[0].ask()
    assert waiting[1].woken == woken[1] + 1  # its turn to look has come, and there is room
    waiting[1].ask()
    assert [caller.attempt is not None for caller in (*waiting, late)] == [True, True, False, False]
    assert shop.nothing_is_left()


def test_a_new_endpoint_has_room_for_those_in_line() -> None:
    """They ask when the view changes, as every waiting call does."""
    shop = Shop(pods=1, max_in_flight_per_endpoint=1)
    shop.call()
    waiting = [shop.call() for _ in range(2)]
    shop.bench.publish(pod(1), pod(2), pod(3))
    shop.bench.connect(READY, *shop.bench.view.wanted())
    for caller in reversed(waiting):  # whatever the order in which they ask
        caller.ask()
    for caller in waiting:
        caller.ask()
    assert all(caller.attempt is not None for caller in waiting)
    assert shop.nothing_is_left()


def test_the_line_is_bounded_too() -> None:
    """In length, in time, and by each call's deadline."""
    shop = Shop(pods=2, max_in_flight_per_endpoint=1, max_waiting=2, max_wait_s=1.0)
    for _ in range(2):
        shop.call()
    first, second = shop.call(), shop.call(timeout_s=0.5)
    with pytest.raises(
        OverLimitError, match=r"limits\.max_in_flight_per_endpoint=1: every endpoint is full, and 2 wait, which is all that may$"
    ):
        raise shop.call().error or AssertionError
    assert (first.waits_s, second.waits_s) == (1.0, 0.5)
    shop.bench.loop.advance(0.5)
    second.ask()
    assert isinstance(second.error, DeadlineExceededError)
    shop.bench.loop.advance(0.5)
    first.ask()
    assert isinstance(first.error, OverLimitError)
    none = Shop(pods=1, max_in_flight_per_endpoint=1, max_waiting=0)
    none.call()
    with pytest.raises(OverLimitError, match="every endpoint is full, and none may wait"):
        raise none.call().error or AssertionError
    assert none.nothing_is_left()
    assert shop.nothing_is_left()


def test_when_the_endpoints_are_lost_the_line_turns_into_waiting_for_a_connection() -> None:
    """Whoever stands in it asks, and says what he waits for now."""
    shop = Shop(pods=1, max_in_flight_per_endpoint=1)
    shop.call()
    waiting = shop.call(wait_for_ready=True, timeout_s=60.0)
    shop.bench.connect(TRANSIENT_FAILURE, shop.bench.sub(1))
    waiting.ask()
    assert waiting.waits_s == 60.0
    assert shop.nothing_is_left()


@pytest.mark.parametrize(
    "limits", [{"max_in_flight": 3}, {"max_in_flight_per_endpoint": 2}, {"max_in_flight": 3, "max_in_flight_per_endpoint": 1}]
)
@pytest.mark.parametrize("flaps", [False, True])
def test_threads_at_the_limits_are_all_served_and_never_too_many_at_once(limits: dict[str, int], flaps: bool) -> None:
    """Eight threads, two endpoints of which one may come and go, callers that give up: no lost waiter, no count too high or left over."""
    seed = random.randrange(2**32)
    shop = Shop(pods=2, max_wait_s=60.0, **limits)
    view, sub = shop.bench.view, shop.bench.sub(2)
    held: list[Any] = []
    most = {"max_in_flight": 0, "max_in_flight_per_endpoint": 0}
    done: list[int] = []
    over = threading.Event()
    print(f"seed={seed}")
    changed: set[threading.Event] = set()

    def one(number: int) -> None:
        rng = random.Random(seed + number)
        for _ in range(40):
            rung = threading.Event()
            caller = Caller(shop, GET, wait_for_ready=True)

            def ring(rung: threading.Event = rung) -> bool:
                rung.set()
                return True

            caller.call.wake_with(ring)
            changed.add(rung)
            while caller.attempt is None and caller.error is None:
                rung.clear()
                caller.ask()
                if caller.attempt is None and not rung.wait(rng.choice([0.0, 30.0, 30.0])):
                    break
            if caller.attempt is not None:
                mine = (caller.attempt.subchannel, number)
                held.append(mine)
                now = list(held)
                most["max_in_flight"] = max(most["max_in_flight"], len(now))
                here = sum(sub is mine[0] for sub, _ in now)
                most["max_in_flight_per_endpoint"] = max(most["max_in_flight_per_endpoint"], here)
                over.wait(rng.random() * 0.001)  # its work
                held.remove(mine)
            caller.end(rng.choice([Outcome.SUCCESS, CANCELLED]))
            changed.discard(rung)
        done.append(number)

    def flap() -> None:
        while flaps and not over.is_set():
            for state in (TRANSIENT_FAILURE, READY):
                view.set_states([(sub, state)])
                for rung in tuple(changed):
                    rung.set()
                over.wait(0.001)

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    flapper = threading.Thread(target=flap)
    try:
        for thread in (*threads, flapper):
            thread.start()
        for thread in threads:
            thread.join(100.0)
    finally:
        over.set()
        flapper.join(10.0)
        sys.setswitchinterval(before_s)
    assert sorted(done) == list(range(8)), "somebody was never woken"
    assert all(most[name] <= value for name, value in limits.items()), most
    assert shop.nothing_is_left()
