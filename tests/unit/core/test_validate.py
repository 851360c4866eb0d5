"""The checks that configs share: what they let through, and that their messages give field, value and rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import pytest

from meshlb.core import validate
from meshlb.errors import ConfigError

HUGE = 10**400  # no float can hold it
NOT_NUMBERS = ["1", None, True, math.nan, math.inf, -math.inf, HUGE, [], object()]


def test_seconds_come_from_numbers_and_timedeltas() -> None:
    """Both are converted once, here."""
    assert validate.seconds("timeout_s", 2) == 2.0
    assert isinstance(validate.seconds("timeout_s", 2), float)
    assert validate.seconds("timeout_s", timedelta(milliseconds=1500)) == 1.5


def test_seconds_are_above_their_minimum_or_at_it_if_that_is_allowed() -> None:
    """0 seconds is a timeout that cannot be met, and a grace that can."""
    with pytest.raises(ConfigError, match=r"^grace_s=0: must be > 0 seconds$"):
        validate.seconds("grace_s", 0)
    assert validate.seconds("grace_s", 0, exclusive=False) == 0.0
    with pytest.raises(ConfigError, match=r"^grace_s=0\.5: must be >= 1 seconds$"):
        validate.seconds("grace_s", 0.5, minimum=1.0, exclusive=False)
    with pytest.raises(ConfigError, match="must be > 0 seconds"):
        validate.seconds("grace_s", timedelta(0))


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize(
    ("check", "rule"),
    [
        (lambda value: validate.seconds("field", value), "must be a finite number of seconds"),
        (lambda value: validate.ratio("field", value), "must be a number from 0 to 1"),
        (lambda value: validate.number("field", value, minimum=0), "must be a finite number >= 0"),
    ],
    ids=["seconds", "ratio", "number"],
)
def test_what_is_no_finite_number_is_refused_with_field_value_and_rule(
    check: Callable[[object], float], rule: str, value: object
) -> None:
    """Never another exception, whatever a JSON file held; True is no number."""
    with pytest.raises(ConfigError) as caught:
        check(value)
    assert str(caught.value) == f"field={value!r}: {rule}"


def test_a_ratio_lies_between_0_and_1_both_included() -> None:
    """A share is never a percentage."""
    assert [validate.ratio("r", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    for value in (-0.01, 1.01, 50):
        with pytest.raises(ConfigError, match="must be a number from 0 to 1"):
            validate.ratio("r", value)


def test_a_number_is_at_least_its_minimum() -> None:
    """The minimum itself is allowed."""
    assert validate.number("n", 1, minimum=1) == 1.0
    with pytest.raises(ConfigError, match=r"^n=0\.9: must be a finite number >= 1$"):
        validate.number("n", 0.9, minimum=1)


def test_an_integer_is_whole_and_within_its_bounds() -> None:
    """2.0 and True are none; the message names one bound or both."""
    assert validate.integer("n", 2, minimum=2) == 2
    assert validate.integer("n", HUGE, minimum=2) == HUGE
    for value in (2.0, True, "2", None):
        with pytest.raises(ConfigError, match="must be a whole number"):
            validate.integer("n", value, minimum=2)
    with pytest.raises(ConfigError, match=r"^n=1: must be >= 2$"):
        validate.integer("n", 1, minimum=2)
    with pytest.raises(ConfigError, match=r"^n=11: must be from 2 to 10$"):
        validate.integer("n", 11, minimum=2, maximum=10)


def test_a_word_is_one_of_those_allowed_and_the_message_lists_them() -> None:
    """Sorted, so that the message does not depend on the order of a set."""
    assert validate.one_of("mode", "off", {"on", "off"}) == "off"
    for value in ("of", None, ["off"]):
        with pytest.raises(ConfigError) as caught:
            validate.one_of("mode", value, {"on", "off"})
        assert str(caught.value) == f"mode={value!r}: must be one of off, on"
