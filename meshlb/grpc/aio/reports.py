"""How load reports reach the pool, for asyncio: from the trailers of calls, or by a stream on the side of each connection.

As with threads (``meshlb.grpc.reports``), grpc's multicallable for one endpoint has one of ours around it where reports are wanted, made once.
It adds a done callback to each call, which must not raise: that would break the await of whoever made the call.

Out of band, a stream costs no thread here, so there is one for each connection while it is ready, as A51 has it. After each message it is
not read for ``PAUSE_RATIO`` of the interval, or a server that sends without pause would have the event loop for itself; HTTP/2 makes it wait
meanwhile. It ends before its connection is let go or closed: an open stream would keep either waiting. Its task holds the view weakly, and is cancelled when its driver is
gone, so a forgotten channel is freed.

Spec: gRFC A51.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from meshlb.core.clock import Rng
from meshlb.core.subchannel import Subchannel
from meshlb.grpc.aio.ends import answer_now
from meshlb.grpc.oob import METHOD, Restarts
from meshlb.grpc.reports import Hears
from meshlb.load.orca import parse
from meshlb.load.orca_wire import encode_request
from meshlb.pool.view import View
from meshlb.runtime.clock import system_rng

if TYPE_CHECKING:
    from meshlb.binding import Binding
    from meshlb.grpc.aio.connection import Connection

PAUSE_RATIO: Final = 0.5  # less than the whole, so that who sends on time is never read late

_Tasks = dict["Connection", "asyncio.Task[None]"]


class Reporting:
    """grpc's multicallable for one endpoint, as one that also hears."""

    __slots__ = ("_hears", "_inner")

    def __init__(self, inner: Any, hears: Hears) -> None:
        self._inner = inner
        self._hears = hears

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        call = self._inner(*arguments, **named)
        call.add_done_callback(self._at_end)
        return call

    def _at_end(self, call: Any) -> None:
        # A call that was cancelled within an interceptor, or that one failed with something of its own, has no trailers to tell.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            try:  # private: a plain tuple, in a third of the time
                told = call._cython_call.trailing_metadata
            except AttributeError:  # grpcio 1.60, and intercepted calls
                told = call.trailing_metadata
            self._hears(answer_now(told()))


class OutOfBand:
    """One driver's; everything in its loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, view: View, connected: Mapping[Subchannel, Connection], binding: Binding
    ) -> None:
        self._loop = loop
        self._view = weakref.ref(view)
        self._connected = connected
        self._binding = binding
        self._tasks: _Tasks = {}
        weakref.finalize(self, _cancel_later, loop, self._tasks).atexit = False

    def reconcile(self) -> None:
        """A stream for each connection that is ready, and for no other."""
        ready = {connection for connection in self._connected.values() if connection.ready_s is not None}
        for gone in self._tasks.keys() - ready:
            self._tasks.pop(gone).cancel()
        for connection in ready - self._tasks.keys():
            stream = _listen(self._view, connection.subchannel, connection.channel, self._binding, system_rng())
            self._tasks[connection] = self._loop.create_task(stream, name="meshlb-load-reports")

    async def close(self) -> None:
        """All of them end, and have ended."""
        ending = list(self._tasks.values())
        _cancel(self._tasks)
        if ending:
            await asyncio.wait(ending)


async def _listen(view_of: Callable[[], View | None], subchannel: Subchannel, channel: Any, binding: Binding, rng: Rng) -> None:
    """Until it is cancelled, or the server has no such service."""
    interval_s = binding.config.weight.oob_interval_s
    restarts, request = Restarts(interval_s, None), encode_request(interval_s)
    stream = channel.unary_stream(METHOD)
    while True:
        restarts.opened(binding.clock.now_s())
        code: Any = None
        call = stream(request)
        try:
            async for message in call:
                restarts.heard()
                view = view_of()
                if view is None:
                    return
                view.pool.on_report(subchannel, parse(message))
                del view
                await asyncio.sleep(PAUSE_RATIO * interval_s)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        except grpc.aio.UsageError:  # closed
            return
        except Exception as error:  # noqa: BLE001 - a bug of ours: without reports there is the mean
            binding.count_internal_error(error)
            return
        finally:
            call.cancel()  # nothing, if it is over
        now_s = binding.clock.now_s()
        restarts.ended(code, str(binding.target), subchannel.endpoint.address, now_s, rng)
        if restarts.over:
            return
        await asyncio.sleep(restarts.due_s - now_s)


def _cancel(tasks: _Tasks) -> None:
    while tasks:
        tasks.popitem()[1].cancel()


def _cancel_later(loop: asyncio.AbstractEventLoop, tasks: _Tasks) -> None:
    """Wherever the collector happens to run."""
    if tasks:
        try:
            loop.call_soon_threadsafe(_cancel, tasks)
        except RuntimeError:  # the loop is closed
            tasks.clear()
