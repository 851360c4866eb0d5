"""What a gRPC status means to the balancer, in one place for threads and asyncio.

==========================================================  ===========  ====================================================
status                                                      outcome      why
==========================================================  ===========  ====================================================
OK; every code that only the application can judge          SUCCESS      the endpoint did its work
UNAVAILABLE that says that no connection could be made      UNREACHABLE  nothing was sent: safe to send elsewhere
made by the caller's own side (serializer, credentials, …)  CANCELLED    the caller's doing; blames no endpoint
UNAVAILABLE otherwise, INTERNAL, UNKNOWN, DATA_LOSS         FAILURE      the endpoint, or the way to it
DEADLINE_EXCEEDED that is heard of much too late            CANCELLED    we were stalled, see below
DEADLINE_EXCEEDED                                           FAILURE      a frozen pod shows in no other way
RESOURCE_EXHAUSTED                                          OVERLOADED   it says so itself
CANCELLED                                                   CANCELLED    the caller gave up
==========================================================  ===========  ====================================================

A deadline that is too short for the work fails on every endpoint alike, so it moves no traffic: what counts is how an endpoint does
beside the others.

A deadline that is heard of much too late says nothing of the endpoint: this process was stalled (by the GIL, a blocked event loop, a
frozen container), and may not even have read the answer. So it is CANCELLED, which blames nobody, if it comes more than ``LATE_S`` after
its time, and more than ``LATE_RATIO`` of the time that the attempt had: an endpoint which had a minute is not excused by a hiccup at its
end. Timers of gRPC and of event loops are late by milliseconds, on a busy machine by tens of them. Limit: a stall that is over before
the deadline comes is not seen; in asyncio a call that was made just before one is sent after it, with less time than it was given.

"Never sent" is known from the details text alone: the metadata of such an error is empty in every case. The texts are grpcio's own
and pinned by tests; a text that is not known here counts as sent, which is the safe side.

Not among them is what a connection that a GOAWAY ends says of the calls above its last stream id, which no server has seen ("Stream removed
(GOAWAY received; …" in grpcio 1.85, "GOAWAY received; …" in 1.60). gRPC's own retry code sends these once more, by a mark that Python is
not given, and it does so unless ``grpc.enable_retries`` is 0. By the text they cannot be told for certain: a service that passes its
backend's error on (``context.abort(error.code(), error.details())``) gives the same code and words, no metadata either, and has processed the
call; in 1.60 even ``debug_error_string()`` is the same. So with 0 such a call fails unless it is idempotent (26 of 31,000 calls at a
``max_connection_age`` of 30 ms), and that is why gRPC's retries stay on and ``grpc-previous-rpc-attempts`` does not arrive by default.
"""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from meshlb.core.outcome import Outcome

LATE_S: Final = 0.05
LATE_RATIO: Final = 0.1

# What the channel's own policy says when it has no connection (round_robin and its pick_first child), and the resolver.
_NEVER_SENT = ("connections to all backends failing", "failed to connect to all addresses", "errors resolving ")
# Statuses that grpcio makes up on the caller's side, with codes that would blame the endpoint.
_CALLERS_OWN = (
    "Exception serializing request!",
    "Exception deserializing response!",
    "Exception iterating requests!",
    "Invalid metadata",
    "Getting metadata from plugin failed",
)
_TOO_LARGE = "message larger than max"  # whoever's limit it was; wrapped differently by each version

_OUTCOMES = {
    StatusCode.UNAVAILABLE: Outcome.FAILURE,
    StatusCode.INTERNAL: Outcome.FAILURE,
    StatusCode.UNKNOWN: Outcome.FAILURE,
    StatusCode.DATA_LOSS: Outcome.FAILURE,
    StatusCode.DEADLINE_EXCEEDED: Outcome.FAILURE,
    StatusCode.RESOURCE_EXHAUSTED: Outcome.OVERLOADED,
    StatusCode.CANCELLED: Outcome.CANCELLED,
}


def never_sent(code: StatusCode | None, details: str | None) -> bool:
    """True if this status says that the request certainly never left the client."""
    return code is StatusCode.UNAVAILABLE and details is not None and details.startswith(_NEVER_SENT)


def is_callers_own(code: StatusCode | None, details: str | None) -> bool:
    """True if grpcio made this status up on the caller's side: it would do so again."""
    return details is not None and (
        details.startswith(_CALLERS_OWN) or (code is StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details)
    )


def heard_late(took_s: float, timeout_s: float | None) -> bool:
    """True if an attempt that had ``timeout_s`` and ended after ``took_s`` should have been heard of long before."""
    return timeout_s is not None and took_s - timeout_s > max(LATE_S, LATE_RATIO * timeout_s)


def outcome_of(code: StatusCode | None, details: str | None, *, took_s: float = 0.0, timeout_s: float | None = None) -> Outcome:
    """See the table. ``None`` as code: the call ended without one, which only its caller can have caused. ``took_s``: since it began;
    ``timeout_s``: what it was given, None: no limit of ours."""
    if code is None or (code is StatusCode.DEADLINE_EXCEEDED and heard_late(took_s, timeout_s)):
        return Outcome.CANCELLED
    outcome = _OUTCOMES.get(code, Outcome.SUCCESS)
    if outcome is Outcome.SUCCESS or details is None:
        return outcome
    if never_sent(code, details):
        return Outcome.UNREACHABLE
    if outcome is Outcome.OVERLOADED:
        return Outcome.CANCELLED if _TOO_LARGE in details else outcome
    return Outcome.CANCELLED if details.startswith(_CALLERS_OWN) else outcome
