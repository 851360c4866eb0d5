"""The system's clock and chance."""

from __future__ import annotations

import random
import time

from meshlb.core.clock import Clock, Rng
from meshlb.runtime.clock import SystemClock, system_rng


def test_the_clock_is_the_monotonic_one() -> None:
    """The date may be set without moving a timer."""
    clock: Clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.now_s() <= time.monotonic()


def test_the_rng_is_not_the_one_of_the_program() -> None:
    """Seeding ``random`` does not fix our draws, and our draws do not move the sequence of the program."""
    random.seed(7)
    expected = random.random()
    random.seed(7)
    rng: Rng = system_rng()
    assert rng.random() != expected
    assert random.random() == expected
    assert 0.0 <= rng.random() < 1.0
