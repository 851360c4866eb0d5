"""The channel options a user passed, split into what meshlb does itself and what each endpoint's own channel is given.

meshlb takes over: the balancing policy (``grpc.service_config`` ``loadBalancingConfig``, then ``loadBalancingPolicy``, then
``grpc.lb_policy_name``, as gRPC ranks them), and each method's ``waitForReady`` and ``timeout`` for as long as a call waits for an
endpoint. All else goes to every endpoint's channel unchanged and wins over the defaults there: method timeouts, ``retryPolicy``,
``healthCheckConfig``, keepalive, message sizes, authority.

An endpoint's channel runs gRPC's ``round_robin`` over its one address, because that reconnects by itself, reports
TRANSIENT_FAILURE instead of going idle, and does health checking, which ``pick_first`` does not. Defaults that differ from gRPC's:

- no idle timeout: gRPC's 30 minutes would make a rarely used pod pay a connect;
- a connect may take ``connect_timeout_s`` instead of 20 s, and back-off is 0.2 to 5 s instead of 1 to 120 s;
- TCP gives up on a vanished host after ``_KEEPALIVE_TIMEOUT_MS`` (gRPC sets TCP_USER_TIMEOUT as soon as keepalive is on at all).
  Pings stay rarer than the 5 minutes that servers tolerate by default: at 30 s a silent call to a default Python server ends after
  180 s with "Too many pings" (measured, grpcio 1.85), which no balancer may do to it;
- no HTTP proxy between pods (unless one was given), which gRPC would use for IP addresses too.

Equal options in equal order let channels of one process share connections (gRPC's subchannel pool); only connections that must be
separate, to a ClusterIP, get an argument of their own.

Spec: grpc/doc/service_config.md; gRFC A2 for the choice of policy.
Deviations: gRPC fails every call of a channel whose service config is malformed; here the channel is not even made. ``pick_first``
is refused: who asks for it by name wants one endpoint, which is what an ordinary ``grpc`` channel gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from meshlb.core.endpoint import Endpoint
from meshlb.errors import ConfigError

if TYPE_CHECKING:
    from meshlb.config import Config

Option = tuple[str, Any]

SERVICE_CONFIG = "grpc.service_config"
POLICY_NAME = "grpc.lb_policy_name"
AUTHORITY = "grpc.default_authority"
TLS_NAME = "grpc.ssl_target_name_override"
CONNECTION = "meshlb.connection"  # unknown to gRPC, so it only makes the connection a separate one

INT_MAX = 2**31 - 1
_INITIAL_BACKOFF_MS = 200
_MAX_BACKOFF_MS = 5_000
_KEEPALIVE_TIME_MS = 310_000
_KEEPALIVE_TIMEOUT_MS = 3_000
_PING_TIMEOUT_MS = 5_000  # what gRPC arms for a ping, not keepalive_timeout; its default is 60 s

# gRPC's names to ours; a policy of its own that is not here has no counterpart yet.
_POLICIES = {
    "p2c": "p2c",
    "round_robin": "round_robin",
    "least_request": "least_request",
    "least_request_experimental": "least_request",
}
_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")


class MethodDefaults:
    """What the service config says of one method: ``timeout_s`` and ``wait_for_ready``, None where it says nothing."""

    __slots__ = ("timeout_s", "wait_for_ready")

    def __init__(self, timeout_s: float | None = None, wait_for_ready: bool | None = None) -> None:
        self.timeout_s = timeout_s
        self.wait_for_ready = wait_for_ready


class ChannelOptions:
    """Parsed once a channel; immutable. ``policy`` is what the options ask for (None: nothing), in ``policy_of``'s terms."""

    __slots__ = ("_fixed", "_methods", "_shared", "_user", "policy", "stock_options")

    def __init__(self, stock_options: tuple[Option, ...]) -> None:
        self.stock_options = stock_options
        user = {_text(key): value for key, value in stock_options}
        config = _parsed(user.pop(SERVICE_CONFIG, None))
        self.policy = _policy(config, user.pop(POLICY_NAME, None))
        self._methods = _methods(config)
        self._user = user
        self._shared: dict[tuple[str, float, str], tuple[Option, ...]] = {}
        self._fixed = (SERVICE_CONFIG, _endpoint_service_config(config))

    @classmethod
    def of(cls, options: Iterable[tuple[Any, Any]] | None) -> ChannelOptions:
        """Check and split; raises ConfigError that gives option, value and rule."""
        return cls(tuple(_checked(option) for option in options or ()))

    def endpoint_options(self, authority: str, endpoint: Endpoint, config: Config, *, tls_name: str = "") -> tuple[Option, ...]:
        """What the channel to this endpoint is made with.

        ``authority`` is the target's own; gRPC verifies TLS against its host. ``tls_name``: for a secure channel, the name to
        verify where it is not that host (a trailing dot, several addresses). The user's own authority or name wins.
        """
        key = (authority, config.connect_timeout_s, tls_name)
        if key not in self._shared:
            self._shared[key] = self._options(*key)
        options = self._shared[key]  # gRPC keeps the pairs; one set for all endpoints saves 600 bytes for each
        return (*options, (CONNECTION, endpoint.uid)) if is_shared_address(endpoint) else options

    def _options(self, authority: str, connect_timeout_s: float, tls_name: str) -> tuple[Option, ...]:
        merged: dict[str, Any] = {
            "grpc.client_idle_timeout_ms": INT_MAX,
            "grpc.initial_reconnect_backoff_ms": _INITIAL_BACKOFF_MS,
            "grpc.max_reconnect_backoff_ms": _MAX_BACKOFF_MS,
            "grpc.min_reconnect_backoff_ms": max(int(connect_timeout_s * 1000), 1),  # the connect timeout, despite its name
            "grpc.keepalive_time_ms": _KEEPALIVE_TIME_MS,
            "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
            "grpc.http2.ping_timeout_ms": _PING_TIMEOUT_MS,
            "grpc.keepalive_permit_without_calls": 0,
        }
        if "grpc.http_proxy" not in self._user:
            merged["grpc.enable_http_proxy"] = 0
        if TLS_NAME not in self._user:  # gRPC takes that for the authority too, and refuses calls to another
            merged[AUTHORITY] = authority
            if tls_name and AUTHORITY not in self._user and authority.rpartition(":")[0].strip("[]") != tls_name:
                merged[TLS_NAME] = tls_name
        merged.update((self._fixed,))
        merged.update(self._user)
        return tuple(merged.items())

    def defaults_of(self, method: str) -> MethodDefaults:
        """The service config's word on ``/package.Service/Method``: the most specific entry wins."""
        service, _, name = method.lstrip("/").rpartition("/")
        for key in ((service, name), (service, ""), ("", "")):
            found = self._methods.get(key)
            if found is not None:
                return found
        return _NOTHING

    def __repr__(self) -> str:
        return f"<ChannelOptions policy={self.policy!r} user={sorted(self._user)}>"


_NOTHING = MethodDefaults()


def is_shared_address(endpoint: Endpoint) -> bool:
    """One of several connections to a ClusterIP, told apart by uid (see ``resolve/virtual_ip.py``)."""
    return endpoint.uid.startswith("clusterip/")


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _fail(option: object, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{option}={value!r}: {rule}")


def _checked(option: object) -> Option:
    """What gRPC checks when it makes the channel; here the channels to endpoints are made later, so the check is made now."""
    if not isinstance(option, (tuple, list)) or len(option) != 2 or not isinstance(option[0], (str, bytes)):
        raise _fail("options", option, "each must be a pair of a name and a value, as grpc takes them")
    key, value = option
    if isinstance(value, float) or value is None:
        raise _fail(_text(key), value, "must be an int, a str or bytes")
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        raise _fail(_text(key), value, "must fit into 32 bits")
    return key, value


def _parsed(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        config = json.loads(value)
    except (TypeError, ValueError) as error:
        raise _fail(SERVICE_CONFIG, value, f"must be a JSON object ({error})") from None
    if not isinstance(config, dict):
        raise _fail(SERVICE_CONFIG, value, "must be a JSON object")
    for entry in _objects("methodConfig", config.get("methodConfig", [])):
        _objects("methodConfig name", entry.get("name", []))
    return config


def _objects(field: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _fail(f"{SERVICE_CONFIG} {field}", value, "must be a list")
    for entry in value:
        if not isinstance(entry, dict):
            raise _fail(f"{SERVICE_CONFIG} {field}", entry, "must be an object")
    return value


def _policy(config: Mapping[str, Any], name: Any) -> object | None:
    """gRPC's order: loadBalancingConfig (the first known of the list), loadBalancingPolicy, the channel argument."""
    listed = config.get("loadBalancingConfig")
    if listed is not None:
        return _first_known(listed)
    for field, value in ((f"{SERVICE_CONFIG} loadBalancingPolicy", config.get("loadBalancingPolicy")), (POLICY_NAME, name)):
        if value is not None:
            known = _POLICIES.get(_text(value).lower() if isinstance(value, (str, bytes)) else "")
            if known is None:
                raise _fail(field, value, _known())
            return known
    return None


def _first_known(listed: Any) -> object:
    field = f"{SERVICE_CONFIG} loadBalancingConfig"
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and len(entry) == 1 for entry in listed):
        raise _fail(field, listed, "must be a list of objects with one policy name each")
    for entry in listed:
        ((name, settings),) = entry.items()
        known = _POLICIES.get(name)
        if known is None:
            continue
        if known == "least_request" and isinstance(settings, dict) and "choiceCount" in settings:
            count = settings["choiceCount"]
            if isinstance(count, bool) or not isinstance(count, int) or count < 2:
                raise _fail(f"{field} {name} choiceCount", count, "must be a whole number >= 2")
            return {"name": known, "choice_count": min(count, 10)}  # A48: above 10 is 10
        return known
    raise _fail(field, [next(iter(entry)) for entry in listed], _known())


def _known() -> str:
    return f"meshlb has no such policy; it has {', '.join(sorted(set(_POLICIES.values())))}"


def _methods(config: Mapping[str, Any]) -> dict[tuple[str, str], MethodDefaults]:
    methods: dict[tuple[str, str], MethodDefaults] = {}
    for entry in config.get("methodConfig", ()):
        wait_for_ready = entry.get("waitForReady")
        defaults = MethodDefaults(_seconds(entry.get("timeout")), wait_for_ready if isinstance(wait_for_ready, bool) else None)
        for name in entry.get("name", ()):
            methods.setdefault((name.get("service", ""), name.get("method", "")), defaults)
    return methods


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _fail(f"{SERVICE_CONFIG} methodConfig timeout", value, 'must be seconds such as "1.5s"')
    return float(match[1])


def _endpoint_service_config(config: Mapping[str, Any]) -> str:
    """The user's config for one address; waiting for readiness is the pool's business: this endpoint may be on its way out."""
    rest = {key: value for key, value in config.items() if key not in ("loadBalancingConfig", "loadBalancingPolicy")}
    if "methodConfig" in rest:
        rest["methodConfig"] = [{k: v for k, v in entry.items() if k != "waitForReady"} for entry in rest["methodConfig"]]
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **rest}, separators=(",", ":"))
