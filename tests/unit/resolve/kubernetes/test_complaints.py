"""What is wrong with a slice: counted by kind, logged once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshlb.resolve.kubernetes.complaints import MAX_WARNED, Complaints
from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.wire import SliceRecord

if TYPE_CHECKING:
    import pytest


def flawed(name: str, *flaws: str) -> SliceRecord:
    return SliceRecord(name, "shop", "orders", "1", "IPv4", False, (), (), flaws=flaws)


def test_what_was_left_out_of_a_slice_is_counted_always_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A controller that writes nonsense every second must not fill the log."""
    complaints = Complaints("shop", next(iter(Resource)))
    for _ in range(5):
        complaints.flaws([flawed("a", "ports out of range", "endpoints without a valid address"), flawed("b")])
    assert complaints.counts == {"left out: ports out of range": 5, "left out: endpoints without a valid address": 5}
    assert len(caplog.records) == 2
    assert "shop/a has ports out of range, which are left out" in caplog.text


def test_the_log_lines_of_one_stream_have_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """Counting has none."""
    caplog.set_level(logging.WARNING)
    complaints = Complaints("shop", next(iter(Resource)))
    complaints.flaws([flawed(f"s{number}", "ports out of range") for number in range(3 * MAX_WARNED)])
    assert len(caplog.records) == MAX_WARNED
    assert complaints.counts["left out: ports out of range"] == 3 * MAX_WARNED
