"""gRPC's own channels as the parts ours are made of, and the one private thing used of them, with a way around.

The factories are unwrapped: a program (or an instrumentation) may have put something else into ``grpc.insecure_channel``, ours
even, and a channel per endpoint is no channel of the user's.

Private, and probed: ``Channel._channel.check_connectivity_state`` reads a channel's state in half a microsecond and without a
thread; where it is missing, the public ``subscribe`` does, at the price of grpc's polling thread a channel.

Before grpcio 1.80 (measured: 1.60 to 1.78) nothing connects, and no loss is noticed, unless some thread of the process polls. One is
enough for all channels, so there is one, of grpc's: that of a subscription to a channel which never connects. With it a process must
not fork any more, for gRPC hangs in the children; forking before the first use works.
"""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Callable
from typing import Any

import grpc

from meshlb.core.connectivity import Connectivity
from meshlb.grpc.options import Option

insecure_channel = inspect.unwrap(grpc.insecure_channel)
secure_channel = inspect.unwrap(grpc.secure_channel)

CLOSED_BLOCKING = "Cannot invoke RPC on closed channel!"  # what grpc says, to the letter: programs compare
CLOSED = "Cannot invoke RPC: Channel closed!"
CLOSED_IN_FLIGHT = "Channel closed!"

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
ERROR_TIMEOUT_S = 0.05
RUNS_BY_ITSELF = tuple(int(part) for part in grpc.__version__.split(".")[:2]) >= (1, 80)
_polled: dict[str, Any] = {}
READY = 2  # grpc_connectivity_state
STATES = (
    Connectivity.IDLE,
    Connectivity.CONNECTING,
    Connectivity.READY,
    Connectivity.TRANSIENT_FAILURE,
    Connectivity.SHUTDOWN,
)
_PUBLIC = ("self", "method", "request_serializer", "response_deserializer")


def open_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: tuple[Option, ...],
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """A channel of grpc's own; it connects when it is used or told to."""
    if credentials is None:
        return insecure_channel(target, options, compression)
    return secure_channel(target, credentials, options, compression)


def factory_extras(channel_class: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Of the private arguments that generated code passes to ``unary_unary`` and the like, those that this grpcio takes."""
    taken = _parameters(channel_class)
    return {name: value for name, value in offered.items() if name in taken}


@functools.cache
def _parameters(channel_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(channel_class.unary_unary).parameters).difference(_PUBLIC)


def error_of(channel: grpc.Channel) -> str:
    """What a call on this channel, which failed to connect, fails with; empty if it would not fail.

    It ends before it is sent, so nothing blocks. If the channel got ready in this very moment, its server is asked for its health.
    """
    try:
        channel.unary_unary(HEALTH_CHECK)(b"", timeout=ERROR_TIMEOUT_S)
    except grpc.RpcError as error:
        return str(error.details())
    except ValueError:  # closed
        return ""
    return ""


def state_reader(channel: grpc.Channel) -> Callable[[bool], int]:
    """A function that gives the number of the channel's state and, called with True, has an idle channel connect.

    It raises ValueError when the channel is closed.
    """
    check: Callable[[bool], int] | None = getattr(getattr(channel, "_channel", None), "check_connectivity_state", None)
    return _Subscription(channel).state if check is None else check


def keep_running() -> None:
    """See the module head: one channel a process that goes nowhere and is polled; nothing from grpcio 1.80 on."""
    if not RUNS_BY_ITSELF and _polled.get("pid") != os.getpid():
        _polled["pid"] = os.getpid()
        channel = _polled["channel"] = insecure_channel("ipv4:127.0.0.1:1", ())
        channel.subscribe(lambda state: None)


class _Subscription:
    """The state as the public ``subscribe`` reports it; does not keep the channel alive."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = weakref.ref(channel)
        self._connecting = False
        self._state = 0
        channel.subscribe(self._changed)

    def state(self, connect: bool) -> int:
        channel = self._channel()
        if connect and not self._connecting and channel is not None:
            self._connecting = True
            channel.subscribe(self._changed, try_to_connect=True)
        return self._state

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self._state = state.value[0]
