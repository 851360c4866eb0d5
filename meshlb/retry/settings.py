"""What the user may say about trying again: ``Retry`` for a channel, ``MethodRetry`` for some of its methods.

The default is safe: nothing is declared idempotent and no code is named, so only what certainly never left the client goes elsewhere.
Three things can be declared, each for a method, a service (``/shop.Orders/*``) or all (``*``): that it is idempotent, which codes are
worth another attempt whatever that means, and how often, how soon and for how long one may try. The most specific entry has the
word, field by field: the method's, its service's, a gRPC service config's ``retryPolicy``, then the fields of ``Retry`` itself.

Names are gRPC's full method names; codes are gRPC's names. ``stop`` and ``wait`` take tenacity's objects, or any callable that
reads the same state: they are called only when an attempt is due, and take the place of ``max_attempts`` and of the back-off.

Spec: gRFC A6 for ``max_attempts``, codes and the deviating jitter of its own policies; Finagle's RetryBudget for the budget.
Deviations: ``max_attempts`` above 5 becomes 5, as in A6, also where no service config asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from meshlb.core import patterns, validate
from meshlb.errors import ConfigError

CODES: Final = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)  # in the order of their numbers, from 1
MAX_ATTEMPTS: Final = 5  # A6

Decides = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRetry:
    """What is said of one method or service; None: as the next entry that matches, at last ``Retry``'s own fields."""

    idempotent: bool | None = None
    codes: tuple[str, ...] | None = None
    max_attempts: int | None = None
    base_s: float | None = None
    max_s: float | None = None
    multiplier: float | None = None
    per_try_timeout_s: float | None = None

    def __post_init__(self) -> None:
        _check(self, "retry.methods")

    def to_dict(self) -> dict[str, object]:
        said = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Trying again, for every method unless ``methods`` says otherwise.

    ``enabled``: False is one attempt a call, whatever else is said here or in a service config.
    ``idempotent``: methods (``/shop.Orders/Get``), services (``/shop.Orders/*``) or ``*``: an attempt that may have been processed
    (a connection lost under it, a pod that stops, ``per_try_timeout_s``) is tried again.
    ``idempotent_metadata``: the metadata key by which a single call says so; values ``0``, ``false`` and ``no`` say it is not.
    ``codes``: statuses after which any call is tried again, idempotent or not, such as ``["RESOURCE_EXHAUSTED"]``.
    ``max_attempts``: the first one included (default 3; above 5 is 5). Attempts that never left the client do not count.
    ``base_s``, ``max_s``, ``multiplier``: attempt n + 1 waits a random time in [0, min(base_s * multiplier^(n - 1), max_s)).
    ``per_try_timeout_s``: how long one attempt of a unary call may take (0, the default: until the call's deadline).
    ``methods``: ``{"/shop.Orders/Search": {"codes": ["UNAVAILABLE"], "max_attempts": 2}}``, ``MethodRetry``'s fields.
    ``stop``, ``wait``: tenacity's, in place of ``max_attempts`` and of the back-off; only code can give them.
    ``budget_ratio``, ``budget_min_per_s``, ``budget_ttl_s``: all of a target's further attempts, those that never left included, are
    at most this share of its calls plus this many a second, over any ``budget_ttl_s`` (defaults 0.2, 10 and 10 s).
    """

    enabled: bool = True
    idempotent: tuple[str, ...] = ()
    idempotent_metadata: str = ""
    codes: tuple[str, ...] = ()
    max_attempts: int = 3
    base_s: float = 0.025
    max_s: float = 0.25
    multiplier: float = 2.0
    per_try_timeout_s: float = 0.0
    methods: tuple[tuple[str, MethodRetry], ...] = ()
    stop: Decides | None = None
    wait: Decides | None = None
    budget_ratio: float = 0.2
    budget_min_per_s: float = 10.0
    budget_ttl_s: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ConfigError(f"retry.enabled={self.enabled!r}: must be true or false")
        _set(self, "idempotent", _words("retry.idempotent", self.idempotent))
        for pattern in self.idempotent:
            patterns.check("retry.idempotent", pattern, everything=True)
        _set(self, "idempotent_metadata", _metadata_key(self.idempotent_metadata))
        _check(self, "retry")
        _set(self, "methods", tuple(patterns.entries("retry.methods", self.methods, MethodRetry)))
        for name in ("stop", "wait"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ConfigError(f"retry.{name}={value!r}: must be one of tenacity's {name}_… objects, or a callable like them")
        _set(self, "budget_ratio", validate.ratio("retry.budget_ratio", self.budget_ratio))
        _set(self, "budget_min_per_s", validate.number("retry.budget_min_per_s", self.budget_min_per_s, minimum=0.0))
        _set(self, "budget_ttl_s", validate.seconds("retry.budget_ttl_s", self.budget_ttl_s, minimum=1.0, exclusive=False))
        if self.budget_ttl_s > 60.0:
            raise ConfigError(f"retry.budget_ttl_s={self.budget_ttl_s!r}: must be <= 60 seconds")

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Retry) -> Retry:
        """``on``, ``off``, a dict of the fields, or a Retry."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(enabled=validate.one_of("retry", value, ("on", "off")) == "on")
        if not isinstance(value, Mapping):
            raise ConfigError(f"retry={value!r}: must be on, off, a dict or a Retry")
        validate.known_keys("retry", value, [field.name for field in fields(cls)])
        return cls(**value)

    def to_dict(self) -> dict[str, object]:
        """Plain data, except for ``stop`` and ``wait``, which JSON cannot hold."""
        plain: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            plain[field.name] = list(value) if isinstance(value, tuple) else value
        plain["methods"] = {pattern: entry.to_dict() for pattern, entry in self.methods}
        return plain

    def entries_for(self, method: str) -> Iterator[MethodRetry]:
        """What ``methods`` says of ``/package.Service/Method``, the most specific first."""
        return patterns.matching(method, self.methods)

    def is_idempotent(self, method: str) -> bool:
        """What is declared of it."""
        for entry in self.entries_for(method):
            if entry.idempotent is not None:
                return entry.idempotent
        return any(pattern in self.idempotent for pattern in patterns.patterns_of(method))


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _check(config: Retry | MethodRetry, where: str) -> None:
    """The fields that both have."""
    if not isinstance(config, Retry) and config.idempotent is not None and not isinstance(config.idempotent, bool):
        raise ConfigError(f"{where}.idempotent={config.idempotent!r}: must be true or false")
    if config.codes is not None:
        _set(
            config, "codes", tuple(dict.fromkeys(_code(f"{where}.codes", code) for code in _words(f"{where}.codes", config.codes)))
        )
    if config.max_attempts is not None:
        attempts = validate.integer(f"{where}.max_attempts", config.max_attempts, minimum=1)
        _set(config, "max_attempts", min(attempts, MAX_ATTEMPTS))
    for name in ("base_s", "max_s"):
        if getattr(config, name) is not None:
            _set(config, name, validate.seconds(f"{where}.{name}", getattr(config, name), exclusive=False))
    if config.base_s is not None and config.max_s is not None and config.max_s < config.base_s:
        raise ConfigError(f"{where}.max_s={config.max_s!r}: must be >= base_s={config.base_s:g}")
    if config.multiplier is not None:
        _set(config, "multiplier", validate.number(f"{where}.multiplier", config.multiplier, minimum=0.1))
    if config.per_try_timeout_s is not None:
        timeout_s = validate.seconds(f"{where}.per_try_timeout_s", config.per_try_timeout_s, exclusive=False)
        _set(config, "per_try_timeout_s", timeout_s)


def _words(where: str, value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple, frozenset, set)) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}={value!r}: must be a list of words, or one string with commas")
    return tuple(word.strip() for word in words)


def _code(where: str, code: str) -> str:
    name = code.upper()
    if name not in CODES:
        raise ConfigError(f"{where}={code!r}: must be the name of a gRPC status that is an error; {validate.nearest(name, CODES)}")
    return name


def _metadata_key(value: object) -> str:
    valid = isinstance(value, str) and all(letter.isalnum() or letter in "-_." for letter in value) and not value.endswith("-bin")
    if not isinstance(value, str) or not valid:
        raise ConfigError(f"retry.idempotent_metadata={value!r}: must be a metadata key of text: letters, digits, '-', '_' and '.'")
    return value.lower()
