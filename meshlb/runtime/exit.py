"""The end of the process: loops are stopped before the interpreter takes itself apart, and all of them together wait one second.

Why ``atexit`` and not ``threading._register_atexit``: the latter runs when the *main thread* ends, before the interpreter waits for
the other non-daemon threads; a program that serves from those would lose discovery for the rest of its life. ``atexit`` runs after
them. The hook is registered when the first loop starts, so later than what was imported before it, and hence runs earlier.

Threads that are blocked in a system call are left alone: they are daemons, and the interpreter ends them when they come back.
"""

from __future__ import annotations

import atexit
import time
import weakref
from typing import Final, Protocol

EXIT_WAIT_S: Final = 1.0


class Ending(Protocol):
    """What is told of the exit: first ``end`` to all, then ``join`` to each with what is left of the second."""

    def end(self, *, exiting: bool) -> None: ...

    def join(self, timeout_s: float) -> None: ...


_ending: weakref.WeakSet[Ending] = weakref.WeakSet()
_registered: list[bool] = []


def end_at_exit(thing: Ending) -> None:
    """Have it told of the exit, if it still lives then."""
    if not _registered:
        _registered.append(True)
        atexit.register(_end_all)
    _ending.add(thing)


def _end_all() -> None:
    things = list(_ending)
    for thing in things:
        thing.end(exiting=True)
    deadline_s = time.monotonic() + EXIT_WAIT_S
    for thing in things:
        thing.join(max(0.0, deadline_s - time.monotonic()))
