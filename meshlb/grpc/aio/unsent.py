"""The end of a call that no grpc call was made for, or none any more: what grpc's own would answer after such an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio

from meshlb.grpc.errors import LOCALLY_CANCELLED

ALREADY_FINISHED = "RPC already finished."  # grpc's own words, for a write after the end


class Unsent:
    """Stands where grpc's call would; raises ``error`` to whoever awaits or reads."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, NoReturn]:
        self._raise()
        yield

    async def __aiter__(self) -> AsyncIterator[NoReturn]:
        self._raise()
        yield

    async def read(self) -> NoReturn:
        self._raise()

    async def write(self, request: object) -> NoReturn:
        raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def done_writing(self) -> None:
        return None

    async def wait_for_connection(self) -> NoReturn:
        self._raise()

    async def code(self) -> grpc.StatusCode:
        if isinstance(self._error, grpc.aio.AioRpcError):
            return self._error.code()
        return grpc.StatusCode.CANCELLED if self.cancelled() else grpc.StatusCode.UNKNOWN

    async def details(self) -> str | None:
        if isinstance(self._error, grpc.aio.AioRpcError):
            details: str | None = self._error.details()
            return details
        return LOCALLY_CANCELLED if self.cancelled() else str(self._error)

    async def debug_error_string(self) -> str | None:
        if isinstance(self._error, grpc.aio.AioRpcError):
            text: str | None = self._error.debug_error_string()
            return text
        return await self.details()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return self._error.initial_metadata() if isinstance(self._error, grpc.aio.AioRpcError) else grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return self._error.trailing_metadata() if isinstance(self._error, grpc.aio.AioRpcError) else grpc.aio.Metadata()

    def cancelled(self) -> bool:
        return isinstance(self._error, asyncio.CancelledError)

    def cancel(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"never sent: {self._error!r}"

    def _raise(self) -> NoReturn:
        if isinstance(self._error, asyncio.CancelledError):
            raise asyncio.CancelledError  # a new one each time: every task hangs its own traceback on it
        raise self._error
