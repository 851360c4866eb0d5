"""``Channel.subscribe``: the channel's state, aggregated over its endpoints as round_robin does, told to whoever asked.

A new subscriber hears the current state first, then every change that lasts until its turn comes: states are delivered in order,
one callback at a time, and what is over already is skipped. A daemon thread a channel delivers while there is something to deliver;
a callback may therefore call, wait and subscribe as it likes.

A channel that was not used yet is IDLE; only ``try_to_connect`` or a call has it look for endpoints.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from grpc import ChannelConnectivity

from meshlb.core.connectivity import Connectivity
from meshlb.errors import MeshError
from meshlb.grpc.connection import Connections
from meshlb.grpc.errors import rpc_error_of
from meshlb.grpc.stock import CLOSED
from meshlb.grpc.worker import Worker
from meshlb.runtime.fork import on_fork_child

Callback = Callable[[ChannelConnectivity], None]

_log = logging.getLogger("meshlb.grpc")
_GRPCS = {
    Connectivity.IDLE: ChannelConnectivity.IDLE,
    Connectivity.CONNECTING: ChannelConnectivity.CONNECTING,
    Connectivity.READY: ChannelConnectivity.READY,
    Connectivity.TRANSIENT_FAILURE: ChannelConnectivity.TRANSIENT_FAILURE,
    Connectivity.SHUTDOWN: ChannelConnectivity.SHUTDOWN,
}


class _Subscriber:
    __slots__ = ("callback", "told")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.told: ChannelConnectivity | None = None


class Subscriptions:
    """Those of one channel. Any thread."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._worker = Worker("meshlb-grpc-connectivity", idle_s=0.0)
        self._start_clean()
        on_fork_child(self._start_clean)

    def _start_clean(self) -> None:
        self._lock = threading.RLock()  # re-entrant: grpc unsubscribes in a finalizer
        self._subscribers: list[_Subscriber] = []
        self._due = False

    def subscribe(self, callback: Callback, try_to_connect: bool | None = False) -> None:
        """Tell the state now and at every change. ValueError after ``close()``."""
        if self._connections.closed:
            raise ValueError(CLOSED)
        if try_to_connect:
            try:
                self._connections.open()
            except MeshError as error:
                raise rpc_error_of(error) from None
        with self._lock:
            self._subscribers.append(_Subscriber(callback))
        self._connections.add_watcher(self)
        self.changed()

    def unsubscribe(self, callback: Callback) -> None:
        """Tell it nothing more; unknown callbacks are no error, as with grpc."""
        with self._lock:
            for subscriber in self._subscribers:
                if subscriber.callback == callback:
                    self._subscribers.remove(subscriber)
                    break
            if not self._subscribers:
                self._connections.remove_watcher(self)

    def changed(self) -> None:
        """Something is different; deliver, soon."""
        if not self._due:
            self._due = True
            self._worker.submit(self._deliver)

    @property
    def state(self) -> ChannelConnectivity:
        """The aggregated state now."""
        view = self._connections.view
        return ChannelConnectivity.IDLE if view is None else _GRPCS[view.state]

    def _deliver(self) -> None:
        self._due = False
        while not self._connections.closed:
            state = self.state
            with self._lock:
                late = next((subscriber for subscriber in self._subscribers if subscriber.told is not state), None)
                if late is None:
                    return
                late.told = state
            try:
                late.callback(state)
            except BaseException:  # noqa: BLE001 - the user's, who may call sys.exit; logged, as grpc does
                _log.exception("a connectivity callback failed: %r", late.callback)
