"""What the configurations of all policies have in common: a name, two printable forms, and the policy they build."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

from meshlb.core.clock import Rng
from meshlb.core.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig(ABC):
    """Immutable and hashable: pools are shared by it. ``str()`` and ``to_dict()`` are forms that ``policy_of`` reads back."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, rng: Rng) -> Policy:
        """A new policy, for one pool."""

    def to_dict(self) -> dict[str, object]:
        """``{"name": "least_request", "choice_count": 2, …}``: every field, as plain data."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    def __str__(self) -> str:
        """The bare name, or, where a field differs from its default, JSON of the name and such fields."""
        defaults = type(self)().to_dict()
        own = {key: value for key, value in self.to_dict().items() if key == "name" or value != defaults[key]}
        return json.dumps(own) if len(own) > 1 else self.name
