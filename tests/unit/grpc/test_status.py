"""What a status means to the balancer; the table of the module's head, row by row."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from meshlb.core.outcome import Outcome
from meshlb.grpc.status import heard_late, never_sent, outcome_of

REFUSED = "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused"


@pytest.mark.parametrize(
    ("code", "details", "outcome"),
    [
        (StatusCode.OK, "", Outcome.SUCCESS),
        (StatusCode.NOT_FOUND, "no such order", Outcome.SUCCESS),
        (StatusCode.UNIMPLEMENTED, "", Outcome.SUCCESS),
        (StatusCode.UNAUTHENTICATED, "", Outcome.SUCCESS),
        (StatusCode.ABORTED, "", Outcome.SUCCESS),
        (StatusCode.UNAVAILABLE, REFUSED, Outcome.UNREACHABLE),
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: …", Outcome.UNREACHABLE),
        (StatusCode.UNAVAILABLE, "Socket closed", Outcome.FAILURE),
        (StatusCode.UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0; Debug Text: max_age)", Outcome.FAILURE),
        (StatusCode.UNAVAILABLE, "GOAWAY received; Error code: 0; Debug Text: max_age", Outcome.FAILURE),
        (StatusCode.UNAVAILABLE, None, Outcome.FAILURE),
        (StatusCode.UNAVAILABLE, "the application says: connections to all backends failing", Outcome.FAILURE),
        (StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: no token", Outcome.CANCELLED),
        (StatusCode.INTERNAL, "", Outcome.FAILURE),
        (StatusCode.INTERNAL, "Exception serializing request!", Outcome.CANCELLED),
        (StatusCode.INTERNAL, "Exception deserializing response!", Outcome.CANCELLED),
        (StatusCode.INTERNAL, "Invalid metadata", Outcome.CANCELLED),
        (StatusCode.UNKNOWN, "Exception calling application: 1", Outcome.FAILURE),
        (StatusCode.UNKNOWN, "Exception iterating requests!", Outcome.CANCELLED),
        (StatusCode.DATA_LOSS, "", Outcome.FAILURE),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Outcome.FAILURE),
        (StatusCode.RESOURCE_EXHAUSTED, "quota", Outcome.OVERLOADED),
        (StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 4)", Outcome.CANCELLED),
        (StatusCode.RESOURCE_EXHAUSTED, "Stream removed (CLIENT: Received message larger than max (9 vs. 4))", Outcome.CANCELLED),
        (StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 4)", Outcome.CANCELLED),
        (StatusCode.CANCELLED, "Locally cancelled by application!", Outcome.CANCELLED),
        (None, None, Outcome.CANCELLED),
    ],
)
def test_a_status_has_one_meaning(code: StatusCode | None, details: str | None, outcome: Outcome) -> None:
    """Codes of the application blame nobody, codes of the way blame the endpoint, the caller's own blame nobody."""
    assert outcome_of(code, details) is outcome


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.UNAVAILABLE])
def test_only_unavailable_can_mean_never_sent(code: StatusCode) -> None:
    """An application may use the same words."""
    assert not never_sent(code, REFUSED)
    assert never_sent(StatusCode.UNAVAILABLE, REFUSED)


@pytest.mark.parametrize(
    ("timeout_s", "took_s", "late"),
    [
        (None, 60.0, False),
        (1.0, 1.0, False),
        (1.0, 1.09, False),
        (1.0, 1.11, True),
        (0.01, 0.059, False),
        (0.01, 0.061, True),
        (60.0, 65.0, False),
        (60.0, 66.1, True),
    ],
)
def test_a_deadline_that_is_heard_of_much_too_late_blames_nobody(timeout_s: float | None, took_s: float, late: bool) -> None:
    """By more than 50 ms and a tenth of its time; an attempt without a limit of ours was ended by the server."""
    assert heard_late(took_s, timeout_s) is late
    outcome = outcome_of(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", took_s=took_s, timeout_s=timeout_s)
    assert outcome is (Outcome.CANCELLED if late else Outcome.FAILURE)
    assert outcome_of(StatusCode.UNAVAILABLE, "Socket closed", took_s=took_s, timeout_s=timeout_s) is Outcome.FAILURE
