"""One endpoint's real channel, and what its makers and watchers share.

gRPC itself hangs in a child that was forked while another thread was inside it (measured: 3 of 8 children, with grpc's own channels
alone). So our own thread is kept out of it during a fork, by the ``fork_gate``; the program's threads are its own affair.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.grpc import stock
from meshlb.grpc.addresses import endpoint_target
from meshlb.grpc.options import ChannelOptions

if TYPE_CHECKING:
    import grpc

    from meshlb.binding import Binding
    from meshlb.grpc.oob import Restarts

FRESH_S: Final = 0.005  # a look with cold caches costs a hundredth of a call; a busy connection need not be looked at by each
WHY_S: Final = 5.0  # a thousand connections that failed cost 2 % of a core
FORK_WAIT_S: Final = 1.0  # a look at all connections takes milliseconds


class Link:
    """One endpoint's real channel; None if grpc would not make one, and then it never gets ready.

    ``look`` is ``stock.state_reader``'s; its number is compared with ``stock.READY`` wherever a call is sent. ``seen_s`` is when a call
    last found it ready: within ``FRESH_S`` of that blocking unary calls do not look again. ``ready_s`` and ``renew_s``: see
    ``pool/renewal.py``. ``why`` is what gRPC last said of a connection that failed, where it is asked. ``restarts``: see ``oob``.
    """

    __slots__ = (
        "_asked_s",
        "asks_why",
        "channel",
        "connecting_since_s",
        "look",
        "ready_s",
        "renew_s",
        "restarts",
        "seen_s",
        "why",
    )

    def __init__(self, channel: grpc.Channel | None, now_s: float) -> None:
        self.channel = channel
        self.connecting_since_s = now_s
        self.seen_s = float("-inf")
        self.ready_s: float | None = None
        self.renew_s = float("inf")
        self.asks_why = False
        self.why = ""
        self._asked_s = float("-inf")
        self.restarts: Restarts | None = None
        self.look = stock.state_reader(channel) if channel is not None else _never_ready

    def state(self, *, connect: bool = False) -> Connectivity:
        """What the channel is now; ``connect``: an idle one begins to."""
        try:
            return stock.STATES[self.look(connect)]
        except ValueError:
            return Connectivity.SHUTDOWN

    def ask_why(self, now_s: float, *, failed: bool) -> None:
        """Have gRPC say in ``why`` what is wrong with a connection that failed, now and then while it is; forget it when it is not."""
        if not self.asks_why:
            return
        if not failed:
            self.why, self._asked_s = "", float("-inf")
        elif now_s - self._asked_s >= WHY_S:
            self._asked_s = now_s
            self.why = stock.error_of(self.channel) if self.channel is not None else ""

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()


def _never_ready(connect: bool) -> int:
    return stock.STATES.index(Connectivity.TRANSIENT_FAILURE)


class LinkFactory:
    """Opens the links of one channel."""

    def __init__(
        self,
        binding: Binding,
        options: ChannelOptions,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
    ) -> None:
        self._binding = binding
        self._options = options
        self._credentials = credentials
        self._compression = compression

    def open(self, endpoint: Endpoint) -> Link:
        """A link that connects. If grpc refuses (an option that only it knows to be wrong), one that never gets ready: its calls
        then hear what is wrong instead of waiting."""
        binding = self._binding
        channel = None
        try:
            stock.keep_running()
            tls_name = binding.tls_name if self._credentials is not None else ""
            options = self._options.endpoint_options(binding.authority, endpoint, binding.config, tls_name=tls_name)
            channel = stock.open_channel(endpoint_target(endpoint), self._credentials, options, self._compression)
        except Exception as error:  # noqa: BLE001
            binding.count_internal_error(error)
        link = Link(channel, binding.clock.now_s())
        link.asks_why = self._options.watches_health(binding.config)
        link.state(connect=True)
        return link

    def open_stock(self) -> grpc.Channel:
        """What the user would have without meshlb."""
        return stock.open_channel(self._binding.stock_target, self._credentials, self._options.stock_options, self._compression)


class ForkGate:
    """Held by the discovery thread while it is inside gRPC, and by a fork."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._held = False

    def close(self) -> None:
        self._held = self.lock.acquire(timeout=FORK_WAIT_S)

    def open(self) -> None:
        if self._held:
            self._held = False
            self.lock.release()

    def renew(self) -> None:
        self.lock, self._held = threading.RLock(), False


fork_gate = ForkGate()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=fork_gate.close, after_in_parent=fork_gate.open, after_in_child=fork_gate.renew)


def weakly(method: Callable[..., None], *args: Any) -> Callable[[], None]:
    """A callback that does nothing once the method's object is gone."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive(*args)

    return call
