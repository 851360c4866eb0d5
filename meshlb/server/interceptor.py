"""The interceptor of ``grpc.server``: it wraps what runs a call, for the four kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from meshlb.server.reporter import LoadReporter
from meshlb.server.watched import Watched

MAKERS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class ReportInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """See ``LoadReporter.interceptor``. Handlers that grpc calls without waiting for their end are left as they are."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter = reporter

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or not self._reporter.counts(handler_call_details.method):
            return handler
        kind, make = MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
        behavior = getattr(handler, kind)
        if getattr(behavior, "experimental_non_blocking", False):
            return handler
        wrap = watched_stream if handler.response_streaming else watched_unary
        return make(wrap(self._reporter, behavior), handler.request_deserializer, handler.response_serializer)


def watched_unary(reporter: LoadReporter, behavior: Callable[..., Any], *, preset: bool = False) -> Callable[..., Any]:
    """A handler that returns its answer; ``preset``: see ``watched``."""

    @functools.wraps(behavior)
    def run(request: Any, context: Any) -> Any:
        with Watched(reporter, context, preset=preset):
            return behavior(request, context)

    return run


def watched_stream(reporter: LoadReporter, behavior: Callable[..., Any], *, preset: bool = False) -> Callable[..., Any]:
    """A handler that returns an iterator; it may be left behind in the middle."""

    @functools.wraps(behavior)
    def run(request: Any, context: Any) -> Iterator[Any]:
        with Watched(reporter, context, preset=preset):
            yield from behavior(request, context)

    return run
