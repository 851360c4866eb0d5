"""What the user may say about ejection: whose rules (``mode``), and the figures of these rules.

``on`` are our own (relative.py), ``envoy`` and ``grpc`` theirs (envoy_outlier.py, a50.py) with their defaults, ``off`` are none. Each
mode reads its own fields; one that it does not read is refused rather than ignored, but for ``off``, which has the last word whatever
else is said. ``None`` is the mode's own figure: which it is depends on the mode, and stands in ``OwnRules``, ``EnvoyRules`` and
``GrpcRules``.

Counts of 0 turn a rule off, and so does ``failure_ratio_above_pool=0``. Names are Envoy's; its percentages are ratios here, its factors of
a thousand plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from meshlb.core import patterns, validate
from meshlb.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRules:
    """``on``. An endpoint goes when it fails far more than the others do; one real request decides whether it comes back.

    ``consecutive_failures``: so many failures in a row. ``consecutive_connect_failures``: so many attempts in a row that found it
    unreachable. ``failure_ratio_above_pool``: its share of failed attempts is so much above the others', over ``window_s`` (or its last 50
    attempts, where these take longer). All three only as far as chance does not explain them.
    ``base_ejection_s``: how long it stays out the first time; twice as long each next time, at most ``max_ejection_s``; each is shortened by
    a random share of up to ``ejection_jitter_ratio``. Who calls rarely waits for three calls an endpoint, too. ``forgive_s``: each such
    stretch without an ejection takes one doubling back.
    ``max_ejection_ratio``: at most this share of the endpoints is out; one always may be, the last one never.
    ``probe_timeout_s``: after so long without an end of the probe another request may be one.
    ``panic_failure_ratio``: when so large a share of the pool's attempts fails, its worst endpoint left out, nobody is ejected.
    """

    consecutive_failures: int = 5
    consecutive_connect_failures: int = 3
    failure_ratio_above_pool: float = 0.1
    window_s: float = 5.0
    base_ejection_s: float = 1.0
    max_ejection_s: float = 60.0
    ejection_jitter_ratio: float = 0.5
    forgive_s: float = 10.0
    max_ejection_ratio: float = 0.5
    probe_timeout_s: float = 10.0
    panic_failure_ratio: float = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpcRules:
    """``grpc``: A50's figures, both of its algorithms enforced."""

    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    max_ejection_s: float = 300.0
    max_ejection_ratio: float = 0.1
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: float = 1.9
    enforcing_success_rate_ratio: float = 1.0
    failure_percentage_threshold_ratio: float = 0.85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    enforcing_failure_percentage_ratio: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvoyRules(GrpcRules):
    """``envoy``: Envoy's figures. ``healthy_panic_threshold_ratio`` is the cluster's, of its load balancer."""

    enforcing_failure_percentage_ratio: float = 0.0
    max_ejection_jitter_s: float = 0.0
    always_eject_one_host: bool = False
    consecutive_5xx: int = 5
    enforcing_consecutive_5xx_ratio: float = 1.0
    consecutive_gateway_failure: int = 5
    enforcing_consecutive_gateway_failure_ratio: float = 0.0
    healthy_panic_threshold_ratio: float = 0.5


Rules = OwnRules | EnvoyRules | GrpcRules

_RULES: Final[Mapping[str, type[OwnRules] | type[GrpcRules]]] = {"on": OwnRules, "envoy": EnvoyRules, "grpc": GrpcRules}
MODES: Final = (*_RULES, "off")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlier:
    """See the module head and the rules of each mode; None: the mode's own figure.

    ``ignore_methods``: methods (``/shop.Orders/Get``), services (``/shop.Orders/*``) or ``*``, whose attempts do not count.

    Raises ConfigError with field, value and rule.
    """

    mode: str = "on"
    ignore_methods: tuple[str, ...] = ()

    base_ejection_s: float | None = None
    max_ejection_s: float | None = None
    max_ejection_ratio: float | None = None

    consecutive_failures: int | None = None
    consecutive_connect_failures: int | None = None
    failure_ratio_above_pool: float | None = None
    window_s: float | None = None
    ejection_jitter_ratio: float | None = None
    forgive_s: float | None = None
    probe_timeout_s: float | None = None
    panic_failure_ratio: float | None = None

    interval_s: float | None = None
    success_rate_minimum_hosts: int | None = None
    success_rate_request_volume: int | None = None
    success_rate_stdev_factor: float | None = None
    enforcing_success_rate_ratio: float | None = None
    failure_percentage_threshold_ratio: float | None = None
    failure_percentage_minimum_hosts: int | None = None
    failure_percentage_request_volume: int | None = None
    enforcing_failure_percentage_ratio: float | None = None

    max_ejection_jitter_s: float | None = None
    always_eject_one_host: bool | None = None
    consecutive_5xx: int | None = None
    enforcing_consecutive_5xx_ratio: float | None = None
    consecutive_gateway_failure: int | None = None
    enforcing_consecutive_gateway_failure_ratio: float | None = None
    healthy_panic_threshold_ratio: float | None = None

    def __post_init__(self) -> None:
        validate.one_of("outlier.mode", self.mode, MODES)
        object.__setattr__(self, "ignore_methods", tuple(_methods(self.ignore_methods)))
        for name in _FIGURES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checked(name, value))
        rules = _RULES.get(self.mode)
        if rules is not None:
            _check_read(self, rules)
            _check_together(self)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Outlier) -> Outlier:
        """``on``, ``off``, ``envoy``, ``grpc``, a dict of the fields, or an Outlier."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(mode=value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"outlier={value!r}: must be {', '.join(MODES)}, a dict or an Outlier")
        validate.known_keys("outlier", value, [field.name for field in fields(cls)])
        return cls(**value)

    def to_dict(self) -> dict[str, object]:
        """Plain data: the mode, and what is not left to it."""
        said = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said if value is not None}

    @property
    def rules(self) -> Rules | None:
        """The mode's figures with what is said here laid over them; None when ``off``."""
        rules = _RULES.get(self.mode)
        if rules is None:
            return None
        said = {field.name: getattr(self, field.name) for field in fields(rules)}
        filled = rules(**{name: value for name, value in said.items() if value is not None})
        if self.max_ejection_s is None and filled.max_ejection_s < filled.base_ejection_s:  # A50 and Envoy: the larger of the two
            return rules(**{**_values(filled), "max_ejection_s": filled.base_ejection_s})
        return filled

    def ignores(self, method: str) -> bool:
        """Do attempts of ``/package.Service/Method`` not count?"""
        return any(pattern in self.ignore_methods for pattern in patterns.patterns_of(method))


_FIGURES: Final = tuple(field.name for field in fields(Outlier) if field.name not in ("mode", "ignore_methods"))
# Between two sweeps. Each looks at every endpoint under the pool's lock, which takes 1 ms with 1,000 of them; Envoy's and A50's only rule
# is > 0, and 1 ns would keep the discovery thread busy for ever.
MIN_INTERVAL_S: Final = 0.01
_NOT_ZERO: Final = ("panic_failure_ratio",)  # at 0 it would be panic always


def modes_that_read(name: str) -> tuple[str, ...]:
    """The modes to which a field of ``Outlier`` means something."""
    return tuple(mode for mode, rules in _RULES.items() if name in {field.name for field in fields(rules)})


def _values(rules: Rules) -> dict[str, Any]:
    return {field.name: getattr(rules, field.name) for field in fields(rules)}


def _checked(name: str, value: object) -> object:
    """Each kind of figure has its suffix or its type."""
    where = f"outlier.{name}"
    if name == "interval_s":
        return validate.seconds(where, value, minimum=MIN_INTERVAL_S, exclusive=False)
    if name.endswith("_s"):
        return validate.seconds(where, value, exclusive=name != "max_ejection_jitter_s")
    if name.endswith("_ratio") or name == "failure_ratio_above_pool":
        ratio = validate.ratio(where, value)
        if name in _NOT_ZERO and not ratio:
            raise ConfigError(f"{where}={value!r}: must be > 0")
        return ratio
    if name == "success_rate_stdev_factor":
        return validate.number(where, value, minimum=0.0)
    if name == "always_eject_one_host":
        if not isinstance(value, bool):
            raise ConfigError(f"{where}={value!r}: must be true or false")
        return value
    return validate.integer(where, value, minimum=0)


def _check_read(outlier: Outlier, rules: type[Rules]) -> None:
    known = {field.name for field in fields(rules)}
    for name in _FIGURES:
        if getattr(outlier, name) is not None and name not in known:
            where = " and ".join(modes_that_read(name))
            raise ConfigError(f"outlier.{name}={getattr(outlier, name)!r}: is not read in mode {outlier.mode!r}, only in {where}")


def _check_together(outlier: Outlier) -> None:
    """What cannot both be meant."""
    rules = outlier.rules
    if rules is not None and rules.max_ejection_s < rules.base_ejection_s:
        raise ConfigError(f"outlier.max_ejection_s={rules.max_ejection_s!r}: must be >= base_ejection_s={rules.base_ejection_s:g}")
    if isinstance(rules, OwnRules) and not (
        rules.consecutive_failures or rules.consecutive_connect_failures or rules.failure_ratio_above_pool
    ):
        raise ConfigError("outlier.mode='on': every rule is turned off; say mode='off' for none")


def _methods(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (tuple, list)):
        raise ConfigError(f"outlier.ignore_methods={value!r}: must be a list of methods, or one string with commas")
    for word in words:
        patterns.check("outlier.ignore_methods", word.strip() if isinstance(word, str) else word, everything=True)
    return tuple(word.strip() for word in words)
