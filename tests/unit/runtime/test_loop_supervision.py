"""The discovery thread survives what would end it, whichever way: its timers and what was posted are kept, and it is counted."""

from __future__ import annotations

import ctypes
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from meshlb.runtime.lookups import MAX_HANGING, MAX_THREADS, Lookups
from meshlb.runtime.loop import Loop

WAIT_S = 5.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()


def on_loop(loop: Loop) -> threading.Thread:
    """Wait until everything posted so far has run; the thread that ran it."""
    threads: list[threading.Thread] = []
    done = threading.Event()

    def note() -> None:
        threads.append(threading.current_thread())
        done.set()

    loop.call_soon(note)
    assert done.wait(WAIT_S)
    return threads[0]


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "not in time"
        threading.Event().wait(0.002)


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """What a debugger, or a framework that ends threads, does."""
    assert thread.ident is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error)) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit])
def test_an_exception_set_from_outside_loses_neither_posts_nor_timers(loop: Loop, error: type[BaseException]) -> None:
    """It strikes an idle thread at its next breath: the post that woke it runs, and so does the timer that was set before."""
    fired, ran = threading.Event(), threading.Event()
    loop.call_later(0.2, fired.set)
    thread = on_loop(loop)
    raise_in(thread, error)
    loop.call_soon(ran.set)
    assert ran.wait(WAIT_S)
    assert fired.wait(WAIT_S)
    wait_for(lambda: loop.restarts == 1)
    assert loop.describe()["restarts"] == 1


def test_a_timer_that_finds_no_memory_is_set_when_there_is_some_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError in the loop's own work, three times: nothing that was posted is lost or runs twice."""
    real, failures, runs = heapq.heappush, [MemoryError()] * 3, []
    fired = threading.Event()

    def push(heap: list[object], entry: object) -> None:
        if failures:
            raise failures.pop()
        real(heap, entry)  # type: ignore[type-var]

    monkeypatch.setattr(heapq, "heappush", push)
    loop.call_soon(lambda: runs.append("before"))
    loop.call_later(0.0, fired.set)
    loop.call_soon(lambda: runs.append("after"))
    assert fired.wait(WAIT_S)
    on_loop(loop)
    assert runs == ["before", "after"]
    assert loop.restarts == 3
    assert loop.describe()["state"] == "running"


def test_a_log_handler_that_raises_does_not_end_discovery(loop: Loop) -> None:
    """A callback fails, and so does saying so: the next one runs all the same."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit("no space left on device")

    def fail() -> None:
        raise ValueError("boom")

    handler = Broken()
    logging.getLogger("meshlb.runtime").addHandler(handler)
    try:
        loop.call_soon(fail)
        on_loop(loop)
    finally:
        logging.getLogger("meshlb.runtime").removeHandler(handler)
    assert loop.restarts == 1
    assert [kind.rpartition(": ")[2] for kind in loop.errors][:1] == ["ValueError"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_gone_is_replaced_with_its_timers(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended it: ``status()`` and any post look after it, and what was due meanwhile runs."""
    fired = threading.Event()
    loop.call_later(0.1, fired.set)
    on_loop(loop)

    def vanish(error: BaseException) -> None:
        raise SystemExit

    monkeypatch.setattr(loop, "_survive", vanish)
    thread = on_loop(loop)
    raise_in(thread, SystemExit)
    wait_for(lambda: not thread.is_alive())
    monkeypatch.undo()
    assert loop.describe()["state"] == "running"
    assert fired.wait(WAIT_S)
    assert on_loop(loop) is not thread
    assert loop.describe()["restarts"] == 1


def test_a_stopped_loop_is_not_revived(loop: Loop) -> None:
    """The end is the end, however often somebody looks."""
    on_loop(loop)
    loop.stop()
    loop.supervise()
    assert loop.describe()["state"] == "stopped"
    assert not loop.alive


def test_the_age_tells_a_stuck_thread_from_one_that_waits(loop: Loop) -> None:
    """Young while it turns, growing while a callback does not come back; None before the first turn."""
    assert loop.age_s is None
    on_loop(loop)
    assert loop.age_s is not None
    assert loop.age_s < WAIT_S
    stuck, release = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        release.wait(WAIT_S)

    loop.call_soon(hang)
    assert stuck.wait(WAIT_S)
    before_s = loop.age_s
    wait_for(lambda: loop.age_s is not None and loop.age_s > before_s + 0.02)
    described = loop.describe()
    assert isinstance(described["age_s"], float)
    assert described["age_s"] >= 0.02
    release.set()
    on_loop(loop)
    assert loop.age_s < described["age_s"]


@pytest.mark.parametrize("may_hang", [False, True])
def test_a_look_up_that_cannot_report_costs_no_thread(may_hang: bool) -> None:
    """As many as there are threads raise out of their job; the next ones run, and as many at once as before."""
    lookups = Lookups(idle_s=WAIT_S)
    at_once = MAX_HANGING if may_hang else MAX_THREADS

    def fail() -> None:
        raise MemoryError

    for _ in range(3 * MAX_THREADS):
        lookups.submit(fail, may_hang=may_hang)
    barrier = threading.Barrier(at_once + 1)
    for _ in range(at_once):
        lookups.submit(lambda: barrier.wait(WAIT_S), may_hang=may_hang)  # type: ignore[arg-type]
    barrier.wait(WAIT_S)
    lookups.end()
