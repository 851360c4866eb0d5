"""The budget's promise, for any sequence of calls, attempts and pauses."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from meshlb.retry.budget import BudgetSettings, RetryBudget
from meshlb.testing.clock import ManualClock

STEP = st.tuples(st.sampled_from([0.0, 0.01, 0.13, 1.0, 2.5, 30.0]), st.integers(0, 200), st.integers(0, 80))


@given(
    st.lists(STEP, max_size=60),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    st.sampled_from([0.0, 1.0, 10.0]),
    st.sampled_from([1.0, 10.0, 60.0]),
)
def test_attempts_never_exceed_the_share_of_the_calls_and_the_floor(
    steps: list[tuple[float, int, int]], ratio: float, min_per_s: float, ttl_s: float
) -> None:
    """Withdrawals <= ratio * calls + min_per_s * (time + ttl), at every moment; and each of them is one attempt, but no call."""
    clock = ManualClock(1000.0)
    started = seen = calls = granted = 0

    def rise(now_s: float) -> int:
        nonlocal seen
        risen, seen = started - seen, started
        return risen

    budget = RetryBudget(clock, threading.Lock(), rise, settings=BudgetSettings(ratio, min_per_s, ttl_s))
    for pause_s, new_calls, wanted in steps:
        clock.advance(pause_s)
        started += new_calls
        calls += new_calls
        for _ in range(wanted):
            if budget.withdraw():
                granted += 1
                started += 1
        assert granted <= ratio * calls + min_per_s * (clock.now_s() - 1000.0 + ttl_s) + 1e-6
        assert budget.granted == granted


@given(st.lists(STEP, max_size=40))
def test_the_floor_is_there_whatever_was_before(steps: list[tuple[float, int, int]]) -> None:
    """After a window without withdrawals, min_per_s * ttl_s attempts are paid for, with or without calls."""
    clock = ManualClock(1000.0)
    budget = RetryBudget(clock, threading.Lock(), settings=BudgetSettings(0.2, 3.0, 10.0))
    for pause_s, _, wanted in steps:
        clock.advance(pause_s)
        for _ in range(wanted):
            budget.withdraw()
    clock.advance(11.0)
    assert sum(budget.withdraw() for _ in range(100)) == 30
