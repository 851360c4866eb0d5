"""The Role that is missing, ready to apply."""

from __future__ import annotations

import pytest
import yaml

from meshlb.resolve.kubernetes.rbac import role_yaml, user_in
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
