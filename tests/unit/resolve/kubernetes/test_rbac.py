"""The Role that is missing, ready to apply."""

from __future__ import annotations

import base64
import json

import pytest
import yaml

from meshlb.resolve.kubernetes.rbac import is_account, role, role_yaml, to_yaml, user_in, user_of
from tests.unit.resolve.kubernetes.recordings import exchange


def test_the_role_is_the_least_that_discovery_needs_in_that_namespace() -> None:
    """List and watch slices; read the Services that are used, by name."""
    role, binding = yaml.safe_load_all(role_yaml("shop", ["pay", "orders", "pay"], "web/frontend"))
    assert (role["kind"], role["metadata"]) == ("Role", {"name": "meshlb-discovery", "namespace": "shop"})
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get"], "resourceNames": ["orders", "pay"]},
    ]
    assert (binding["kind"], binding["metadata"]["namespace"], binding["roleRef"]["name"]) == (
        "RoleBinding",
        "shop",
        "meshlb-discovery",
    )
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "frontend", "namespace": "web"}]


@pytest.mark.parametrize(
    ("account", "subject"),
    [
        ("web/frontend", {"kind": "ServiceAccount", "name": "frontend", "namespace": "web"}),
        ("system:serviceaccount:web:frontend", {"kind": "ServiceAccount", "name": "frontend", "namespace": "web"}),
        ("system:anonymous", {"kind": "User", "name": "system:anonymous", "apiGroup": "rbac.authorization.k8s.io"}),
        ("viewer", {"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}),
        ("jane@example.com", {"kind": "User", "name": "jane@example.com", "apiGroup": "rbac.authorization.k8s.io"}),
        ("", {"kind": "ServiceAccount", "name": "CLIENT_SERVICE_ACCOUNT", "namespace": "CLIENT_NAMESPACE"}),
    ],
)
def test_the_binding_names_whoever_was_refused(account: str, subject: dict[str, str]) -> None:
    """A service account, a user of a kubeconfig, or words to fill in."""
    _, binding = yaml.safe_load_all(role_yaml("shop", ["orders"], account))
    assert binding["subjects"] == [subject]


def test_a_refusal_of_a_real_server_says_who_was_refused() -> None:
    """The message is the only place where a client learns its own name."""
    assert user_in(exchange("errors", "no RBAC: list").body.decode().replace('\\"', '"')) == "viewer"
    assert user_in("no") == ""


@pytest.mark.parametrize("word", ["no", "1234", "1e3", "null", "y", "0x1f", "shop"])
def test_names_that_yaml_would_take_for_something_else_stay_names(word: str) -> None:
    """A namespace may be called like a number or a truth value."""
    objects = role(word, [word], f"{word}/{word}", endpoints=True)
    assert list(yaml.safe_load_all(to_yaml(objects))) == list(objects)


def test_endpoints_are_allowed_by_name_when_they_are_wanted_too() -> None:
    """Each is listed and watched by its own name, so the rest of the namespace stays closed."""
    rules = role("shop", ["pay", "orders"], endpoints=True)[0]["rules"]
    assert rules[-1] == {
        "apiGroups": [""],
        "resources": ["endpoints"],
        "verbs": ["list", "watch"],
        "resourceNames": ["orders", "pay"],
    }


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"Bearer eyJhbGciOiJub25lIn0.{body}.c2ln"


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (token(sub="system:serviceaccount:web:frontend"), "system:serviceaccount:web:frontend"),
        (token(sub="jane@example.com"), ""),
        (token(sub=7), ""),
        (token(iss="x"), ""),
        ("Bearer opaque", ""),
        ("Bearer a.%%%.c", ""),
        ("Bearer a.bnVsbA.c", ""),
        ("", ""),
    ],
)
def test_a_service_accounts_token_says_whose_it_is(authorization: str, user: str) -> None:
    """Anything else says nothing, and never raises."""
    assert user_of(authorization) == user


def test_an_account_has_a_namespace_and_a_name() -> None:
    """Or is written as the API server prints it."""
    assert is_account("web/frontend")
    assert is_account("system:serviceaccount:web:frontend")
    assert not is_account("frontend")
    assert not is_account("a/b/c")
