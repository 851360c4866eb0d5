"""Which cluster, if any: the pod's own, or the one of a kubeconfig that the configuration names. No other is ever asked.

Spec: client-go rest.InClusterConfig. Deviations: ``KUBECONFIG`` and ``~/.kube/config`` are not looked at: a program on a laptop
must not start to talk to whichever cluster was used last.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.kubernetes.api_client import KubernetesApi
from meshlb.resolve.kubernetes.credentials import Kubeconfig, ServiceAccount
from meshlb.resolve.kubernetes.transport import ApiTransport
from meshlb.resolve.settings import Discovery

# All that requests import, by us or by the libraries: after this no import is under way that a fork could cut in two.
_LAZY: Final = ("kubernetes.config.kube_config", "yaml", "kubernetes.client.rest", "urllib3.util.ssl_", "encodings.idna")

_log = logging.getLogger("meshlb.resolve.kubernetes")


def credentials_of(
    discovery: Discovery, environ: Mapping[str, str], now_s: Callable[[], float] = time.monotonic
) -> Kubeconfig | ServiceAccount | None:
    """Whom to ask, without asking: None if nobody configured a cluster. Looks for one file; imports and reads nothing."""
    if "kubernetes" not in discovery.sources:
        return None
    if discovery.kubeconfig is not None:
        return Kubeconfig(discovery.kubeconfig, discovery.context)
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not (host and port and Path(discovery.service_account_dir, "token").exists()):
        return None
    return ServiceAccount(host, port, discovery.service_account_dir, now_s)


def connect(
    discovery: Discovery,
    *,
    environ: Mapping[str, str] | None = None,
) -> ApiTransport | None:
    """The way to the configured cluster; None if there is none, which is no error: a pod without a token has its DNS.

    Imports ``kubernetes`` (inside ``fork_gate``) and reads files, so it belongs into a helper thread; makes no request.
    Raises CredentialsError.
    """
    credentials = credentials_of(discovery, os.environ if environ is None else environ)
    if credentials is None:
        _log.debug(
            "no Kubernetes API: neither a kubeconfig is configured nor a service account's token in %s",
            discovery.service_account_dir,
        )
        return None
    with fork_gate:
        for module in _LAZY:
            importlib.import_module(module)
    return KubernetesApi(credentials)
