"""The discovery thread: every decision and timer of a process runs here, one at a time, so that none of them needs a lock.

The way in is a ``deque``, and a ``queue.SimpleQueue`` as its bell: both may be used inside another use of the same thread.
Finalizers and signal handlers post here whenever the interpreter pleases, and a condition or an ordinary queue would deadlock. Timers
are posted too and live in a heap that only the thread itself touches. An idle thread is blocked in the bell's ``get`` and looks up
once a minute, so that its age tells the living from the dead.

- Started by the first post, not before. A daemon, so that it never keeps a process alive.
- A callback that raises is logged once per kind, counted, and harms nobody else.
- What escapes all the same (no memory for an entry of the heap, a log handler that raises, an exception that somebody sets in the
  thread from outside) ends one turn and not the thread: it goes on with all that was posted and all timers, after a pause that
  doubles while that keeps happening. A thread that is gone is replaced by the next post, or by ``supervise``. Both are counted.
- A cancelled timer lets go of its callback at once; its place in the heap goes when the heap has doubled (amortised O(1)).
- ``stop()`` is final: whoever posts afterwards gets ClosedError, except what a helper reports late, which is dropped. At the exit
  of the interpreter everything is dropped instead: nobody is left to be told, and finalizers would only make noise.
- A forked child starts clean: nothing posted before the fork runs there. Owners hear of the fork by ``fork.on_fork_child``.

Not asyncio: programs that do not use it should not pay for its import, and this is all that would be needed of it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, TypeVar

from meshlb.errors import ClosedError
from meshlb.runtime import exit as process_exit
from meshlb.runtime.fork import on_fork_child
from meshlb.runtime.lookups import Lookups

T = TypeVar("T")
Callback = Callable[[], None]

NAME: Final = "meshlb-discovery"
MIN_COMPACT: Final = 64  # below this a heap of cancelled timers is not worth a sweep
MAX_WAIT_S: Final = 60.0  # a turn that is older means that the thread is stuck, or gone
MIN_PAUSE_S: Final = 0.01
MAX_PAUSE_S: Final = 10.0  # between turns that all fail

_log = logging.getLogger("meshlb.runtime")


class LoopTimer:
    """A callback and its time. ``cancel`` on the discovery thread is exact; from elsewhere it may come while the callback runs."""

    __slots__ = ("callback", "when_s")

    def __init__(self, when_s: float, callback: Callback) -> None:
        self.when_s = when_s
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


Heap = list[tuple[float, int, LoopTimer]]


class Loop:
    """The system's ``Scheduler``; see ``meshlb.core.scheduler`` for the contract. Any thread may call any method.

    Owned for the life of a process as a rule: a running loop keeps itself alive, so call ``stop()`` on one that is not.
    """

    now_s = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()  # by kind: what was called, and what it raised
        self.restarts = 0  # turns that did not end as they should, and threads that were gone
        self._lookups = Lookups()
        self._closed = False
        self._exiting = False
        self.reset_after_fork()
        on_fork_child(self.reset_after_fork)

    def reset_after_fork(self) -> None:
        """Start clean in a forked child: no thread, nothing posted, no timer, fresh locks. A stopped loop stays stopped."""
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._starting = False
        self._readers: set[threading.Thread] = set()
        self._work: deque[Callback | LoopTimer | None] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._heap: Heap = []
        self._order = itertools.count()
        self._compact_at = MIN_COMPACT
        self._busy_since_s: float | None = None
        self._turned_s: float | None = None
        self._lookups.reset()

    # -- Scheduler -----------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callback, /) -> None:
        """Run it on the discovery thread as soon as that is free, in the order of the calls. ClosedError after ``stop()``."""
        if self._may_post():
            self._post(callback)

    def call_later(self, delay_s: float, callback: Callback, /) -> LoopTimer:
        """Run it in ``delay_s`` seconds (at once if that is not positive). ClosedError after ``stop()``."""
        timer = LoopTimer(self.now_s() + max(0.0, delay_s), callback)
        if self._may_post():
            self._post(timer)
        return timer

    def run_blocking(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None], /, *, may_hang: bool = False
    ) -> None:
        """Run ``work`` in a look-up thread, then ``done`` with its result or its error on the discovery thread."""
        if not self._may_post():
            return

        def job() -> None:
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 - even SystemExit: someone waits for the answer
                result, error = None, raised
            self._report(lambda: done(result, error))

        try:
            self._lookups.submit(job, may_hang=may_hang)
        except RuntimeError as raised:  # the system has no thread left for us
            refused = raised
            self._report(lambda: done(None, refused))

    def start_thread(self, name: str, run: Callback, /) -> None:
        """Run ``run`` in a daemon thread ``meshlb-<name>``. What it raises is logged. ClosedError after ``stop()``."""
        if not self._may_post():
            return

        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
                self._note(run, error)
            finally:
                readers.discard(thread)

        thread = threading.Thread(target=guarded, name=f"meshlb-{name}", daemon=True)
        readers = self._readers
        readers.add(thread)
        try:
            thread.start()
        except BaseException:
            readers.discard(thread)
            raise

    # -- life ----------------------------------------------------------------------------------------------------------

    def stop(self, timeout_s: float = 1.0) -> None:
        """Run what is already posted, then end for good; wait at most ``timeout_s`` for that. Timers do not run any more."""
        self.end()
        self.join(timeout_s)

    def end(self, *, exiting: bool = False) -> None:
        """Stop without waiting. ``exiting``: the interpreter is at its end, later posts are dropped without an error."""
        with self._lock:
            self._exiting = self._exiting or exiting
            if self._closed:
                return
            self._closed = True
        self._put(None)
        self._lookups.end()

    def join(self, timeout_s: float) -> None:
        """Wait for the discovery thread to end; returns at once on that thread."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """The discovery thread runs now; False before the first post and after ``stop()``."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def supervise(self) -> None:
        """Replace a thread that is gone although nobody stopped it. Any thread, and cheap: whoever reports on the loop calls it."""
        if self._thread is not None and not self.alive and not self._exiting and not sys.is_finalizing():
            self._start()

    @property
    def age_s(self) -> float | None:
        """Since the thread last turned to something new, or looked up from having nothing to do; None if it never ran. More than
        ``MAX_WAIT_S``: it is stuck in a callback, or dead."""
        turned_s = self._turned_s
        return None if turned_s is None else max(0.0, self.now_s() - turned_s)

    @property
    def heartbeat_age_s(self) -> float:
        """How long the thread has been in its present callback; 0 while it waits for work. Seconds here mean a stuck callback."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else max(0.0, self.now_s() - since_s)

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``; looks after the thread first."""
        self.supervise()
        age_s = self.age_s
        timers = [timer for _, _, timer in self._heap.copy() if timer.callback is not None]
        return {
            "state": "stopped" if self._closed else "running" if self.alive else "not started",
            "age_s": None if age_s is None else round(age_s, 3),
            "heartbeat_age_s": round(self.heartbeat_age_s, 3),
            "restarts": self.restarts,
            "posted": len(self._work),
            "timers": len(timers),
            "lookup_threads": self._lookups.threads,
            "readers": sorted(thread.name for thread in self._readers.copy()),
            "errors": dict(self.errors),
        }

    def __repr__(self) -> str:
        return f"<Loop {self.describe()['state']}>"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _may_post(self) -> bool:
        # Python 3.11 hangs for ever in Thread.start() while it finalizes.
        if self._exiting or sys.is_finalizing():
            return False
        if self._closed:
            raise ClosedError("the discovery loop was stopped")
        return True

    def _report(self, callback: Callback) -> None:
        """Post what a helper has found; nobody waits for it after the end."""
        if not self._closed:
            self._post(callback)

    def _post(self, item: Callback | LoopTimer) -> None:
        self._put(item)
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def _put(self, item: Callback | LoopTimer | None) -> None:
        self._work.append(item)
        self._bell.put(None)

    def _start(self) -> None:
        with self._lock:
            if self._starting or self._closed or self.alive:  # starting: a finalizer that ran within the lines below
                return
            self._starting = True
            try:
                process_exit.end_at_exit(self)
                thread = threading.Thread(target=self._run, args=(self._work, self._bell, self._heap), name=NAME, daemon=True)
                thread.start()
                self.restarts += self._thread is not None
                self._thread = thread
            finally:
                self._starting = False

    def _run(self, work: deque[Callback | LoopTimer | None], bell: queue.SimpleQueue[None], heap: Heap) -> None:
        pause_s, going_on = 0.0, True
        while going_on:
            try:
                if pause_s:
                    time.sleep(pause_s)
                going_on = self._turn(work, bell, heap)
                pause_s = 0.0
            except BaseException as error:  # noqa: BLE001 - nobody else would go on with what was posted
                pause_s = min(MAX_PAUSE_S, max(MIN_PAUSE_S, 2 * pause_s))
                self._survive(error)

    def _turn(self, work: deque[Callback | LoopTimer | None], bell: queue.SimpleQueue[None], heap: Heap) -> bool:
        """Wait for something to do, do it, and then what is due: a flood of posts cannot hold a timer up. False at the end."""
        self._turned_s = self.now_s()
        wait_s = 0.0 if work else min(MAX_WAIT_S, max(0.0, heap[0][0] - self._turned_s)) if heap else MAX_WAIT_S
        with contextlib.suppress(queue.Empty):
            bell.get(timeout=wait_s)
        if work:
            item = work[0]
            if item is None:
                heap.clear()
                return False
            if isinstance(item, LoopTimer):
                self._add(heap, item)
                work.popleft()  # not before, so that it is added again should that fail
            else:
                work.popleft()  # not after, so that it is called once
                self._call(item)
        self._run_due(heap)
        return True

    def _survive(self, error: BaseException) -> None:
        try:
            self.restarts += 1
            self._note(self._survive, error)
        except BaseException:  # noqa: BLE001 - it may be the log's handler that raises
            pass

    def _add(self, heap: Heap, timer: LoopTimer) -> None:
        heapq.heappush(heap, (timer.when_s, next(self._order), timer))
        if len(heap) > self._compact_at:
            heap[:] = [entry for entry in heap if entry[2].callback is not None]
            heapq.heapify(heap)
            self._compact_at = max(MIN_COMPACT, 2 * len(heap))

    def _run_due(self, heap: Heap) -> None:
        now_s = self.now_s()
        while heap and heap[0][0] <= now_s:
            timer = heapq.heappop(heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._call(callback)

    def _call(self, callback: Callback) -> None:
        self._busy_since_s = self.now_s()
        try:
            callback()
        except BaseException as error:  # noqa: BLE001 - even SystemExit would end discovery for everyone
            self._note(callback, error)
        finally:
            self._busy_since_s = None

    def _note(self, callback: Callable[..., object], error: BaseException) -> None:
        if self._closed and isinstance(error, ClosedError):
            return  # it could not go on because of stop(): that is no fault
        function = getattr(callback, "func", callback)  # a functools.partial has no name of its own
        kind = f"{getattr(function, '__qualname__', type(function).__name__)}: {type(error).__name__}"
        self.errors[kind] += 1
        if self.errors[kind] == 1:
            _log.error("%s (later ones of this kind are only counted)", kind, exc_info=error)
