"""``grpc.service_config``: what meshlb itself does of it, and what is left for the channel of each endpoint.

Taken over: the balancing policy (lb_config.py; ``loadBalancingConfig``, then ``loadBalancingPolicy``, then ``grpc.lb_policy_name``, as gRPC ranks
them), each method's ``waitForReady``, and its ``timeout`` for as long as a call waits for an endpoint. ``retryPolicy`` and
``retryThrottling`` are lifted to the pool, and the endpoints' channels do not get them: there, an attempt could only be repeated on the
same pod, and attempts would multiply. ``perAttemptRecvTimeout`` counts as the time limit of one attempt of a unary call.
``hedgingPolicy`` is not supported, here as in gRPC's C-core, which ignores it; here that is said once, in the log.

Spec: grpc/doc/service_config.md; gRFC A2 for the choice of policy; A6 for retries.
Deviations: gRPC fails every call of a channel whose service config is malformed; here the channel is not even made. ``perAttemptRecvTimeout``
needs no experimental argument beside it, and ends in DEADLINE_EXCEEDED (C-core: CANCELLED).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from meshlb.errors import ConfigError
from meshlb.grpc import lb_config
from meshlb.retry.settings import CODES, MethodRetry
from meshlb.retry.throttle import Throttling

OPTION = "grpc.service_config"
HEALTH = "healthCheckConfig"
POLICY_NAME = "grpc.lb_policy_name"
_POOLS_OWN = ("loadBalancingConfig", "loadBalancingPolicy", "retryThrottling")
_POOLS_OWN_OF_METHODS = ("waitForReady", "retryPolicy", "hedgingPolicy")

_log = logging.getLogger("meshlb.grpc")
_said: list[bool] = []

_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")


class MethodDefaults:
    """What the service config says of one method; None where it says nothing."""

    __slots__ = ("retry", "timeout_s", "wait_for_ready")

    def __init__(
        self, timeout_s: float | None = None, wait_for_ready: bool | None = None, retry: MethodRetry | None = None
    ) -> None:
        self.timeout_s = timeout_s
        self.wait_for_ready = wait_for_ready
        self.retry = retry


def text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def fail(option: object, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{option}={value!r}: {rule}")


def parsed(value: Any) -> dict[str, Any]:
    """The option's JSON; an empty config for None."""
    if value is None:
        return {}
    try:
        config = json.loads(value)
    except (TypeError, ValueError) as error:
        raise fail(OPTION, value, f"must be a JSON object ({error})") from None
    if not isinstance(config, dict):
        raise fail(OPTION, value, "must be a JSON object")
    for entry in _objects("methodConfig", config.get("methodConfig", [])):
        _objects("methodConfig name", entry.get("name", []))
    return config


def _objects(field: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise fail(f"{OPTION} {field}", value, "must be a list")
    for entry in value:
        if not isinstance(entry, dict):
            raise fail(f"{OPTION} {field}", entry, "must be an object")
    return value


def asked(config: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """What it says of balancing, as fields of a Config, in gRPC's order: loadBalancingConfig (the first known of the list),
    loadBalancingPolicy, the channel argument."""
    listed = config.get("loadBalancingConfig")
    if listed is not None:
        return lb_config.first_known(listed)
    for field, value in ((f"{OPTION} loadBalancingPolicy", config.get("loadBalancingPolicy")), (POLICY_NAME, name)):
        if value is not None:
            known = lb_config.by_name(text(value).lower()) if isinstance(value, (str, bytes)) else None
            if known is None:
                raise fail(field, value, lb_config.known())
            return known
    return {}


def methods(config: Mapping[str, Any]) -> dict[tuple[str, str], MethodDefaults]:
    """By service and method; both empty: every method, an empty method: the whole service."""
    found: dict[tuple[str, str], MethodDefaults] = {}
    for entry in config.get("methodConfig", ()):
        timeout, wait_for_ready, retry = entry.get("timeout"), entry.get("waitForReady"), entry.get("retryPolicy")
        defaults = MethodDefaults(
            None if timeout is None else _seconds("methodConfig timeout", timeout),
            wait_for_ready if isinstance(wait_for_ready, bool) else None,
            None if retry is None else _retry(retry),
        )
        if "hedgingPolicy" in entry:
            _say_that_nothing_is_hedged()
        for name in entry.get("name", ()):
            found.setdefault((name.get("service", ""), name.get("method", "")), defaults)
    return found


def throttling(config: Mapping[str, Any]) -> Throttling | None:
    """``retryThrottling``, for the methods that have a ``retryPolicy``."""
    said = config.get("retryThrottling")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise fail(f"{OPTION} retryThrottling", said, "must be an object")
    tokens = _positive("retryThrottling maxTokens", said.get("maxTokens"))
    if tokens > 1000:
        raise fail(f"{OPTION} retryThrottling maxTokens", said["maxTokens"], "must be <= 1000")
    return Throttling(tokens, _positive("retryThrottling tokenRatio", said.get("tokenRatio")))


def for_endpoint(config: Mapping[str, Any], health_check: str | None = None) -> str:
    """The user's config for one address, without what belongs to the pool; ``health_check``: the service whose health is watched."""
    rest = {key: value for key, value in config.items() if key not in _POOLS_OWN}
    if "methodConfig" in rest:
        rest["methodConfig"] = [
            {k: v for k, v in entry.items() if k not in _POOLS_OWN_OF_METHODS} for entry in rest["methodConfig"]
        ]
    watched = {} if health_check is None else {HEALTH: {"serviceName": health_check}}
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **watched, **rest}, separators=(",", ":"))


def _retry(said: Any) -> MethodRetry:
    where = "retryPolicy"
    if not isinstance(said, dict):
        raise fail(f"{OPTION} {where}", said, "must be an object")
    attempts, codes = said.get("maxAttempts"), said.get("retryableStatusCodes")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 2:
        raise fail(f"{OPTION} {where} maxAttempts", attempts, "must be a whole number >= 2")
    if not isinstance(codes, list) or not codes:
        raise fail(f"{OPTION} {where} retryableStatusCodes", codes, "must be a list of at least one status")
    limits = [_seconds(f"{where} {field}", said.get(field), positive=True) for field in ("initialBackoff", "maxBackoff")]
    per_try = said.get("perAttemptRecvTimeout")
    return MethodRetry(
        max_attempts=attempts,
        codes=tuple(_code(f"{OPTION} {where} retryableStatusCodes", code) for code in codes),
        base_s=min(limits),
        max_s=limits[1],
        multiplier=_positive(f"{where} backoffMultiplier", said.get("backoffMultiplier")),
        per_try_timeout_s=None if per_try is None else _seconds(f"{where} perAttemptRecvTimeout", per_try, positive=True),
    )


def _code(field: str, code: object) -> str:
    name = CODES[code - 1] if isinstance(code, int) and not isinstance(code, bool) and 0 < code <= len(CODES) else code
    if not isinstance(name, str) or name.upper() not in CODES:
        raise fail(field, code, "must be the name or number of a status that is an error")
    return name.upper()


def _seconds(field: str, value: object, *, positive: bool = False) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise fail(f"{OPTION} {field}", value, 'must be seconds such as "1.5s"')
    if positive and not float(match[1]):
        raise fail(f"{OPTION} {field}", value, "must be > 0")
    return float(match[1])


def _positive(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise fail(f"{OPTION} {field}", value, "must be a number > 0")
    return float(value)


def _say_that_nothing_is_hedged() -> None:
    if not _said:
        _said.append(True)
        _log.warning("%s hedgingPolicy is not supported and has no effect; neither has it in grpcio's own channels", OPTION)
