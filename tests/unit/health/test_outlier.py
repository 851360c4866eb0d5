"""The settings of ejection: what they mean, and that what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.errors import ConfigError
from meshlb.health.outlier import EnvoyRules, GrpcRules, Outlier, OwnRules, modes_that_read


def test_each_mode_has_the_figures_that_its_name_promises() -> None:
    """Ours, Envoy's and A50's defaults, as published."""
    own, envoy, grpc = Outlier().rules, Outlier.of("envoy").rules, Outlier.of("grpc").rules
    assert isinstance(own, OwnRules)
    assert (own.consecutive_failures, own.consecutive_connect_failures, own.base_ejection_s, own.max_ejection_s) == (
        5,
        3,
        1.0,
        60.0,
    )
    assert isinstance(envoy, EnvoyRules)
    assert (envoy.interval_s, envoy.base_ejection_s, envoy.max_ejection_s, envoy.max_ejection_ratio) == (10.0, 30.0, 300.0, 0.1)
    assert (envoy.consecutive_5xx, envoy.enforcing_consecutive_5xx_ratio) == (5, 1.0)
    assert (envoy.consecutive_gateway_failure, envoy.enforcing_consecutive_gateway_failure_ratio) == (5, 0.0)
    assert (envoy.success_rate_minimum_hosts, envoy.success_rate_request_volume, envoy.success_rate_stdev_factor) == (5, 100, 1.9)
    assert (envoy.failure_percentage_threshold_ratio, envoy.failure_percentage_request_volume) == (0.85, 50)
    assert (envoy.enforcing_success_rate_ratio, envoy.enforcing_failure_percentage_ratio) == (1.0, 0.0)
    assert (envoy.always_eject_one_host, envoy.max_ejection_jitter_s, envoy.healthy_panic_threshold_ratio) == (False, 0.0, 0.5)
    assert type(grpc) is GrpcRules
    assert grpc.enforcing_failure_percentage_ratio == grpc.enforcing_success_rate_ratio == 1.0
    assert Outlier.of("off").rules is None


def test_what_is_said_is_laid_over_the_modes_figures() -> None:
    """A field that is given counts, the others are the mode's; a base beyond the default maximum raises that."""
    rules = Outlier.of({"mode": "envoy", "interval_s": 5, "base_ejection_s": 400}).rules
    assert isinstance(rules, EnvoyRules)
    assert (rules.interval_s, rules.base_ejection_s, rules.max_ejection_s, rules.consecutive_5xx) == (5.0, 400.0, 400.0, 5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mode": "istio"}, "outlier.mode='istio': must be one of"),
        ({"consecutive_failures": -1}, "outlier.consecutive_failures=-1: must be >= 0"),
        ({"consecutive_failures": 2.5}, "outlier.consecutive_failures=2.5: must be a whole number"),
        ({"base_ejection_s": 0}, "outlier.base_ejection_s=0: must be > 0 seconds"),
        ({"window_s": -1}, "outlier.window_s=-1: must be > 0 seconds"),
        ({"max_ejection_ratio": 50}, "outlier.max_ejection_ratio=50: must be a number from 0 to 1"),
        ({"failure_ratio_above_pool": 1.5}, "outlier.failure_ratio_above_pool=1.5: must be a number from 0 to 1"),
        ({"panic_failure_ratio": 0}, "outlier.panic_failure_ratio=0: must be > 0"),
        ({"max_ejection_s": 0.5}, "outlier.max_ejection_s=0.5: must be >= base_ejection_s=1"),
        ({"mode": "grpc", "base_ejection_s": 9, "max_ejection_s": 8}, "outlier.max_ejection_s=8.0: must be >= base_ejection_s=9"),
        ({"consecutive_5xx": 5}, "outlier.consecutive_5xx=5: is not read in mode 'on', only in envoy"),
        ({"mode": "envoy", "window_s": 5}, "outlier.window_s=5.0: is not read in mode 'envoy', only in on"),
        ({"mode": "grpc", "always_eject_one_host": True}, "is not read in mode 'grpc', only in envoy"),
        ({"mode": "envoy", "always_eject_one_host": 1}, "outlier.always_eject_one_host=1: must be true or false"),
        ({"mode": "envoy", "max_ejection_jitter_s": -1}, "outlier.max_ejection_jitter_s=-1: must be >= 0 seconds"),
        ({"mode": "envoy", "success_rate_stdev_factor": -1}, "outlier.success_rate_stdev_factor=-1: must be a finite number >= 0"),
        ({"ignore_methods": ["Get"]}, "outlier.ignore_methods='Get': must be /package.Service/Method"),
        ({"ignore_methods": 5}, "outlier.ignore_methods=5: must be a list of methods"),
        ({"concecutive_failures": 5}, "consecutive_failures"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_field_value_and_rule(said: dict[str, Any], message: str) -> None:
    """Negative, out of range, contradictory, or of another mode."""
    with pytest.raises(ConfigError) as raised:
        Outlier.of(said)
    assert message in str(raised.value)


def test_turning_every_rule_off_is_said_by_mode_off() -> None:
    """``on`` with no rule left is a contradiction."""
    with pytest.raises(ConfigError, match="every rule is turned off; say mode='off'"):
        Outlier(consecutive_failures=0, consecutive_connect_failures=0, failure_ratio_above_pool=0)


def test_off_has_the_last_word_whatever_else_is_said() -> None:
    """The operator's ``off`` may lie over anybody's figures."""
    assert Outlier(mode="off", consecutive_failures=3, consecutive_5xx=4).rules is None


def test_methods_are_ignored_by_name_by_service_or_all() -> None:
    """The same patterns as everywhere in the config; one string with commas will do."""
    some = Outlier(ignore_methods="/a.B/Get, /c.D/*")  # type: ignore[arg-type]
    assert [some.ignores(method) for method in ("/a.B/Get", "/a.B/Put", "/c.D/X")] == [True, False, True]
    assert Outlier(ignore_methods=("*",)).ignores("/x.Y/Z")
    assert not Outlier().ignores("/x.Y/Z")


@pytest.mark.parametrize("said", [{}, {"mode": "envoy", "interval_s": 3.0}, {"mode": "off"}, {"ignore_methods": ("/a.B/*",)}])
def test_plain_data_gives_the_same_settings_again(said: dict[str, Any]) -> None:
    """``of(to_dict())`` is equal; so is ``of`` of an Outlier."""
    outlier = Outlier(**said)
    assert Outlier.of(outlier.to_dict()) == outlier == Outlier.of(outlier)
    assert set(outlier.to_dict()) == {"mode", "ignore_methods", *said}


@pytest.mark.parametrize("bad", [5, None, [("mode", "on")]])
def test_another_form_is_refused(bad: Any) -> None:
    """A word, a dict or an Outlier."""
    with pytest.raises(ConfigError, match="must be on, envoy, grpc, off, a dict or an Outlier"):
        Outlier.of(bad)


def test_every_field_belongs_to_a_mode() -> None:
    """No option that nobody reads."""
    fields = set(Outlier.__dataclass_fields__) - {"mode", "ignore_methods"}
    assert all(modes_that_read(name) for name in fields)
    assert fields == {name for rules in (OwnRules, EnvoyRules, GrpcRules) for name in rules.__dataclass_fields__}


@pytest.mark.parametrize("mode", ["envoy", "grpc"])
def test_sweeps_cannot_follow_one_another_without_end(mode: str) -> None:
    """Each costs a look at every endpoint."""
    with pytest.raises(ConfigError, match=r"^outlier\.interval_s=0\.001: must be >= 0\.01 seconds$"):
        Outlier(mode=mode, interval_s=0.001)
    rules = Outlier(mode=mode, interval_s=0.01).rules
    assert isinstance(rules, GrpcRules)
    assert rules.interval_s == 0.01
