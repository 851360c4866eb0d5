"""What somebody wrote, flattened: a layer is a dict from path (``connect_timeout_s``, ``discovery.kubeconfig``) to value.

Whoever may say something about meshlb (code, a file, variables, the operator) is one layer, and the configuration in force is the
layers laid over one another, path by path. A policy is one value at one path, since what its fields mean depends on its name; a
single field of it (``policy.choice_count``) may be laid over it, and is gone once a stronger layer names a policy; as text it is read only
when the policy is known, by the type that its field has there. So are the figures of one mode of ``outlier``, ``locality`` or ``weight``
gone once a stronger layer names another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from meshlb.balance.hash_key import HashKeys
from meshlb.balance.p2c import P2C
from meshlb.balance.registry import PolicyConfig, policy_of, settings_of
from meshlb.core import validate
from meshlb.errors import ConfigError
from meshlb.health import locality, outlier
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.health.subset import Subset
from meshlb.limit.settings import Limits
from meshlb.load import weight
from meshlb.load.weight import Weight
from meshlb.pool.connection_settings import Connection
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.retry.settings import Retry

Layer: TypeAlias = "dict[str, Any]"

PARTS: Mapping[str, Any] = {
    "discovery": Discovery,
    "fallback": Fallback,
    "retry": Retry,
    "outlier": Outlier,
    "slow_start": SlowStart,
    "locality": Locality,
    "limits": Limits,
    "connection": Connection,
    "hash": HashKeys,
    "weight": Weight,
    "subset": Subset,
}
# Those of one value, and their defaults.
SINGLE: Mapping[str, Any] = {
    "policy": P2C(),
    "first_answer_timeout_s": 5.0,
    "connect_timeout_s": 3.0,
    "mass_removal_spare_s": 30.0,
}
NAMES = ("policy", *PARTS, *(name for name in SINGLE if name != "policy"))
# The field of a part that its word sets.
WORD_MEANS = {
    "discovery": "sources",
    "fallback": "enabled",
    "retry": "enabled",
    "outlier": "mode",
    "slow_start": "window_s",
    "locality": "mode",
    "limits": "enabled",
    "connection": "enabled",
    "weight": "source",
    "subset": "size",
    "hash": "sources",
}
# Parts of which one field says what the others mean, and the values with which others mean something.
KNOWN_MODES = {"locality": ("prefer", "envoy"), "weight": ("static", "reported", "a58")}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def layer_of(settings: Mapping[str, Any]) -> Layer:
    """Flatten a dict of fields, each in any of its forms. Of a part that is

    - a dict, its keys are said;
    - a word or a list, what it stands for (``sources``, ``enabled``) is said, even if it is the default; ``hash``'s ``off`` says all;
    - an object, the fields that differ from their defaults are said: it does not remember more.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"config={settings!r}: must be a dict of {', '.join(NAMES)}")
    validate.known_keys("", settings, NAMES)
    return {path: in_seconds(path, value) for name, written in settings.items() for path, value in _paths(name, written)}


def laid_over(weaker: Layer, stronger: Layer) -> Layer:
    """The stronger's word where it has one; a policy that is named replaces the weaker one with all its fields, and a mode of ``outlier``,
    ``locality`` or ``weight`` those that it does not read."""
    if "policy" in stronger:
        weaker = {path: value for path, value in weaker.items() if not path.startswith("policy.")}
    for part in ("outlier", "locality", "weight"):
        mode = stronger.get(f"{part}.{WORD_MEANS[part]}")
        if mode is not None:
            weaker = {path: value for path, value in weaker.items() if not (path.startswith(part) and means_nothing(path, mode))}
    if stronger.get("weight.oob") is False:
        weaker = {path: value for path, value in weaker.items() if path != "weight.oob_interval_s"}
    return {**weaker, **stronger}


def below(name: str, layer: Layer) -> dict[str, Any]:
    """What a layer says inside a part."""
    return {path.partition(".")[2]: value for path, value in layer.items() if path.startswith(f"{name}.")}


def means_nothing(path: str, mode: Any) -> bool:
    """Is it a figure of ``outlier``, ``locality`` or ``weight`` that this mode of it does not read?"""
    part, _, field = path.partition(".")
    if part == "weight":
        return not weight.reads(mode, field)
    if part == "locality":
        return field != "mode" and mode not in locality.modes_that_read(field)
    return part == "outlier" and field not in ("mode", "ignore_methods") and mode not in outlier.modes_that_read(field)


def _paths(name: str, written: Any) -> Iterator[tuple[str, Any]]:
    if name not in PARTS:
        yield name, _policy(written) if name == "policy" else written
        return
    part = PARTS[name]
    known = [field.name for field in fields(part)]
    if isinstance(written, Mapping):
        validate.known_keys(name, written, known)
        yield from ((f"{name}.{key}", value) for key, value in written.items())
        return
    meant, default = part.of(written), part()
    for field in known:
        value = getattr(meant, field)
        is_meant = isinstance(written, (str, list, tuple)) and field == WORD_MEANS[name]
        if value != getattr(default, field) or is_meant or (name == "hash" and written == "off"):
            yield f"{name}.{field}", value


def _policy(written: Any) -> PolicyConfig:
    if isinstance(written, PolicyConfig):
        return policy_of(written)
    return policy_of({key: in_seconds(f"policy.{key}", value) for key, value in settings_of(written).items()})


def in_seconds(path: str, value: Any) -> Any:
    """A length of time may be text, in JSON and in variables: ``5``, ``5s``, ``250ms``, ``1.5m``."""
    if isinstance(value, Mapping):
        return {key: in_seconds(str(key), inner) for key, inner in value.items()}
    if not path.endswith("_s") or not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ConfigError(f"{path}={value!r}: must be seconds, or a number and ms, s, m or h")
    return float(match[1]) * _UNIT_S[match[2] or "s"]
