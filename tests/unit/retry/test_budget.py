"""The budget of further attempts: a share of the calls, and some a second."""

from __future__ import annotations

import threading

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.retry.budget import BudgetSettings, CallCount, RetryBudget
from meshlb.testing.clock import ManualClock


class Calls:
    """Attempts that the pool's subchannels counted, by hand."""

    def __init__(self) -> None:
        self.total = 0
        self._seen = 0

    def rise(self, now_s: float) -> int:
        risen, self._seen = self.total - self._seen, self.total
        return risen


def drained(budget: RetryBudget, calls: Calls | None = None) -> int:
    """Withdraw until refused; each becomes an attempt that is counted."""
    count = 0
    while budget.withdraw():
        count += 1
        if calls is not None:
            calls.total += 1
    return count


def test_it_starts_with_its_floor() -> None:
    """10 a second for 10 s: what a dying pod drops at one moment under load."""
    assert drained(RetryBudget(ManualClock(50.0), threading.Lock())) == 100


def test_a_fifth_of_the_calls_comes_on_top() -> None:
    """However they were spread over the window."""
    clock, calls = ManualClock(1000.0), Calls()
    budget = RetryBudget(clock, threading.Lock(), calls.rise)
    for _ in range(100):
        clock.advance(0.1)
        calls.total += 10
        budget.tokens  # noqa: B018 - a reading
    assert drained(budget, calls) == 100 + 200


def test_what_is_older_than_the_window_does_not_count() -> None:
    """Neither calls nor withdrawals."""
    clock, calls = ManualClock(1000.0), Calls()
    budget = RetryBudget(clock, threading.Lock(), calls.rise)
    clock.advance(1.0)
    calls.total += 1000
    assert budget.tokens == 300.0
    assert drained(budget, calls) == 300
    clock.advance(9.0)
    assert budget.tokens == 0.0
    clock.advance(2.0)
    assert budget.tokens == 100.0


def test_calls_since_the_last_reading_are_laid_over_that_time() -> None:
    """An hour of 10 calls a second, then a fault: 10 s of them count."""
    clock, calls = ManualClock(1000.0), Calls()
    budget = RetryBudget(clock, threading.Lock(), calls.rise)
    clock.advance(3600.0)
    calls.total += 36_000
    assert 100 + 0.2 * 100 <= budget.tokens <= 100 + 0.2 * 110


def test_its_own_attempts_are_no_calls() -> None:
    """Or retries would pay for retries."""
    clock, calls = ManualClock(1000.0), Calls()
    budget = RetryBudget(clock, threading.Lock(), calls.rise)
    granted = 0
    for _ in range(300):
        clock.advance(0.1)
        granted += drained(budget, calls)
    assert granted <= 10 * (30 + 10)


def test_nothing_but_a_share_or_nothing_but_a_floor() -> None:
    """Either may be 0."""
    clock, calls = ManualClock(1000.0), Calls()
    share = RetryBudget(clock, threading.Lock(), calls.rise, settings=BudgetSettings(0.5, 0.0, 10.0))
    none = RetryBudget(clock, threading.Lock(), settings=BudgetSettings(0.0, 0.0, 10.0))
    assert not share.withdraw()
    clock.advance(1.0)
    calls.total += 10
    assert drained(share, calls) == 5
    assert not none.withdraw()
    assert (none.granted, none.refused) == (0, 1)
    assert share.describe() == {"budget": 0.0, "granted": 5, "refused": 2}


def test_threads_together_get_nothing_twice() -> None:
    """The lock is taken around reading the clock too."""
    budget = RetryBudget(ManualClock(), threading.Lock(), settings=BudgetSettings(0.0, 50.0, 10.0))
    given: list[int] = []
    start = threading.Barrier(8)

    def withdraw_all() -> None:
        start.wait(10)
        given.append(sum(budget.withdraw() for _ in range(100)))

    threads = [threading.Thread(target=withdraw_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(given) == 500


def sub(number: int, created_s: float) -> Subchannel:
    return Subchannel(Endpoint(host=f"10.0.0.{number}", port=80), LiveOnly(), created_s)


def test_the_count_is_what_all_subchannels_began_since_it_was_asked() -> None:
    """New ones from their first attempt, those that come back only from there on, those that leave not at all."""
    there = [sub(1, 0.0), sub(2, 0.0)]
    there[0].started = 50  # before anybody counted
    count = CallCount(lambda: there, 10.0)
    there[0].started += 5
    there[1].started += 1
    assert count.rise(11.0) == 6
    assert count.rise(11.5) == 0
    left = there.pop(0)
    left.started += 100
    new = sub(3, 11.7)
    new.started = 4
    there.extend([new, new])
    assert count.rise(12.0) == 4
    there.append(left)
    assert count.rise(13.0) == 0
    left.started += 2
    assert count.rise(14.0) == 2
