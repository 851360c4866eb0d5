"""What the user may say about the connections themselves: how a dead one is found, who says that a server is fit, how old one gets.

A connection that is there is not yet one that answers. A peer dies in ways that TCP does not report: its node vanishes, its process
freezes, or it lives and is not fit to serve. And one that is well may still be too old: it keeps to the pod, the proxy or the
certificate that it once met.

``keepalive_time_s`` is 310 and not less, since a server that is left at gRPC's defaults (5 minutes, two strikes; C-core, Go and
Java have the same) ends a connection that pings it more often while a call is silent. Measured with a default grpcio 1.85 server: at
30 s a stream that falls silent ends after 120 s with "Too many pings", at 10 s after 80 s, and with it every other call on its
connection. What finds the dead all the same (measured, two endpoints, four callers, and in brackets with ``off``):

- a vanished peer, its connection busy or idle: 3.0 to 4.0 s from the first message that it does not acknowledge (never within 12 s),
  by ``keepalive_timeout_s``; only a stream that listens, beside which nobody calls, waits for the ping;
- a frozen process, whose kernel goes on acknowledging: 5.1 s by ``ping_timeout_s`` if a ping of gRPC's own, with which it measures the
  bandwidth of a busy connection, was under way, else by the deadlines of its calls, which is ejection's business; calls without a
  deadline wait for the ping.

Servers that allow more pings make both 10 s + ``ping_timeout_s`` at most, by ``keepalive_time_s=10``.

Health is asked for by gRPC's own client (``healthCheckConfig`` in each connection's service config) and not by calls of ours. It
does all that A17 says, knows a server's word 1 to 3 ms after it was said, and costs no Python: a stream of ours is a thread of grpcio's
for each connection. What it lacks, the word itself, is had from the error of a call that it would fail (``grpc/stock.py``).

Spec: gRFC A8 (keepalive, the floor of 10 s), A9 (the server's connection age, jitter 0.1), A17 (health checking), A18 (TCP_USER_TIMEOUT).
Deviations: gRPC's ``keepalive_timeout`` is two things here, as it is in C-core 1.85, where it only sets TCP_USER_TIMEOUT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from meshlb.core import validate
from meshlb.errors import ConfigError

MIN_KEEPALIVE_TIME_S: Final = 10.0  # A8; more often is what servers call abuse
MIN_TIMEOUT_S: Final = 0.1  # one lost packet is sent again after 0.2 s; below that a healthy connection would not live long
MIN_MAX_AGE_S: Final = 1.0  # a connect with TLS within a cluster, many times over
OFF: Final = "off"


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """The connections of every target. Times are seconds; the user's own gRPC options win over all of it.

    ``enabled``: False leaves everything here to gRPC: nothing is pinged, watched or renewed.
    ``keepalive_time_s``: a connection that carries a call and hears nothing for this long is pinged (default 310; 0: never; else at
    least 10, and at least 300 unless the servers were told to allow it).
    ``keepalive_timeout_s``: how long the kernel may wait until what was sent is acknowledged before the connection counts as lost
    (default 3; 0: gRPC's 20, or without pings the system's 15 minutes). It finds a vanished node.
    ``ping_timeout_s``: how long a ping may stay unanswered (default 5; 0: gRPC's 60). It finds a frozen process.
    ``health_check``: the service whose health every server is asked for, by ``grpc.health.v1``: ``""`` is the server as a whole; None
    or ``off`` (the default) asks for nothing. One that is not SERVING gets no call; one that does not know the protocol counts as fit.
    ``max_age_s``: a connection that was there for about this long is replaced by a new one, which takes over as soon as it is ready
    (default 0: never; else at least 1). Calls under way finish on the old one.
    ``max_age_jitter_ratio``: by how much that time varies, to either side (default 0.1).
    ``max_age_grace_s``: for how long streams may go on on a connection that was replaced; then they end, in threads with
    gRPC's CANCELLED, in asyncio with UNAVAILABLE, since grpc.aio's would look like a cancelled task (default 0: without limit). Unary calls
    always finish first.
    """

    enabled: bool = True
    keepalive_time_s: float = 310.0
    keepalive_timeout_s: float = 3.0
    ping_timeout_s: float = 5.0
    health_check: str | None = None
    max_age_s: float = 0.0
    max_age_jitter_ratio: float = 0.1
    max_age_grace_s: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ConfigError(f"connection.enabled={self.enabled!r}: must be true or false")
        self._check_floor("keepalive_time_s", MIN_KEEPALIVE_TIME_S)
        self._check_floor("keepalive_timeout_s", MIN_TIMEOUT_S)
        self._check_floor("ping_timeout_s", MIN_TIMEOUT_S)
        if self.health_check is not None and not isinstance(self.health_check, str):
            raise ConfigError(f'connection.health_check={self.health_check!r}: must be a service\'s name, "" or off')
        if self.health_check == OFF:
            _set(self, "health_check", None)
        self._check_floor("max_age_s", MIN_MAX_AGE_S)
        self._check_floor("max_age_grace_s", 0.0)
        _set(self, "max_age_jitter_ratio", validate.ratio("connection.max_age_jitter_ratio", self.max_age_jitter_ratio))
        if self.max_age_grace_s and not self.max_age_s:
            raise ConfigError(f"connection.max_age_grace_s={self.max_age_grace_s!r}: has no meaning without max_age_s")

    def _check_floor(self, name: str, floor_s: float) -> None:
        value = validate.seconds(f"connection.{name}", getattr(self, name), exclusive=False)
        if 0 < value < floor_s:
            raise ConfigError(f"connection.{name}={value:g}: must be 0 (off) or >= {floor_s:g} seconds")
        _set(self, name, value)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Connection) -> Connection:
        """``on``, ``off``, a dict of the fields, or a Connection."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(enabled=validate.one_of("connection", value, ("on", OFF)) == "on")
        if not isinstance(value, Mapping):
            raise ConfigError(f"connection={value!r}: must be on, off, a dict or a Connection")
        validate.known_keys("connection", value, [field.name for field in fields(cls)])
        return cls(**value)


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)
