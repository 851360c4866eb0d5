"""What the end of an attempt says about another one, in gRPC's words: for threads and asyncio.

"May have been processed" (``lost``) is what the transport says when a connection or a server went away under a call: UNAVAILABLE, an
attempt that its own time limit ended, a stream that was reset, and the bare CANCELLED that a C-core server sends to the calls which
reach it while it stops. A server's code may use the same words for itself, and then has processed something: so only calls that are
declared idempotent are tried again after these.

``grpc-previous-rpc-attempts`` comes behind the metadata that the user gave, which stays as it is. gRPC's own channels take it off again
unless they were made with ``grpc.enable_retries`` 0: see ``options``.

``answered``: the server had begun its answer. grpc.aio knows of initial metadata only if its own task read them before the status; those of
a stream that fails in the same moment are lost to it, and then to us.

Spec: gRFC A6; grpc/doc/PROTOCOL-HTTP2.md for what resets become.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpc import StatusCode

from meshlb.grpc.errors import LOCALLY_CANCELLED
from meshlb.grpc.status import is_callers_own
from meshlb.grpc.stock import CLOSED_IN_FLIGHT
from meshlb.retry.tries import Failure

PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"
PUSHBACK = "grpc-retry-pushback-ms"
_RESET = ("Received RST_STREAM", "RST_STREAM received", "Stream removed")
_BY_THE_CALLER = (LOCALLY_CANCELLED, CLOSED_IN_FLIGHT)
_MAX_MS = 2**31 - 1  # A6 has a 32-bit number; what is larger is none
_NO_MORE = -1.0


def failure_of(
    code: StatusCode | None, details: str | None, initial: Any, trailing: Any, *, timed_out: bool, error: Callable[[], Any]
) -> Failure | None:
    """None: not a failure that a server or the network made, so nothing to try again."""
    if code is None or code is StatusCode.OK or is_callers_own(code, details):
        return None
    if code is StatusCode.CANCELLED and details in _BY_THE_CALLER:
        return None
    return Failure(
        code.name,
        lost=_lost(code, details or "", bool(trailing), timed_out),
        answered=bool(initial),
        pushback_s=_pushback_s(trailing),
        error=error,
    )


def _lost(code: StatusCode, details: str, trailers: bool, timed_out: bool) -> bool:
    if code is StatusCode.UNAVAILABLE:
        return True
    if code is StatusCode.DEADLINE_EXCEEDED:
        return timed_out
    if code is StatusCode.CANCELLED and details == "CANCELLED":
        return not trailers
    return code in (StatusCode.CANCELLED, StatusCode.INTERNAL, StatusCode.UNKNOWN) and details.startswith(_RESET)


def _pushback_s(trailing: Any) -> float | None:
    said = [value for key, value in trailing or () if key == PUSHBACK]
    if not said:
        return None
    value = said[-1].decode("ascii", "replace") if isinstance(said[-1], bytes) else said[-1]
    if not (value.isascii() and value.isdigit() and int(value) <= _MAX_MS):
        return _NO_MORE
    return int(value) / 1000


def sent_again(metadata: Any, previous_attempts: int) -> Any:
    """The user's metadata for an attempt that follows so many."""
    return (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(previous_attempts))) if previous_attempts else metadata


def can_be_sent_again(metadata: Any) -> bool:
    """False for an iterator: the first attempt has used it up."""
    return metadata is None or hasattr(metadata, "__len__")
