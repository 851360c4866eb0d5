"""What wakes one thread, whoever rings and wherever."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Any

from meshlb.runtime.bell import Bell


def test_what_rang_before_the_wait_is_not_missed_and_what_was_cleared_is_gone() -> None:
    """However often it rang."""
    bell = Bell()
    bell.clear()
    for _ in range(3):
        assert bell.ring()
    bell.wait(30.0)
    bell.changed()
    bell.clear()
    began_s = time.monotonic()
    bell.wait(0.02)
    bell.wait(-1.0)
    assert 0.01 < time.monotonic() - began_s < 10.0


def test_another_thread_wakes_who_waits() -> None:
    """Without a limit of time."""
    bell, woken = Bell(), threading.Event()
    bell.clear()

    def wait() -> None:
        bell.wait(None)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not woken.is_set()
    bell.ring()
    assert woken.wait(30.0)


def test_a_finalizer_may_ring_in_the_middle_of_a_wait_of_the_same_thread() -> None:
    """Before any line of Python that a clear, a wait or a ring runs, in the standard library too."""
    done: list[int] = []

    def all_of_it() -> None:
        at = 0
        while True:
            bell, left = Bell(), at

            def trace(frame: FrameType, event: str, argument: object, bell: Bell = bell) -> Any:
                nonlocal left
                left -= event == "line"
                if event == "line" and left == 0:
                    sys.settrace(None)
                    bell.ring()
                return trace

            sys.settrace(trace)
            bell.clear()
            bell.ring()
            bell.wait(0.001)
            sys.settrace(None)
            at += 1
            if left > 0:
                break
        done.append(at)

    thread = threading.Thread(target=all_of_it, daemon=True)
    thread.start()
    thread.join(30.0)
    assert done, "it waits for itself"
    assert done[0] > 3
