"""One event loop in one daemon thread: everything the fake cluster does happens there, so its state needs no locks.

Public methods of the test kit are plain blocking functions; they hand their work over with `LoopThread.call` or `.run`.

Why not uvloop, even where the test installed it: the cluster must be the same under every event loop policy.
After a fork the child has the sockets but not the thread. A listening socket held open by the child would go on accepting after
the parent closed it, and a cut stream would stay open, so the child's copies are replaced by /dev/null at once.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, ParamSpec, TypeVar

from meshlb.testing.errors import FakeClusterError

P = ParamSpec("P")
T = TypeVar("T")

# Work handed over by `call` takes milliseconds; this long only passes on a machine that is out of CPU, or if the loop hangs.
CALL_TIMEOUT_S = 30.0

_live: weakref.WeakSet[LoopThread] = weakref.WeakSet()


class LoopThread:
    """Start with the constructor, end with `close`. ``owned_fds`` are closed in forked children beside the loop's own."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self.owned_fds: set[int] = set()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        _live.add(self)

    @property
    def usable(self) -> bool:
        """Whether the thread runs: not after `close`, and not in a forked child."""
        return self._thread.is_alive() and self._pid == os.getpid()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread and return what it returns."""

        async def wrapped() -> T:
            return function(*args, **kwargs)

        return self.run(wrapped(), CALL_TIMEOUT_S)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        """Run a coroutine in the thread and return its result; after ``timeout_s`` seconds it is cancelled, `TimeoutError`."""
        if not self.usable:
            work.close()
            raise FakeClusterError("the fake cluster is closed" if self._pid == os.getpid() else "used in a forked child")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            if future.done():
                raise  # the work's own timeout, not ours
            future.cancel()
            raise TimeoutError(f"not done within {timeout_s} s") from None

    def close(self) -> None:
        """Cancel what still runs, stop the loop and join the thread."""
        if not self.usable:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _detach_in_child(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        # dup2, not close: the Python objects that own these numbers will close them some day, by then maybe someone else's.
        for fd in {*self.owned_fds, *(key.fd for key in self._selector.get_map().values())}:
            os.dup2(null, fd)
        os.close(null)


def _after_fork_in_child() -> None:
    for thread in list(_live):
        if thread._thread.is_alive() or not thread.loop.is_closed():
            thread._detach_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
