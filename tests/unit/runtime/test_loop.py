"""The discovery thread: order, timers, helpers, errors and the end."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from meshlb.core.scheduler import Scheduler
from meshlb.errors import ClosedError
from meshlb.runtime.loop import MIN_COMPACT, Loop, LoopTimer

WAIT_S = 5.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()


def on_loop(loop: Loop) -> None:
    """Wait until everything posted so far has run."""
    done = threading.Event()
    loop.call_soon(done.set)
    assert done.wait(WAIT_S)


def test_a_loop_is_a_scheduler(loop: Loop) -> None:
    """The type checker and this agree that it may be handed to resolvers."""
    scheduler: Scheduler = loop
    assert scheduler.now_s() <= time.monotonic()


def test_no_thread_starts_before_the_first_post(loop: Loop) -> None:
    """Making a loop costs no thread: nothing starts at import or at construction."""
    assert not loop.alive
    assert loop.describe()["state"] == "not started"
    on_loop(loop)
    assert loop.alive
    assert loop.describe()["state"] == "running"


def test_callbacks_run_in_order_on_one_daemon_thread(loop: Loop) -> None:
    """Posts keep their order and share the one thread, which never keeps a process alive."""
    seen: list[tuple[int, threading.Thread]] = []
    for number in range(100):
        loop.call_soon(lambda number=number: seen.append((number, threading.current_thread())))
    on_loop(loop)
    assert [number for number, _ in seen] == list(range(100))
    (thread,) = {thread for _, thread in seen}
    assert (thread.name, thread.daemon) == ("meshlb-discovery", True)


def test_timers_run_at_their_time_and_in_its_order(loop: Loop) -> None:
    """A timer never runs early, and the sooner one runs first whatever the order of the calls; one in the past runs at once."""
    ran: list[tuple[float, float]] = []
    timers: list[LoopTimer] = []
    finished = threading.Event()

    def note(number: int) -> None:
        ran.append((timers[number].when_s, loop.now_s()))
        if len(ran) == len(delays_s):
            finished.set()

    def set_all() -> None:
        for number, delay_s in enumerate(delays_s):
            timers.append(loop.call_later(delay_s, functools.partial(note, number)))

    delays_s = [0.06, 0.02, -1.0, 0.04, 0.0]
    loop.call_soon(set_all)
    assert finished.wait(WAIT_S)
    assert [when_s for when_s, _ in ran] == sorted(timer.when_s for timer in timers)
    assert all(when_s <= at_s for when_s, at_s in ran)
    assert ran[-1][0] - ran[0][0] >= 0.05


def test_a_flood_of_posts_does_not_hold_a_timer_up(loop: Loop) -> None:
    """Each post may be followed by a due timer: a callback that posts itself again starves nobody."""
    fired = threading.Event()

    def again() -> None:
        if not fired.is_set():
            loop.call_soon(again)

    loop.call_soon(again)
    loop.call_later(0.01, fired.set)
    assert fired.wait(WAIT_S)


def test_a_cancelled_timer_neither_runs_nor_keeps_its_callback(loop: Loop) -> None:
    """Cancel lets go of what the callback holds at once, though the timer lay an hour ahead; twice is once."""

    class Held:
        def call(self) -> None:
            raise AssertionError("ran")

    held = Held()
    gone = weakref.ref(held)
    timer = loop.call_later(3600.0, held.call)
    on_loop(loop)
    assert loop.describe()["timers"] == 1
    timer.cancel()
    timer.cancel()
    del held
    gc.collect()
    assert gone() is None
    assert loop.describe()["timers"] == 0


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    """10,000 timers that are set and cancelled leave a heap of the size of those that live."""
    alive = [loop.call_later(3600.0, lambda: None) for _ in range(10)]
    for _ in range(10_000):
        loop.call_later(1800.0, lambda: None).cancel()
    on_loop(loop)
    assert loop.describe()["timers"] == len(alive)
    assert len(loop._heap) <= MIN_COMPACT + 1


def test_a_callback_that_raises_is_logged_once_a_kind_and_harms_nobody(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """The first error of a kind shows its traceback, the others are counted; the thread goes on, also after SystemExit."""

    def broken(error: BaseException) -> None:
        raise error

    with caplog.at_level(logging.ERROR, "meshlb.runtime"):
        for _ in range(3):
            loop.call_soon(functools.partial(broken, ValueError("boom")))
        loop.call_soon(functools.partial(broken, SystemExit(1)))
        loop.call_later(0.0, functools.partial(broken, KeyError("timer")))
        on_loop(loop)
    kinds = {kind.rpartition(": ")[2]: count for kind, count in loop.errors.items()}
    assert kinds == {"ValueError": 3, "SystemExit": 1, "KeyError": 1}
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3
    assert "boom" in caplog.text
    assert "broken" in caplog.records[0].getMessage()
    assert loop.describe()["errors"] == dict(loop.errors)


def test_blocking_work_runs_elsewhere_and_reports_on_the_discovery_thread(loop: Loop) -> None:
    """Result or error arrive once, on the discovery thread; even SystemExit is an answer."""
    heard: list[tuple[object, object, str]] = []
    ran_in: list[str] = []
    finished = threading.Event()

    def done(result: object, error: BaseException | None) -> None:
        heard.append((result, type(error), threading.current_thread().name))
        if len(heard) == 3:
            finished.set()

    def fine() -> int:
        ran_in.append(threading.current_thread().name)
        return 42

    def raises(error: BaseException) -> None:
        raise error

    loop.run_blocking(fine, done)
    loop.run_blocking(lambda: raises(OSError("no")), done)
    loop.run_blocking(lambda: raises(SystemExit()), done)
    assert finished.wait(WAIT_S)
    assert {thread for *_, thread in heard} == {"meshlb-discovery"}
    assert {(result, kind) for result, kind, _ in heard} == {(42, type(None)), (None, OSError), (None, SystemExit)}
    assert ran_in[0].startswith("meshlb-lookup-")


def test_a_reader_gets_a_thread_of_its_own(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """It is a daemon with the name asked for, is listed while it runs, and its error is logged, not lost."""
    running, end = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def run() -> None:
        threads.append(threading.current_thread())
        running.set()
        end.wait(WAIT_S)
        raise ValueError("reader broke")

    loop.start_thread("watch-shop", run)
    assert running.wait(WAIT_S)
    assert (threads[0].name, threads[0].daemon) == ("meshlb-watch-shop", True)
    assert loop.describe()["readers"] == ["meshlb-watch-shop"]
    end.set()
    threads[0].join(WAIT_S)
    assert loop.describe()["readers"] == []
    assert "reader broke" in caplog.text


def test_posting_after_stop_is_an_error(loop: Loop) -> None:
    """Whoever uses a stopped loop is told, by every method; stop itself may be called again."""
    on_loop(loop)
    loop.stop()
    loop.stop()
    assert not loop.alive
    for post in (
        lambda: loop.call_soon(lambda: None),
        lambda: loop.call_later(0.0, lambda: None),
        lambda: loop.run_blocking(lambda: None, lambda result, error: None),
        lambda: loop.start_thread("late", lambda: None),
    ):
        with pytest.raises(ClosedError, match="stopped"):
            post()
    assert loop.describe()["state"] == "stopped"


def test_stop_runs_what_was_posted_and_forgets_the_timers(loop: Loop) -> None:
    """Nothing posted before stop is lost; a timer that lies ahead neither runs nor is waited for, and holds nothing any more."""

    class Held:
        def call(self) -> None:
            raise AssertionError("ran")

    held = Held()
    gone = weakref.ref(held)
    ran: list[str] = []
    timer = loop.call_later(30.0, held.call)
    loop.call_soon(lambda: ran.append("posted"))
    del held, timer
    loop.stop(WAIT_S)
    gc.collect()
    assert ran == ["posted"]
    assert gone() is None


def test_a_loop_that_never_ran_stops_at_once() -> None:
    """There is no thread to wait for, and none is started for the purpose."""
    loop = Loop()
    loop.stop()
    assert not loop.alive


def test_stop_waits_no_longer_than_told_for_a_stuck_callback(loop: Loop) -> None:
    """A callback that blocks cannot hold up whoever stops the loop; its age is the sign of it."""
    entered, release = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        release.wait(WAIT_S)

    loop.call_soon(stuck)
    assert entered.wait(WAIT_S)
    start_s = time.monotonic()
    loop.stop(0.05)
    assert time.monotonic() - start_s < 1.0
    assert loop.heartbeat_age_s >= 0.05
    release.set()
    loop.join(WAIT_S)
    assert not loop.alive


def test_a_loop_may_be_stopped_from_its_own_thread(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """stop() in a callback does not wait for itself, and that is no error."""
    loop.call_soon(loop.stop)
    loop.join(WAIT_S)
    deadline_s = time.monotonic() + WAIT_S
    while loop.alive and time.monotonic() < deadline_s:
        loop.join(0.05)
    assert not loop.alive
    assert caplog.records == []


def test_what_a_helper_reports_after_stop_is_dropped_silently(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """A look-up that ends late finds nobody waiting: no callback, no log line, no traceback."""
    entered, release, heard = threading.Event(), threading.Event(), []
    finished = threading.Event()

    def work() -> None:
        entered.set()
        release.wait(WAIT_S)
        finished.set()

    loop.run_blocking(work, lambda result, error: heard.append(result))
    assert entered.wait(WAIT_S)
    loop.stop()
    release.set()
    assert finished.wait(WAIT_S)
    assert heard == []
    assert caplog.records == []


def test_a_reader_that_posts_after_stop_ends_quietly(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """ClosedError is how a reader learns of the end; it is no fault and no traceback."""
    go, running, threads = threading.Event(), threading.Event(), []

    def run() -> None:
        threads.append(threading.current_thread())
        running.set()
        go.wait(WAIT_S)
        loop.call_soon(lambda: None)
        raise AssertionError("accepted")

    loop.start_thread("watch", run)
    assert running.wait(WAIT_S)
    loop.stop()
    go.set()
    threads[0].join(WAIT_S)
    assert caplog.records == []


def test_a_finalizer_may_post_at_any_moment(loop: Loop) -> None:
    """Garbage collection runs finalizers inside other posts of the same thread; none deadlocks and none is lost."""
    ran = [0]

    def count() -> None:
        ran[0] += 1

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            loop.call_later(0.0, count)

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for _ in range(2000):
            Cyclic()
            loop.call_soon(count)
            loop.call_later(0.0, count)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    deadline_s = time.monotonic() + WAIT_S
    while ran[0] < 6000 and time.monotonic() < deadline_s:
        on_loop(loop)
    assert ran[0] == 6000


def test_the_heartbeat_is_zero_while_the_thread_waits_for_work(loop: Loop) -> None:
    """Idle is healthy: the age counts the present callback only."""
    on_loop(loop)
    deadline_s = time.monotonic() + WAIT_S
    while loop.heartbeat_age_s and time.monotonic() < deadline_s:
        pass
    assert loop.heartbeat_age_s == 0.0


def test_two_threads_that_post_first_start_one_thread(loop: Loop) -> None:
    """The lazy start is decided once, however many come at the same moment."""
    barrier = threading.Barrier(8)

    def post() -> None:
        barrier.wait(WAIT_S)
        loop.call_soon(lambda: None)

    posters = [threading.Thread(target=post) for _ in range(8)]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join(WAIT_S)
    on_loop(loop)
    assert [thread.name for thread in threading.enumerate()].count("meshlb-discovery") == 1


def test_repr_says_what_the_loop_does(loop: Loop) -> None:
    """The debugging view in logs."""
    assert repr(loop) == "<Loop not started>"
