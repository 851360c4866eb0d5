"""Telling what a signal's handler raised from a bug of ours: Python runs handlers between any two steps of the main thread, ours too.

A worker's time limit is often such a handler. What it raises must reach the program and is no reason to send the call another way.
Limit: an exception that another thread injects (``PyThreadState_SetAsyncExc``) has no frame of its own and cannot be told.
"""

from __future__ import annotations

import signal
from types import CodeType, TracebackType


def raised_by_handler(error: BaseException) -> bool:
    """True if a handler that is registered now is among the frames that the error came through. Slow: for failures only."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    handler = getattr(handler, "func", handler)  # functools.partial
    for place in (handler, getattr(type(handler), "__call__", None)):  # noqa: B004 - its code is wanted
        code = getattr(place, "__code__", None)  # methods have their function's
        if isinstance(code, CodeType):
            return code
    return None
