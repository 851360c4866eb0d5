"""The end of an attempt that nobody waits for: futures and streams tell when they are over, exactly once.

gRPC calls ``add_callback`` at exhaustion, error, cancel, deadline, and when a dropped call is freed, on the channel's own thread. Two
streams never call: a single-threaded one (``SingleThreadedUnaryStream``) that is dropped unread, and one whose deserializer failed.
So a stream has a finalizer too; and since that may run anywhere, even where a lock of ours is held, it only posts to the discovery
thread. Whichever comes first counts.

The callback holds the call weakly: held strongly it would be a cycle, and a dropped stream would live until the garbage collector
comes by instead of being cancelled at once, as with grpc.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshlb.call.story import why_first
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError
from meshlb.grpc.marks import mark
from meshlb.grpc.status import outcome_of
from meshlb.pool.view import View

if TYPE_CHECKING:
    from meshlb.binding import Binding

CANCELLED = Outcome.CANCELLED


def end_with(call: Any, attempt: Attempt, view: View, binding: Binding, *, timeout_s: float | None, stream: bool) -> None:
    """Count the attempt as ended when the call is; ``timeout_s``: what it was given; ``stream``: its answers are one."""
    mark(call, attempt.subchannel.endpoint, why=why_first(view.pool, attempt))
    end = _End(call, attempt, view, binding, timeout_s)
    if not call.add_callback(end):
        end()
    if stream:
        weakref.finalize(call, _end_later, attempt, view, binding).atexit = False


class _End:
    """Never raises: gRPC's thread would end with it."""

    __slots__ = ("_attempt", "_binding", "_call", "_timeout_s", "_view", "func")

    def __init__(self, call: Any, attempt: Attempt, view: View, binding: Binding, timeout_s: float | None) -> None:
        self._call: Callable[[], Any] = weakref.ref(call)
        self._attempt = attempt
        self._view = view
        self._binding = binding
        self._timeout_s = timeout_s
        self.func = type(self).__name__  # gRPC names it in its log

    def __call__(self) -> None:
        try:
            call = self._call()
            self._view.end(self._attempt, CANCELLED if call is None else self._outcome(call))
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end gRPC's thread
            self._binding.count_internal_error(error)

    def _outcome(self, call: Any) -> Outcome:
        took_s = self._binding.clock.now_s() - self._attempt.started_s
        return outcome_of(call.code(), call.details(), took_s=took_s, timeout_s=self._timeout_s)


def _end_later(attempt: Attempt, view: View, binding: Binding) -> None:
    def end() -> None:
        view.end(attempt, CANCELLED)

    if attempt in attempt.live:
        try:
            binding.scheduler.call_soon(end)
        except ClosedError:  # the mesh was closed: nobody balances by this count any more
            attempt.live.discard(attempt)
