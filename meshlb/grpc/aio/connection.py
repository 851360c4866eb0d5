"""One real channel of an asyncio channel, and what is known of it."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Final

import grpc.aio

from meshlb.core.connectivity import Connectivity
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.grpc.aio.ends import error_now, is_ok
from meshlb.grpc.link import WHY_S
from meshlb.grpc.stock import ERROR_TIMEOUT_S, HEALTH_CHECK

FRESH_S: Final = 0.005  # so a busy connection is looked at by every twelfth call or so, and not by each

_READY = grpc.ChannelConnectivity.READY

STATES: Final = {
    grpc.ChannelConnectivity.IDLE: Connectivity.IDLE,
    grpc.ChannelConnectivity.CONNECTING: Connectivity.CONNECTING,
    grpc.ChannelConnectivity.READY: Connectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: Connectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN: Connectivity.SHUTDOWN,
}


class Connection:
    """One real channel. ``seen_s`` is when it was last seen ready, ``since_s`` when its state changed, ``live`` what it carries;
    ``outlived``: it was replaced, and is closed now since its streams' grace is over.

    ``ready_s`` and ``renew_s``: see ``pool/renewal.py``. ``why``: what gRPC last said of it after it failed, where it is asked.
    """

    __slots__ = ("_asked_s", "channel", "live", "outlived", "ready_s", "renew_s", "seen_s", "since_s", "state", "subchannel", "why")

    def __init__(self, subchannel: Subchannel, channel: grpc.aio.Channel, now_s: float) -> None:
        self.subchannel = subchannel
        self.channel = channel
        self.live: set[Attempt] = set()
        self.state = Connectivity.IDLE
        self.since_s = now_s
        self.seen_s = -math.inf
        self.ready_s: float | None = None
        self.renew_s = math.inf
        self._asked_s = -math.inf
        self.why = ""
        self.outlived = False

    def is_ready(self, now_s: float) -> bool:
        """At this moment, or ``FRESH_S`` ago."""
        if now_s - self.seen_s > FRESH_S:
            if self.channel.get_state() is not _READY:
                return False
            self.seen_s = now_s
        return True

    def ask_why(self, now_s: float) -> None:
        """Have gRPC say in ``why`` what is wrong with a connection that failed (see ``Link.ask_why``)."""
        if self.state is not Connectivity.TRANSIENT_FAILURE:
            self.why, self._asked_s = "", -math.inf
        elif now_s - self._asked_s >= WHY_S:
            self._asked_s = now_s
            self.channel.unary_unary(HEALTH_CHECK)(b"", timeout=ERROR_TIMEOUT_S).add_done_callback(self._note_why)

    def _note_why(self, call: Any) -> None:
        with contextlib.suppress(Exception):  # a done callback that raises is heard by whoever awaits the call
            self.why = "" if is_ok(call) else str(error_now(call).details())

    def __repr__(self) -> str:
        return f"<Connection {self.subchannel.endpoint} {self.state.value} live={len(self.live)}>"
