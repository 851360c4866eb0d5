"""``MESHLB_*``, read into layers.

Names follow from the fields, and only from them: ``MESHLB_<FIELD>`` and, in a part, ``MESHLB_<PART>_<FIELD>``: ``MESHLB_POLICY``,
``MESHLB_POLICY_CHOICE_COUNT``, ``MESHLB_DISCOVERY``, ``MESHLB_DISCOVERY_KUBECONFIG``, ``MESHLB_CONNECT_TIMEOUT_S``; the
operator's are the same behind ``MESHLB_FORCE_``. A part takes its word or a JSON object; a list (``MESHLB_HASH``, too) takes commas or a JSON array; a
switch takes true, false, yes, no, on, off, 1 and 0; a time takes ``5``, ``5s`` and ``250ms``. An empty variable is one that is
not set.

A bad value is a ConfigError that names the variable, raised when the first channel is made and not at import. To warn and go on
with another value would leave the person on call with an override that silently is none; and a pod that does not come up stops a
rolling update while the old ones serve. A variable that nobody knows only warns, once: it may be meant for another version. What
Kubernetes injects for a Service called ``meshlb`` is none of these. ``MESHLB_NODE_NAME`` and ``MESHLB_ZONE`` are read elsewhere
(``resolve.place``): they say where the process runs, as the Downward API fills them in, and are no configuration.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from meshlb.balance.registry import POLICIES, PolicyConfig, as_tuples
from meshlb.config.layers import NAMES, PARTS, SINGLE, Layer, in_seconds, layer_of
from meshlb.core import validate
from meshlb.errors import ConfigError
from meshlb.resolve.place import OWN_VARIABLES

PREFIX = "MESHLB_"
FORCE_PREFIX = "MESHLB_FORCE_"
MODE = "MESHLB_MODE"

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INJECTED = re.compile(r"MESHLB_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")  # Kubernetes docs, "Accessing Services"
_log = logging.getLogger("meshlb.config")
_warned: set[str] = set()


@lru_cache(maxsize=4)
def _types(policies: tuple[type[PolicyConfig], ...]) -> dict[str, list[type]]:
    """Paths, parts before their fields, and their types: a field has one in each policy; ``policies``: all that are registered by now."""
    types: dict[str, list[type]] = {}
    for path, kind in _known(policies):
        types.setdefault(path, []).append(kind)
    return types


def _known(policies: tuple[type[PolicyConfig], ...]) -> Iterator[tuple[str, type]]:
    yield from ((name, type(SINGLE.get(name))) for name in NAMES)
    for name, part in (*PARTS.items(), *(("policy", config) for config in policies)):
        yield from ((f"{name}.{field}", kind) for field, kind in _kinds(part).items())


@lru_cache(maxsize=256)
def _kinds(part: Any) -> dict[str, type]:
    hints = get_type_hints(part)
    return {field.name: _plain(hints[field.name]) for field in fields(part)}


def _plain(hint: Any) -> type:
    """``float | None``, ``Optional[float]`` and ``tuple[str, ...]`` without what stands around them."""
    if get_origin(hint) in (UnionType, Union):
        hint = next(one for one in get_args(hint) if one is not NoneType)
    kind: type = get_origin(hint) or hint
    return kind


def _paths() -> dict[str, str]:
    """Variables' names without their prefix, and what they set."""
    return {path.upper().replace(".", "_"): path for path in _types(tuple(POLICIES.values()))}


def read(environ: Mapping[str, str], prefix: str) -> list[tuple[str | None, Layer]]:
    """What each variable with this prefix says; those of a whole part come before those of its fields."""
    said: list[tuple[str | None, Layer]] = []
    for suffix, path in _paths().items():
        text = environ.get(prefix + suffix, "").strip()
        if text:
            try:
                said.append((prefix + suffix, _layer(path, text)))
            except ConfigError as error:
                raise ConfigError(f"{prefix}{suffix}: {error}") from error
    return said


def warn_of_unknown(environ: Mapping[str, str]) -> None:
    """One warning a process for each ``MESHLB_`` name that nobody knows."""
    valid = [MODE, *OWN_VARIABLES, *(prefix + suffix for prefix in (PREFIX, FORCE_PREFIX) for suffix in _paths())]
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in valid or variable in _warned or _INJECTED.fullmatch(variable):
            continue
        _warned.add(variable)
        _log.warning("%s is no variable of meshlb and has no effect; %s", variable, validate.nearest(variable, valid))


def _layer(path: str, text: str) -> Layer:
    name, _, field = path.partition(".")
    if not field:
        return layer_of({name: _json(path, text) if name in PARTS and text.startswith(("{", "[")) else text})
    kinds = _types(tuple(POLICIES.values()))[path]
    if name != "policy":
        return layer_of({name: {field: _value(path, text, kinds[0])}})
    refused = [error for kind in kinds if (error := _unreadable(path, text, kind))]
    if len(refused) == len(kinds):
        raise refused[0]
    return {path: text}


def policy_value(config: PolicyConfig, field: str, value: Any) -> Any:
    """What a layer says of a field of this policy; text is read by the type that the field has there."""
    return _policy_value(f"policy.{field}", value, _kinds(type(config))[field]) if isinstance(value, str) else value


def _policy_value(path: str, text: str, kind: type) -> Any:
    return as_tuples(in_seconds(path, _value(path, text, kind)))


def _unreadable(path: str, text: str, kind: type) -> ConfigError | None:
    try:
        _policy_value(path, text, kind)
    except ConfigError as error:
        return error
    return None


def _value(path: str, text: str, kind: type) -> Any:
    """Text as the type of the field; a time stays text, layers read it."""
    if kind is bool:
        if text.lower() not in _SWITCH:
            raise ConfigError(f"{path}={text!r}: must be one of {', '.join(_SWITCH)}")
        return _SWITCH[text.lower()]
    if kind is tuple:
        return _json(path, text) if text.startswith(("[", "{")) else tuple([word.strip() for word in text.split(",")])
    if kind is int or (kind is float and not path.endswith("_s")):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{path}={text!r}: must be a {'whole ' if kind is int else ''}number") from None
    return text


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}={text!r}: must be a word or JSON ({error})") from None


def warn_once(text: str) -> None:
    """Log a warning, unless this process has already."""
    if text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)
