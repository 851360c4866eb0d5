"""Policies by name, and the one place that turns what people write into a policy's configuration.

Written forms: a name (``p2c``; ``rr`` is ``round_robin``), or a dict of the name and the policy's own fields,
``{"name": "least_request", "choice_count": 3}``; the dict may be JSON text, so that an environment variable can hold it. It is
flat, as every part of the configuration is; lists become tuples, since pools are shared by a policy's configuration. gRPC's ``[{"round_robin": {}}]`` belongs to gRPC's options and is read there.

A user's policy joins by ``register_policy`` and is then written like ours. It is looked at when it is registered, not when a call first
wants it; whether it keeps its promises is for ``meshlb.testing.check_policy`` to find out.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from meshlb.balance.anchor import Anchor
from meshlb.balance.config import PolicyConfig
from meshlb.balance.guarded import GuardedPolicy
from meshlb.balance.ipvs import IpvsLc, IpvsNq, IpvsSed
from meshlb.balance.ipvs_hash import IpvsDh, IpvsSh
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.maglev import Maglev
from meshlb.balance.p2c import P2C
from meshlb.balance.peak_ewma import PeakEwma
from meshlb.balance.pick_first import PickFirst
from meshlb.balance.random_pick import Random, RandomPolicy
from meshlb.balance.ring_hash import RingHash
from meshlb.balance.round_robin import RoundRobin
from meshlb.balance.session import Session, SessionPolicy
from meshlb.balance.weighted_round_robin import WeightedRoundRobin
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.policy import Policy
from meshlb.errors import ConfigError

__all__ = ["POLICIES", "PolicyConfig", "as_tuples", "build_policy", "policy_of", "register_policy", "settings_of"]

# The names in the order of the alphabet; ``register_policy`` adds to them.
POLICIES: dict[str, type[PolicyConfig]] = {
    "anchor": Anchor,
    "ipvs:dh": IpvsDh,
    "ipvs:lc": IpvsLc,
    "ipvs:nq": IpvsNq,
    "ipvs:sed": IpvsSed,
    "ipvs:sh": IpvsSh,
    "least_request": LeastRequest,
    "maglev": Maglev,
    "p2c": P2C,
    "peak_ewma": PeakEwma,
    "pick_first": PickFirst,
    "random": Random,
    "ring_hash": RingHash,
    "round_robin": RoundRobin,
    "rr": RoundRobin,
    "session": Session,
    "weighted_round_robin": WeightedRoundRobin,
}

_OURS = frozenset(POLICIES.values())
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_Config = TypeVar("_Config", bound=type[PolicyConfig])


def policy_of(value: str | Mapping[str, object] | PolicyConfig) -> PolicyConfig:
    """The configuration that is meant. Raises ConfigError, naming the nearest valid name or key."""
    if isinstance(value, PolicyConfig):
        return _hashable(value)
    settings = settings_of(value)
    name = settings.get("name")
    if not isinstance(name, str) or name not in POLICIES:
        raise ConfigError(f"policy={name!r}: {validate.nearest(name, POLICIES)}")
    config = POLICIES[name]
    own = {key: as_tuples(setting) for key, setting in settings.items() if key != "name"}
    validate.known_keys("policy", own, ("name", *(field.name for field in fields(config))))
    return _hashable(config(**own))


def as_tuples(value: Any) -> Any:
    """Lists as tuples, also inside one another: JSON knows no tuples."""
    return tuple([as_tuples(one) for one in value]) if isinstance(value, (list, tuple)) else value


def build_policy(config: PolicyConfig, rng: Rng, on_error: Callable[[Exception], None]) -> Policy:
    """A policy for one pool; guarded, unless it is ours, so that what it does wrong is heard by ``on_error`` and costs no call."""
    if isinstance(config, Session):
        return SessionPolicy(config, build_policy(policy_of(config.first), rng, on_error))
    if type(config) in _OURS:
        return config.build(rng)
    try:
        return GuardedPolicy(config.build(rng), on_error)
    except Exception as error:  # noqa: BLE001 - of the user's own; calls go out balanced all the same
        on_error(error)
        return RandomPolicy()


def register_policy(config: _Config) -> _Config:
    """Make a policy of one's own known by its name, in ``Config(policy=…)``, JSON and ``MESHLB_POLICY``; also as a decorator.

    ``config`` is a frozen dataclass below ``PolicyConfig`` with ``name`` (a lower-case word that no other policy has), a default for every
    field, and ``build``. Raises ConfigError that says what is missing. Registering a class again is nothing; one of the same module and
    name replaces it, so that a notebook's cell may run twice. Any thread; a Config made before knows nothing of it.
    """
    _check_class(config)
    known = POLICIES.setdefault(config.name, config)
    if (known.__module__, known.__qualname__) != (config.__module__, config.__qualname__):
        place = f"{known.__module__}.{known.__qualname__}"
        raise _refused(config, f"name={config.name!r}: must not be taken; {place} has it")
    POLICIES[config.name] = config
    return config


def _check_class(config: object) -> None:
    if not isinstance(config, type) or not issubclass(config, PolicyConfig):
        raise ConfigError(f"register_policy({config!r}): must be a class below meshlb.PolicyConfig")
    if inspect.isabstract(config):
        raise _refused(config, f"must define {', '.join(sorted(config.__abstractmethods__))}")
    name = getattr(config, "name", None)
    own = {field.name for field in fields(config)}
    if "name" in own or not isinstance(name, str):
        raise _refused(config, 'must have a name of the class, as in name: ClassVar[str] = "mine"')
    if not _NAME.fullmatch(name):
        raise _refused(config, f"name={name!r}: must be a lower-case word (a-z, 0-9, _)")
    undeclared = [word for word, hint in inspect.get_annotations(config).items() if word not in own and "ClassVar" not in str(hint)]
    if undeclared:
        raise _refused(config, f"{undeclared[0]}: is no field; must be decorated with @dataclass(frozen=True, kw_only=True)")
    try:
        get_type_hints(config)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:  # variables are read by the types of fields
        raise _refused(config, f"every annotation must name what its module knows when it runs ({error})") from None
    try:
        default = config()
    except TypeError as error:
        raise _refused(config, f"every field must have a default ({error})") from None
    try:
        hash(default)
    except TypeError as error:
        raise _refused(config, f"must be hashable, as pools are shared by it: a tuple, not a list ({error})") from None
    try:
        json.dumps(default.to_dict())
    except TypeError as error:
        raise _refused(config, f"every field must be plain data: a number, a word or a tuple of them ({error})") from None


def _refused(config: type, rule: str) -> ConfigError:
    return ConfigError(f"register_policy({config.__qualname__}): {rule}")


def _hashable(config: PolicyConfig) -> PolicyConfig:
    for field in fields(config):
        try:
            hash(getattr(config, field.name))
        except TypeError:
            rule = "must be hashable, as pools are shared by it: a number, a word or a tuple of them"
            raise ConfigError(f"policy.{field.name}={getattr(config, field.name)!r}: {rule}") from None
    return config


def settings_of(value: object) -> Mapping[str, object]:
    """The name and the fields as they are written: a name, a dict, or JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"policy={value!r}: must be a name or a JSON object ({error})") from None
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"policy={value!r}: must be a name, a dict or a policy's configuration")
    if "name" not in value:
        raise ConfigError(f"policy={value!r}: must give the policy's name, as in {{'name': 'p2c'}}")
    return value
