"""Limits as people write them; what is wrong fails at construction, with field, value and rule."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from meshlb.config import Config
from meshlb.errors import ConfigError
from meshlb.limit.settings import Limits, MethodLimits

REPORT = "/shop.Orders/Report"


def test_nothing_is_limited_unless_somebody_says_so() -> None:
    """A limit that is too low fails calls that would have been served."""
    assert not Limits().any
    assert not Limits.of("on").any
    assert not Limits.of("off").any


@pytest.mark.parametrize(
    "said", [{"max_in_flight": 1}, {"max_in_flight_per_endpoint": 1}, {"methods": {REPORT: {"max_in_flight": 1}}}]
)
def test_one_number_is_enough_and_off_takes_it_back(said: dict[str, Any]) -> None:
    """Also over what code gave, for the operator."""
    assert Limits.of(said).any
    assert not Limits.of({**said, "enabled": False}).any


def test_it_is_plain_data_both_ways() -> None:
    """JSON, pickle, hash, and a part of Config."""
    limits = Limits.of({"max_in_flight": 100, "max_wait_s": 0.5, "methods": {REPORT: {"max_in_flight": 4, "max_waiting": 0}}})
    assert Limits.of(json.loads(json.dumps(limits.to_dict()))) == limits
    assert pickle.loads(pickle.dumps(limits)) == limits
    assert hash(limits) == hash(Limits.of(limits))
    assert dict(limits.methods)[REPORT] == MethodLimits(max_in_flight=4, max_waiting=0)
    config = Config(limits=limits)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))).limits == limits


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("some", r"^limits='some': must be one of off, on$"),
        (7, r"^limits=7: must be on, off, a dict or a Limits$"),
        ({"max_inflight": 7}, r"^limits\.max_inflight: unknown key; did you mean 'max_in_flight'\?"),
        ({"enabled": "yes"}, r"^limits\.enabled='yes': must be true or false$"),
        ({"max_in_flight": -1}, r"^limits\.max_in_flight=-1: must be >= 0$"),
        ({"max_in_flight": 1.5}, r"^limits\.max_in_flight=1\.5: must be a whole number$"),
        ({"max_in_flight_per_endpoint": True}, r"^limits\.max_in_flight_per_endpoint=True: must be a whole number$"),
        ({"max_waiting": -1}, r"^limits\.max_waiting=-1: must be >= 0$"),
        ({"max_wait_s": -0.1}, r"^limits\.max_wait_s=-0\.1: must be >= 0 seconds$"),
        ({"methods": 7}, r"^limits\.methods=7: must be a dict of method or service and its limits$"),
        ({"methods": {"Report": {"max_in_flight": 1}}}, r"^limits\.methods='Report': must be /package"),
        (
            {"methods": {REPORT: 4}},
            r"^limits\.methods /shop\.Orders/Report=4: must be a dict of max_in_flight, max_waiting, max_wait_s$",
        ),
        ({"methods": {REPORT: {"max_waiting": 4}}}, r"^limits\.methods /shop\.Orders/Report\.max_in_flight=0: must be >= 1$"),
        ({"methods": {REPORT: {"max_in_flight": 0}}}, r"^limits\.methods /shop\.Orders/Report\.max_in_flight=0: must be >= 1$"),
        (
            {"methods": {REPORT: {"max_in_flight": 1, "max_wait_s": -1}}},
            r"^limits\.methods /shop\.Orders/Report\.max_wait_s=-1: must be >= 0 seconds$",
        ),
    ],
)
def test_what_is_wrong_is_named(said: Any, message: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=message):
        Limits.of(said)
