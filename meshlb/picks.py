"""Picks for any other protocol: borrow an endpoint, dial it yourself, give it back with how it went.

There is no connection of ours here, so an endpoint counts as ready until its user says that it could not be reached; then it is left
out for ``UNREACHABLE_S`` while another is there. Sync and asyncio callers share the pool, and both wait for the first answer within
the same limits as a call (see ``meshlb.call``).
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Final

from meshlb.call.call import Call
from meshlb.core import validate
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ClosedError
from meshlb.pool.view import View
from meshlb.runtime.fork import on_fork_child

if TYPE_CHECKING:
    from meshlb.binding import Binding

UNREACHABLE_S: Final = 1.0  # gRPC's first connect back-off

# What says "the address did not answer", and not "the service said no": only these put an endpoint aside.
_UNREACHABLE = (ConnectionRefusedError, ConnectionAbortedError, TimeoutError)
_CANCELLED = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class TargetPool:
    """What ``Mesh.pool(target)`` gives. Thread-safe; usable from several event loops.

    ``pick()`` starts discovery at the first use. ``close()`` ends this handle only.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._closed = False
        self._start_clean()
        on_fork_child(self._start_clean)

    def _start_clean(self) -> None:
        self._changed = threading.Condition()
        self._sleepers: set[asyncio.Future[None]] = set()
        self._aside: set[Subchannel] = set()
        self._view: View | None = None

    def pick(self, timeout_s: float | None = None, *, method: str = "") -> Pick:
        """An endpoint for the length of a ``with`` or ``async with`` block.

        ``timeout_s`` bounds the wait for it (seconds; None: the configuration's limits). An exception that leaves the block counts
        as a failure of the endpoint, a refused or timed-out connection puts it aside for a second, a cancellation blames nobody.
        Raises NoEndpointError, ResolveError or DeadlineExceededError on entry.
        """
        if timeout_s is not None:
            timeout_s = validate.seconds("timeout_s", timeout_s)
        return Pick(self, timeout_s, method)

    def close(self) -> None:
        """No further picks; those that are out may still come back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._view is not None:
            self._view.close()

    def __enter__(self) -> TargetPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> TargetPool:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TargetPool {self.binding.target}>"

    # --- inside -----------------------------------------------------------------------------------------------------------

    def view(self) -> View:
        with self._changed:
            if self._closed:
                raise ClosedError(f"{self.binding.target}: the pool handle is closed")
            if self._view is None:
                self._view = self.binding.view(_Weakly(self))
            view = self._view
        self.refresh(view)
        return view

    def refresh(self, view: View) -> None:
        """No connections to make: whatever is wanted and not put aside is ready."""
        aside = self._aside
        view.set_states([(sub, Connectivity.READY) for sub in view.unready() if sub not in aside])

    def on_change(self) -> None:
        """The view changed: mark what is new as ready, wake who waits."""
        view = self._view
        if view is None:
            return
        if any(sub not in self._aside for sub in view.unready()):
            self.refresh(view)  # comes back here by way of ``notify``
            return
        with self._changed:
            self._changed.notify_all()
            sleepers, self._sleepers = self._sleepers, set()
        for sleeper in sleepers:
            try:
                sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)
            except RuntimeError:
                continue  # its loop is closed: nobody sleeps there any more

    def put_aside(self, subchannel: Subchannel) -> None:
        self._aside.add(subchannel)
        this = weakref.ref(self)

        def again() -> None:
            pool = this()
            if pool is not None:
                pool._aside.discard(subchannel)
                pool.on_change()

        try:
            self.binding.scheduler.call_later(UNREACHABLE_S, again)
        except ClosedError:  # the mesh was closed: nobody would bring it back
            self._aside.discard(subchannel)

    def wait(self, call: Call) -> Attempt:
        now_s = self.binding.clock.now_s
        while True:
            with self._changed:
                attempt = call.begin_attempt(now_s())
                if attempt is not None:
                    return attempt
                if self._closed:
                    raise ClosedError(f"{self.binding.target}: the pool handle was closed while a pick waited")
                until_s = call.wait_until_s
                self._changed.wait(None if until_s is None else max(until_s - now_s(), 0.0))

    async def wait_async(self, call: Call) -> Attempt:
        now_s = self.binding.clock.now_s
        while True:
            sleeper = asyncio.get_running_loop().create_future()
            with self._changed:
                self._sleepers.add(sleeper)  # before asking, so that no change is missed between the two
            try:
                attempt = call.begin_attempt(now_s())
                if attempt is not None:
                    return attempt
                if self._closed:
                    raise ClosedError(f"{self.binding.target}: the pool handle was closed while a pick waited")
                until_s = call.wait_until_s
                await asyncio.wait([sleeper], timeout=None if until_s is None else max(until_s - now_s(), 0.0))
            finally:
                with self._changed:
                    self._sleepers.discard(sleeper)


class Pick:
    """One borrowed endpoint; see ``TargetPool.pick``."""

    __slots__ = ("_attempt", "_call", "_pool", "_timeout_s", "_view", "method")

    def __init__(self, pool: TargetPool, timeout_s: float | None, method: str) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self.method = method
        self._attempt: Attempt | None = None

    def _begin(self) -> Call:
        binding = self._pool.binding
        self._view = self._pool.view()
        deadline_s = None if self._timeout_s is None else binding.clock.now_s() + self._timeout_s
        return Call(self._view, binding.limits, PickInfo(self.method), deadline_s=deadline_s)

    def _end(self, error: BaseException | None) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        if error is None:
            outcome = Outcome.SUCCESS
        elif isinstance(error, _CANCELLED):
            outcome = Outcome.CANCELLED
        elif isinstance(error, _UNREACHABLE):
            outcome = Outcome.UNREACHABLE
            self._pool.put_aside(attempt.subchannel)
        else:
            outcome = Outcome.FAILURE
        self._view.end(attempt, outcome)

    def __enter__(self) -> Endpoint:
        self._attempt = self._pool.wait(self._begin())
        return self._attempt.subchannel.endpoint

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(error)

    async def __aenter__(self) -> Endpoint:
        self._attempt = await self._pool.wait_async(self._begin())
        return self._attempt.subchannel.endpoint

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(error)


class _Weakly:
    """A listener that does not keep the handle alive."""

    __slots__ = ("_pool",)

    def __init__(self, pool: TargetPool) -> None:
        self._pool = weakref.ref(pool)

    def on_change(self) -> None:
        pool = self._pool()
        if pool is not None:
            pool.on_change()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
