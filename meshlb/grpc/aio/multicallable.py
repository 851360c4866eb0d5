"""The four multicallables: what generated stubs hold and call.

They hold their channel, since people keep only the stub. For each connection they keep grpc's own multicallable, made at its first
use; when the connection is let go it takes that away again.
"""

from __future__ import annotations

from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlb.call.infos import Infos
from meshlb.call.story import why_first
from meshlb.core.hints import hinted
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.grpc.aio.calls import BalancedCall
from meshlb.grpc.aio.connection import FRESH_S
from meshlb.grpc.aio.ends import StreamEnd, cancel_if_unsendable
from meshlb.grpc.aio.kinds import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from meshlb.grpc.aio.reports import Reporting
from meshlb.grpc.marks import mark
from meshlb.grpc.reports import hearing
from meshlb.grpc.stock import factory_extras

if TYPE_CHECKING:
    from meshlb.grpc.aio.channel import Channel
    from meshlb.grpc.aio.connection import Connection
    from meshlb.grpc.aio.driver import Driver

CANCELLED = Outcome.CANCELLED


class MultiCallable:
    """What the four kinds share; ``kind`` is the name of the channel's factory method."""

    kind: str
    answers = False  # its answers are a stream
    stream = True  # long-lived calls are counted apart from unary ones
    replays = False  # its requests can be sent again, and its calls be tried again after they were sent
    call_class: type[BalancedCall]

    def __init__(
        self,
        channel: Channel,
        method: str | bytes,
        request_serializer: Any,
        response_deserializer: Any,
        registered: bool | None,
        private: dict[str, Any],
    ) -> None:
        self.channel = channel
        name = method.decode() if isinstance(method, bytes) else method
        defaults = channel.options.defaults_of(name)
        self.timeout_s = defaults.timeout_s
        self.wait_for_ready = bool(defaults.wait_for_ready)
        self.rules = channel.options.rules_of(name, channel.config, per_try=self.replays)
        self.limited = channel.config.limits.any
        connection = channel.config.connection
        self.graced = connection.max_age_grace_s if self.stream and connection.enabled else 0.0  # calls of ours say what ended them
        self.first_message_s = self.rules.per_try_timeout_s if self.stream else 0.0
        info = PickInfo(name, replays=self.replays and self.rules.retries, judged=not channel.config.outlier.ignores(name))
        self.infos = Infos(info, channel.config.hash.for_method(name))
        self.inners: dict[Connection, Any] = {}
        self._drivers = channel.drivers
        self._arguments = (method, request_serializer, response_deserializer)
        self._private = {"_registered_method": registered, **private}
        self._extras: dict[str, Any] | None = None

    def inner_of(self, driver: Driver, connection: Connection) -> Any:
        """grpc's own multicallable for this connection."""
        inner = self._on(connection.channel)
        if driver.binding.config.weight.in_band:
            inner = Reporting(inner, hearing(driver.view.pool, connection.subchannel, driver.binding))
        self.inners[connection] = inner
        driver.connections.users.add(self)
        return inner

    def stock(self) -> Any:
        """The way around meshlb, for calls that a bug of ours would fail."""
        return self._on(self.channel.stock.in_this_loop())

    def info_of(self, driver: Driver, metadata: Any) -> PickInfo:
        """What the picks of a call are told that is invoked here and now."""
        infos = self.infos
        return infos.of(driver.view, metadata) if infos.varies or hinted() is not None else infos.plain

    def limit_s(self, timeout_s: float | None) -> float | None:
        """How long a call may take that was given this timeout."""
        if timeout_s is None or self.timeout_s is None:
            return self.timeout_s if timeout_s is None else timeout_s
        return min(timeout_s, self.timeout_s)

    def may_retry(self, metadata: Any) -> bool:
        """An attempt that was sent may be followed by another."""
        return self.replays and self.rules.may_retry(metadata)

    def _on(self, channel: grpc.aio.Channel) -> Any:
        if self._extras is None:
            self._extras = factory_extras(type(channel), self._private)
        return getattr(channel, self.kind)(*self._arguments, **self._extras)

    def _invoke(self, request: Any, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any) -> Any:
        """A stream: grpc's own object if the picked endpoint is ready, ours if it has to wait, or may have to again."""
        try:
            driver = self._drivers[get_running_loop()]
        except (KeyError, RuntimeError):
            driver = self.channel.driver()
        waits = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        if waits or self.limited or self.graced or not self.rules.plain or self.may_retry(metadata):
            return self.call_class(self, driver, request, timeout, metadata, credentials, wait_for_ready, compression)
        try:
            connection, attempt = driver.begin(self.info_of(driver, metadata), True)
        except Exception:  # noqa: BLE001
            connection = attempt = None  # our call meets it again, and knows what to do
        if connection is None or attempt is None:
            return self.call_class(self, driver, request, timeout, metadata, credentials, wait_for_ready, compression)
        try:
            call = (self.inners.get(connection) or self.inner_of(driver, connection))(
                request, timeout=timeout, metadata=metadata, credentials=credentials, compression=compression
            )
        except BaseException:
            driver.end(connection, attempt, CANCELLED)
            raise
        cancel_if_unsendable(call)
        if self.answers and attempt.info.judged and attempt.subchannel.watched:  # ours sees when its first message comes
            return self.call_class(
                self, driver, request, timeout, metadata, credentials, wait_for_ready, compression, connection, attempt, call
            )
        connection.live.add(attempt)
        mark(call, attempt.subchannel.endpoint, why=why_first(driver.view.pool, attempt))
        call.add_done_callback(StreamEnd(driver, connection, attempt, self.limit_s(timeout)))
        return call


class UnaryUnaryMultiCallable(MultiCallable, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """Always gives a call of ours: see ``calls``."""

    kind = "unary_unary"
    stream = False
    replays = True
    call_class = UnaryUnaryCall

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        # Written out, from here to the call's constructor: between two calls the caches go cold, and every frame costs half a
        # microsecond of the ten that there are.
        try:
            driver = self._drivers[get_running_loop()]
        except (KeyError, RuntimeError):
            driver = self.channel.driver()
        connection = inner = None
        try:
            infos = self.infos
            info = infos.of(driver.view, metadata) if infos.varies or hinted() is not None else infos.plain
            attempt = driver.entrance.begin(info)
            if attempt is not None:
                connection = driver.by_subchannel.get(attempt.subchannel)
                if connection is None or (
                    attempt.started_s - connection.seen_s > FRESH_S and not connection.is_ready(attempt.started_s)
                ):
                    driver.lost(attempt)
                    connection, attempt = driver.begin(info, False)
        except Exception:  # noqa: BLE001
            attempt = None  # our call meets it again, and knows what to do
        if attempt is not None and connection is not None:
            try:
                inner = (self.inners.get(connection) or self.inner_of(driver, connection))(
                    request, timeout=timeout, metadata=metadata, credentials=credentials, compression=compression
                )
            except BaseException:
                driver.end(connection, attempt, CANCELLED)
                raise
        return UnaryUnaryCall(
            self, driver, request, timeout, metadata, credentials, wait_for_ready, compression, connection, attempt, inner
        )


class RuledUnaryUnaryMultiCallable(UnaryUnaryMultiCallable):
    """For methods whose attempts have a time limit, or whose successes count: nothing is cut short."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        driver = self.channel.driver()
        return UnaryUnaryCall(self, driver, request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStreamMultiCallable(MultiCallable, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[misc]
    """See ``_invoke``."""

    kind = "unary_stream"
    answers = True
    replays = True
    call_class = UnaryStreamCall

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._invoke(request, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamRequest(MultiCallable):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._invoke(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnaryMultiCallable(_StreamRequest, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[misc]
    """See ``_invoke``."""

    kind = "stream_unary"
    call_class = StreamUnaryCall


class StreamStreamMultiCallable(_StreamRequest, grpc.aio.StreamStreamMultiCallable):  # type: ignore[misc]
    """See ``_invoke``."""

    kind = "stream_stream"
    answers = True
    call_class = StreamStreamCall
