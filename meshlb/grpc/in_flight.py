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

from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError
from meshlb.grpc.status import outcome_of
from meshlb.pool.view import View

if TYPE_CHECKING:
    from meshlb.binding import Binding

CANCELLED = Outcome.CANCELLED
_ENDPOINT = "_meshlb_endpoint"


def mark(call_or_error: Any, endpoint: Endpoint) -> None:
    """Have ``endpoint_of`` find it: gRPC's calls have no ``peer()`` on the client's side in Python, and take attributes."""
    setattr(call_or_error, _ENDPOINT, endpoint)


def endpoint_of(call_or_error: object) -> Endpoint | None:
    """The endpoint that a call went to, from what ``with_call``, ``future`` or a stream returned or what a failed call raised.

    None if it went nowhere (yet), or over the fallback. Interceptors that return what they were given do not hide it.
    """
    seen: Any = call_or_error
    for _ in range(16):  # as deep as interceptors may wrap
        endpoint = getattr(seen, _ENDPOINT, None)
        if isinstance(endpoint, Endpoint):
            return endpoint
        seen = getattr(seen, "_call", None)
        if seen is None:
            break
    return None


def end_with(call: Any, attempt: Attempt, view: View, binding: Binding, *, stream: bool) -> None:
    """Count the attempt as ended when the call is; ``stream``: its answers are one."""
    mark(call, attempt.subchannel.endpoint)
    end = _End(call, attempt, view, binding)
    if not call.add_callback(end):
        end()
    if stream:
        weakref.finalize(call, _end_later, attempt, view, binding).atexit = False


class _End:
    """Never raises: gRPC's thread would end with it."""

    __slots__ = ("_attempt", "_binding", "_call", "_view", "func")

    def __init__(self, call: Any, attempt: Attempt, view: View, binding: Binding) -> None:
        self._call: Callable[[], Any] = weakref.ref(call)
        self._attempt = attempt
        self._view = view
        self._binding = binding
        self.func = type(self).__name__  # gRPC names it in its log

    def __call__(self) -> None:
        try:
            call = self._call()
            outcome = CANCELLED if call is None else outcome_of(call.code(), call.details())
            self._view.end(self._attempt, outcome)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end gRPC's thread
            self._binding.count_internal_error(error)


def _end_later(attempt: Attempt, view: View, binding: Binding) -> None:
    def end() -> None:
        view.end(attempt, CANCELLED)

    if attempt in attempt.live:
        try:
            binding.scheduler.call_soon(end)
        except ClosedError:  # the mesh was closed: nobody balances by this count any more
            attempt.live.discard(attempt)
