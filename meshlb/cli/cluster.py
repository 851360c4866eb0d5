"""Which cluster a verb asks: the flags, on top of the environment's configuration.

Inside a pod it is what meshlb itself would use. Outside, and only on the command line, the user's own kubeconfig is the default, and
verbs say which context and namespace that is: nobody shall wonder which cluster was asked.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from meshlb.config import Config, Mode, resolve_config
from meshlb.core.target import Target
from meshlb.errors import ConfigError
from meshlb.resolve.kubernetes.kubeconfig import KubeconfigFile
from meshlb.resolve.kubernetes.transport import CredentialsError
from meshlb.resolve.settings import Discovery


class Context(NamedTuple):
    """A kubeconfig's context: its name, the namespace of names without one, and its user's name in the file."""

    name: str
    namespace: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFlags:
    """``--kubeconfig --context --namespace --nameserver`` as they were given."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    nameservers: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> ClusterFlags:
        """Raises ConfigError for an empty file name, which would otherwise mean the default."""
        if arguments.kubeconfig == "":
            raise ConfigError("--kubeconfig='': must be a file")
        return cls(
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            namespace=arguments.namespace,
            nameservers=tuple(getattr(arguments, "nameserver", None) or ()),
        )

    def config_for(self, target: Target) -> tuple[Config, str | None]:
        """``config``; a target that no cluster has a say in reads no kubeconfig."""
        if target.endpoints or target.scheme == "dns":
            return resolve_config(None, os.environ)[0], None
        return self.config()

    def config(self) -> tuple[Config, str | None]:
        """The configuration, and a line that says which cluster is asked if it is not our own. Raises ConfigError."""
        config, _ = resolve_config(None, os.environ)
        discovery = config.discovery
        kubeconfig = self.kubeconfig
        if kubeconfig is None and discovery.kubeconfig is None and not in_pod(discovery):
            kubeconfig = _default_kubeconfig()
        given = {"kubeconfig": kubeconfig, "context": self.context, "nameservers": self.nameservers or None}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        namespace, where = self.namespace, None
        if kubeconfig is not None or discovery.kubeconfig is not None:
            context = context_of(kubeconfig or str(discovery.kubeconfig), self.context or discovery.context)
            namespace = namespace or discovery.namespace or context.namespace
            where = f"context {context.name}, namespace {namespace}"
        if namespace is not None:
            changes["namespace"] = namespace
        return Config(**{**config.to_dict(), "discovery": replace(discovery, **changes)}), where


def in_pod(discovery: Discovery) -> bool:
    """Is there a cluster around us that we have credentials for?"""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (Path(discovery.service_account_dir) / "token").exists()


def _default_kubeconfig() -> str | None:
    named = os.environ.get("KUBECONFIG")
    if named:
        return named
    home = Path.home() / ".kube" / "config"
    return str(home) if home.exists() else None


def context_of(kubeconfig: str, name: str | None) -> Context:
    """The named context, or the current one. Raises ConfigError, which quotes nothing of the file but names of contexts."""
    try:
        file = KubeconfigFile(kubeconfig)
        chosen = file.context_name(name)
    except CredentialsError as error:
        raise ConfigError(error.reason) from None
    details = file.part("contexts", chosen)
    return Context(chosen, str(details.get("namespace") or "default"), str(details.get("user") or ""))


def stock_channel(target: str) -> str:
    """Why the transport's own channel serves the target and meshlb has no say in it; empty if it has one.

    Raises TargetError, and ConfigError for ``MESHLB_MODE``; whatever is turned off as a whole need not be a target at all.
    """
    if Mode.parse(os.environ.get("MESHLB_MODE", "")).is_off(target):
        return "turned off by MESHLB_MODE; the stock channel is used"
    return "left to stock gRPC and its control plane" if Target.parse(target).scheme == "xds" else ""


def tell_stock_channel(target: str, why: str, *, as_json: bool) -> None:
    """What the verbs that look at a target say then."""
    print(json.dumps({"target": target, "source": "stock", "note": why}) if as_json else f"{target}: {why}")
