"""The interceptor of ``grpc.aio.server``. What it wraps stays what it was (a coroutine, an asynchronous generator, or neither, which
grpc runs in a thread), since grpc looks for that."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc.aio

from meshlb.server.interceptor import MAKERS, watched_stream, watched_unary
from meshlb.server.reporter import LoadReporter
from meshlb.server.watched import Watched


class AioReportInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """See ``LoadReporter.aio_interceptor``."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter = reporter

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not self._reporter.counts(handler_call_details.method):
            return handler
        kind, make = MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
        wrapped = _watched(self._reporter, getattr(handler, kind), streaming=bool(handler.response_streaming))
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _watched(reporter: LoadReporter, behavior: Callable[..., Any], *, streaming: bool) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behavior):
        return _watched_generator(reporter, behavior)
    if inspect.iscoroutinefunction(behavior):
        return _watched_coroutine(reporter, behavior)
    return (watched_stream if streaming else watched_unary)(reporter, behavior, preset=True)


def _watched_coroutine(reporter: LoadReporter, behavior: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(behavior)
    async def run(request: Any, context: Any) -> Any:
        with Watched(reporter, context, preset=True):
            return await behavior(request, context)

    return run


def _watched_generator(reporter: LoadReporter, behavior: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(behavior)
    async def run(request: Any, context: Any) -> AsyncIterator[Any]:
        with Watched(reporter, context, preset=True):
            async with aclosing(behavior(request, context)) as answers:
                async for answer in answers:
                    yield answer

    return run
