"""What is taken from a kubeconfig's obsolete ``auth-provider`` (``users[].user.auth-provider``): OIDC's token, and nothing else.

Kubernetes' own clients dropped ``gcp`` and ``azure`` with 1.26, in favour of plug-ins; they are refused here with the plug-in's name. They
still know ``oidc``, and so does the loader of the ``kubernetes`` package: it asks the identity provider for a new token without any bound
in time, does not check its certificate unless the kubeconfig holds one, and throws the renewed refresh token away. So it is not asked:
the ``id-token`` that stands in the file is used, as long as it is valid. kubectl renews it there, and after a refusal the file is read
again.

Spec: client-go plugin/pkg/client/auth (oidc), release notes of 1.26. Deviations: no token is ever renewed here.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any, Final

_PLUGINS: Final = {"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin"}


class ProviderError(Exception):
    """There is no token; the words are for people and quote nothing but names."""


def provider_token(provider: object) -> str:
    """Its token. Raises ProviderError."""
    name = provider.get("name") if isinstance(provider, Mapping) else None
    if not isinstance(provider, Mapping) or not isinstance(name, str):
        raise ProviderError("its auth-provider has no name")
    if name in _PLUGINS:
        raise ProviderError(f"its auth-provider {name} was dropped with Kubernetes 1.26: use the plug-in {_PLUGINS[name]} (exec)")
    if name != "oidc":
        raise ProviderError("its auth-provider is none that Kubernetes knows")
    config = provider.get("config")
    token = config.get("id-token") if isinstance(config, Mapping) else None
    if not isinstance(token, str) or not token:
        raise ProviderError("its auth-provider oidc holds no id-token")
    if _expires_s(token) <= time.time():
        raise ProviderError("the id-token of its auth-provider oidc has expired: run kubectl once, which renews it")
    return token


def _expires_s(token: str) -> float:
    """Of a JSON Web Token, of the system's clock; infinite if it does not say so in a way that can be read."""
    try:
        body = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"])
    except (ValueError, LookupError, TypeError):
        return float("inf")
