"""The few checks that configs share; each message gives the field, the value and the rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import TypeGuard

from meshlb.errors import ConfigError


def _fail(field: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{field}={value!r}: {rule}")


def _is_finite(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def seconds(field: str, value: object, *, minimum: float = 0.0, exclusive: bool = True) -> float:
    """A finite length of time in seconds, from a number or a timedelta; above ``minimum`` (or at it, if not ``exclusive``)."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not _is_finite(value):
        raise _fail(field, value, "must be a finite number of seconds")
    if value < minimum or (exclusive and value == minimum):
        raise _fail(field, value, f"must be {'>' if exclusive else '>='} {minimum:g} seconds")
    return float(value)


def ratio(field: str, value: object) -> float:
    """A share in [0, 1]."""
    if not _is_finite(value) or not 0 <= value <= 1:
        raise _fail(field, value, "must be a number from 0 to 1")
    return float(value)


def number(field: str, value: object, *, minimum: float) -> float:
    """A finite number >= ``minimum``."""
    if not _is_finite(value) or value < minimum:
        raise _fail(field, value, f"must be a finite number >= {minimum:g}")
    return float(value)


def integer(field: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    """A whole number in [minimum, maximum]; bool is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _fail(field, value, "must be a whole number")
    if value < minimum or (maximum is not None and value > maximum):
        bound = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise _fail(field, value, f"must be {bound}")
    return value


def one_of(field: str, value: object, allowed: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise _fail(field, value, f"must be one of {', '.join(sorted(allowed))}")
    return value


def nearest(word: object, known: Iterable[str]) -> str:
    """For the end of a message: the nearest valid word, and all of them if they are few or none is near."""
    from difflib import get_close_matches  # only a mistake should pay for its import

    words = list(dict.fromkeys(known))
    near = [f"did you mean {match!r}?" for match in get_close_matches(str(word), words, n=1)]
    if not near or len(words) <= 12:
        near.append(f"valid: {', '.join(words)}")
    return " ".join(near)


def known_keys(where: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Every key is a known one; ``where`` is the path to them (``discovery``), empty at the top."""
    words = list(known)
    for key in given:
        if key not in words:
            path = f"{where}.{key}" if where else str(key)
            raise ConfigError(f"{path}: unknown key; {nearest(key, words)}")
