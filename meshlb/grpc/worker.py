"""A daemon thread for what may run code of the user's (serializers, callbacks), so that the discovery thread never does.

Started by the first job, gone after ten idle seconds, fresh in a forked child. Jobs run one at a time, in the order they came. No
exception of a job ends the thread, ``SystemExit`` neither: others wait for the jobs that follow.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Final

from meshlb.runtime.fork import on_fork_child

IDLE_S: Final = 10.0

_log = logging.getLogger("meshlb.grpc")


class Worker:
    """Any thread may submit, finalizers too."""

    def __init__(self, name: str, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._idle_s = idle_s
        self.reset()
        on_fork_child(self.reset)

    def reset(self) -> None:
        """Forget everything, for a forked child."""
        self._lock = threading.RLock()  # re-entrant: a finalizer may submit while this thread holds it
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Have it run; dropped while the interpreter ends (Python 3.11 hangs in ``Thread.start`` then)."""
        if sys.is_finalizing():
            return
        with self._lock:
            self._jobs.put(job)
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._run, args=(self._jobs,), name=self._name, daemon=True)
            thread.start()
            self._thread = thread  # not if the system allows no thread: the next job tries again

    def _run(self, jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
        try:
            self._run_until_idle(jobs)
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _run_until_idle(self, jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if not jobs.empty():  # came in after the time ran out
                        continue
                    if self._thread is threading.current_thread():
                        self._thread = None
                    return
            try:
                job()
            except BaseException:  # noqa: BLE001 - the user's code, which may call sys.exit; logged, as grpc does
                _log.exception("%s: %r failed", self._name, job)
            del job  # what it holds must not live until the next one
