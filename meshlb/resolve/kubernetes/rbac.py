"""The permission that is missing, ready to apply: a Role in the target's namespace and its binding to whoever we are.

Spec: rbac.authorization.k8s.io/v1. RBAC cannot narrow ``list`` and ``watch`` by label, and slices have generated names, so the slices
of the whole namespace become readable; ``get`` on slices is not needed. Reading the Services themselves is optional: it lets a target
be written with the Service's port number, and gives the ClusterIP to fall back to. They, and the older Endpoints objects, which carry
the Service's name, are allowed by name.

Written as YAML by hand, one line a rule: PyYAML, which ``kubernetes`` brings along, would have to be imported to write a log line.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

NAME: Final = "meshlb-discovery"
_GROUP: Final = "rbac.authorization.k8s.io"
_ACCOUNT = re.compile(r"(?:system:serviceaccount:(?P<namespace>[^:/]+):|(?P<ns>[^:/]+)/)(?P<name>[^:/]+)")
_USER = re.compile(r'User "([^"]+)"')
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9./_-]*")
_NOT_STRINGS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # of YAML 1.1, as kubectl reads it

Object = dict[str, Any]


def role(namespace: str, services: Iterable[str], service_account: str = "", *, endpoints: bool = False) -> tuple[Object, Object]:
    """A Role that lets ``service_account`` see the pods of ``services`` in ``namespace``, and its RoleBinding, as plain data.

    ``service_account``: ``namespace/name``, or a user as the API server prints it (``system:serviceaccount:namespace:name``, or any
    other name); empty leaves two words in capitals to fill in. ``endpoints``: for API servers that refuse or lack EndpointSlices.
    """
    names = sorted(set(services))
    rules: list[Object] = [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get"], "resourceNames": names},
    ]
    if endpoints:
        rules.append({"apiGroups": [""], "resources": ["endpoints"], "verbs": ["list", "watch"], "resourceNames": names})
    metadata = {"name": NAME, "namespace": namespace}
    api = {"apiVersion": f"{_GROUP}/v1"}
    binding = {
        "roleRef": {"apiGroup": _GROUP, "kind": "Role", "name": NAME},
        "subjects": [_subject(service_account)],
    }
    return {**api, "kind": "Role", "metadata": metadata, "rules": rules}, {
        **api,
        "kind": "RoleBinding",
        "metadata": metadata,
        **binding,
    }


def role_yaml(namespace: str, services: Iterable[str], service_account: str = "", *, endpoints: bool = False) -> str:
    """``role`` as two YAML documents."""
    return to_yaml(role(namespace, services, service_account, endpoints=endpoints))


def to_yaml(objects: Iterable[Object]) -> str:
    """One document an object; what is deep in it stands in one line."""
    return "---\n".join("".join(_line(key, value) for key, value in one.items()) for one in objects)


def user_in(message: str) -> str:
    """The user that a refusal names (``… is forbidden: User "…" cannot …``); empty if it names none."""
    match = _USER.search(message)
    return match.group(1) if match else ""


def user_of(authorization: str) -> str:
    """The user that a service account's token is for, unverified, as the API server prints it; empty if it does not say."""
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return ""
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) and _ACCOUNT.fullmatch(subject) else ""


def is_account(text: str) -> bool:
    """Is it ``namespace/name``, or a service account as the API server prints it?"""
    return _ACCOUNT.fullmatch(text) is not None


def _subject(account: str) -> Object:
    match = _ACCOUNT.fullmatch(account or "CLIENT_NAMESPACE/CLIENT_SERVICE_ACCOUNT")
    if match is not None:
        return {"kind": "ServiceAccount", "name": match["name"], "namespace": match["namespace"] or match["ns"]}
    return {"kind": "User", "name": account, "apiGroup": _GROUP}


def _line(key: str, value: object) -> str:
    if key == "rules" and isinstance(value, list):
        return f"{key}:\n" + "".join(f"- {_flow(one)}\n" for one in value)
    return f"{key}: {_flow(value)}\n"


def _flow(value: object) -> str:
    """A value in one line; JSON is YAML, and plain words may go without quotes in a mapping."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        inner = (json.dumps(one) if isinstance(one, str) else _flow(one) for one in value)
        return "[" + ", ".join(inner) + "]"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NOT_STRINGS else json.dumps(text)
