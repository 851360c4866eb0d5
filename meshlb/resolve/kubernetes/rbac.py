"""The permission that is missing, as YAML to apply: a Role in the target's namespace and its binding to whoever we are.

Spec: rbac.authorization.k8s.io/v1. RBAC cannot narrow ``list`` and ``watch`` by label, so the slices of the whole namespace become
readable; ``get`` on slices is not needed. Reading the Services themselves is optional: it lets a target be written with the
Service's port number, and gives the ClusterIP to fall back to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ACCOUNT = re.compile(r"(?:system:serviceaccount:(?P<namespace>[^:/]+):|(?P<ns>[^:/]+)/)(?P<name>[^:/]+)")
_USER = re.compile(r'User "([^"]+)"')

_TEMPLATE = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: meshlb-discovery, namespace: {namespace}}}
rules:
- {{apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]}}
- {{apiGroups: [""], resources: ["services"], verbs: ["get"], resourceNames: [{services}]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: meshlb-discovery, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: meshlb-discovery}}
subjects: [{subject}]
"""


def role_yaml(namespace: str, services: Iterable[str], service_account: str = "") -> str:
    """What lets ``service_account`` see the pods of ``services`` in ``namespace``.

    ``service_account``: ``namespace/name``, or a user as the API server prints it (``system:serviceaccount:namespace:name``, or any
    other name); empty leaves two words in capitals to fill in.
    """
    names = ", ".join(f'"{name}"' for name in sorted(set(services)))
    return _TEMPLATE.format(namespace=namespace, services=names, subject=_subject(service_account))


def user_in(message: str) -> str:
    """The user that a refusal names (``… is forbidden: User "…" cannot …``); empty if it names none."""
    match = _USER.search(message)
    return match.group(1) if match else ""


def _subject(account: str) -> str:
    match = _ACCOUNT.fullmatch(account or "CLIENT_NAMESPACE/CLIENT_SERVICE_ACCOUNT")
    if match is not None:
        return f"{{kind: ServiceAccount, name: {match['name']}, namespace: {match['namespace'] or match['ns']}}}"
    return f'{{kind: User, name: "{account}", apiGroup: rbac.authorization.k8s.io}}'
