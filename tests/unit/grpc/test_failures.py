"""What the end of an attempt says about another one."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode as Code

from meshlb.grpc.failures import can_be_sent_again, failure_of, sent_again


def failed(code: Code | None, details: str = "", initial: Any = (), trailing: Any = (), *, timed_out: bool = False) -> Any:
    return failure_of(code, details, initial, trailing, timed_out=timed_out, error=lambda: None)


@pytest.mark.parametrize(
    ("code", "details", "trailing", "lost"),
    [
        (Code.UNAVAILABLE, "Stream removed (Socket closed)", (), True),
        (Code.UNAVAILABLE, "Cancelling all calls", (), True),
        (Code.CANCELLED, "CANCELLED", (), True),
        (Code.CANCELLED, "CANCELLED", (("x-why", "the handler said so"),), False),
        (Code.CANCELLED, "the handler said so", (), False),
        (Code.CANCELLED, "Received RST_STREAM with error code 8", (), True),
        (Code.INTERNAL, "Received RST_STREAM with error code 2", (), True),
        (Code.UNKNOWN, "Stream removed", (), True),
        (Code.INTERNAL, "a bug of the server", (), False),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", (), False),
        (Code.ABORTED, "", (), False),
    ],
)
def test_what_may_have_been_processed_is_told_by_the_transports_words(code: Code, details: str, trailing: Any, lost: bool) -> None:
    """Never by an application's."""
    failure = failed(code, details, trailing=trailing)
    assert (failure.code, failure.lost) == (code.name, lost)


def test_an_attempt_that_its_own_limit_ended_was_lost() -> None:
    """The caller's deadline is another matter."""
    assert failed(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", timed_out=True).lost


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (None, ""),
        (Code.OK, ""),
        (Code.CANCELLED, "Locally cancelled by application!"),
        (Code.CANCELLED, "Channel closed!"),
        (Code.INTERNAL, "Exception serializing request!"),
        (Code.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (5 vs. 4)"),
    ],
)
def test_what_the_callers_own_side_made_is_nothing_to_try_again(code: Code | None, details: str) -> None:
    """It would come out the same, or is what the caller wants."""
    assert failed(code, details) is None


@pytest.mark.parametrize(
    ("said", "pushback_s"),
    [
        (None, None),
        ("0", 0.0),
        ("250", 0.25),
        (b"250", 0.25),
        ("-1", -1.0),
        ("", -1.0),
        ("1.5", -1.0),
        ("²", -1.0),
        ("2147483648", -1.0),
    ],
)
def test_a_pushback_is_milliseconds_or_a_refusal(said: Any, pushback_s: float | None) -> None:
    """A6: what cannot be read refuses."""
    trailing = () if said is None else (("x", "1"), ("grpc-retry-pushback-ms", said))
    assert failed(Code.UNAVAILABLE, trailing=trailing).pushback_s == pushback_s


def test_initial_metadata_is_an_answer() -> None:
    """Empty metadata is none that anybody saw."""
    assert failed(Code.UNAVAILABLE, initial=(("a", "b"),)).answered
    assert not failed(Code.UNAVAILABLE, initial=None).answered


def test_the_count_comes_behind_the_users_metadata() -> None:
    """Which stays as it is, whatever it is."""
    given = [("a", "1"), ("a", "2")]
    assert sent_again(given, 0) is given
    assert sent_again(given, 2) == (("a", "1"), ("a", "2"), ("grpc-previous-rpc-attempts", "2"))
    assert sent_again(None, 1) == (("grpc-previous-rpc-attempts", "1"),)
    assert given == [("a", "1"), ("a", "2")]
    assert [can_be_sent_again(metadata) for metadata in (None, given, (), iter(given))] == [True, True, True, False]
