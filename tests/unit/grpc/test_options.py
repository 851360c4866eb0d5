"""Channel options: what meshlb takes over, what each endpoint's channel is given, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.endpoint import Endpoint
from meshlb.errors import ConfigError
from meshlb.grpc.options import INT_MAX, ChannelOptions
from meshlb.pool.connection_settings import Connection

POD = Endpoint(host="10.0.0.1", port=80, uid="6f1c2f6e-0f52-4d4b-8f0e-3a8a4b8f5c11")
CONFIG: Any = SimpleNamespace(connect_timeout_s=3.0, connection=Connection())
POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", 10],
}


def given(*options: tuple[Any, Any], endpoint: Endpoint = POD, **settings: Any) -> dict[str, Any]:
    """What the endpoint's channel is made with."""
    return dict(ChannelOptions.of(options).endpoint_options("orders.shop:50051", endpoint, CONFIG, **settings))


def connecting(**said: Any) -> dict[str, Any]:
    """The same, for these settings of connections."""
    config: Any = SimpleNamespace(connect_timeout_s=3.0, connection=Connection(**said))
    return dict(ChannelOptions.of(()).endpoint_options("orders.shop:50051", POD, config))


def service_config(config: object) -> tuple[str, str]:
    return ("grpc.service_config", json.dumps(config))


# --- what an endpoint's channel is given -----------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_a_connection_to_a_pod() -> None:
    """No idling, quick and bounded connects, no proxy, the target's authority, gRPC's round_robin over one address."""
    assert given() == {
        "grpc.default_authority": "orders.shop:50051",
        "grpc.client_idle_timeout_ms": INT_MAX,
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 5000,
        "grpc.min_reconnect_backoff_ms": 3000,
        "grpc.keepalive_time_ms": 310_000,
        "grpc.keepalive_timeout_ms": 3000,
        "grpc.http2.ping_timeout_ms": 5000,
        "grpc.keepalive_permit_without_calls": 0,
        "grpc.enable_http_proxy": 0,
        "grpc.service_config": '{"loadBalancingConfig":[{"round_robin":{}}]}',
    }


def test_pings_are_rarer_than_servers_tolerate_by_default() -> None:
    """Below five minutes a default server answers a silent call's pings with GOAWAY too_many_pings."""
    assert given()["grpc.keepalive_time_ms"] > 300_000


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"enabled": False}, {}),
        ({}, {"time": 310_000, "timeout": 3000, "ping": 5000}),
        (
            {"keepalive_time_s": 30, "keepalive_timeout_s": 7.5, "ping_timeout_s": 1},
            {"time": 30_000, "timeout": 7500, "ping": 1000},
        ),
        ({"keepalive_time_s": 0}, {"time": INT_MAX - 1, "timeout": 3000, "ping": 5000}),
        ({"keepalive_time_s": 0, "keepalive_timeout_s": 0, "ping_timeout_s": 0}, {}),
        ({"keepalive_timeout_s": 1e7}, {"time": 310_000, "timeout": INT_MAX - 1, "ping": 5000}),
    ],
)
def test_the_config_says_how_dead_peers_are_found(said: dict[str, Any], expected: dict[str, int]) -> None:
    """Without pings the kernel's limit stays, which gRPC sets only beside them; what is off is left to gRPC."""
    names = {"grpc.keepalive_time_ms": "time", "grpc.keepalive_timeout_ms": "timeout", "grpc.http2.ping_timeout_ms": "ping"}
    assert {names[key]: value for key, value in connecting(**said).items() if key in names} == expected


def test_health_checking_is_each_connections_own() -> None:
    """By gRPC's service config, of which the user's word is the last; none of it with ``off``."""

    def health_check(*options: tuple[Any, Any], **said: Any) -> Any:
        config = SimpleNamespace(connect_timeout_s=3.0, connection=Connection(**said))
        parsed = ChannelOptions.of(options)
        made = json.loads(dict(parsed.endpoint_options("orders:1", POD, config))["grpc.service_config"])  # type: ignore[arg-type]
        assert parsed.watches_health(config) is ("healthCheckConfig" in made)  # type: ignore[arg-type]
        return made.get("healthCheckConfig")

    assert health_check() is None
    assert health_check(health_check="") == {"serviceName": ""}
    assert health_check(health_check="shop.Orders") == {"serviceName": "shop.Orders"}
    assert health_check(health_check="shop.Orders", enabled=False) is None
    own = service_config({"healthCheckConfig": {"serviceName": "own"}})
    assert health_check(own, health_check="shop.Orders") == {"serviceName": "own"}
    assert health_check(own) == {"serviceName": "own"}


def test_connections_that_are_renewed_are_not_shared() -> None:
    """A new one would be the old one again, as gRPC pools them by their options."""
    assert "grpc.use_local_subchannel_pool" not in given()
    assert connecting(max_age_s=60)["grpc.use_local_subchannel_pool"] == 1
    assert "grpc.use_local_subchannel_pool" not in connecting(max_age_s=60, enabled=False)


def test_what_the_user_sets_wins() -> None:
    """Each default, and anything else."""
    options = {
        "grpc.keepalive_time_ms": 10_000,
        "grpc.default_authority": "other",
        "grpc.client_idle_timeout_ms": 1000,
        "grpc.enable_http_proxy": 1,
        "grpc.max_receive_message_length": -1,
        "x-made-up": "value",
    }
    assert given(*options.items()).items() >= options.items()


def test_options_of_equal_channels_are_equal_in_equal_order() -> None:
    """Or two channels of a process would not share connections."""
    options = (("grpc.b", 1), ("grpc.a", 2))
    first = ChannelOptions.of(options).endpoint_options("orders:1", POD, CONFIG)
    second = ChannelOptions.of(list(options)).endpoint_options("orders:1", Endpoint(host="10.0.0.2", port=80, uid="x"), CONFIG)
    assert first == second


def test_connections_to_a_cluster_ip_are_separate() -> None:
    """Their uids are made up to differ; pods' uids do not keep channels from sharing."""
    virtual = [given(endpoint=Endpoint(host="10.96.0.1", port=80, uid=f"clusterip/{slot}.0")) for slot in range(2)]
    assert [options["meshlb.connection"] for options in virtual] == ["clusterip/0.0", "clusterip/1.0"]
    assert "meshlb.connection" not in given()


def test_a_proxy_that_was_asked_for_is_used() -> None:
    """``grpc.http_proxy`` says where; only the environment's proxy is ignored."""
    assert "grpc.enable_http_proxy" not in given(("grpc.http_proxy", "proxy:3128"))


def test_keys_may_be_bytes() -> None:
    """As gRPC takes them; one key is not given twice."""
    assert given((b"grpc.keepalive_time_ms", 1))["grpc.keepalive_time_ms"] == 1


@pytest.mark.parametrize(
    ("authority", "tls_name", "override"),
    [
        ("orders.shop:50051", "orders.shop", None),
        ("orders.shop.svc.cluster.local.:50051", "orders.shop.svc.cluster.local", "orders.shop.svc.cluster.local"),
        ("10.0.0.1:80,10.0.0.2:80", "10.0.0.1", "10.0.0.1"),
        ("[fd00::1]:80", "fd00::1", None),
    ],
)
def test_tls_verifies_the_targets_name(authority: str, tls_name: str, override: str | None) -> None:
    """gRPC takes it from the authority, except where the authority is no name."""
    options = dict(ChannelOptions.of(()).endpoint_options(authority, POD, CONFIG, tls_name=tls_name))
    assert options.get("grpc.ssl_target_name_override") == override


def test_the_users_tls_name_wins() -> None:
    """gRPC then takes it for the authority too, so ours must not contradict it."""
    options = given(("grpc.ssl_target_name_override", "other"), tls_name="orders.shop")
    assert options["grpc.ssl_target_name_override"] == "other"
    assert "grpc.default_authority" not in options


# --- the service config ------------------------------------------------------------------------------------------------------------


def test_the_service_config_goes_on_without_its_policy() -> None:
    """Timeouts, health checks and what a later gRPC may add; waiting and retrying are the pool's business."""
    method = {"name": [{}], "timeout": "1.5s", "waitForReady": True, "retryPolicy": POLICY, "hedgingPolicy": {"maxAttempts": 2}}
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [method],
        "healthCheckConfig": {"serviceName": ""},
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "x": 1,
    }
    assert json.loads(given(service_config(config))["grpc.service_config"]) == {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": [{}], "timeout": "1.5s"}],
        "healthCheckConfig": {"serviceName": ""},
        "x": 1,
    }


def test_the_most_specific_method_entry_counts() -> None:
    """Method, then service, then all; as gRPC looks them up."""
    entries = [
        {"name": [{}], "timeout": "3s"},
        {"name": [{"service": "shop.Orders"}], "timeout": "2s", "waitForReady": True},
        {"name": [{"service": "shop.Orders", "method": "Get"}], "timeout": "0.5s", "waitForReady": False},
    ]
    options = ChannelOptions.of([service_config({"methodConfig": entries})])
    seen = {method: options.defaults_of(method) for method in ("/shop.Orders/Get", "/shop.Orders/List", "/shop.Carts/Get")}
    assert {method: (word.timeout_s, word.wait_for_ready) for method, word in seen.items()} == {
        "/shop.Orders/Get": (0.5, False),
        "/shop.Orders/List": (2.0, True),
        "/shop.Carts/Get": (3.0, None),
    }


# --- the policy ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ([], None),
        ([("grpc.lb_policy_name", "round_robin")], "round_robin"),
        ([("grpc.lb_policy_name", b"round_robin")], "round_robin"),
        ([service_config({"loadBalancingPolicy": "ROUND_ROBIN"})], "round_robin"),
        ([service_config({"loadBalancingConfig": [{"grpclb": {}}, {"round_robin": {}}]})], "round_robin"),
        ([service_config({"loadBalancingConfig": [{"p2c": {}}], "loadBalancingPolicy": "round_robin"})], "p2c"),
        ([service_config({"loadBalancingPolicy": "least_request"}), ("grpc.lb_policy_name", "round_robin")], "least_request"),
    ],
)
def test_the_policy_is_found_where_grpc_looks(options: list[tuple[str, Any]], policy: Any) -> None:
    """In gRPC's order; the endpoint's channel does not get it a second time."""
    parsed = ChannelOptions.of(options)
    assert parsed.asked == ({} if policy is None else {"policy": policy})
    assert policy is None or policy_of(policy)
    endpoint = dict(parsed.endpoint_options("orders:1", POD, CONFIG))
    assert "grpc.lb_policy_name" not in endpoint
    assert json.loads(endpoint["grpc.service_config"])["loadBalancingConfig"] == [{"round_robin": {}}]


@pytest.mark.parametrize(
    "option",
    [
        ("grpc.lb_policy_name", "grpclb"),
        ("grpc.lb_policy_name", "random_subsetting"),  # which has no meaning without its settings
        ("grpc.lb_policy_name", 3),
        service_config({"loadBalancingPolicy": "grpclb"}),
        service_config({"loadBalancingConfig": [{"rls": {}}, {"grpclb": {}}]}),
        service_config({"loadBalancingConfig": []}),
    ],
)
def test_a_policy_that_we_do_not_have_is_an_error_that_names_those_we_have(option: tuple[str, Any]) -> None:
    """Silently balancing otherwise would be worse."""
    with pytest.raises(ConfigError, match=r"no such policy; it has least_request, .*p2c, pick_first, .*weighted_round_robin"):
        ChannelOptions.of([option])


# --- mistakes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("grpc.service_config", "{"), "grpc.service_config='{': must be a JSON object"),
        (("grpc.service_config", "[]"), "must be a JSON object"),
        (("grpc.service_config", 3), "must be a JSON object"),
        (service_config({"methodConfig": {}}), "methodConfig={}: must be a list"),
        (service_config({"methodConfig": [{"name": [{}], "timeout": 3}]}), "timeout=3: must be seconds"),
        (service_config({"methodConfig": [3]}), "methodConfig=3: must be an object"),
        (service_config({"methodConfig": [{"name": [3]}]}), "name=3: must be an object"),
        (service_config({"loadBalancingConfig": {"round_robin": {}}}), "must be a list of objects"),
        (
            service_config({"loadBalancingConfig": [{"least_request": {"choiceCount": 1}}]}),
            "choiceCount=1: must be a whole number >= 2",
        ),
        (("grpc.max_send_message_length", 2**31), "grpc.max_send_message_length=2147483648: must fit into 32 bits"),
        (("grpc.keepalive_time_ms", 1.5), "grpc.keepalive_time_ms=1.5: must be an int, a str or bytes"),
        (("grpc.keepalive_time_ms", None), "must be an int"),
        (("grpc.keepalive_time_ms",), "must be a pair"),
        (("grpc.keepalive_time_ms", 1, 2), "must be a pair"),
        ((3, 1), "must be a pair"),
        ("grpc.keepalive_time_ms", "must be a pair"),
    ],
)
def test_a_bad_option_is_an_error_with_field_value_and_rule(option: Any, words: str) -> None:
    """At the channel's creation, where the mistake is."""
    with pytest.raises(ConfigError) as caught:
        ChannelOptions.of([option])
    assert words in str(caught.value)


def test_a_dict_is_no_sequence_of_options() -> None:
    """A mistake that people make; the message shows the first key."""
    with pytest.raises(ConfigError, match="must be a pair"):
        ChannelOptions.of({"grpc.keepalive_time_ms": 1})  # type: ignore[arg-type]


def test_what_stock_grpc_would_get_is_kept_as_it_was() -> None:
    """For the channel that is used when meshlb is off or fails."""
    options = (("grpc.lb_policy_name", "round_robin"), ("grpc.keepalive_time_ms", 1))
    assert ChannelOptions.of(options).stock_options == options
