"""How load reports reach the pool, for threads: from the trailers of calls, or asked for on their side.

**From trailers.** Where reports are wanted, what a multicallable sends with for each endpoint is not grpc's own multicallable but
one of ours around it, which looks at the trailers of whatever ends. It is chosen when that is made, once for a method and endpoint: where
no reports are wanted, no call pays for it. Every attempt is heard, those that fail too.

**Out of band.** A stream that stays open costs gRPC's Python two threads (one that reads, one of gRPC's own that waits for it to be read)
and, idle, 0.04 % of a core for their polling; measured with 20. So each connection is asked every ``oob_interval_s`` on a stream that is
read once and cancelled: A51's servers send a report at once. That takes 0.4 ms of processor time, a tenth of it at the default interval,
and one daemon thread for all channels of the process. A pod that does not answer holds up its batch for ``PATIENCE_S`` at most, and is asked
less and less often. These calls are no attempts: nothing is counted, nothing is blamed, and no connection is kept for their sake.

A fork waits until no such question is under way, ``FORK_WAIT_S`` at most (see ``link.ForkGate``).

Spec: gRFC A51.
Deviations: out of band one stream a report, not one for all.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

from meshlb.core.subchannel import Subchannel
from meshlb.errors import ClosedError
from meshlb.grpc.link import ForkGate, Link, weakly
from meshlb.grpc.oob import METHOD, Restarts
from meshlb.grpc.signals import raised_by_handler
from meshlb.grpc.worker import Worker
from meshlb.load.orca import of_trailers, parse
from meshlb.load.orca_wire import encode_request
from meshlb.pool.pool import Pool
from meshlb.runtime.clock import system_rng

if TYPE_CHECKING:
    from meshlb.binding import Binding
    from meshlb.grpc.connection import Connections

Hears = Callable[[Any], None]  # of trailers

WORKER: Final = Worker("meshlb-grpc-reports", idle_s=60.0)
PATIENCE_S: Final = 0.5  # for an answer; well below what a fork waits
LOOK_S: Final = 1.0  # how long a new connection waits for its first question
BATCH: Final = 16  # each has a thread of grpc's while it is asked

asking_gate = ForkGate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=asking_gate.close, after_in_parent=asking_gate.open, after_in_child=asking_gate.renew)


# --- from trailers ----------------------------------------------------------------------------------------------------------------


def hearing(pool: Pool, subchannel: Subchannel, binding: Binding) -> Hears:
    """Takes the report of whatever ended on one endpoint, by its trailers, to the pool. Any thread; raises only what a signal's handler
    raised."""

    def hear(trailers: Any) -> None:
        try:
            report = of_trailers(trailers)
            if report is not None:
                pool.on_report(subchannel, report)
        except Exception as error:
            if raised_by_handler(error):
                raise
            binding.count_internal_error(error)

    return hear


def reporting(inner: Any, hears: Hears) -> Any:
    """grpc's multicallable for one endpoint, as one that also hears."""
    return _ReportingUnary(inner, hears) if hasattr(inner, "with_call") else _ReportingStream(inner, hears)


class _ReportingUnary:
    """``unary_unary`` and ``stream_unary``: grpc tells the trailers of a success only with the call."""

    __slots__ = ("_future", "_hears", "_with_call")

    def __init__(self, inner: Any, hears: Hears) -> None:
        self._with_call = inner.with_call
        self._future = inner.future
        self._hears = hears

    def __call__(self, *arguments: Any) -> Any:
        return self.with_call(*arguments)[0]

    def with_call(self, *arguments: Any) -> Any:
        try:
            answer = self._with_call(*arguments)
        except grpc.RpcError as error:
            self._hears(error.trailing_metadata())
            raise
        self._hears(answer[1].trailing_metadata())
        return answer

    def future(self, *arguments: Any) -> Any:
        return _hear_at_end(self._future(*arguments), self._hears)


class _ReportingStream:
    """``unary_stream`` and ``stream_stream``."""

    __slots__ = ("_hears", "_inner")

    def __init__(self, inner: Any, hears: Hears) -> None:
        self._inner = inner
        self._hears = hears

    def __call__(self, *arguments: Any) -> Any:
        return _hear_at_end(self._inner(*arguments), self._hears)


def _hear_at_end(call: Any, hears: Hears) -> Any:
    end = _AtEnd(call, hears)
    if not call.add_callback(end):
        end()
    return call


class _AtEnd:
    """Holds the call weakly: held strongly, one that is dropped would not be cancelled (see ``in_flight``)."""

    __slots__ = ("_call", "_hears", "func")

    def __init__(self, call: Any, hears: Hears) -> None:
        self._call: Callable[[], Any] = weakref.ref(call)
        self._hears = hears
        self.func = type(self).__name__  # gRPC names it in its log

    def __call__(self) -> None:
        call = self._call()
        if call is not None:
            self._hears(call.trailing_metadata())


# --- out of band ------------------------------------------------------------------------------------------------------------------


class OutOfBand:
    """The questions of one channel. Level-triggered: each round looks at the connections that there are. ``start`` from any thread, rounds on
    the worker; lives as long as its ``Connections``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = weakref.ref(connections)
        self._binding = connections.binding
        self._interval_s = connections.binding.config.weight.oob_interval_s
        self._request = encode_request(self._interval_s)
        self._rng = system_rng()

    def start(self) -> None:
        self._again_in(0.0)

    def _again_in(self, delay_s: float) -> None:
        try:
            self._binding.scheduler.call_later(delay_s, weakly(self._due))
        except ClosedError:  # the mesh was closed: nobody weighs any more
            return

    def _due(self) -> None:
        WORKER.submit(weakly(self._round))

    def _round(self) -> None:
        connections = self._connections()
        if connections is None or connections.closed:
            return
        try:
            now_s = self._binding.clock.now_s()
            links = [(sub, link) for sub, link in list(connections.links.items()) if link.ready_s is not None]
            due = [(sub, link) for sub, link in links if self._restarts_of(link).due_s <= now_s]
            for first in range(0, len(due), BATCH):
                with asking_gate.lock:
                    self._ask(connections, due[first : first + BATCH])
        except Exception as error:  # noqa: BLE001 - a bug of ours
            self._binding.count_internal_error(error)
        finally:
            self._again_in(min(self._interval_s, LOOK_S))

    def _ask(self, connections: Connections, due: list[tuple[Subchannel, Link]]) -> None:
        """All at once, then wait for one after the other."""
        asked = []
        for subchannel, link in due:
            channel, now_s = link.channel, self._binding.clock.now_s()
            if channel is None:
                continue
            restarts = self._restarts_of(link)
            restarts.opened(now_s)
            try:
                call = channel.unary_stream(METHOD)(self._request, PATIENCE_S)
            except ValueError:  # closed meanwhile
                continue
            over = threading.Event()
            if not call.add_callback(over.set):
                over.set()
            asked.append((subchannel, restarts, call, over))
        for subchannel, restarts, call, over in asked:
            code = self._answer(connections, subchannel, restarts, call)
            over.wait(PATIENCE_S)  # until gRPC's thread is done with it: none must be in there during a fork
            now_s = self._binding.clock.now_s()
            restarts.ended(code, str(self._binding.target), subchannel.endpoint.address, now_s, self._rng)

    def _restarts_of(self, link: Link) -> Restarts:
        """Anew for each connection that the link had."""
        if link.restarts is None or link.restarts.since_s != link.ready_s:
            link.restarts = Restarts(self._interval_s, link.ready_s)
        return link.restarts

    def _answer(self, connections: Connections, subchannel: Subchannel, restarts: Restarts, call: Any) -> grpc.StatusCode | None:
        """None: there was one."""
        try:
            message = next(call, None)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        call.cancel()
        if message is None:  # ended without a word
            return grpc.StatusCode.OK
        restarts.heard()
        view = connections.view
        if view is not None:
            view.pool.on_report(subchannel, parse(message))
        return None
