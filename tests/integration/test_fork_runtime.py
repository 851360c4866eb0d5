"""What a forked child finds: a clean loop, its own random numbers, and no half-imported module."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from meshlb.resolve import fork_gate as gate_module
from meshlb.resolve.fork_gate import ForkGate, fork_gate
from meshlb.runtime import fork
from meshlb.runtime.clock import system_rng
from meshlb.runtime.fork import on_fork_child
from meshlb.runtime.loop import Loop

WAIT_S = 5.0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    started = threading.Event()
    loop.call_soon(started.set)
    assert started.wait(WAIT_S)
    yield loop
    loop.stop()


def in_child(work: Callable[[], str], timeout_s: float = 20.0) -> str:
    """Run it in a forked child; its answer, or the error it ended with. A child that hangs is ended, and the test fails."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork with threads
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(timeout_s))
            os.write(writer, work().encode())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"
    return said


def test_a_child_starts_its_own_thread_lazily(loop: Loop) -> None:
    """No thread, no timer and nothing posted is inherited; the first post starts afresh, and everything works there."""
    inherited = threading.Event()
    timer = loop.call_later(0.4, inherited.set)
    blocked, release = threading.Event(), threading.Event()
    loop.run_blocking(lambda: (blocked.set(), release.wait(WAIT_S)), lambda result, error: None)
    assert blocked.wait(WAIT_S)

    def child() -> str:
        before = f"{loop.alive} {loop.describe()['timers']} {loop.describe()['lookup_threads']}"
        done = threading.Event()
        loop.run_blocking(lambda: 42, lambda result, error: loop.call_later(0.6, done.set))
        assert done.wait(WAIT_S)
        loop.stop()
        return f"{before} {inherited.is_set()}"

    said = in_child(child)
    release.set()
    assert said == "False 0 0 False"
    assert loop.alive
    assert inherited.is_set(), "the parent's own timer ran there"
    timer.cancel()


def test_a_fork_amid_activity_leaves_both_sides_working(loop: Loop) -> None:
    """Posts, timers and look-ups go on while the process forks, again and again; no child and no parent hangs."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            loop.call_soon(lambda: None)
            loop.call_later(0.001, lambda: None)
            loop.run_blocking(lambda: None, lambda result, error: None)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child() -> str:
        done = threading.Event()
        loop.run_blocking(lambda: None, lambda result, error: done.set())
        return str(done.wait(WAIT_S))

    try:
        assert [in_child(child) for _ in range(10)] == ["True"] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    done = threading.Event()
    loop.call_soon(done.set)
    assert done.wait(WAIT_S)


def test_a_stopped_loop_stays_stopped_in_the_child(loop: Loop) -> None:
    """A fork is no way back."""
    loop.stop()

    def child() -> str:
        try:
            loop.call_soon(lambda: None)
        except RuntimeError as error:
            return str(error)
        return "accepted"

    assert "stopped" in in_child(child)


def test_every_child_draws_its_own_random_numbers() -> None:
    """Workers of a prefork server must not pick the same endpoints in step."""
    rng = system_rng()
    drawn = {in_child(lambda: str(rng.random())) for _ in range(3)} | {str(rng.random())}
    assert len(drawn) == 4


class Told:
    def __init__(self, log: list[str], name: str, error: Exception | None = None) -> None:
        self.log, self.name, self.error = log, name, error

    def after(self) -> None:
        self.log.append(self.name)
        if self.error is not None:
            raise self.error


def test_objects_are_told_in_order_and_a_failing_one_stops_nobody() -> None:
    """In the child alone, each once, in the order of registration."""
    log: list[str] = []
    told = [Told(log, "one"), Told(log, "two", ValueError("broken")), Told(log, "three")]
    for one in told:
        on_fork_child(one.after)
    assert in_child(lambda: " ".join(log)) == "one two three"
    assert log == []


def test_registration_keeps_nothing_alive() -> None:
    """A forgotten object is freed and not told; the registry does not grow."""
    log: list[str] = []
    for number in range(100):
        on_fork_child(Told(log, str(number)).after)
    gc.collect()
    # Only our own are counted: what earlier tests of this process left behind may end at any time.
    assert [function for _, function in list(fork._children.values()) if function is Told.after] == []
    assert in_child(lambda: "".join(log)) == ""


def test_a_fork_waits_for_an_import_and_the_child_can_import_the_same() -> None:
    """Without the gate the child would inherit the import's lock as held, and hang at its own import."""
    name = "meshlb_test_slow_module"
    entered = threading.Event()

    class SlowFinder:
        """A module that takes its time; the test's own, in the place where the system looks for modules."""

        def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
            if fullname != name:
                return None
            from importlib.machinery import ModuleSpec

            return ModuleSpec(fullname, self)  # type: ignore[arg-type]

        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, module: object) -> None:
            entered.set()
            time.sleep(0.3)

    finder = SlowFinder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]

    def importer() -> None:
        with fork_gate:
            __import__(name)

    thread = threading.Thread(target=importer)
    try:
        thread.start()
        assert entered.wait(WAIT_S)

        def child() -> str:
            with fork_gate:
                __import__(name)
            return "imported"

        assert in_child(child) == "imported"
        thread.join(WAIT_S)
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        sys.modules.pop(name, None)


def test_importers_do_not_wait_for_each_other() -> None:
    """Two sources race at the start: the gate is closed by forks only."""
    gate, barrier = ForkGate(), threading.Barrier(2)

    def importer() -> None:
        with gate, gate:
            barrier.wait(WAIT_S)

    threads = [threading.Thread(target=importer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not barrier.broken


def test_an_import_waits_while_a_fork_is_under_way() -> None:
    """And goes on as soon as it is over."""
    gate, trying, entered = ForkGate(), threading.Event(), threading.Event()

    def importer() -> None:
        trying.set()
        with gate:
            entered.set()

    assert gate.before_fork()
    thread = threading.Thread(target=importer)
    thread.start()
    assert trying.wait(WAIT_S)
    assert not entered.wait(0.05)
    gate.after_fork_in_parent()
    assert entered.wait(WAIT_S)
    thread.join(WAIT_S)


def test_an_import_that_hangs_delays_a_fork_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork goes ahead, says that it did, and imports wait only while it lasts."""
    monkeypatch.setattr(gate_module, "FORK_WAIT_S", 0.05)
    gate, entered, release = ForkGate(), threading.Event(), threading.Event()

    def importer() -> None:
        with gate:
            entered.set()
            release.wait(WAIT_S)

    thread = threading.Thread(target=importer)
    thread.start()
    assert entered.wait(WAIT_S)
    assert gate.before_fork() is False
    gate.after_fork_in_parent()
    release.set()
    thread.join(WAIT_S)
    assert gate.before_fork() is True
    gate.after_fork_in_parent()


def test_a_thread_may_fork_within_its_own_import() -> None:
    """It goes on in the child where it was: nothing to wait for, and nothing to repair."""
    with fork_gate:
        start_s = time.monotonic()
        assert in_child(lambda: "fine") == "fine"
        assert time.monotonic() - start_s < gate_module.FORK_WAIT_S / 2
