"""What a multicallable sends with: grpc's own multicallable for each endpoint, and the stock channel's when meshlb itself fails.

A bug of meshlb's on the way (anything that is neither a MeshError nor raised by grpc or by the user's code) is counted, logged once, and
the call goes out over the stock channel. Attempts are ended here too, so that a bug in counting costs nobody an answer that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc

from meshlb.call.entrance import Entrance
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.grpc.connection import Connections
from meshlb.grpc.link import Link
from meshlb.grpc.reports import hearing, reporting
from meshlb.grpc.signals import raised_by_handler
from meshlb.grpc.stock import CLOSED_BLOCKING, STATES
from meshlb.runtime.fork import on_fork_child

CANCELLED = Outcome.CANCELLED
READY = Connectivity.READY
IDLE = Connectivity.IDLE
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE

Factory = Callable[[grpc.Channel | None], Any]
Inner = tuple[Any, Link]  # the endpoint's multicallable, and its channel
# request (or iterator), timeout, metadata, credentials, wait_for_ready, compression
Arguments = tuple[Any, float | None, Any, Any, bool | None, Any]


class Inners:
    """Thread-safe; holds the connections strongly, as people keep only the stub."""

    _stock: tuple[grpc.Channel | None, Any]

    def __init__(self, connections: Connections, make: Factory) -> None:
        self.connections = connections
        self._make = make
        self._inner: dict[Subchannel, Inner] = {}
        self._forget_stock()
        on_fork_child(self._forget_stock)

    def inner_of(self, subchannel: Subchannel) -> Inner | None:
        """Made at the first use, under the lock (grpc's registration of methods is not thread-safe); None without a connection."""
        inner = self._inner.get(subchannel)
        if inner is None:
            with self.connections.lock:
                inner = self._inner.get(subchannel)
                link = self.connections.links.get(subchannel)
                if inner is None and link is not None:
                    inner = self._inner[subchannel] = (self._made_for(subchannel, link), link)
        return inner

    def _made_for(self, subchannel: Subchannel, link: Link) -> Any:
        binding, view = self.connections.binding, self.connections.view
        made = self._make(link.channel)
        if view is None or not binding.config.weight.in_band:
            return made
        return reporting(made, hearing(view.pool, subchannel, binding))

    def inner_for(self, attempt: Attempt) -> Any:
        """What to send this attempt with. None: the connection was lost or dropped a moment ago, and the attempt has ended."""
        view, subchannel = self.connections.view, attempt.subchannel
        try:
            found = self.inner_of(subchannel)
            state = IDLE if found is None else STATES[found[1].look(False)]
        except BaseException:
            self.end(attempt, CANCELLED)
            raise
        if found is not None and state is READY:
            found[1].seen_s = attempt.started_s
        # Failed in the view's eyes too: the one try that a call has when every endpoint did.
        if found is not None and (state is READY or view is None or view.state_of(subchannel) is TRANSIENT_FAILURE):
            return found[0]
        self.end(attempt, CANCELLED)
        if view is not None:
            view.set_states([(subchannel, state)])
        return None

    def forget(self, subchannels: Iterable[Subchannel]) -> None:
        """Their connections are gone; called under the lock."""
        for subchannel in subchannels:
            self._inner.pop(subchannel, None)

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Count an attempt as ended; a bug in that must not cost the caller an answer that is there."""
        entrance = self.connections.entrance
        try:
            if entrance is not None:
                entrance.end(attempt, outcome)
        except BaseException as error:  # noqa: BLE001
            self.after_success(attempt, error)

    def after_success(self, attempt: Attempt, error: BaseException) -> None:
        """Counting an end raised: the answer is there, so a bug in it is only counted; what interrupts goes on to the caller."""
        self.uncount(attempt)
        if not isinstance(error, Exception) or raised_by_handler(error):
            raise error
        self.connections.binding.count_internal_error(error)

    def answered(self, attempt: Attempt) -> None:
        """The first message of a stream came, which a bug of ours must not cost its caller."""
        view = self.connections.view
        try:
            if view is not None:
                view.answered(attempt)
        except Exception as error:
            if raised_by_handler(error):
                raise
            self.connections.binding.count_internal_error(error)

    def uncount(self, attempt: Attempt) -> None:
        """Whatever its end was interrupted by."""
        attempt.live.discard(attempt)
        if isinstance(self.connections.entrance, Entrance):
            self.connections.entrance.leave(attempt)

    # --- around meshlb --------------------------------------------------------------------------------------------------------

    def rescue(self, error: BaseException, attempt: Attempt | None, verb: str, arguments: Arguments) -> Any:
        """The fast path of a blocking call raised before it sent anything."""
        if attempt is not None:
            self.end(attempt, CANCELLED)
        if not isinstance(error, Exception):
            raise error
        if self.connections.closed:
            raise ValueError(CLOSED_BLOCKING)
        return self.over_stock(error, verb, arguments)

    def over_stock(self, error: BaseException, verb: str, arguments: Arguments) -> Any:
        """meshlb failed: send the call as if it were not there. Not if a signal's handler did, whose error is raised."""
        error = error.__cause__ or error
        if raised_by_handler(error):
            raise error
        self.connections.binding.count_internal_error(error)
        channel = self.connections.stock_channel()
        if self._stock[0] is not channel:  # the first time, or in a forked child
            self._stock = (channel, self._make(channel))
        return getattr(self._stock[1], verb)(self.lent(arguments[0]), *arguments[1:])

    def lent(self, request: Any) -> Any:
        """The request for one attempt."""
        return request

    def _forget_stock(self) -> None:
        self._stock = (None, None)
