"""The scheduler in virtual time that our tests, and users', drive by hand."""

from __future__ import annotations

import threading

import pytest

from meshlb.core.scheduler import Scheduler
from meshlb.testing.loop import ManualLoop


def test_nothing_runs_until_told() -> None:
    """Posts and timers wait; virtual time stands still by itself."""
    loop = ManualLoop()
    scheduler: Scheduler = loop
    ran: list[str] = []
    scheduler.call_soon(lambda: ran.append("posted"))
    scheduler.call_later(1.0, lambda: ran.append("timer"))
    assert ran == []
    loop.run_until_idle()
    assert ran == ["posted"]
    assert loop.now_s() == 0.0


def test_advance_runs_everything_due_in_order_each_at_its_own_time() -> None:
    """Timers set on the way run too, if they fall due on the way."""
    loop = ManualLoop(100.0)
    ran: list[tuple[str, float]] = []

    def first() -> None:
        ran.append(("first", loop.now_s()))
        loop.call_later(1.0, lambda: ran.append(("nested", loop.now_s())))
        loop.call_soon(lambda: ran.append(("posted", loop.now_s())))

    loop.call_later(3.0, lambda: ran.append(("third", loop.now_s())))
    loop.call_later(1.0, first)
    loop.call_later(9.0, lambda: ran.append(("never", loop.now_s())))
    loop.advance(4.0)
    assert ran == [("first", 101.0), ("posted", 101.0), ("nested", 102.0), ("third", 103.0)]
    assert loop.now_s() == 104.0
    assert [timer.when_s for timer in loop.timers] == [109.0]


def test_a_cancelled_timer_is_gone() -> None:
    """It does not run and is not pending; cancelling it again, or after it ran, does nothing."""
    loop = ManualLoop()
    ran: list[int] = []
    timer = loop.call_later(1.0, lambda: ran.append(1))
    timer.cancel()
    timer.cancel()
    fired = loop.call_later(1.0, lambda: ran.append(2))
    loop.advance(2.0)
    fired.cancel()
    assert ran == [2]
    assert loop.timers == ()


def test_blocking_work_runs_at_once_and_reports_by_a_post() -> None:
    """The result is there after the next run, as if a helper had found it in no time; errors travel alike."""
    loop = ManualLoop()
    heard: list[object] = []

    def fails() -> None:
        raise OSError("no")

    loop.run_blocking(lambda: 42, lambda result, error: heard.append((result, error)))
    loop.run_blocking(fails, lambda result, error: heard.append((result, str(error))))
    assert heard == []
    loop.run_until_idle()
    assert heard == [(42, None), (None, "no")]


def test_blocking_work_can_be_held_back() -> None:
    """A test decides when a look-up answers, one at a time."""
    loop = ManualLoop(hold_blocking=True)
    heard: list[object] = []
    for number in range(3):
        loop.run_blocking(lambda number=number: number, lambda result, error: heard.append(result))
    loop.advance(10.0)
    assert (heard, len(loop.held)) == ([], 3)
    loop.release_blocking(1)
    assert heard == [0]
    loop.release_blocking()
    assert heard == [0, 1, 2]


def test_threads_are_recorded_and_may_be_run_for_real() -> None:
    """The test starts them, and waits in real time for what they post."""
    loop = ManualLoop()
    seen: list[str] = []
    loop.start_thread("watch", lambda: loop.call_soon(lambda: seen.append(threading.current_thread().name)))
    (recorded,) = loop.threads
    assert recorded.name == "watch"
    thread = threading.Thread(target=recorded.run)
    thread.start()
    loop.run_until(lambda: seen)
    thread.join()
    assert seen == [threading.current_thread().name]


def test_waiting_for_what_never_comes_fails_the_test() -> None:
    """run_until is bounded in real time."""
    with pytest.raises(AssertionError, match="not within"):
        ManualLoop().run_until(lambda: False, timeout_s=0.02)


def test_an_error_in_a_callback_fails_the_test() -> None:
    """Nothing is swallowed, unlike on the real loop."""
    loop = ManualLoop()
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run_until_idle()


@pytest.mark.parametrize("delta_s", [-1.0, float("nan"), float("inf")])
def test_time_moves_forward_by_a_finite_length(delta_s: float) -> None:
    """Anything else is a mistake in the test."""
    with pytest.raises(ValueError, match="delta_s"):
        ManualLoop().advance(delta_s)


def test_repr_shows_what_is_pending() -> None:
    """For failure messages."""
    loop = ManualLoop(hold_blocking=True)
    loop.call_later(1.0, lambda: None)
    loop.run_blocking(lambda: None, lambda result, error: None)
    assert repr(loop) == "<ManualLoop now_s=0 timers=1 held=1 threads=0>"
    assert repr(loop.timers[0]).startswith("<ManualTimer at 1 s")
