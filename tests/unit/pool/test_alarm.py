"""Ticks are asked for once."""

from __future__ import annotations

from meshlb.pool.alarm import Alarm


def test_a_tick_is_asked_for_unless_an_earlier_one_is_on_its_way() -> None:
    """Whoever ticks never cancels."""
    alarm = Alarm()
    assert alarm.ask(30.0)
    assert not alarm.ask(30.0)
    assert not alarm.ask(40.0)
    assert alarm.ask(1.0)
    alarm.rang(1.0)
    assert not alarm.ask(31.0)
    alarm.rang(30.0)
    assert alarm.ask(31.0)
    assert not Alarm().ask(None)


def test_a_timer_that_fires_a_rounding_early_is_no_tick_that_is_still_to_come() -> None:
    """Else nobody would ask again, and nothing would ever happen."""
    alarm = Alarm()
    assert alarm.ask(1.0)
    alarm.rang(1.0 - 1e-9)
    assert alarm.ask(1.0)
