"""The discovery thread as the process sees it: latency, CPU when idle, and how the interpreter ends around it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from meshlb.runtime.loop import Loop

WAIT_S = 5.0

PRELUDE = """
import os, socket, sys, threading, time
from meshlb.runtime.loop import Loop
loop = Loop()
running = threading.Event()
loop.call_soon(running.set)
running.wait(5)
quiet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quiet.bind(("127.0.0.1", 0))
quiet = quiet.detach()  # a bare descriptor: reading from it blocks for ever, and nobody complains that it stays open
"""


def run_python(code: str, prelude: str = PRELUDE) -> tuple[subprocess.CompletedProcess[str], float]:
    """A fresh interpreter, and how long after its line ``ending`` on stdout it was gone."""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", prelude + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines, ended_s = [], 0.0
    for line in process.stdout:
        lines.append(line)
        if line == "ending\n":
            ended_s = time.monotonic()
    stderr = process.stderr.read()
    code_ = process.wait(30.0)
    return subprocess.CompletedProcess(process.args, code_, "".join(lines), stderr), time.monotonic() - ended_s


def test_a_post_runs_at_once_on_an_idle_thread() -> None:
    """From call_soon to the callback's first line: median well below 200 µs."""
    loop = Loop()
    took_s = []
    try:
        for _ in range(300):
            ran = threading.Event()
            at: list[float] = []
            start_s = time.perf_counter()
            loop.call_soon(lambda at=at, ran=ran: (at.append(time.perf_counter()), ran.set()))
            assert ran.wait(WAIT_S)
            took_s.append(at[0] - start_s)
    finally:
        loop.stop()
    assert statistics.median(took_s) < 200e-6


def test_an_idle_loop_uses_no_cpu() -> None:
    """With a timer an hour ahead, and helpers and thread asleep: less than a millisecond of CPU in half a second."""
    loop = Loop()
    try:
        asleep = threading.Event()
        loop.call_later(3600.0, lambda: None)
        loop.run_blocking(lambda: None, lambda result, error: asleep.set())
        assert asleep.wait(WAIT_S)
        before_s = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before_s < 0.001 * 5  # five-fold for a noisy machine; polling would cost more
    finally:
        loop.stop()


@pytest.mark.parametrize(
    "activity",
    [
        pytest.param("pass", id="idle"),
        pytest.param("loop.run_blocking(os.getpid, lambda r, e: None)", id="after a look-up"),
        pytest.param(
            "[loop.run_blocking(lambda: os.read(quiet, 1), lambda r, e: None) for _ in range(6)]", id="helpers blocked in I/O"
        ),
        pytest.param("loop.start_thread('watch', lambda: os.read(quiet, 1))", id="a reader blocked in I/O"),
        pytest.param("loop.call_later(0.0, lambda: time.sleep(60))", id="a stuck callback"),
        pytest.param(
            """
            def again():
                loop.call_later(0.0001, again)
                loop.run_blocking(lambda: time.sleep(0.0001), lambda r, e: None)
            for _ in range(50):
                loop.call_soon(again)
            time.sleep(0.1)
            """,
            id="amid activity",
        ),
        pytest.param(
            """
            def reader():
                while True:
                    loop.call_soon(lambda: None)
            loop.start_thread('watch', reader)
            time.sleep(0.05)
            """,
            id="a reader that posts for ever",
        ),
    ],
)
def test_an_exit_is_quick_and_quiet(activity: str) -> None:
    """Whatever goes on, the interpreter ends in a second or so, with status 0 and nothing on stderr."""
    ended, took_s = run_python(textwrap.dedent(activity) + "\nprint('ending', flush=True)\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert took_s < 1.9  # the second we may wait, and the interpreter's own end on a busy machine


def test_discovery_lives_on_while_other_threads_serve() -> None:
    """A program whose main thread ends while its own threads work keeps its loop; it ends with the last of them."""
    ended, _ = run_python(
        """
        def serve():
            threading.main_thread().join()
            ran = threading.Event()
            loop.run_blocking(lambda: 42, lambda result, error: ran.set())
            print("served", ran.wait(5), flush=True)
        threading.Thread(target=serve).start()
        """
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("served True\n", "", 0)


def test_the_thread_has_ended_before_the_interpreter_takes_itself_apart() -> None:
    """Exit handlers of the program still find it alive if they were registered later, and ended if earlier, as atexit has it."""
    ended, _ = run_python(
        """
        import atexit, threading
        from meshlb.runtime.loop import Loop
        loop = Loop()
        atexit.register(lambda: print("earlier", loop.alive))
        ran = threading.Event()
        loop.call_soon(ran.set)
        ran.wait(5)
        atexit.register(lambda: print("later", loop.alive))
        """,
        prelude="",
    )
    assert (ended.stdout, ended.stderr) == ("later True\nearlier False\n", "")


def test_finalizers_that_post_during_the_exit_make_no_noise() -> None:
    """A channel that is freed when the modules are cleared tells a loop that is gone: nothing happens, nothing hangs."""
    ended, took_s = run_python(
        """
        import atexit
        class Channel:
            def __del__(self, loop=loop):
                loop.call_soon(print)
                loop.run_blocking(print, lambda r, e: None)
        never_started = Loop()
        channel = Channel()
        other = Channel.__del__
        class Late:
            def __del__(self, loop=never_started):
                loop.call_soon(print)
        late = Late()
        print("ending", flush=True)
        """
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "ending\n")
    assert took_s < 1.9


def test_an_exit_after_stop_waits_for_nothing() -> None:
    """Who closes the mesh properly pays nothing at the exit."""
    ended, took_s = run_python("loop.stop()\nprint('ending', flush=True)\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert took_s < 0.9


def test_several_loops_share_the_one_second() -> None:
    """Three with stuck callbacks are given up together."""
    ended, took_s = run_python(
        """
        loops = [Loop() for _ in range(3)]
        for one in loops:
            one.call_soon(lambda: time.sleep(60))
        time.sleep(0.05)
        print("ending", flush=True)
        """
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert took_s < 1.9


def test_an_exit_with_grpc_loaded_first_or_last_is_quiet() -> None:
    """gRPC ends itself at exit too; a loop whose callbacks use channels until then does not disturb it."""
    for order in ("before", "after"):
        ended, took_s = run_python(
            f"""
            if {order == "before"}:
                import grpc
            mine = Loop()
            mine.call_soon(lambda: None)
            import grpc
            channels = []
            def again():
                channel = grpc.insecure_channel("127.0.0.1:1")
                channels.append(channel)
                channel.subscribe(lambda state: None, try_to_connect=True)
                if len(channels) < 20:
                    mine.call_later(0.001, again)
            mine.call_soon(again)
            time.sleep(0.1)
            print("ending", flush=True)
            """
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert took_s < 5.0
