"""The channel options a user passed, split into what meshlb does itself and what each endpoint's own channel is given.

meshlb takes over what ``meshlb.grpc.service_config`` says of ``grpc.service_config``, and ``grpc.lb_policy_name``. All else goes to every
endpoint's channel unchanged and wins over the defaults there: method timeouts, ``healthCheckConfig``, keepalive, message sizes,
authority. ``grpc.enable_retries`` goes there too, where it only concerns gRPC's transparent retries: there is no ``retryPolicy`` left.
With 0 the service config's policies are off for meshlb as well; and only then servers see ``grpc-previous-rpc-attempts``, since
gRPC's own retry code takes it off otherwise (measured, grpcio 1.85). It stays on by default: without it a call that a closing connection
never processed fails (5 of 200 GOAWAYs).

An endpoint's channel runs gRPC's ``round_robin`` over its one address, because that reconnects by itself, reports
TRANSIENT_FAILURE instead of going idle, and does health checking, which ``pick_first`` does not. Defaults that differ from gRPC's:

- no idle timeout: gRPC's 30 minutes would make a rarely used pod pay a connect;
- a connect may take ``connect_timeout_s`` instead of 20 s, and back-off is 0.2 to 5 s instead of 1 to 120 s;
- what ``Connection`` says: pings and how long they may stay unanswered, health checking, no shared connections if they are renewed.
  gRPC arms a ping by ``ping_timeout_ms`` and not by ``keepalive_timeout``, which only becomes TCP_USER_TIMEOUT, and that as soon as
  pings are on at all: where they are off, a ping in 24 days stands for none;
- no HTTP proxy between pods (unless one was given), which gRPC would use for IP addresses too.

Equal options in equal order let channels of one process share connections (gRPC's subchannel pool); only connections that must be
separate, to a ClusterIP, get an argument of their own.

Spec: gRFC A8, A17, A18; grpc/doc/keepalive.md, grpc/include/grpc/impl/channel_arg_names.h.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from meshlb.core.endpoint import Endpoint
from meshlb.grpc import service_config
from meshlb.grpc.service_config import MethodDefaults, fail, text
from meshlb.pool.connection_settings import Connection
from meshlb.retry.rules import Rules, rules_of

if TYPE_CHECKING:
    from meshlb.config import Config

Option = tuple[str, Any]

ENABLE_RETRIES = "grpc.enable_retries"
AUTHORITY = "grpc.default_authority"
TLS_NAME = "grpc.ssl_target_name_override"
CONNECTION = "meshlb.connection"  # unknown to gRPC, so it only makes the connection a separate one

INT_MAX = 2**31 - 1
_INITIAL_BACKOFF_MS = 200
_MAX_BACKOFF_MS = 5_000
_NEVER_MS = INT_MAX - 1  # INT_MAX itself turns TCP_USER_TIMEOUT off, too


class ChannelOptions:
    """Parsed once a channel; immutable. ``asked``: what the options ask for, as fields of a Config."""

    __slots__ = ("_config", "_methods", "_shared", "_throttling", "_user", "asked", "stock_options")

    def __init__(self, stock_options: tuple[Option, ...]) -> None:
        self.stock_options = stock_options
        user = {text(key): value for key, value in stock_options}
        config = service_config.parsed(user.pop(service_config.OPTION, None))
        self.asked = service_config.asked(config, user.pop(service_config.POLICY_NAME, None))
        self._methods = service_config.methods(config)
        self._throttling = service_config.throttling(config)
        self._user = user
        self._shared: dict[tuple[str, float, str, Connection], tuple[Option, ...]] = {}
        self._config = config

    @classmethod
    def of(cls, options: Iterable[tuple[Any, Any]] | None) -> ChannelOptions:
        """Check and split; raises ConfigError that gives option, value and rule."""
        return cls(tuple(_checked(option) for option in options or ()))

    def endpoint_options(self, authority: str, endpoint: Endpoint, config: Config, *, tls_name: str = "") -> tuple[Option, ...]:
        """What the channel to this endpoint is made with.

        ``authority`` is the target's own; gRPC verifies TLS against its host. ``tls_name``: for a secure channel, the name to
        verify where it is not that host (a trailing dot, several addresses). The user's own authority or name wins.
        """
        key = (authority, config.connect_timeout_s, tls_name, config.connection)
        if key not in self._shared:
            self._shared[key] = self._options(*key)
        options = self._shared[key]  # gRPC keeps the pairs; one set for all endpoints saves 600 bytes for each
        return (*options, (CONNECTION, endpoint.uid)) if is_shared_address(endpoint) else options

    def _options(self, authority: str, connect_timeout_s: float, tls_name: str, connection: Connection) -> tuple[Option, ...]:
        merged: dict[str, Any] = {
            "grpc.client_idle_timeout_ms": INT_MAX,
            "grpc.initial_reconnect_backoff_ms": _INITIAL_BACKOFF_MS,
            "grpc.max_reconnect_backoff_ms": _MAX_BACKOFF_MS,
            "grpc.min_reconnect_backoff_ms": max(int(connect_timeout_s * 1000), 1),  # the connect timeout, despite its name
            **_of_connection(connection),
        }
        if "grpc.http_proxy" not in self._user:
            merged["grpc.enable_http_proxy"] = 0
        if TLS_NAME not in self._user:  # gRPC takes that for the authority too, and refuses calls to another
            merged[AUTHORITY] = authority
            if tls_name and AUTHORITY not in self._user and authority.rpartition(":")[0].strip("[]") != tls_name:
                merged[TLS_NAME] = tls_name
        merged[service_config.OPTION] = service_config.for_endpoint(self._config, _watched(connection))
        merged.update(self._user)
        return tuple(merged.items())

    def watches_health(self, config: Config) -> bool:
        """A server that is not fit is kept from calls by gRPC's health checking."""
        return service_config.HEALTH in self._config or _watched(config.connection) is not None

    def defaults_of(self, method: str) -> MethodDefaults:
        """The service config's word on ``/package.Service/Method``: the most specific entry wins."""
        service, _, name = method.lstrip("/").rpartition("/")
        for key in ((service, name), (service, ""), ("", "")):
            found = self._methods.get(key)
            if found is not None:
                return found
        return _NOTHING

    def rules_of(self, method: str, config: Config, *, per_try: bool = True) -> Rules:
        """When its calls are tried again: the config's word, and the service config's ``retryPolicy``."""
        lifted = self.defaults_of(method).retry if self._user.get(ENABLE_RETRIES, 1) else None
        return rules_of(config.retry, method, lifted, self._throttling, per_try=per_try)

    def __repr__(self) -> str:
        return f"<ChannelOptions asked={self.asked!r} user={sorted(self._user)}>"


_NOTHING = MethodDefaults()


def _of_connection(said: Connection) -> dict[str, int]:
    if not said.enabled:
        return {}
    options: dict[str, int] = {}
    if said.keepalive_time_s:
        options["grpc.keepalive_time_ms"] = _ms(said.keepalive_time_s)
    elif said.keepalive_timeout_s:
        options["grpc.keepalive_time_ms"] = _NEVER_MS
    if said.keepalive_timeout_s:
        options["grpc.keepalive_timeout_ms"] = _ms(said.keepalive_timeout_s)
    if said.ping_timeout_s:
        options["grpc.http2.ping_timeout_ms"] = _ms(said.ping_timeout_s)
    options["grpc.keepalive_permit_without_calls"] = 0
    if said.max_age_s:
        options["grpc.use_local_subchannel_pool"] = 1
    return options


def _watched(said: Connection) -> str | None:
    return said.health_check if said.enabled else None


def _ms(seconds: float) -> int:
    return min(int(seconds * 1000), _NEVER_MS)


def is_shared_address(endpoint: Endpoint) -> bool:
    """One of several connections to a ClusterIP, told apart by uid (see ``resolve/virtual_ip.py``)."""
    return endpoint.uid.startswith("clusterip/")


def _checked(option: object) -> Option:
    """What gRPC checks when it makes the channel; here the channels to endpoints are made later, so the check is made now."""
    if not isinstance(option, (tuple, list)) or len(option) != 2 or not isinstance(option[0], (str, bytes)):
        raise fail("options", option, "each must be a pair of a name and a value, as grpc takes them")
    key, value = option
    if isinstance(value, float) or value is None:
        raise fail(text(key), value, "must be an int, a str or bytes")
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        raise fail(text(key), value, "must fit into 32 bits")
    return key, value
