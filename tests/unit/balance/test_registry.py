"""Policies by name: every written form, and what is said of those we do not have."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from meshlb.balance.ipvs import IpvsLc
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.peak_ewma import PeakEwma
from meshlb.balance.pick_first import PickFirst
from meshlb.balance.registry import POLICIES, PolicyConfig, policy_of, register_policy
from meshlb.balance.round_robin import RoundRobin
from meshlb.config import Config
from meshlb.core.clock import Rng
from meshlb.core.policy import Policy
from meshlb.errors import ConfigError
from tests.support.policies import registry_as_before  # noqa: F401 - a fixture

CONFIGS = [
    *dict.fromkeys(config() for config in POLICIES.values()),
    P2C(stream_weight=0.5),
    LeastRequest(choice_count=3, full_scan_limit=0),
    PeakEwma(tau_s=5, failure_penalty_s=0),
    PickFirst(shuffle_address_list=False),
]
VALID = "valid: " + ", ".join(POLICIES)


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
        ("ipvs:lc", IpvsLc()),
        ({"name": "ipvs:lc"}, IpvsLc()),
        ('{"name": "ipvs:lc"}', IpvsLc()),
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
    assert eval(repr(config), {type(config).__name__: type(config)}) == config
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
        ("p3c", "policy='p3c': did you mean 'p2c'?"),
        ("ipvs:seed", "policy='ipvs:seed': did you mean 'ipvs:sed'?"),
        ("peek_ewma", "policy='peek_ewma': did you mean 'peak_ewma'?"),
        ("linkerd", f"policy='linkerd': {VALID}"),
        ("", f"policy='': {VALID}"),
        ({"name": 3}, f"policy=3: {VALID}"),
        ({"name": ["p2c"]}, "policy=['p2c']: did you mean 'p2c'?"),
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


# --- policies of others -------------------------------------------------------------------------------------------------------

others = pytest.mark.usefixtures("registry_as_before")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mine(PolicyConfig):
    """A policy with a field, and ours behind it."""

    name: ClassVar[str] = "mine"
    depth: int = 3

    def build(self, rng: Rng) -> Policy:
        return P2C().build(rng)


@others
def test_a_registered_policy_is_written_like_ours() -> None:
    """By name, as a dict, as JSON; ``register_policy`` gives back the class, so that it is a decorator."""
    assert register_policy(Mine) is Mine
    assert policy_of("mine") == Mine()
    assert policy_of({"name": "mine", "depth": 4}) == Mine(depth=4)
    assert policy_of('{"name": "mine", "depth": 4}') == Mine(depth=4)
    assert str(Mine(depth=4)) == '{"name": "mine", "depth": 4}'
    assert Config(policy="mine").policy == Mine()
    with pytest.raises(ConfigError, match=r"policy\.deepth: unknown key; did you mean 'depth'\?"):
        policy_of({"name": "mine", "deepth": 4})


@others
def test_a_class_may_be_registered_again_and_be_replaced_by_a_newer_of_its_name() -> None:
    """A notebook's cell runs twice."""
    register_policy(Mine)
    register_policy(Mine)
    newer = dataclass(frozen=True, kw_only=True)(type("Mine", (Mine,), {"__module__": __name__}))
    register_policy(newer)
    assert type(policy_of("mine")) is newer


@others
def test_a_policy_without_fields_needs_no_decorator() -> None:
    """It inherits what it needs."""

    @register_policy
    class Plain(PolicyConfig):
        name = "plain"

        def build(self, rng: Rng) -> Policy:
            return P2C().build(rng)

    assert policy_of("plain") == Plain()


def _made(base: type = PolicyConfig, **body: object) -> type:
    return type("Own", (base,), {"__module__": "users", "name": "own", "build": Mine.build, **body})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("p2c", "register_policy('p2c'): must be a class below meshlb.PolicyConfig"),
        (Mine(), "register_policy(Mine(depth=3)): must be a class below meshlb.PolicyConfig"),
        (int, "register_policy(<class 'int'>): must be a class below meshlb.PolicyConfig"),
        (type("Own", (PolicyConfig,), {"name": "own"}), "register_policy(Own): must define build"),
        (
            type("Own", (PolicyConfig,), {"build": Mine.build}),
            'register_policy(Own): must have a name of the class, as in name: ClassVar[str] = "mine"',
        ),
        (
            dataclass(frozen=True)(_made(__annotations__={"name": str})),
            'register_policy(Own): must have a name of the class, as in name: ClassVar[str] = "mine"',
        ),
        (_made(name="My-Policy"), "register_policy(Own): name='My-Policy': must be a lower-case word (a-z, 0-9, _)"),
        (_made(name=""), "register_policy(Own): name='': must be a lower-case word (a-z, 0-9, _)"),
        (_made(name="p2c"), "register_policy(Own): name='p2c': must not be taken; meshlb.balance.p2c.P2C has it"),
        (_made(name="rr"), "register_policy(Own): name='rr': must not be taken; meshlb.balance.round_robin.RoundRobin has it"),
        (
            _made(depth=3, __annotations__={"depth": int}),
            "register_policy(Own): depth: is no field; must be decorated with @dataclass(frozen=True, kw_only=True)",
        ),
        (
            dataclass(frozen=True)(_made(__annotations__={"depth": int})),
            "register_policy(Own): every field must have a default (",
        ),
        (
            dataclass(frozen=True)(_made(__annotations__={"hosts": list}, hosts=field(default_factory=list))),
            "register_policy(Own): must be hashable, as pools are shared by it: a tuple, not a list (",
        ),
        (
            dataclass(frozen=True)(_made(__annotations__={"host": object}, host=object)),
            "register_policy(Own): every field must be plain data: a number, a word or a tuple of them (",
        ),
    ],
)
def test_what_cannot_be_a_policy_is_refused_when_it_is_registered(own: Any, message: str) -> None:
    """With the class, the value and the rule; and nothing is registered."""
    before = dict(POLICIES)
    with pytest.raises(ConfigError) as caught:
        register_policy(own)
    assert str(caught.value).startswith(message)
    assert before == POLICIES


@others
def test_of_two_threads_that_want_one_name_one_gets_it() -> None:
    """Whoever comes first; the other hears of it. 40 names, 8 threads each."""
    for number in range(40):
        refused: list[ConfigError] = []
        gate = threading.Barrier(8)

        def run(own: type, gate: threading.Barrier = gate, refused: list[ConfigError] = refused) -> None:
            gate.wait(10)
            try:
                register_policy(own)
            except ConfigError as error:
                refused.append(error)

        rivals = [_made(name=f"name_{number}", __qualname__=f"Own{rival}") for rival in range(8)]
        threads = [threading.Thread(target=run, args=(own,)) for own in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(refused) == 7
        assert POLICIES[f"name_{number}"] in rivals
