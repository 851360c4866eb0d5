"""What the end of an attempt means to a balancer; each transport maps its own statuses to these five in one place."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """How an attempt ended, seen from the endpoint.

    An answer that only the application can judge (NOT_FOUND, 404) is a SUCCESS: the endpoint did its work.
    """

    SUCCESS = "success"
    FAILURE = "failure"  # the endpoint is to blame: UNAVAILABLE, INTERNAL, UNKNOWN, 5xx
    OVERLOADED = "overloaded"  # it says so itself: RESOURCE_EXHAUSTED, 429, 503
    UNREACHABLE = "unreachable"  # nothing was sent: the connection could not be made
    CANCELLED = "cancelled"  # the caller gave up; blames nobody
