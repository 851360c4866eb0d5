"""A stream of requests that is sent again only while nobody asked for a message."""

from __future__ import annotations

import pytest

from meshlb.grpc.once import Once


def test_an_untouched_stream_may_be_lent_again() -> None:
    """The second attempt gets everything."""
    once = Once(iter([1, 2]))
    once.lend()
    assert once.take_back()
    assert list(once.lend()) == [1, 2]


def test_a_touched_stream_is_not_lent_again() -> None:
    """What was read cannot be put back; who has it may go on."""
    once = Once(iter([1, 2]))
    lent = once.lend()
    assert next(lent) == 1
    assert not once.take_back()
    assert next(lent) == 2


def test_a_late_reader_of_an_ended_attempt_takes_nothing() -> None:
    """The thread of a failed attempt may ask after it was over; the message belongs to the next one."""
    once = Once(iter([1, 2]))
    late = once.lend()
    assert once.take_back()
    lent = once.lend()
    with pytest.raises(StopIteration):
        next(late)
    assert list(lent) == [1, 2]
