"""The settings of connections: forms, defaults, and what is refused with field, value and rule."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from meshlb.errors import ConfigError
from meshlb.pool.connection_settings import Connection


def test_the_defaults_are_those_that_every_server_tolerates() -> None:
    """Pings rarer than the five minutes that servers ask for by default; nothing watched, nothing renewed."""
    said = Connection()
    assert said.enabled
    assert said.keepalive_time_s > 300
    assert (said.keepalive_timeout_s, said.ping_timeout_s) == (3.0, 5.0)
    assert (said.health_check, said.max_age_s, said.max_age_jitter_ratio, said.max_age_grace_s) == (None, 0.0, 0.1, 0.0)


def test_words_dicts_and_objects_say_the_same() -> None:
    """``on`` and ``off`` are words; plain data round-trips."""
    assert Connection.of("on") == Connection.of({}) == Connection()
    assert Connection.of("off") == Connection(enabled=False)
    said = Connection(health_check="shop.Orders", max_age_s=60)
    assert Connection.of(said) is said
    assert Connection.of(json.loads(json.dumps(asdict(said)))) == said


def test_health_checking_has_a_word_for_off_and_none_for_the_whole_server() -> None:
    """The empty name is the server's, as grpc.health.v1 has it."""
    assert Connection(health_check="off").health_check is None
    assert Connection(health_check="").health_check == ""


def test_times_may_be_timedeltas_and_zero_turns_them_off() -> None:
    """Each by itself."""
    assert Connection(max_age_s=timedelta(minutes=1)).max_age_s == 60.0  # type: ignore[arg-type]
    for name in ("keepalive_time_s", "keepalive_timeout_s", "ping_timeout_s", "max_age_s", "max_age_grace_s"):
        assert getattr(Connection(**{name: 0}), name) == 0.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"enabled": 1}, "connection.enabled=1: must be true or false"),
        ({"keepalive_time_s": 9}, "connection.keepalive_time_s=9: must be 0 (off) or >= 10 seconds"),
        ({"keepalive_time_s": -1}, "connection.keepalive_time_s=-1: must be >= 0 seconds"),
        ({"keepalive_timeout_s": 0.05}, "connection.keepalive_timeout_s=0.05: must be 0 (off) or >= 0.1 seconds"),
        ({"ping_timeout_s": float("inf")}, "connection.ping_timeout_s=inf: must be a finite number"),
        ({"health_check": True}, "connection.health_check=True: must be a service's name"),
        ({"max_age_s": 0.5}, "connection.max_age_s=0.5: must be 0 (off) or >= 1 seconds"),
        ({"max_age_s": 5, "max_age_jitter_ratio": 1.5}, "connection.max_age_jitter_ratio=1.5: must be a number from 0 to 1"),
        ({"max_age_grace_s": 5}, "connection.max_age_grace_s=5.0: has no meaning without max_age_s"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    """At construction, with field, value and rule."""
    with pytest.raises(ConfigError) as error:
        Connection(**fields)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("never", "connection='never': must be one of off, on"),
        (7, "connection=7: must be on, off, a dict or a Connection"),
        ({"max_age": 7}, "connection.max_age: unknown key; did you mean 'max_age_s'?"),
    ],
)
def test_other_forms_are_refused(said: Any, words: str) -> None:
    """Unknown words, types and keys."""
    with pytest.raises(ConfigError) as error:
        Connection.of(said)
    assert str(error.value).startswith(words)
