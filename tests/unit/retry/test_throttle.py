"""gRPC's token count."""

from __future__ import annotations

import threading

from meshlb.retry.throttle import Throttle, Throttling


def test_failures_take_one_and_above_the_half_one_may_try_again() -> None:
    """10 tokens: the fifth failure leaves 5, which is not above 5."""
    throttle = Throttle(Throttling(10, 0.1), threading.Lock())
    assert [throttle.failed() for _ in range(6)] == [True, True, True, True, False, False]
    assert throttle.tokens == 4.0


def test_successes_give_the_ratio_back_up_to_the_maximum() -> None:
    """In thousandths, as in C-core."""
    throttle = Throttle(Throttling(2, 0.3337), threading.Lock())
    throttle.succeeded()
    assert throttle.tokens == 2.0
    throttle.failed()
    throttle.succeeded()
    assert throttle.tokens == 1.333
    for _ in range(5):
        throttle.succeeded()
    assert throttle.tokens == 2.0


def test_there_is_no_debt() -> None:
    """A long outage costs no more than the tokens there are."""
    throttle = Throttle(Throttling(1, 1), threading.Lock())
    assert not any(throttle.failed() for _ in range(50))
    throttle.succeeded()
    assert throttle.tokens == 1.0
