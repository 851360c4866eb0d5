"""What the user may say about limits: how many calls at once, to a target, to each of its endpoints, and by method.

Nothing is limited by default: a limit that is too low fails calls which would have been served, and only the user knows what a service
bears. Who sets one gets a queue with it, so that a burst waits instead of failing, and the queue is bounded twice: by how many wait,
and by how long each does.

Unary calls and streams count alike: what a limit protects (a pod's worker threads, its memory) each of them takes for as long as it
lasts. A service whose streams last for hours gives them a limit of their own, ``{"/shop.Orders/*": …}`` beside a larger one for all.

Spec: Envoy's circuit breakers (max_requests, max_pending_requests = 1024); Linkerd's failfast time-out of 3 s for ``max_wait_s``.
Deviations: Envoy has no bound on how long a request is pending but its time-out; its limits are 1024 each when nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from meshlb.core import patterns, validate
from meshlb.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodLimits:
    """A limit of their own for one method's calls, or for those of one service together; it holds beside the target's.

    ``max_in_flight``: how many calls at once, at least 1. ``max_waiting``, ``max_wait_s``: for its queue; None is ``Limits``' own.
    """

    max_in_flight: int = 0
    max_waiting: int | None = None
    max_wait_s: float | None = None

    def __post_init__(self) -> None:
        validate.integer("limits.methods.max_in_flight", self.max_in_flight, minimum=1)
        _check_queue(self, "limits.methods")

    def to_dict(self) -> dict[str, object]:
        said = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in said if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Calls in flight, at most; 0 is no limit, and the default.

    ``enabled``: False is no limit, whatever else is said here.
    ``max_in_flight``: calls to the target at once, of all channels that are configured alike; a call counts from when it may be sent
    until its end, with its back-offs and every attempt, a stream until its last message was read or it failed, was cancelled or, in
    threads, dropped (asyncio keeps a dropped stream alive, as grpc.aio does: cancel it, or leave its place taken).
    ``max_in_flight_per_endpoint``: attempts on one endpoint at once; one that is full is not picked, and when all are, calls wait.
    ``max_waiting``: how many calls wait for their turn at each limit (default 1024; 0: none); more are rejected at once.
    ``max_wait_s``: how long a call waits at each limit, at most (default 3; 0: not at all); its own deadline holds as well.
    ``methods``: ``{"/shop.Orders/Report": {"max_in_flight": 4}}``, ``MethodLimits``' fields; ``/shop.Orders/*`` counts all methods of
    the service together. A call passes its method's limit, its service's and the target's, in this order.
    """

    enabled: bool = True
    max_in_flight: int = 0
    max_in_flight_per_endpoint: int = 0
    max_waiting: int = 1024
    max_wait_s: float = 3.0
    methods: tuple[tuple[str, MethodLimits], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ConfigError(f"limits.enabled={self.enabled!r}: must be true or false")
        for name in ("max_in_flight", "max_in_flight_per_endpoint"):
            validate.integer(f"limits.{name}", getattr(self, name), minimum=0)
        _check_queue(self, "limits")
        _set(self, "methods", tuple(patterns.entries("limits.methods", self.methods, MethodLimits, "limits")))

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Limits) -> Limits:
        """``on``, ``off``, a dict of the fields, or a Limits."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(enabled=validate.one_of("limits", value, ("on", "off")) == "on")
        if not isinstance(value, Mapping):
            raise ConfigError(f"limits={value!r}: must be on, off, a dict or a Limits")
        validate.known_keys("limits", value, [field.name for field in fields(cls)])
        return cls(**value)

    @property
    def any(self) -> bool:
        """Something is limited."""
        return self.enabled and bool(self.max_in_flight or self.max_in_flight_per_endpoint or self.methods)

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        plain: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["methods"] = {pattern: entry.to_dict() for pattern, entry in self.methods}
        return plain


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _check_queue(config: Limits | MethodLimits, where: str) -> None:
    """The fields that both have; only a method's may be left out."""
    if config.max_waiting is not None or isinstance(config, Limits):
        validate.integer(f"{where}.max_waiting", config.max_waiting, minimum=0)
    if config.max_wait_s is not None or isinstance(config, Limits):
        _set(config, "max_wait_s", validate.seconds(f"{where}.max_wait_s", config.max_wait_s, exclusive=False))
