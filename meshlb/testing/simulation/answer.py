"""How an attempt may end, in gRPC's words: what the status means to a balancer, and whether it may have been processed.

The same meanings as ``meshlb.grpc``'s, which reads them off real statuses and needs grpcio for that; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshlb.core.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """``lost``: nobody knows whether the endpoint processed it, so an idempotent call may be sent again."""

    code: str
    outcome: Outcome
    lost: bool = False

    @property
    def ok(self) -> bool:
        """The caller is content: OK, or an answer that only the application can judge."""
        return self.outcome is Outcome.SUCCESS


OK = Answer("OK", Outcome.SUCCESS)
NOT_FOUND = Answer("NOT_FOUND", Outcome.SUCCESS)
UNAVAILABLE = Answer("UNAVAILABLE", Outcome.FAILURE, lost=True)  # by the server, or because its connection was lost
INTERNAL = Answer("INTERNAL", Outcome.FAILURE)
RESOURCE_EXHAUSTED = Answer("RESOURCE_EXHAUSTED", Outcome.OVERLOADED)
DEADLINE_EXCEEDED = Answer("DEADLINE_EXCEEDED", Outcome.FAILURE)
ATTEMPT_TIMED_OUT = Answer("DEADLINE_EXCEEDED", Outcome.FAILURE, lost=True)  # per_try_timeout_s
