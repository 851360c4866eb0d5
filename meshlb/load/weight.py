"""``Config(weight=…)``: whether what servers say of their load changes their share; ``capacity.py`` has the rules.

============  ==========================================================================================================
``static``    no (the default): weights are discovery's
``reported``  yes, carefully: means of ``smoothing_s``, drawn to the pool's mean, between ``min_ratio`` and ``max_ratio`` of it
``a58``       yes, as gRPC's weighted_round_robin does it: the last report, from 0.01 to 10 times the pool's median
============  ==========================================================================================================

Spec: gRFC A58 (names, defaults, and that ``update_s`` below 0.1 becomes 0.1), A51 (out of band), A114 (``metric_names``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from meshlb.core import validate
from meshlb.core.report import METRIC_MAPS, METRIC_NAMES
from meshlb.errors import ConfigError

SOURCES: Final = ("static", "reported", "a58")
MIN_UPDATE_S: Final = 0.1  # A58
MIN_SMOOTHING_S: Final = 10.0  # below, a weight is made of a few requests and steers the wrong way
_CAREFUL: Final = ("smoothing_s", "min_ratio", "max_ratio")  # what A58 has not


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """``source``: see the module head.

    ``blackout_s``: how long an endpoint must have reported before that counts (default 10). ``expiration_s``: how old the last report may
    be (default 180). ``update_s``: how often weights are made (default 1; at least 0.1). ``error_utilization_penalty``: what an error
    costs, in shares of a call's utilization (default 1; >= 0). ``metric_names``: the server's own metrics that say how loaded it is,
    ``utilization.queue`` or ``named_metrics.queue``, of which the largest counts; without any of them in a report it is its
    ``application_utilization``, else its ``cpu_utilization``.

    ``smoothing_s`` (default 10, and no less), ``min_ratio`` (default 0.25; above 0, to 1) and ``max_ratio`` (default 4; >= 1): of
    ``reported`` alone.

    ``oob``: reports are asked for on the side of the calls (``OpenRcaService``) instead of being read from their trailers, every
    ``oob_interval_s`` (default 10; >= 0.1).

    Raises ConfigError with field, value and rule.
    """

    source: str = "static"
    blackout_s: float = 10.0
    expiration_s: float = 180.0
    update_s: float = 1.0
    error_utilization_penalty: float = 1.0
    metric_names: tuple[str, ...] = ()
    oob: bool = False
    oob_interval_s: float = 10.0
    smoothing_s: float = 10.0
    min_ratio: float = 0.25
    max_ratio: float = 4.0

    def __post_init__(self) -> None:
        validate.one_of("weight.source", self.source, SOURCES)
        if not isinstance(self.oob, bool):
            raise ConfigError(f"weight.oob={self.oob!r}: must be true or false")
        if self.oob and self.source == "static":
            raise ConfigError("weight.oob=True: is not read with source 'static'; say reported or a58")
        update_s = validate.seconds("weight.update_s", self.update_s)
        checked = {
            "blackout_s": validate.seconds("weight.blackout_s", self.blackout_s, exclusive=False),
            "expiration_s": validate.seconds("weight.expiration_s", self.expiration_s),
            "update_s": max(update_s, MIN_UPDATE_S),
            "error_utilization_penalty": validate.number(
                "weight.error_utilization_penalty", self.error_utilization_penalty, minimum=0.0
            ),
            "metric_names": _names(self.metric_names),
            "smoothing_s": validate.seconds("weight.smoothing_s", self.smoothing_s, minimum=MIN_SMOOTHING_S, exclusive=False),
            "min_ratio": validate.ratio("weight.min_ratio", self.min_ratio),
            "max_ratio": validate.number("weight.max_ratio", self.max_ratio, minimum=1.0),
            "oob_interval_s": validate.seconds("weight.oob_interval_s", self.oob_interval_s, minimum=0.1, exclusive=False),
        }
        if not checked["min_ratio"]:
            raise ConfigError(f"weight.min_ratio={self.min_ratio!r}: must be > 0, or an endpoint would never be heard of again")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Weight) -> Weight:
        """``static``, ``reported``, ``a58``, a dict of the fields, or a Weight."""
        if isinstance(value, Mapping):
            return cls._of_fields(value)
        if isinstance(value, str):
            return cls(source=value)
        if not isinstance(value, cls):
            raise ConfigError(f"weight={value!r}: must be {', '.join(SOURCES)}, a dict or a Weight")
        return value

    @classmethod
    def _of_fields(cls, value: Mapping[str, Any]) -> Weight:
        validate.known_keys("weight", value, [field.name for field in fields(cls)])
        settings = cls(**value)
        for name in value:
            if not reads(settings.source, name):
                where = " and ".join(source for source in SOURCES if reads(source, name))
                raise ConfigError(f"weight.{name}={value[name]!r}: is not read with source {settings.source!r}, only with {where}")
        if "oob_interval_s" in value and not settings.oob:
            raise ConfigError(f"weight.oob_interval_s={value['oob_interval_s']!r}: is only read with oob")
        return settings

    def to_dict(self) -> dict[str, object]:
        """Plain data: what is read with its source."""
        read = {field.name: getattr(self, field.name) for field in fields(self) if reads(self.source, field.name)}
        if not self.oob:
            read.pop("oob_interval_s", None)
        return read

    @property
    def in_band(self) -> bool:
        """Reports are read from the calls' trailers. A58: never while they come out of band."""
        return self.source != "static" and not self.oob


def reads(source: str, name: str) -> bool:
    """Does a field of ``Weight`` mean something with this source?"""
    return name == "source" or (source != "static" and (source != "a58" or name not in _CAREFUL))


def _names(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (tuple, list)):
        raise ConfigError(f"weight.metric_names={value!r}: must be a list of names, or one string with commas")
    names = []
    for word in words:
        name = word.strip() if isinstance(word, str) else ""
        where, _, entry = name.partition(".")
        if not (name in METRIC_NAMES or (where in METRIC_MAPS and entry)):
            maps = ", ".join(f"{known}.<name>" for known in METRIC_MAPS)
            raise ConfigError(f"weight.metric_names={word!r}: must be one of {', '.join(METRIC_NAMES)}, {maps}")
        names.append(name)
    return tuple(names)
