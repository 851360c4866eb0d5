"""The clock that moves only when told to."""

from __future__ import annotations

import pytest

from meshlb.testing import ManualClock


def test_a_manual_clock_moves_only_by_advance() -> None:
    """It starts where told, and advance returns the new present."""
    clock = ManualClock(5.0)
    assert (clock.now_s(), clock.now_s()) == (5.0, 5.0)
    assert clock.advance(1.5) == 6.5 == clock.now_s()
    assert repr(clock) == "ManualClock(6.5)"


@pytest.mark.parametrize("delta_s", [-0.1, float("nan"), float("inf")])
def test_a_manual_clock_never_goes_back(delta_s: float) -> None:
    """Nor anywhere that is no time; the message gives field, value and rule."""
    with pytest.raises(ValueError, match=r"delta_s=.*: must be a finite number >= 0"):
        ManualClock().advance(delta_s)
