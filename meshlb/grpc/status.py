"""What a gRPC status means to the balancer, in one place for threads and asyncio.

==========================================================  ===========  ====================================================
status                                                      outcome      why
==========================================================  ===========  ====================================================
OK; every code that only the application can judge          SUCCESS      the endpoint did its work
UNAVAILABLE that says that no connection could be made      UNREACHABLE  nothing was sent: safe to send elsewhere
made by the caller's own side (serializer, credentials, …)  CANCELLED    the caller's doing; blames no endpoint
UNAVAILABLE otherwise, INTERNAL, UNKNOWN, DATA_LOSS         FAILURE      the endpoint, or the way to it
DEADLINE_EXCEEDED                                           FAILURE      a frozen pod shows in no other way
RESOURCE_EXHAUSTED                                          OVERLOADED   it says so itself
CANCELLED                                                   CANCELLED    the caller gave up
==========================================================  ===========  ====================================================

A deadline that is too short for the work fails on every endpoint alike, so it moves no traffic: what counts is how an endpoint does
beside the others.

"Never sent" is known from the details text alone: the metadata of such an error is empty in every case. The texts are grpcio's own
and pinned by tests; a text that is not known here counts as sent, which is the safe side.
"""

from __future__ import annotations

from grpc import StatusCode

from meshlb.core.outcome import Outcome

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


def outcome_of(code: StatusCode | None, details: str | None) -> Outcome:
    """See the table. ``None`` as code: the call ended without one, which only its caller can have caused."""
    if code is None:
        return Outcome.CANCELLED
    outcome = _OUTCOMES.get(code, Outcome.SUCCESS)
    if outcome is Outcome.SUCCESS or details is None:
        return outcome
    if never_sent(code, details):
        return Outcome.UNREACHABLE
    if outcome is Outcome.OVERLOADED:
        return Outcome.CANCELLED if _TOO_LARGE in details else outcome
    return Outcome.CANCELLED if details.startswith(_CALLERS_OWN) else outcome
