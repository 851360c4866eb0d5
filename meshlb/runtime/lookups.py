"""A few threads for short blocking reads, made on demand and gone when idle.

Not ``concurrent.futures``: its threads are joined at exit for as long as a look-up takes, never end before, and its executors do
not survive a fork.

A few jobs may hang for tens of seconds (the system's own resolver with a dead server); they get half of the threads at most, and
wait for each other, so that they never keep the others (the cluster's DNS) waiting.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_THREADS: Final = 4  # a look-up may block for seconds; two names that hang must not keep the others waiting
MAX_HANGING: Final = 2
IDLE_S: Final = 10.0

_log = logging.getLogger("meshlb.runtime")


class Lookups:
    """At most ``MAX_THREADS`` daemon threads ``meshlb-lookup-N``; jobs start in the order they came. Any thread may submit."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: for a forked child, where neither the threads nor the holders of the lock exist."""
        self._lock = threading.RLock()  # re-entrant: a finalizer may run, and submit, while this thread holds it
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._free = list(range(MAX_THREADS, 0, -1))
        self._outstanding = 0  # submitted and not finished
        self._hanging = 0  # of these, jobs that may hang
        self._waiting: deque[Callable[[], None]] = deque()  # jobs that may hang, beyond MAX_HANGING

    @property
    def threads(self) -> int:
        return MAX_THREADS - len(self._free)

    def submit(self, job: Callable[[], None], *, may_hang: bool = False) -> None:
        """Run a job that never raises. Raises RuntimeError if no thread is there and the system allows none."""
        if not may_hang:
            self._submit(job)
            return
        with self._lock:
            if self._hanging == MAX_HANGING:
                self._waiting.append(job)
                return
            self._hanging += 1
            try:
                self._submit(lambda: self._run_hanging(job))
            except RuntimeError:
                self._hanging -= 1
                raise

    def _run_hanging(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            with self._lock:
                self._hanging -= 1
                if self._waiting:
                    self.submit(self._waiting.popleft(), may_hang=True)

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._outstanding += 1
            if self._free and self._outstanding > self.threads:
                self._start()
            self._jobs.put(job)

    def _start(self) -> None:
        number = self._free.pop()
        try:
            threading.Thread(target=self._run, args=(self._jobs, number), name=f"meshlb-lookup-{number}", daemon=True).start()
        except RuntimeError:
            self._free.append(number)
            if not self.threads:
                self._outstanding -= 1
                raise

    def end(self) -> None:
        """Idle threads end now, the others after their job."""
        for _ in range(self.threads):
            self._jobs.put(None)

    def _run(self, jobs: queue.SimpleQueue[Callable[[], None] | None], number: int) -> None:
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if not jobs.empty():  # came in after the time ran out
                        continue
                    self._free.append(number)
                    return
            if job is None:
                return
            try:
                job()
            except BaseException:  # noqa: BLE001 - a job that cannot even report its error must not cost us the thread
                _log.exception("a look-up could not report its result")
            finally:
                del job  # what it holds must not live until the next one
                with self._lock:
                    self._outstanding -= 1
