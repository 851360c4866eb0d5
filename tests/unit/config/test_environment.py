"""Variables: their names, how their values are read, and what is said of those that are wrong."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from meshlb.balance.hash_key import HashKeys
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.config import Config, environment, resolve_config
from meshlb.errors import ConfigError
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.limit.settings import Limits
from meshlb.load.weight import Weight
from meshlb.pool.connection_settings import Connection
from meshlb.resolve.settings import Discovery, Fallback


@pytest.fixture(autouse=True)
def _nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_warned", set())


@pytest.mark.parametrize(
    ("variable", "text", "meant"),
    [
        ("POLICY", "least_request", {"policy": LeastRequest()}),
        ("POLICY", '{"name": "least_request", "choice_count": 3}', {"policy": LeastRequest(choice_count=3)}),
        ("POLICY_STREAM_WEIGHT", "0.5", {"policy": P2C(stream_weight=0.5)}),
        ("POLICY_STREAM_WEIGHT", "1", {"policy": P2C(stream_weight=1.0)}),
        ("DISCOVERY", "kubernetes", {"discovery": Discovery(sources=("kubernetes",))}),
        ("DISCOVERY", '{"nameservers": ["10.0.0.10"]}', {"discovery": Discovery(nameservers=("10.0.0.10",))}),
        ("DISCOVERY_SOURCES", "dns, kubernetes", {"discovery": Discovery(sources=("dns", "kubernetes"))}),
        ("DISCOVERY_NAMESERVERS", '["10.0.0.10", "10.0.0.11"]', {"discovery": Discovery(nameservers=("10.0.0.10", "10.0.0.11"))}),
        ("DISCOVERY_KUBECONFIG", " /etc/kube/config ", {"discovery": Discovery(kubeconfig="/etc/kube/config")}),
        ("DISCOVERY_EMPTY_GRACE_S", "500ms", {"discovery": Discovery(empty_grace_s=0.5)}),
        ("DISCOVERY_NODE", "node-1", {"discovery": Discovery(node="node-1")}),
        ("DISCOVERY_ZONE", "eu-west-1a", {"discovery": Discovery(zone="eu-west-1a")}),
        ("FALLBACK", "none", {"fallback": Fallback(enabled=False)}),
        ("FALLBACK_ENABLED", "No", {"fallback": Fallback(enabled=False)}),
        ("FALLBACK_ENABLED", "1", {"fallback": Fallback(enabled=True)}),
        ("FALLBACK_CONNECTIONS", "8", {"fallback": Fallback(connections=8)}),
        ("FALLBACK_MAX_AGE_S", "1.5m", {"fallback": Fallback(max_age_s=90.0)}),
        ("OUTLIER", "off", {"outlier": Outlier(mode="off")}),
        ("OUTLIER_MAX_EJECTION_RATIO", "0.25", {"outlier": Outlier(max_ejection_ratio=0.25)}),
        ("OUTLIER_CONSECUTIVE_FAILURES", "7", {"outlier": Outlier(consecutive_failures=7)}),
        ("OUTLIER_BASE_EJECTION_S", "500ms", {"outlier": Outlier(base_ejection_s=0.5)}),
        (
            "OUTLIER",
            '{"mode": "envoy", "always_eject_one_host": true}',
            {"outlier": Outlier(mode="envoy", always_eject_one_host=True)},
        ),
        ("SLOW_START", "on", {"slow_start": SlowStart.of("on")}),
        ("LOCALITY", "prefer", {"locality": Locality(mode="prefer")}),
        ("LIMITS_MAX_IN_FLIGHT", "100", {"limits": Limits(max_in_flight=100)}),
        ("HASH", '[{"metadata": "x", "terminal": true}]', {"hash": [{"metadata": "x", "terminal": True}]}),
        ("HASH", "metadata:x, hint", {"hash": ["metadata:x", "hint"]}),
        ("CONNECTION", "off", {"connection": Connection(enabled=False)}),
        ("CONNECTION_HEALTH_CHECK", "shop.Orders", {"connection": Connection(health_check="shop.Orders")}),
        ("FIRST_ANSWER_TIMEOUT_S", "2", {"first_answer_timeout_s": 2.0}),
        ("CONNECT_TIMEOUT_S", "250ms", {"connect_timeout_s": 0.25}),
    ],
)
@pytest.mark.parametrize("prefix", ["MESHLB_", "MESHLB_FORCE_"])
def test_values_are_plain_words_numbers_lists_or_json(prefix: str, variable: str, text: str, meant: dict[str, Any]) -> None:
    """For the deployment and for the operator alike."""
    assert resolve_config(None, {prefix + variable: text})[0] == Config(**meant)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_variable_is_not_set(text: str) -> None:
    """Manifests often carry empty values."""
    names = ("MESHLB_POLICY", "MESHLB_FALLBACK_ENABLED", "MESHLB_FORCE_CONNECT_TIMEOUT_S", "MESHLB_MODE")
    config, mode = resolve_config(None, dict.fromkeys(names, text))
    assert config == Config()
    assert not mode.is_off("orders.shop")


def test_a_field_is_stronger_than_the_word_of_its_part() -> None:
    """Whatever the order of the variables."""
    environ = {"MESHLB_DISCOVERY_SOURCES": "kubernetes", "MESHLB_DISCOVERY": "dns", "MESHLB_DISCOVERY_NAMESPACE": "shop"}
    assert resolve_config(None, environ)[0].discovery == Discovery(sources=("kubernetes",), namespace="shop")


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("MESHLB_POLICY", "p3c", "MESHLB_POLICY: policy='p3c': did you mean 'p2c'?"),
        ("MESHLB_FORCE_POLICY", "{", "MESHLB_FORCE_POLICY: policy='{': must be a name or a JSON object"),
        ("MESHLB_POLICY_CHOICE_COUNT", "x", "MESHLB_POLICY_CHOICE_COUNT"),
        ("MESHLB_DISCOVERY", "{", "MESHLB_DISCOVERY: discovery='{': must be a word or JSON"),
        ("MESHLB_DISCOVERY_NAMESERVERS", "[", "MESHLB_DISCOVERY_NAMESERVERS: discovery.nameservers='[': must be a word or JSON"),
        ("MESHLB_DISCOVERY_NAMESERVERS", "x", "MESHLB_DISCOVERY_NAMESERVERS: discovery.nameservers='x': must be ip"),
        ("MESHLB_FALLBACK_CONNECTIONS", "many", "MESHLB_FALLBACK_CONNECTIONS: fallback.connections='many': must be a whole number"),
        ("MESHLB_FALLBACK_CONNECTIONS", "0", "MESHLB_FALLBACK_CONNECTIONS: fallback.connections=0: must be from 1 to 64"),
        ("MESHLB_FALLBACK_ENABLED", "maybe", "MESHLB_FALLBACK_ENABLED: fallback.enabled='maybe': must be one of true, yes, on, 1"),
        ("MESHLB_FALLBACK", "clusterIP", "MESHLB_FALLBACK: fallback='clusterIP': must be one of clusterip, none"),
        ("MESHLB_POLICY_STREAM_WEIGHT", "x", "MESHLB_POLICY_STREAM_WEIGHT: policy.stream_weight='x': must be a number"),
        ("MESHLB_FORCE_CONNECT_TIMEOUT_S", "0", "MESHLB_FORCE_CONNECT_TIMEOUT_S: connect_timeout_s=0.0: must be > 0 seconds"),
        ("MESHLB_CONNECT_TIMEOUT_S", "5 parsecs", "MESHLB_CONNECT_TIMEOUT_S: connect_timeout_s='5 parsecs': must be seconds"),
        ("MESHLB_MODE", "of", "MESHLB_MODE='of': must be on, off or off:<target>,<target>"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_variable(variable: str, text: str, message: str) -> None:
    """An override that silently is none would be worse than a pod that does not come up."""
    with pytest.raises(ConfigError) as caught:
        resolve_config(None, {variable: text})
    assert str(caught.value).startswith(message)


def test_an_error_of_code_blames_no_variable() -> None:
    """Only the layer whose value is in force there is to blame."""
    with pytest.raises(ConfigError) as caught:
        resolve_config(Config(), {"MESHLB_CONNECT_TIMEOUT_S": "5"}, asked={"policy": "p3c"})
    assert str(caught.value).startswith("policy='p3c'")


def test_an_unknown_variable_warns_once_and_names_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    """It may be meant for another version; nothing else changes."""
    environ = {"MESHLB_POLCY": "rr", "MESHLB_FORCE_CONECT_TIMEOUT_S": "1"}
    with caplog.at_level(logging.WARNING, "meshlb.config"):
        assert resolve_config(None, environ)[0] == resolve_config(None, environ)[0] == Config.from_env(environ) == Config()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "MESHLB_FORCE_CONECT_TIMEOUT_S is no variable of meshlb and has no effect; did you mean 'MESHLB_FORCE_CONNECT_TIMEOUT_S'?",
        "MESHLB_POLCY is no variable of meshlb and has no effect; did you mean 'MESHLB_POLICY'?",
    ]


@pytest.mark.parametrize(
    "variable",
    [
        "MESHLB_SERVICE_HOST",
        "MESHLB_SERVICE_PORT",
        "MESHLB_SERVICE_PORT_GRPC",
        "MESHLB_PORT",
        "MESHLB_PORT_80_TCP",
        "MESHLB_PORT_80_TCP_ADDR",
        "MESHLB_DEMO_SERVICE_HOST",
        "PATH",
        "MESHLB",
    ],
)
def test_what_kubernetes_injects_for_a_service_of_that_name_is_no_mistake(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    """A Service called meshlb or meshlb-demo in the namespace; and what is none of ours."""
    resolve_config(None, {variable: "10.0.0.1"})
    assert not caplog.records


def test_every_field_of_every_part_has_its_variable() -> None:
    """Names are derived, so nothing can be forgotten; this is what they look like."""
    assert {path for path in environment._paths().values() if "." not in path} == set(Config().to_dict())
    assert environment._paths()["DISCOVERY_SERVICE_ACCOUNT_DIR"] == "discovery.service_account_dir"
    assert environment._paths()["POLICY_FULL_SCAN_LIMIT"] == "policy.full_scan_limit"


def test_a_variable_for_another_policys_field_is_left_aside_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """One override for least_request must not take the round_robin channels of the process down."""
    environ = {"MESHLB_FORCE_POLICY_CHOICE_COUNT": "4"}
    with caplog.at_level("WARNING", "meshlb.config"):
        forced, _ = resolve_config(Config(policy="round_robin"), environ)
        assert forced.policy.name == "round_robin"
        assert "MESHLB_FORCE_POLICY_CHOICE_COUNT" in caplog.text
    least, _ = resolve_config(Config(policy="least_request"), environ)
    assert least.policy.to_dict()["choice_count"] == 4


@pytest.mark.parametrize(
    ("variable", "text", "concerned", "others"),
    [
        ("MESHLB_FORCE_OUTLIER_WINDOW_S", "9", Config(outlier="on"), Config(outlier="envoy")),
        ("MESHLB_OUTLIER_CONSECUTIVE_5XX", "9", Config(outlier="envoy"), Config()),
        ("MESHLB_LOCALITY_OWN_SERVICE", "frontend.shop", Config(locality="prefer"), Config()),
        ("MESHLB_SLOW_START_AGGRESSION", "2", Config(slow_start="on"), Config()),
        ("MESHLB_WEIGHT_OOB_INTERVAL_S", "5", Config(weight={"source": "a58", "oob": True}), Config(weight="a58")),
    ],
)
def test_a_variable_that_means_nothing_to_some_channels_takes_none_of_them_down(
    variable: str, text: str, concerned: Config, others: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds for those whom it concerns; the others go on as they are, with one warning."""
    with caplog.at_level("WARNING", "meshlb.config"):
        assert resolve_config(others, {variable: text})[0] == resolve_config(others, {variable: text})[0] == others
    assert [variable in message for message in caplog.messages] == [True]
    assert resolve_config(concerned, {variable: text})[0] != concerned


def test_a_variable_that_takes_the_meaning_from_what_code_says_is_named() -> None:
    """Whoever reads the error did not write it; where code says both, there is nobody else to name."""
    with pytest.raises(
        ConfigError, match=r"^outlier\.window_s=9\.0: is not read in mode 'grpc', only in on; the mode is MESHLB_OUTLIER's$"
    ):
        resolve_config(Config(outlier={"window_s": 9}), {"MESHLB_OUTLIER": "grpc"})
    with pytest.raises(ConfigError, match=r"^outlier\.window_s=9\.0: .*only in on$"):
        resolve_config(Config(outlier={"window_s": 9, "mode": "grpc"}), {"MESHLB_OUTLIER": "grpc"})


def test_two_variables_that_cannot_both_be_meant_are_an_error() -> None:
    """Whoever wrote the one wrote the other."""
    with pytest.raises(ConfigError, match=r"MESHLB_OUTLIER_WINDOW_S: outlier\.window_s=9\.0: is not read in mode 'envoy'"):
        resolve_config(None, {"MESHLB_OUTLIER": "envoy", "MESHLB_OUTLIER_WINDOW_S": "9"})


def test_envoys_zones_need_the_own_service_once_all_have_spoken() -> None:
    """The word and the name may come from two layers; a channel without the name is refused when it is made, not at each call."""
    named = {"MESHLB_LOCALITY_OWN_SERVICE": "frontend.shop"}
    assert resolve_config(Config(locality="envoy"), named)[0].locality.own_service == "frontend.shop"
    with pytest.raises(ConfigError, match=r"^locality\.mode='envoy': needs locality\.own_service"):
        resolve_config(Config(locality="envoy"), {})
    with pytest.raises(ConfigError, match=r"^MESHLB_FORCE_LOCALITY: locality\.mode='envoy': needs"):
        resolve_config(None, {"MESHLB_FORCE_LOCALITY": "envoy"})


def test_the_variables_that_say_where_the_process_runs_are_known(caplog: pytest.LogCaptureFixture) -> None:
    """The Downward API fills them in; they are no configuration, and no mistake."""
    assert resolve_config(None, {"MESHLB_NODE_NAME": "node-1", "MESHLB_ZONE": "eu-west-1a"})[0] == Config()
    assert caplog.records == []


def test_turning_reports_out_of_band_off_turns_their_interval_off() -> None:
    """The operator says one word, whatever code says beside it."""
    code = Config(weight={"source": "a58", "oob": True, "oob_interval_s": 5})
    assert resolve_config(code, {"MESHLB_FORCE_WEIGHT_OOB": "false"})[0].weight == Weight(source="a58")


def test_a_variable_that_takes_the_room_from_codes_figure_is_named() -> None:
    """``min_endpoints`` is code's; that it is too few is the variable's doing."""
    with pytest.raises(
        ConfigError, match=r"^subset\.min_endpoints=20: must be >= size=50; the size is MESHLB_FORCE_SUBSET_SIZE's$"
    ):
        resolve_config(Config(subset={"size": 10, "min_endpoints": 20}), {"MESHLB_FORCE_SUBSET_SIZE": "50"})


@pytest.mark.parametrize("methods", [{}, {"/a.B/*": {"sources": ["metadata:y"]}}])
def test_keys_that_are_off_are_off_for_each_method(methods: dict[str, Any]) -> None:
    """Whatever code says of single ones; a variable for these may still follow."""
    code = Config(hash={"sources": ["metadata:x"], "methods": methods})
    assert resolve_config(code, {"MESHLB_FORCE_HASH": "off"})[0].hash == HashKeys(sources=())
    again = {"MESHLB_FORCE_HASH": "off", "MESHLB_FORCE_HASH_METHODS": '{"/a.C/*": {"sources": ["hint"]}}'}
    assert [pattern for pattern, _ in resolve_config(code, again)[0].hash.methods] == ["/a.C/*"]


def test_a_list_of_sources_is_stronger_even_if_it_is_the_default() -> None:
    """As the word ``hint`` is."""
    for text in ('["hint"]', "hint"):
        assert resolve_config(Config(hash=["metadata:x"]), {"MESHLB_FORCE_HASH": text})[0].hash == HashKeys()
