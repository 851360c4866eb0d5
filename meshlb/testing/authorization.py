"""Who may ask the API server what: bearer tokens, the users behind them and RBAC-like rules per namespace.

As in a real cluster, no token is the anonymous user, who may do nothing (403), and a wrong token is nobody (401).
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from meshlb.testing.resources import Resource
from meshlb.testing.status import forbidden, unauthorized

ANONYMOUS = "system:anonymous"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Allows ``verbs`` on ``resources`` in ``namespaces``; ``"*"`` is every one, and among namespaces the cluster scope too."""

    namespaces: Collection[str] = ("*",)
    resources: Collection[str] = ("*",)
    verbs: Collection[str] = ("get", "list", "watch")

    def __post_init__(self) -> None:
        for name in ("namespaces", "resources", "verbs"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be a collection of names, not one string")

    def allows(self, *, verb: str, resource: str, namespace: str | None) -> bool:
        return (
            verb in self.verbs
            and not {"*", resource}.isdisjoint(self.resources)
            and not {"*", namespace}.isdisjoint(self.namespaces)
        )


@dataclass(slots=True)
class Authorizer:
    """Tokens and rules, by user. Belongs to the cluster's loop."""

    users: dict[str, str] = field(default_factory=dict)  # token -> user
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)  # user -> what it may do

    def new_token(self, user: str) -> str:
        token = secrets.token_urlsafe(24)
        self.users[token] = user
        return token

    def authenticate(self, authorization: str | None) -> str:
        """The user behind an Authorization header. Raises `StatusError` 401 for a token that nobody has."""
        if authorization is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        user = self.users.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise unauthorized()
        return user

    def authorize(self, user: str, *, verb: str, resource: Resource, namespace: str | None, name: str | None) -> None:
        """Raise `StatusError` 403 unless a rule of the user allows it."""
        if any(rule.allows(verb=verb, resource=resource.plural, namespace=namespace) for rule in self.rules.get(user, ())):
            return
        raise forbidden(user=user, verb=verb, resource=resource.plural, group=resource.group, namespace=namespace, name=name)
