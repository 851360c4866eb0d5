"""gRPC's retryPolicy and retryThrottling as the pool's rules."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from meshlb.config import Config
from meshlb.errors import ConfigError
from meshlb.grpc import service_config
from meshlb.grpc.options import ChannelOptions
from meshlb.retry.rules import Rules
from meshlb.retry.throttle import Throttling

GET = "/shop.Orders/Get"
POLICY: dict[str, Any] = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["unavailable", 10],
}


def options(config: dict[str, Any], *more: tuple[str, Any]) -> ChannelOptions:
    return ChannelOptions.of([("grpc.service_config", json.dumps(config)), *more])


def rules(policy: dict[str, Any] | None, *more: tuple[str, Any], config: Config | None = None, **fields: Any) -> Rules:
    entry = {"name": [{}], **({"retryPolicy": policy} if policy is not None else {})}
    return options({"methodConfig": [entry], **fields}, *more).rules_of(GET, config or Config())


def test_a_policy_is_the_methods_rules() -> None:
    """Codes by name or number, in any case; A6's jitter."""
    lifted = rules(POLICY)
    assert (lifted.retries, lifted.idempotent, lifted.max_attempts) == (True, False, 4)
    assert lifted.codes == {"UNAVAILABLE", "ABORTED"}
    assert [lifted.backoff.cap_s(retry) for retry in (1, 2, 5)] == [0.1, 0.2, 1.0]
    assert "a6" in repr(lifted.backoff)


def test_more_than_five_attempts_are_five() -> None:
    """As gRPC has it."""
    assert rules({**POLICY, "maxAttempts": 50}).max_attempts == 5


def test_the_most_specific_method_config_counts_as_a_whole() -> None:
    """One without a policy for a method takes the service's away."""
    entries = [
        {"name": [{"service": "shop.Orders"}], "retryPolicy": POLICY},
        {"name": [{"service": "shop.Orders", "method": "Get"}]},
    ]
    parsed = options({"methodConfig": entries})
    assert not parsed.rules_of(GET, Config()).retries
    assert parsed.rules_of("/shop.Orders/List", Config()).retries
    assert not parsed.rules_of("/shop.Carts/List", Config()).retries


def test_throttling_is_for_methods_with_a_policy() -> None:
    """As in C-core."""
    throttling = {"maxTokens": 10, "tokenRatio": 0.1}
    assert rules(POLICY, retryThrottling=throttling).throttling == Throttling(10.0, 0.1)
    assert rules(None, retryThrottling=throttling).throttling is None


def test_the_words_of_a_config_are_stronger_for_a_method_and_weaker_for_all() -> None:
    """And ``off`` is off; a declaration of idempotence comes on top."""
    config = Config(retry={"max_attempts": 2, "idempotent": ["*"], "methods": {GET: {"codes": ["INTERNAL"]}}})
    both = rules(POLICY, config=config)
    assert (both.max_attempts, both.codes, both.idempotent) == (4, {"INTERNAL"}, True)
    assert not rules(POLICY, config=Config(retry="off")).retries


def test_without_grpcs_retries_there_is_no_policy() -> None:
    """``grpc.enable_retries`` 0 means what it meant."""
    assert not rules(POLICY, ("grpc.enable_retries", 0)).retries
    assert rules(POLICY, ("grpc.enable_retries", 1)).retries


def test_the_time_limit_of_an_attempt_is_taken_over() -> None:
    """For unary calls; a stream may last."""
    parsed = options({"methodConfig": [{"name": [{}], "retryPolicy": {**POLICY, "perAttemptRecvTimeout": "0.5s"}}]})
    assert parsed.rules_of(GET, Config()).per_try_timeout_s == 0.5
    assert parsed.rules_of(GET, Config(), per_try=False).per_try_timeout_s == 0.0


def test_hedging_is_said_not_to_be_there(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in the log; stock channels ignore it without a word."""
    monkeypatch.setattr(service_config, "_said", [])
    config = {"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 3}}]}
    with caplog.at_level(logging.WARNING, "meshlb.grpc"):
        for _ in range(2):
            assert not options(config).rules_of(GET, Config()).retries
    assert [record.getMessage() for record in caplog.records] == [
        "grpc.service_config hedgingPolicy is not supported and has no effect; neither has it in grpcio's own channels"
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"maxAttempts": 1}, "retryPolicy maxAttempts=1: must be a whole number >= 2"),
        ({"maxAttempts": "3"}, "retryPolicy maxAttempts='3': must be a whole number >= 2"),
        ({"initialBackoff": "0s"}, "retryPolicy initialBackoff='0s': must be > 0"),
        ({"maxBackoff": 1}, "retryPolicy maxBackoff=1: must be seconds such as"),
        ({"maxBackoff": None}, "retryPolicy maxBackoff=None: must be seconds such as"),
        ({"backoffMultiplier": 0}, "retryPolicy backoffMultiplier=0: must be a number > 0"),
        ({"retryableStatusCodes": []}, "retryPolicy retryableStatusCodes=[]: must be a list of at least one status"),
        ({"retryableStatusCodes": ["OK"]}, "retryPolicy retryableStatusCodes='OK': must be the name or number of a status"),
        ({"retryableStatusCodes": [17]}, "retryPolicy retryableStatusCodes=17: must be the name or number of a status"),
        ({"perAttemptRecvTimeout": "0s"}, "retryPolicy perAttemptRecvTimeout='0s': must be > 0"),
    ],
)
def test_a_bad_policy_is_an_error_with_option_value_and_rule(changed: dict[str, Any], words: str) -> None:
    """When the channel is made."""
    with pytest.raises(ConfigError) as caught:
        rules({**POLICY, **changed})
    assert str(caught.value).startswith(f"grpc.service_config {words}")


@pytest.mark.parametrize(
    ("throttling", "words"),
    [
        (3, "retryThrottling=3: must be an object"),
        ({"tokenRatio": 1}, "retryThrottling maxTokens=None: must be a number > 0"),
        ({"maxTokens": 1001, "tokenRatio": 1}, "retryThrottling maxTokens=1001: must be <= 1000"),
        ({"maxTokens": 10, "tokenRatio": 0}, "retryThrottling tokenRatio=0: must be a number > 0"),
    ],
)
def test_bad_throttling_is_one_too(throttling: Any, words: str) -> None:
    """Also where no method has a policy."""
    with pytest.raises(ConfigError) as caught:
        rules(None, retryThrottling=throttling)
    assert str(caught.value).startswith(f"grpc.service_config {words}")
