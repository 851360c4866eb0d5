"""``grpc.Channel`` over many endpoints: stubs, interceptors and ``channel_ready_future`` use it as they use grpc's own.

What each kind of call gets ("elsewhere": what certainly never left the client goes to another endpoint, at most twice; "again": what was
sent may be tried again, where the method's rules or the call's metadata say so (``retry``), both paid from the target's budget; "own":
grpc's own object when the picked endpoint is ready, else one of ours that waits for one and then passes everything to grpc's, and that
is sent once; "ours": one of ours that is sent at once and may be sent again until something of the answer reached the caller; "counts":
among whose live attempts, and until when):

=================  ==============================  =====================================  =====================================
call               blocking (``()``, with_call)    ``future()``, streams                  asyncio (``meshlb.grpc.aio``)
=================  ==============================  =====================================  =====================================
unary_unary        elsewhere, again; grpc's        own, or ours where it may be tried     elsewhere, again; ours, around grpc's
                   reply; unary, until it returns  again; unary, until its done callback  own; unary, until its done callback
unary_stream       -                               own, or ours where it may be tried     own, or ours where it may be tried
                                                   again; stream, until exhausted,        again; stream, until exhausted,
                                                   failed, cancelled or dropped           failed, cancelled
stream_unary       elsewhere while no message      own; stream, until its done callback   own; stream, until its done callback
                   was asked for; grpc's reply;
                   stream, until it returns
stream_stream      -                               own; stream, until exhausted, failed,  own; stream, until exhausted, failed,
                                                   cancelled or dropped                   cancelled
=================  ==============================  =====================================  =====================================

A stream of requests is never tried again: what was read of it cannot be read twice. "own" with ``wait_for_ready`` or with limits is always
one of ours, since it may have to go back to waiting, or to wait for its turn; and so is a stream of answers on an endpoint that is ejected,
whose probe it may be: its first message brings the endpoint back. A back-off blocks the thread of a blocking call, which
``close()`` and signals end, and nobody else. ``per_try_timeout_s`` is a deadline for each attempt of a unary_unary, and limits the wait for
the first message of a unary_stream (``first_message``). What finally fails is grpc's own error of the last attempt, with
a note of what was tried; where the deadline came meanwhile, ours, with that error as its cause. ``attempts_of`` tells the attempts apart,
and why each was made.

Limits (``Config(limits=…)``): a call keeps its place from its first attempt to its end, which for "counts" above is the end of what its
caller holds: the last attempt, a stream when it is exhausted, failed, cancelled or dropped (asyncio: not dropped). One that waits for its
turn and is cancelled, dropped, timed out or closed costs nobody his. Rejected calls end with RESOURCE_EXHAUSTED (``RejectedError``).

Every kind looks at the picked connection itself before it sends (``unary_unary()`` not again within 5 ms of a call that found it ready):
gRPC would queue a call on one that was lost a moment ago until it is back or given up, which takes seconds where packets vanish.
Blocking calls wait in their caller's thread and can be interrupted there; the others never block whom they are invoked by. Errors are
grpc's own objects where the wire said something, else those of ``meshlb.grpc.errors``. After ``close()``: ValueError with grpc's words.

Spec: grpc.Channel of grpcio 1.60 to 1.85.
Deviations: ``subscribe`` after ``close()`` raises here; grpc starts a thread that dies with a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from meshlb.core.hints import hinted
from meshlb.grpc.blocking import Blocking
from meshlb.grpc.connection import Connections
from meshlb.grpc.connectivity import Subscriptions
from meshlb.grpc.inners import Factory
from meshlb.grpc.link import FRESH_S
from meshlb.grpc.multicallable import Multicallable
from meshlb.grpc.once import Once
from meshlb.grpc.pending import PendingCalls
from meshlb.grpc.stock import READY, factory_extras


class UnaryUnary(Blocking, grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """The success path of ``__call__`` is written out: read the entrance, pick, one dict look-up, grpc, end."""

    stream = False
    replays = True

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        entrance = self.connections.entrance
        inner = attempt = None
        try:
            if entrance is not None:
                infos = self.infos
                attempt = entrance.begin(infos.plain if not infos.varies and hinted() is None else self.info_of(metadata))
                if attempt is not None:
                    found = self._inner.get(attempt.subchannel)
                    if found is not None and attempt.started_s - found[1].seen_s < FRESH_S:
                        inner = found[0]
                    elif found is not None and found[1].look(False) == READY:
                        found[1].seen_s = attempt.started_s
                        inner = found[0]
                    else:
                        inner = self.inner_for(attempt)
        except BaseException as error:  # noqa: BLE001 - a bug of ours must not cost the call, nor a signal's handler leave a count
            return self.rescue(error, attempt, "__call__", (request, timeout, metadata, credentials, wait_for_ready, compression))
        if entrance is None or attempt is None or inner is None:
            return self.block("__call__", (request, timeout, metadata, credentials, wait_for_ready, compression))
        try:
            reply = inner(request, timeout, metadata, credentials, None, compression)
        except BaseException as error:
            arguments = (request, timeout, metadata, credentials, wait_for_ready, compression)
            try:
                call = self.after_failure(attempt, error, arguments)
            except BaseException:
                self.uncount(attempt)
                raise
            if call is None:
                raise
        else:
            try:
                entrance.end(attempt)
            except BaseException as error:  # noqa: BLE001
                self.after_success(attempt, error)
            return reply
        try:
            return self.block("__call__", arguments, call)
        finally:
            call.close()

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.block("with_call", (request, timeout, metadata, credentials, wait_for_ready, compression))

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.invoke("future", (request, timeout, metadata, credentials, wait_for_ready, compression))


class RuledUnaryUnary(UnaryUnary):
    """For methods whose attempts have a time limit, or whose successes count: nothing is cut short."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.block("__call__", (request, timeout, metadata, credentials, wait_for_ready, compression))


class UnaryStream(Multicallable, grpc.UnaryStreamMultiCallable):  # type: ignore[misc]
    """One request, a stream of answers; what was asked of it may be asked again before the first of them."""

    replays = True

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.invoke("__call__", (request, timeout, metadata, credentials, wait_for_ready, compression))


class StreamUnary(Blocking, grpc.StreamUnaryMultiCallable):  # type: ignore[misc]
    """A stream of requests, one answer; what was asked of the stream cannot be sent again."""

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.block("__call__", (Once(request_iterator), timeout, metadata, credentials, wait_for_ready, compression))

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.block("with_call", (Once(request_iterator), timeout, metadata, credentials, wait_for_ready, compression))

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.invoke("future", (request_iterator, timeout, metadata, credentials, wait_for_ready, compression))

    def lent(self, request: Any) -> Any:
        return request.lend() if isinstance(request, Once) else request

    def taken_back(self, request: Any) -> bool:
        return request.take_back() if isinstance(request, Once) else False


class StreamStream(Multicallable, grpc.StreamStreamMultiCallable):  # type: ignore[misc]
    """Two streams."""

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.invoke("__call__", (request_iterator, timeout, metadata, credentials, wait_for_ready, compression))

    def taken_back(self, request: Any) -> bool:
        return False


class Channel(grpc.Channel):  # type: ignore[misc]
    """Made by ``insecure_channel`` and ``secure_channel``. Thread-safe; nothing starts before its first use."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._pending = PendingCalls(connections)
        self._subscriptions = Subscriptions(connections)

    # ``private`` is what generated code of a later grpcio may add; what grpc's own channels take of it is passed on.

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> UnaryUnary:
        make = _factory("unary_unary", method, request_serializer, response_deserializer, _registered_method, private)
        made = UnaryUnary(self._connections, self._pending, method, make)
        return made if made.rules.plain else RuledUnaryUnary(self._connections, self._pending, method, make)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> UnaryStream:
        make = _factory("unary_stream", method, request_serializer, response_deserializer, _registered_method, private)
        return UnaryStream(self._connections, self._pending, method, make)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> StreamUnary:
        make = _factory("stream_unary", method, request_serializer, response_deserializer, _registered_method, private)
        return StreamUnary(self._connections, self._pending, method, make)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> StreamStream:
        make = _factory("stream_stream", method, request_serializer, response_deserializer, _registered_method, private)
        return StreamStream(self._connections, self._pending, method, make)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False) -> None:
        """See ``meshlb.grpc.connectivity``."""
        self._subscriptions.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._subscriptions.unsubscribe(callback)

    def close(self) -> None:
        """End this channel's calls (CANCELLED) and refuse later ones (ValueError); other channels to the target go on."""
        self._connections.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<meshlb.grpc.Channel {self._connections!r}>"


def _factory(
    kind: str, method: str, request_serializer: Any, response_deserializer: Any, registered: bool | None, private: dict[str, Any]
) -> Factory:
    offered = {"_registered_method": registered, **private}

    def make(channel: grpc.Channel | None) -> Any:
        extras = factory_extras(type(channel), offered)
        return getattr(channel, kind)(method, request_serializer, response_deserializer, **extras)

    return make
