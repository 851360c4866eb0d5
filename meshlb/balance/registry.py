"""Policies by name, and the one place that turns what people write into a policy's configuration.

Written forms: a name (``p2c``; ``rr`` is ``round_robin``), or a dict of the name and the policy's own fields,
``{"name": "least_request", "choice_count": 3}``; the dict may be JSON text, so that an environment variable can hold it. It is
flat, as every part of the configuration is. gRPC's ``[{"round_robin": {}}]`` belongs to gRPC's options and is read there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.core import validate
from meshlb.errors import ConfigError

__all__ = ["POLICIES", "PolicyConfig", "policy_of"]

POLICIES: dict[str, type[PolicyConfig]] = {
    "p2c": P2C,
    "round_robin": RoundRobin,
    "rr": RoundRobin,
    "least_request": LeastRequest,
}


def policy_of(value: str | Mapping[str, object] | PolicyConfig) -> PolicyConfig:
    """The configuration that is meant. Raises ConfigError, naming the nearest valid name or key."""
    if isinstance(value, PolicyConfig):
        return value
    settings = _settings(value)
    name = settings.get("name")
    if not isinstance(name, str) or name not in POLICIES:
        raise ConfigError(f"policy={name!r}: {validate.nearest(name, POLICIES)}")
    config = POLICIES[name]
    own = {key: setting for key, setting in settings.items() if key != "name"}
    validate.known_keys("policy", own, ("name", *(field.name for field in fields(config))))
    return config(**own)


def _settings(value: object) -> Mapping[str, object]:
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
