"""Picks for any other protocol: borrow an endpoint, dial it yourself, give it back with how it went.

There is no connection of ours here, so an endpoint counts as ready until its user says that it could not be reached; then it is left
out for ``UNREACHABLE_S`` while another is there. Sync and asyncio callers share the pool, and both wait for the first answer within
the same limits as a call (see ``meshlb.call``). Where picks are limited (``Config(limits=…)``), one counts from entering its block to
leaving it, and waits for its turn like any call; ``method`` is what per-method limits look at, and ``outlier.ignore_methods``.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Final

from meshlb.call.call import Call
from meshlb.call.infos import Infos
from meshlb.core import validate
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.hints import HashKey, hash_of
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ClosedError
from meshlb.pool.view import View
from meshlb.runtime.bell import Bell
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
        self._lock = threading.Lock()
        self._waiting: set[Bell | _Sleeper] = set()
        self._aside: set[Subchannel] = set()
        self._view: View | None = None

    def pick(self, timeout_s: float | None = None, *, method: str = "", hash_key: HashKey | None = None) -> Pick:
        """An endpoint for the length of a ``with`` or ``async with`` block.

        ``hash_key`` (text, bytes or a whole number): picks with the same key get the same endpoint, where the policy looks at keys; None:
        what ``meshlb.hints`` says where the block is entered, as for whom to avoid.
        ``timeout_s`` bounds the wait for it (seconds; None: the configuration's limits). An exception that leaves the block counts
        as a failure of the endpoint, a refused or timed-out connection puts it aside for a second, a cancellation blames nobody.
        Raises NoEndpointError, ResolveError, OverLimitError or DeadlineExceededError on entry, TypeError at once for a key of
        another type.
        """
        if timeout_s is not None:
            timeout_s = validate.seconds("timeout_s", timeout_s)
        return Pick(self, timeout_s, method, None if hash_key is None else hash_of("pick: hash_key", hash_key))

    def close(self) -> None:
        """No further picks; those that are out may still come back."""
        self._closed = True
        if self._view is not None:
            self._view.close()
        self._ring()

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
        with self._lock:
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
        self._ring()

    def _ring(self) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for one in waiting:
            one.ring()

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
        attempt = None if call.limited else call.begin_attempt(now_s())
        if attempt is not None:
            return attempt
        bell = Bell()
        call.wake_with(bell.ring)
        try:
            while True:
                bell.clear()  # before asking, so that no change is missed between the two
                attempt = self._ask(call, bell)
                if attempt is not None:
                    return attempt
                until_s = call.wait_until_s
                bell.wait(None if until_s is None else until_s - now_s())
        except BaseException:
            call.close()
            raise
        finally:
            self._waiting.discard(bell)

    async def wait_async(self, call: Call) -> Attempt:
        now_s = self.binding.clock.now_s
        attempt = None if call.limited else call.begin_attempt(now_s())
        if attempt is not None:
            return attempt
        sleeper = _Sleeper()
        call.wake_with(sleeper.ring)
        try:
            while True:
                sleeper.lie_down()
                attempt = self._ask(call, sleeper)
                if attempt is not None:
                    return attempt
                until_s = call.wait_until_s
                await sleeper.sleep(None if until_s is None else max(until_s - now_s(), 0.0))
        except BaseException:
            call.close()
            raise
        finally:
            self._waiting.discard(sleeper)

    def _ask(self, call: Call, caller: Bell | _Sleeper) -> Attempt | None:
        """Who has to wait is listed, and asks again, since something may have changed just before."""
        attempt = call.begin_attempt(self.binding.clock.now_s())
        if attempt is None and caller not in self._waiting:
            with self._lock:
                self._waiting.add(caller)
            attempt = call.begin_attempt(self.binding.clock.now_s())
        if attempt is None and self._closed:
            raise ClosedError(f"{self.binding.target}: the pool handle was closed while a pick waited")
        return attempt


class Pick:
    """One borrowed endpoint; see ``TargetPool.pick``."""

    __slots__ = ("_attempt", "_call", "_key", "_pool", "_timeout_s", "_view", "method")

    def __init__(self, pool: TargetPool, timeout_s: float | None, method: str, key: int | None) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._key = key
        self.method = method
        self._attempt: Attempt | None = None

    def _begin(self) -> Call:
        binding = self._pool.binding
        self._view = self._pool.view()
        deadline_s = None if self._timeout_s is None else binding.clock.now_s() + self._timeout_s
        info = PickInfo(self.method, judged=not binding.config.outlier.ignores(self.method))
        infos = Infos(info, binding.config.hash.for_method(self.method))
        self._call = Call(self._view, binding.limits, infos.of(self._view, key=self._key), deadline_s=deadline_s)
        return self._call

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
        try:
            self._view.end(attempt, outcome)
        except Exception as bug:  # noqa: BLE001 - a metric of a user's own policy raised; the block itself did nothing wrong
            self._pool.binding.count_internal_error(bug)
        finally:
            self._call.close()

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


class _Sleeper:
    """Wakes one task, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lie_down()

    def lie_down(self) -> None:
        self._woken: asyncio.Future[None] = self._loop.create_future()

    async def sleep(self, timeout_s: float | None) -> None:
        await asyncio.wait([self._woken], timeout=timeout_s)

    def ring(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # its loop is closed: nobody sleeps there any more
            return False
        return True

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)
