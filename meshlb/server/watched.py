"""One call of a server's, from the handler's begin to its end: it is counted, and its trailers get the report.

The handler's own trailers stay, in front; a handler that sends ``endpoint-load-metrics`` itself has the last word. With asyncio a report is
also set before the handler begins, since ``abort`` sends the trailers that are set at that moment. A handler that sets its own and then aborts
sends those alone. So does one without ``async`` in an asyncio server that sets any, since its context does not tell what is set; costs
are not sent with it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

import grpc

from meshlb.load.orca import TRAILER, TRAILER_BIN
from meshlb.server.reporter import LoadReporter, Trailers

_FAILED: Final = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)


class Watched:
    """A context manager around the handler, where that runs. Raises nothing of its own."""

    __slots__ = ("_context", "_costs", "_preset", "_reporter")

    def __init__(self, reporter: LoadReporter, context: Any, *, preset: bool = False) -> None:
        self._reporter = reporter
        self._context = context
        self._costs = reporter.began()
        self._preset: Trailers = ()
        if preset:
            self._preset = reporter.trailers({})
            self._set(self._preset)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        context, reporter = self._context, self._reporter
        failed = False
        try:
            failed = _failed(context, error)
            told = getattr(context, "trailing_metadata", None)
            if told is not None:
                theirs = tuple(pair for pair in told() or () if pair not in self._preset)
                if not any(pair[0] in (TRAILER, TRAILER_BIN) for pair in theirs):
                    self._set((*theirs, *reporter.trailers(self._costs)))
        except Exception as bug:  # noqa: BLE001 - the call has its answer
            reporter.complain("trailers", bug)
        finally:
            reporter.ended(failed=failed)

    def _set(self, trailers: Any) -> None:
        try:
            self._context.set_trailing_metadata(trailers)
        except Exception as error:  # noqa: BLE001
            self._reporter.complain("trailers", error)


def _failed(context: Any, error: BaseException | None) -> bool:
    """Is it the server's failure? gRPC has UNKNOWN for a handler that raised and said nothing else."""
    if error is not None and not isinstance(error, Exception):
        return False  # the caller gave up: GeneratorExit, CancelledError
    said = getattr(context, "code", None)
    code = said() if said is not None else None
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return number in _FAILED if number else error is not None
