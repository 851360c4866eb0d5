"""The bucket that pays for tries elsewhere."""

from __future__ import annotations

import threading

from meshlb.retry.budget import BURST_TOKENS, REFILL_PER_S, TokenBucket
from meshlb.testing.clock import ManualClock


def bucket(clock: ManualClock, *, burst: float = 3.0, refill_per_s: float = 2.0) -> TokenBucket:
    return TokenBucket(clock, threading.Lock(), burst=burst, refill_per_s=refill_per_s)


def drained(tokens: TokenBucket) -> int:
    count = 0
    while tokens.withdraw():
        count += 1
    return count


def test_it_starts_full_and_gives_each_token_once() -> None:
    """The burst is what a pod's death at full load may need."""
    assert drained(bucket(ManualClock(50.0))) == 3
    assert drained(TokenBucket(ManualClock(), threading.Lock())) == BURST_TOKENS == 100


def test_it_refills_by_time_and_never_above_its_burst() -> None:
    """A token is whole before it is given; a quiet hour saves up no more than the burst."""
    clock = ManualClock()
    tokens = bucket(clock)
    drained(tokens)
    clock.advance(0.25)
    assert not tokens.withdraw()  # half a token
    clock.advance(0.25)
    assert tokens.withdraw()
    assert not tokens.withdraw()
    clock.advance(3600.0)
    assert tokens.tokens == 3.0
    assert drained(tokens) == 3


def test_refused_withdrawals_cost_nothing() -> None:
    """Asking often does not delay the next token."""
    clock = ManualClock()
    tokens = bucket(clock)
    drained(tokens)
    for _ in range(10):
        clock.advance(0.0625)
        tokens.withdraw()
    assert round(tokens.tokens, 9) == 0.25  # 1.25 came in, 1 was given


def test_a_lasting_fault_is_bounded_by_the_refill() -> None:
    """Over a long time, tries elsewhere are the burst and REFILL_PER_S a second, however many are asked for."""
    clock = ManualClock()
    tokens = TokenBucket(clock, threading.Lock())
    given = 0
    for _ in range(1000):
        clock.advance(0.125)
        given += sum(tokens.withdraw() for _ in range(50))
    assert BURST_TOKENS + REFILL_PER_S * 125 - 2 <= given <= BURST_TOKENS + REFILL_PER_S * 125


def test_threads_together_get_no_token_twice() -> None:
    """The lock is taken around reading the clock too, so that time never seems to go back."""
    tokens = TokenBucket(ManualClock(), threading.Lock(), burst=500.0, refill_per_s=0.0)
    given: list[int] = []
    start = threading.Barrier(8)

    def withdraw_all() -> None:
        start.wait(10)
        given.append(sum(tokens.withdraw() for _ in range(100)))

    threads = [threading.Thread(target=withdraw_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(given) == 500
