"""Config: forms, validation, what was given, and whose word counts."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

import meshlb
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.config import Config, resolve_config
from meshlb.config.layers import NAMES, PARTS, SINGLE
from meshlb.errors import ConfigError
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.limit.settings import Limits
from meshlb.pool.connection_settings import Connection
from meshlb.resolve.settings import Discovery, Fallback

SOME = Config(
    policy={"name": "least_request", "choice_count": 3},
    discovery={"nameservers": ["10.0.0.10"], "empty_grace_s": "5m"},
    fallback={"connections": 8},
    connect_timeout_s=timedelta(milliseconds=250),
)


def _in_force(code: Config | None, policy: Any = None, **environ: str) -> Config:
    return resolve_config(code, environ, asked=None if policy is None else {"policy": policy})[0]


def test_the_defaults_are_those_of_the_parts() -> None:
    """Two draws, both sources, the ClusterIP, 5 s, 3 s and 30 s; and nothing was given."""
    config = Config()
    assert (config.policy, config.discovery, config.fallback) == (P2C(), Discovery(), Fallback())
    assert (config.first_answer_timeout_s, config.connect_timeout_s, config.mass_removal_spare_s) == (5.0, 3.0, 30.0)
    assert config.given == frozenset()


def test_every_part_is_listed_once() -> None:
    """A field that is added to Config must be known to the layers too."""
    assert tuple(field.name for field in dataclasses.fields(Config) if field.name != "given") == NAMES
    assert set(NAMES) == {*PARTS, *SINGLE}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"policy": "rr"}, {"policy": RoundRobin()}),
        ({"policy": {"name": "least_request", "choice_count": 3}}, {"policy": LeastRequest(choice_count=3)}),
        ({"policy": LeastRequest()}, {"policy": LeastRequest()}),
        ({"discovery": "dns"}, {"discovery": Discovery(sources=("dns",))}),
        ({"discovery": {"sources": ["dns"]}}, {"discovery": Discovery(sources=("dns",))}),
        ({"discovery": {"empty_grace_s": "90s"}}, {"discovery": Discovery(empty_grace_s=90.0)}),
        ({"discovery": Discovery(sources=("dns",))}, {"discovery": Discovery(sources=("dns",))}),
        ({"fallback": "none"}, {"fallback": Fallback(enabled=False)}),
        ({"fallback": {"connections": 2}}, {"fallback": Fallback(connections=2)}),
        ({"outlier": "envoy"}, {"outlier": Outlier(mode="envoy")}),
        ({"outlier": {"consecutive_failures": 3}}, {"outlier": Outlier(consecutive_failures=3)}),
        ({"slow_start": "on"}, {"slow_start": SlowStart.of("on")}),
        ({"slow_start": {"window_s": "10s"}}, {"slow_start": SlowStart(window_s=10.0)}),
        ({"locality": "prefer"}, {"locality": Locality(mode="prefer")}),
        ({"limits": {"max_in_flight": 10}}, {"limits": Limits(max_in_flight=10)}),
        ({"connection": {"max_age_s": "5m"}}, {"connection": Connection(max_age_s=300.0)}),
        ({"connect_timeout_s": 1}, {"connect_timeout_s": 1.0}),
        ({"connect_timeout_s": "1.5s"}, {"connect_timeout_s": 1.5}),
        ({"connect_timeout_s": "250ms"}, {"connect_timeout_s": 0.25}),
        ({"mass_removal_spare_s": 0}, {"mass_removal_spare_s": 0.0}),
        ({"mass_removal_spare_s": "2m"}, {"mass_removal_spare_s": 120.0}),
        ({"first_answer_timeout_s": "2m"}, {"first_answer_timeout_s": 120.0}),
        ({"first_answer_timeout_s": timedelta(seconds=7)}, {"first_answer_timeout_s": 7.0}),
    ],
    ids=str,
)
def test_every_form_means_the_same_in_code_and_in_a_dict(written: dict[str, Any], meant: dict[str, Any]) -> None:
    """Words, dicts, objects, numbers, timedeltas and text."""
    assert Config(**written) == Config.from_dict(written) == Config(**meant)


def test_it_survives_json() -> None:
    """to_dict is plain data that says everything."""
    plain = json.loads(json.dumps(SOME.to_dict()))
    assert Config.from_dict(plain) == SOME
    assert set(plain) == set(NAMES)


def test_it_survives_pickling_with_what_was_given() -> None:
    """Worker processes get the same configuration and the same order of words."""
    copy = pickle.loads(pickle.dumps(SOME))
    assert copy == SOME
    assert copy.given == SOME.given


def test_equality_and_hash_go_by_value() -> None:
    """Shared pools are keyed by it: saying a default aloud makes no other pool."""
    assert Config(connect_timeout_s=3, policy="p2c") == Config()
    assert hash(Config(connect_timeout_s=3, policy="p2c")) == hash(Config())
    assert Config(connect_timeout_s=2) != Config()
    assert repr(Config(connect_timeout_s=3)) == repr(Config())


def test_it_is_frozen_and_keyword_only() -> None:
    """A configuration that is in use does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().connect_timeout_s = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config("p2c")  # type: ignore[call-arg]


def test_replace_keeps_the_rest() -> None:
    """The way to change one field of a frozen value."""
    assert dataclasses.replace(SOME, connect_timeout_s=1) == Config.from_dict({**SOME.to_dict(), "connect_timeout_s": 1})


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ({"connect_timeout_s": 3.0}, {"connect_timeout_s"}),
        ({"policy": "p2c"}, {"policy"}),
        ({"discovery": "auto"}, {"discovery.sources"}),
        ({"fallback": "clusterip"}, {"fallback.enabled"}),
        ({"discovery": {"empty_grace_s": 60.0}}, {"discovery.empty_grace_s"}),
        ({"discovery": {}}, set()),
        ({"discovery": Discovery(empty_grace_s=60.0, namespace="shop")}, {"discovery.namespace"}),
    ],
    ids=str,
)
def test_what_is_said_is_given_even_if_it_is_the_default(written: dict[str, Any], given: set[str]) -> None:
    """Except inside an object, which does not remember."""
    assert Config(**written).given == given


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"polcy": "p2c"}, "polcy: unknown key; did you mean 'policy'?"),
        ({"hedging": {}}, f"hedging: unknown key; valid: {', '.join(NAMES)}"),
        (
            {"discovery": {"nameserverz": []}},
            "discovery.nameserverz: unknown key; did you mean 'nameservers'? valid: "
            + ", ".join(field.name for field in dataclasses.fields(Discovery)),
        ),
        (
            {"fallback": {"conections": 3}},
            "fallback.conections: unknown key; did you mean 'connections'? valid: enabled, connections, max_age_s",
        ),
        ({"policy": {"name": "p2c", "choice_count": 3}}, "policy.choice_count: unknown key; valid: name, stream_weight"),
        ({"policy": "p3c"}, "policy='p3c': did you mean 'p2c'?"),
        ({"fallback": {"connections": 0}}, "fallback.connections=0: must be from 1 to 64"),
        ({"connect_timeout_s": 0}, "connect_timeout_s=0: must be > 0 seconds"),
        ({"connect_timeout_s": -1}, "connect_timeout_s=-1: must be > 0 seconds"),
        ({"slow_start": {"aggression": 2}}, "slow_start.window_s: must be said for aggression to mean something"),
        ({"locality": {"slack": 1}}, "locality.mode: must be said, prefer or envoy, for slack to mean something"),
        ({"mass_removal_spare_s": -1}, "mass_removal_spare_s=-1: must be >= 0 seconds"),
        (
            {"mass_removal_spare": 1},
            "mass_removal_spare: unknown key; did you mean 'mass_removal_spare_s'?",
        ),
        ({"connect_timeout_s": None}, "connect_timeout_s=None: must be a finite number of seconds"),
        ({"first_answer_timeout_s": "soon"}, "first_answer_timeout_s='soon': must be seconds, or a number and ms, s, m or h"),
        (
            {"discovery": {"empty_grace_s": "1 day"}},
            "discovery.empty_grace_s='1 day': must be seconds, or a number and ms, s, m or h",
        ),
        ({"discovery": 3}, "discovery=3: must be a word, a dict or a Discovery"),
    ],
    ids=str,
)
def test_bad_values_are_errors_with_field_value_and_rule(written: dict[str, Any], message: str) -> None:
    """And with the path and the nearest valid key, in nested dicts too."""
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(written)
    assert str(caught.value) == message


def test_a_field_that_there_is_not_is_an_error_in_code_as_in_a_file() -> None:
    """With the nearest one; and what makes a Config without its fields still can."""
    with pytest.raises(ConfigError, match=r"^polcy: unknown key; did you mean 'policy'\?$"):
        Config(polcy="p2c")  # type: ignore[call-arg]
    assert copy.deepcopy(Config(policy="rr")) == Config(policy="rr")


def test_a_config_must_be_a_dict() -> None:
    """A JSON file that holds a list."""
    with pytest.raises(ConfigError, match=r"config=\[\]: must be a dict of policy, "):
        Config.from_dict([])  # type: ignore[arg-type]


# --- whose word counts ----------------------------------------------------------------------------------------------------


def test_the_operator_is_stronger_than_code_and_code_than_the_deployment() -> None:
    """Field by field."""
    everybody = {"MESHLB_CONNECT_TIMEOUT_S": "7", "MESHLB_FIRST_ANSWER_TIMEOUT_S": "8", "MESHLB_POLICY": "rr"}
    code = Config(connect_timeout_s=1, first_answer_timeout_s=2)
    config = _in_force(code, **everybody, MESHLB_FORCE_CONNECT_TIMEOUT_S="9s")
    assert config.connect_timeout_s == 9.0
    assert config.first_answer_timeout_s == 2.0
    assert config.policy == RoundRobin()


def test_code_that_says_a_default_aloud_is_stronger_than_the_deployment() -> None:
    """That is what a Config remembers ``given`` for."""
    assert _in_force(Config(connect_timeout_s=3), MESHLB_CONNECT_TIMEOUT_S="7").connect_timeout_s == 3.0
    assert _in_force(Config(), MESHLB_CONNECT_TIMEOUT_S="7").connect_timeout_s == 7.0
    assert _in_force(Config(discovery="auto"), MESHLB_DISCOVERY="dns").discovery == Discovery()


def test_layers_mix_inside_a_part() -> None:
    """One gives the nameservers, one the kubeconfig, one the sources."""
    config = _in_force(
        Config(discovery={"nameservers": ["10.0.0.10"]}),
        MESHLB_DISCOVERY_KUBECONFIG="/etc/kube/config",
        MESHLB_DISCOVERY_NAMESERVERS="10.0.0.11",
        MESHLB_FORCE_DISCOVERY="dns",
    )
    assert config.discovery == Discovery(sources=("dns",), kubeconfig="/etc/kube/config", nameservers=("10.0.0.10",))


def test_a_policy_that_is_named_replaces_the_weaker_one_whole() -> None:
    """What its fields mean depends on its name."""
    deployment = {"MESHLB_POLICY": "least_request", "MESHLB_POLICY_CHOICE_COUNT": "5"}
    assert _in_force(None, **deployment).policy == LeastRequest(choice_count=5)
    assert _in_force(Config(policy="least_request"), **deployment).policy == LeastRequest()
    assert _in_force(Config(policy="p2c"), **deployment).policy == P2C()


def test_the_operator_may_change_one_field_of_the_policy() -> None:
    """Without naming it again."""
    code = Config(policy={"name": "least_request", "choice_count": 5, "full_scan_limit": 10})
    config = _in_force(code, MESHLB_FORCE_POLICY_CHOICE_COUNT="3")
    assert config.policy == LeastRequest(choice_count=3, full_scan_limit=10)


def test_a_mode_of_outlier_that_is_forced_leaves_the_figures_of_another_behind() -> None:
    """And keeps what it reads itself: the operator need not know what the code says."""
    code = Config(outlier={"consecutive_failures": 3, "base_ejection_s": 2, "ignore_methods": ["/shop.Orders/Ping"]})
    config = _in_force(code, MESHLB_FORCE_OUTLIER="envoy")
    assert config.outlier == Outlier(mode="envoy", base_ejection_s=2.0, ignore_methods=("/shop.Orders/Ping",))
    assert _in_force(code, MESHLB_FORCE_OUTLIER="off").outlier.mode == "off"
    zones = Config(locality={"mode": "envoy", "own_service": "web.shop", "min_cluster_size": 3})
    assert _in_force(zones, MESHLB_FORCE_LOCALITY="prefer").locality == Locality(mode="prefer", own_service="web.shop")
    with pytest.raises(ConfigError, match=r"locality\.slack=1: is not read in mode 'envoy', only in prefer"):
        Config(locality={"mode": "envoy", "own_service": "web.shop", "slack": 1})
    with pytest.raises(ConfigError, match="is not read in mode 'envoy'"):
        Config(outlier={"mode": "envoy", "consecutive_failures": 3})


def test_the_transports_own_options_stand_between_the_deployment_and_the_config() -> None:
    """``grpc.lb_policy_name`` keeps its meaning until a Config says otherwise."""
    assert _in_force(None, "rr", MESHLB_POLICY="least_request").policy == RoundRobin()
    assert _in_force(Config(connect_timeout_s=1), {"name": "rr"}).policy == RoundRobin()
    assert _in_force(Config(policy="p2c"), "rr").policy == P2C()
    assert _in_force(None, "rr", MESHLB_FORCE_POLICY="p2c").policy == P2C()


def test_what_is_in_force_counts_as_given_when_it_is_resolved_again() -> None:
    """A resolved configuration may be handed on as code's."""
    config = _in_force(None, MESHLB_CONNECT_TIMEOUT_S="7")
    assert _in_force(config, MESHLB_CONNECT_TIMEOUT_S="8").connect_timeout_s == 7.0


def test_from_env_hears_the_deployment_and_not_the_operator() -> None:
    """Forcing happens when layers are resolved, once."""
    config = Config.from_env({"MESHLB_CONNECT_TIMEOUT_S": "7", "MESHLB_FORCE_CONNECT_TIMEOUT_S": "9", "PATH": "/bin"})
    assert config == Config(connect_timeout_s=7)


def test_importing_the_configuration_loads_nothing_heavy() -> None:
    """Neither grpc nor kubernetes, dns, opentelemetry or asyncio."""
    script = (
        "import sys, meshlb.config; heavy = {'grpc', 'kubernetes', 'dns', 'asyncio', 'opentelemetry', 'tenacity'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(meshlb.__file__))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environ, check=True)
    assert done.stdout.strip() == "[]"
