"""A policy's fields, ours and a user's: read by the type that the policy in force has for them, in each written form."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Optional

import pytest

from meshlb.balance.p2c import P2C
from meshlb.balance.registry import POLICIES, PolicyConfig, policy_of, register_policy
from meshlb.balance.session import Session
from meshlb.config import Config, resolve_config
from meshlb.core.clock import Rng
from meshlb.core.policy import Policy
from meshlb.errors import ConfigError
from tests.support.policies import registry_as_before  # noqa: F401 - a fixture

TIMES = [(name, field.name) for name, config in POLICIES.items() for field in fields(config) if field.name.endswith("_s")]
others = pytest.mark.usefixtures("registry_as_before")


@dataclass(frozen=True, kw_only=True)
class Zoned(PolicyConfig):
    """A user's: a tuple, an optional number in the old spelling, and a name that p2c has with another type."""

    name: ClassVar[str] = "zoned"
    zones: tuple[object, ...] = ("a",)
    most: Optional[int] = None  # noqa: UP045 - as users write it
    stream_weight: int = 1

    def build(self, rng: Rng) -> Policy:
        return P2C().build(rng)


@pytest.mark.parametrize(("policy", "field"), TIMES)
@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("7s", 7.0), ("250ms", 0.25), ("5m", 300.0)])
def test_every_time_of_every_policy_may_be_text(policy: str, field: str, text: str, seconds: float) -> None:
    """As a variable of its own, in a dict, and in JSON."""
    meant = replace(policy_of(policy), **{field: seconds})
    written = {"name": policy, field: text}
    for prefix in ("MESHLB_", "MESHLB_FORCE_"):
        assert resolve_config(None, {f"{prefix}POLICY": policy, f"{prefix}POLICY_{field.upper()}": text})[0].policy == meant
        assert resolve_config(None, {f"{prefix}POLICY": json.dumps(written)})[0].policy == meant
    assert Config(policy=written).policy == Config(policy=json.dumps(written)).policy == meant
    assert Config.from_dict({"policy": written}).policy == meant


def test_there_are_times_to_read() -> None:
    """Else the test above would promise nothing."""
    assert {("session", "lease_s"), ("peak_ewma", "tau_s"), ("peak_ewma", "failure_penalty_s")} <= set(TIMES)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"MESHLB_POLICY": "session", "MESHLB_POLICY_LEASE_S": "long"},
            "MESHLB_POLICY_LEASE_S: policy.lease_s='long': must be seconds",
        ),
        ({"MESHLB_POLICY_LEASE_S": "long"}, "MESHLB_POLICY_LEASE_S: policy.lease_s='long': must be seconds"),
        (
            {"MESHLB_POLICY": "session", "MESHLB_FORCE_POLICY_LEASE_S": "0"},
            "MESHLB_FORCE_POLICY_LEASE_S: policy.lease_s=0.0: must be >",
        ),
        ({"MESHLB_POLICY": '{"name": "session", "lease_s": "x"}'}, "MESHLB_POLICY: policy.lease_s='x': must be seconds"),
    ],
)
def test_a_time_that_is_none_is_an_error_that_names_its_variable(environ: dict[str, str], message: str) -> None:
    """Whether or not the policy in force has the field."""
    with pytest.raises(ConfigError) as caught:
        resolve_config(None, environ)
    assert str(caught.value).startswith(message)


def test_a_field_read_from_the_deployment_is_laid_over_again_as_it_is() -> None:
    """``from_env``'s Config may be the code's."""
    config = Config.from_env({"MESHLB_POLICY": "session", "MESHLB_POLICY_LEASE_S": "5m", "MESHLB_POLICY_FIRST": "rr"})
    assert resolve_config(config, {})[0].policy == config.policy == Session(lease_s=300.0, first="rr")


@others
def test_a_tuple_survives_json() -> None:
    """JSON has lists only, and pools are shared by a policy's hash."""
    register_policy(Zoned)
    config = Config(policy=Zoned(zones=("x", ("y", ("z",)))))
    read = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert hash(read) == hash(config)
    assert policy_of(str(config.policy)) == config.policy
    said = resolve_config(None, {"MESHLB_POLICY": "zoned", "MESHLB_POLICY_ZONES": '["x", ["y", ["z"]]]'})[0]
    assert hash(said) == hash(config)
    assert resolve_config(None, {"MESHLB_POLICY": "zoned", "MESHLB_POLICY_ZONES": "x, y"})[0].policy == Zoned(zones=("x", "y"))


@others
def test_what_has_no_hash_is_refused_where_it_is_written() -> None:
    """Not by the pool that a later call wants, with a TypeError."""
    register_policy(Zoned)
    rule = r"policy\.zones=\({'a': 1},\): must be hashable"
    for written in ({"name": "zoned", "zones": [{"a": 1}]}, Zoned(zones=({"a": 1},))):
        with pytest.raises(ConfigError, match=rf"^{rule}"):
            Config(policy=written)
    with pytest.raises(ConfigError, match=rf"^MESHLB_POLICY: {rule}"):
        resolve_config(None, {"MESHLB_POLICY": '{"name": "zoned", "zones": [{"a": 1}]}'})
    with pytest.raises(ConfigError, match=r"^MESHLB_POLICY_ZONES: policy\.zones="):
        resolve_config(None, {"MESHLB_POLICY": "zoned", "MESHLB_POLICY_ZONES": '[{"a": 1}]'})


@others
def test_a_variable_is_read_by_the_type_of_the_policy_in_force() -> None:
    """A user's policy may have a field of the same name as ours."""
    register_policy(Zoned)
    environ = {"MESHLB_FORCE_POLICY_STREAM_WEIGHT": "0.5"}
    assert resolve_config(Config(policy="p2c"), environ)[0].policy == P2C(stream_weight=0.5)
    rule = r"^MESHLB_FORCE_POLICY_STREAM_WEIGHT: policy\.stream_weight='0\.5': must be a whole number"
    with pytest.raises(ConfigError, match=rule):
        resolve_config(Config(policy="zoned"), environ)
    assert repr(resolve_config(Config(policy="zoned"), {"MESHLB_FORCE_POLICY_STREAM_WEIGHT": "2"})[0].policy) == repr(
        Zoned(stream_weight=2)
    )


@others
def test_an_optional_number_is_a_number_in_either_spelling() -> None:
    """``Optional[int]`` is ``int | None``."""
    register_policy(Zoned)
    assert resolve_config(Config(policy="zoned"), {"MESHLB_FORCE_POLICY_MOST": "3"})[0].policy == Zoned(most=3)


@others
def test_an_annotation_that_nobody_knows_is_refused_when_it_is_registered() -> None:
    """Variables are read by it: each later channel of the process would fail."""
    unknown = type("Own", (Zoned,), {"__module__": __name__, "__annotations__": {"kind": "Missing"}, "kind": "a", "name": "own"})
    with pytest.raises(ConfigError, match=r"^register_policy\(Own\): every annotation must name .*'Missing' is not defined"):
        register_policy(dataclass(frozen=True)(unknown))
    assert resolve_config(None, {})[0] == Config()
