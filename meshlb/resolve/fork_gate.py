"""A gate between ``os.fork`` and what it must not tear: a child never inherits a module half imported, nor a TLS context half made.

``kubernetes`` and dnspython are imported lazily, in helper threads. A fork in the middle of that copies the module's import lock as
held by a thread that does not exist in the child, where the next import of that module then hangs for ever. OpenSSL has such locks
too, and takes them while it makes a context. So this work is done inside ``with fork_gate:``, and ``meshlb.runtime.fork`` closes the
gate around a fork.

Those inside do not exclude each other (two sources race at the start); only a fork excludes them. A fork waits for them at most
``FORK_WAIT_S`` and then goes ahead: a stuck import must not stop the program from forking.

It lives here and not in ``runtime/`` because those who import are in this layer.
"""

from __future__ import annotations

import threading
from typing import Final

FORK_WAIT_S: Final = 5.0  # a cold import of kubernetes without bytecode took 1.3 s on a busy machine


class ForkGate:
    """``with fork_gate: import dns.resolver``; from any thread, re-entrant."""

    __slots__ = ("_changed", "_forks", "_imports", "_own")

    def __init__(self) -> None:
        self._own = threading.local()
        self._fresh()

    def _fresh(self) -> None:
        self._changed = threading.Condition()
        self._imports = 0
        self._forks = 0

    def __enter__(self) -> None:
        depth = getattr(self._own, "depth", 0)
        with self._changed:
            while self._forks and not depth:
                self._changed.wait()
            self._imports += 1
        self._own.depth = depth + 1

    def __exit__(self, *exc: object) -> None:
        self._own.depth -= 1
        with self._changed:
            self._imports -= 1
            self._changed.notify_all()

    def before_fork(self) -> bool:
        """Close the gate and wait until no import is under way; False after ``FORK_WAIT_S``, the gate is closed all the same."""
        with self._changed:
            self._forks += 1
            # Its own imports are not half done in the child: the forking thread goes on there too.
            return self._changed.wait_for(lambda: self._imports <= getattr(self._own, "depth", 0), FORK_WAIT_S)

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """The other threads are gone, and what they held with them."""
        self._fresh()
        self._imports = getattr(self._own, "depth", 0)


fork_gate: Final = ForkGate()
