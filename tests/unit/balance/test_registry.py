"""Policies by name: every written form, and what is said of those we do not have."""

from __future__ import annotations

import json
import pickle

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.registry import policy_of
from meshlb.balance.round_robin import RoundRobin
from meshlb.errors import ConfigError

CONFIGS = [P2C(), P2C(stream_weight=0.5), RoundRobin(), LeastRequest(), LeastRequest(choice_count=3, full_scan_limit=0)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("p2c", P2C()),
        ("round_robin", RoundRobin()),
        ("rr", RoundRobin()),
        ("least_request", LeastRequest()),
        ({"name": "p2c"}, P2C()),
        ({"name": "rr"}, RoundRobin()),
        ({"name": "least_request", "choice_count": 3}, LeastRequest(choice_count=3)),
        ('{"name": "least_request", "choice_count": 3}', LeastRequest(choice_count=3)),
        (' {"name": "p2c"} ', P2C()),
        (LeastRequest(choice_count=4), LeastRequest(choice_count=4)),
    ],
)
def test_every_written_form_is_understood(written: str | dict[str, object] | PolicyConfig, meant: PolicyConfig) -> None:
    """A name, an alias, a dict, JSON text of one, or the configuration itself."""
    assert policy_of(written) == meant


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_is_printed_is_read_back(config: PolicyConfig) -> None:
    """str, to_dict, JSON, repr and pickle."""
    assert policy_of(str(config)) == config
    assert policy_of(config.to_dict()) == config
    assert policy_of(json.loads(json.dumps(config.to_dict()))) == config
    assert eval(repr(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_defaults_print_as_the_bare_name_and_others_only_what_differs() -> None:
    """What a person reads in a log line."""
    assert [str(config) for config in (P2C(), RoundRobin(), LeastRequest())] == ["p2c", "round_robin", "least_request"]
    assert str(LeastRequest(choice_count=3)) == '{"name": "least_request", "choice_count": 3}'


def test_equal_configurations_are_one_key() -> None:
    """Pools are shared by them."""
    assert len({P2C(), P2C(stream_weight=0.01), policy_of("p2c"), RoundRobin()}) == 2


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("p3c", "policy='p3c': did you mean 'p2c'? valid: p2c, round_robin, rr, least_request"),
        ("pick_first", "policy='pick_first': valid: p2c, round_robin, rr, least_request"),
        ("", "policy='': valid: p2c, round_robin, rr, least_request"),
        ({"name": 3}, "policy=3: valid: p2c, round_robin, rr, least_request"),
        ({}, "policy={}: must give the policy's name, as in {'name': 'p2c'}"),
        ({"choice_count": 3}, "policy={'choice_count': 3}: must give the policy's name, as in {'name': 'p2c'}"),
        (None, "policy=None: must be a name, a dict or a policy's configuration"),
        (["p2c"], "policy=['p2c']: must be a name, a dict or a policy's configuration"),
        (
            {"name": "least_request", "choise_count": 3},
            "policy.choise_count: unknown key; did you mean 'choice_count'? valid: name, choice_count, full_scan_limit, stream_weight",
        ),
        ({"name": "p2c", "choice_count": 3}, "policy.choice_count: unknown key; valid: name, stream_weight"),
    ],
)
def test_what_is_not_understood_is_said_with_what_would_be(written: object, message: str) -> None:
    """Unknown names and keys are errors that name those we have and the nearest."""
    with pytest.raises(ConfigError) as caught:
        policy_of(written)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_broken_json_is_said_to_be_that() -> None:
    """An environment variable with a missing brace."""
    with pytest.raises(ConfigError, match=r"must be a name or a JSON object"):
        policy_of('{"name": "p2c"')
