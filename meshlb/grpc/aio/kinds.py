"""The four kinds of our own calls, on the base classes that grpc's are on, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Any

import grpc.aio

from meshlb.grpc.aio.calls import BalancedCall
from meshlb.grpc.aio.unsent import ALREADY_FINISHED

_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."  # grpc's own words


class _UnaryResponse(BalancedCall):
    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            inner = self._inner
            if inner is None:
                yield from self._sent_or_cancel().__await__()
                continue
            try:
                return (yield from inner.__await__())
            except grpc.aio.AioRpcError as error:
                if self._inner is inner:
                    self._tell(error)
                    raise
            except asyncio.CancelledError as error:
                if self._slow is inner and not self._stays(inner, error):
                    continue
                if self._inner is not inner:  # its awaiter was cancelled, and grpc has cancelled the one before
                    self.cancel()
                raise
            except Exception:
                # Not a status: malformed metadata, which leaves the call open in grpc, or an interceptor of the user.
                self._inner_done(inner)
                with contextlib.suppress(Exception):  # grpcio 1.60 raises the interceptor's exception here again
                    inner.cancel()
                raise


class _StreamResponse(BalancedCall):
    _messages: AsyncIterator[Any] | None = None
    _read = False

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._read:
            raise grpc.aio.UsageError(_MIXED)
        if self._messages is None:
            self._messages = self._all_messages()
        return self._messages

    async def _all_messages(self) -> AsyncIterator[Any]:
        while True:
            await self._sent_or_cancel()
            inner = self._inner
            timer = self._limit_first_message(inner)
            try:
                async for message in inner:
                    if self._slow is inner:  # it came in the moment in which it was given up
                        break
                    self._committed = True
                    if timer is not None:
                        timer.cancel()
                        timer = None
                    if not self._answered:
                        self._first_came()
                    yield message
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if self._stays(inner, error):
                    raise
            else:
                if self._slow is not inner:
                    return
            finally:
                if timer is not None:
                    timer.cancel()

    async def read(self) -> Any:
        if self._messages is not None:
            raise grpc.aio.UsageError(_MIXED)
        self._read = True
        message = await self._do("read")
        self._committed = True
        if not self._answered and message is not grpc.aio.EOF:
            self._first_came()
        return message

    def _can_move(self) -> bool:
        return not self._committed and (self._waits_for_ready() or self._multi.may_retry(self._metadata))


class _StreamRequest(BalancedCall):
    _wrote = False

    async def write(self, request: Any) -> None:
        self._only_without_iterator()
        if self._finished:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        await self._do("write", request)
        self._wrote = True

    async def done_writing(self) -> None:
        self._only_without_iterator()
        await self._do("done_writing")
        self._wrote = True

    def _can_move(self) -> bool:
        return self._waits_for_ready() and self._request is None and not self._wrote and not self._committed

    def _only_without_iterator(self) -> None:
        if self._request is not None:
            raise grpc.aio.UsageError(_MIXED)


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """Every unary call."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall):  # type: ignore[misc]
    """A stream of responses that waits for an endpoint, or may be asked for again."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    """A stream of requests that waits for an endpoint."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall):  # type: ignore[misc]
    """A stream both ways that waits for an endpoint."""
