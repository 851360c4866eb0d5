"""Layers, for any distribution of words among those who may speak."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.registry import policy_of
from meshlb.balance.round_robin import RoundRobin
from meshlb.config import Config, resolve_config

POLICIES: st.SearchStrategy[PolicyConfig] = st.one_of(
    st.builds(P2C, stream_weight=st.floats(0, 10)),
    st.just(RoundRobin()),
    st.builds(LeastRequest, choice_count=st.integers(2, 20), full_scan_limit=st.integers(0, 200), stream_weight=st.floats(0, 10)),
)
SAID = st.dictionaries(
    st.sampled_from(["connect_timeout_s", "first_answer_timeout_s", "fallback.connections", "fallback.max_age_s"]),
    st.integers(5, 60),
)


def _environ(prefix: str, said: dict[str, int]) -> dict[str, str]:
    return {prefix + path.upper().replace(".", "_"): str(value) for path, value in said.items()}


def _nested(said: dict[str, int]) -> dict[str, object]:
    nested: dict[str, object] = {path: value for path, value in said.items() if "." not in path}
    fallback = {path.partition(".")[2]: value for path, value in said.items() if "." in path}
    return {**nested, **({"fallback": fallback} if fallback else {})}


@given(SAID, SAID, SAID)
def test_each_field_has_the_word_of_the_strongest_who_spoke(
    deployment: dict[str, int], code: dict[str, int], operator: dict[str, int]
) -> None:
    """Field by field, also inside a part."""
    environ = {**_environ("MESHLB_", deployment), **_environ("MESHLB_FORCE_", operator)}
    config, _ = resolve_config(Config.from_dict(_nested(code)), environ)
    assert config == Config.from_dict(_nested({**deployment, **code, **operator}))
    assert config.given == {*deployment, *code, *operator}


@given(POLICIES)
def test_every_policy_is_read_back_from_what_it_prints(policy: PolicyConfig) -> None:
    """As text, as a dict, and inside a Config."""
    assert policy_of(str(policy)) == policy_of(policy.to_dict()) == policy
    assert Config.from_dict(Config(policy=policy).to_dict()).policy == policy
    assert resolve_config(None, {"MESHLB_POLICY": str(policy)})[0].policy == policy
