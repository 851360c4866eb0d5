"""The simulated transport says what meshlb's gRPC side makes of the real one."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from meshlb.grpc.failures import failure_of
from meshlb.grpc.status import outcome_of
from meshlb.testing.simulation import INTERNAL, NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE, Answer
from meshlb.testing.simulation.answer import ATTEMPT_TIMED_OUT, DEADLINE_EXCEEDED, OK


@pytest.mark.parametrize("answer", [OK, NOT_FOUND, UNAVAILABLE, INTERNAL, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, ATTEMPT_TIMED_OUT])
def test_an_answer_means_what_its_status_means(answer: Answer) -> None:
    """The outcome, and whether an idempotent call may be sent again."""
    code = StatusCode[answer.code]
    assert outcome_of(code, "") is answer.outcome
    failure = failure_of(code, "", (), (), timed_out=answer is ATTEMPT_TIMED_OUT, error=lambda: None)
    assert (failure is not None and failure.lost) is answer.lost
