"""``meshlb rbac TARGET…``: the least Role and RoleBinding a namespace that discovery of these targets needs. Nobody is asked.

What a target is, the library's own ``Classifier`` says, for a client in a cluster. Of one or two labels (``orders.shop``,
``google.com``) only the cluster's DNS knows whether they are a Service; for those the Role is printed, and that is said.

Whoever runs it is seldom who shall be allowed, so the user of a kubeconfig is never taken for the subject; a pod's own service
account is.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Sequence

from meshlb.cli.cluster import ClusterFlags
from meshlb.config import Config, resolve_config
from meshlb.core.target import Target
from meshlb.errors import ConfigError
from meshlb.resolve.classify import Classifier
from meshlb.resolve.kubernetes.auth import credentials_of
from meshlb.resolve.kubernetes.credentials import ServiceAccount
from meshlb.resolve.kubernetes.rbac import Object, is_account, role, to_yaml, user_of
from meshlb.resolve.kubernetes.transport import CredentialsError
from meshlb.runtime.clock import system_rng
from meshlb.runtime.loop import Loop


def rbac(targets: Sequence[str], cluster: ClusterFlags, *, service_account: str | None, endpoints: bool, as_json: bool) -> int:
    """Print what is to be applied; 0. Raises ConfigError for a target that needs no permission, or for a bad account."""
    if service_account is not None and not is_account(service_account):
        raise ConfigError(f"--service-account={service_account!r}: must be NAMESPACE/NAME")
    parsed = [Target.parse(target) for target in targets]
    for target in parsed:
        if not target.service:
            raise ConfigError(f"{target}: an ordinary name or address, which needs no permission")
    config, where = _config(cluster, parsed)
    classifier = _classifier(config)
    if "kubernetes" not in config.discovery.sources:
        raise ConfigError(f"discovery {', '.join(config.discovery.sources)}: never asks the API server, and needs no permission")
    for target in parsed:
        if not classifier.may_be_service(target):
            raise ConfigError(f"{target}: an ordinary name for clients in zone {classifier.own.zone}, which needs no permission")
    unsure = [str(target) for target in parsed if not classifier.is_certain(target)]
    if unsure:
        print(f"needed only for those that the cluster's DNS knows as Services: {', '.join(unsure)}", file=sys.stderr)
    by_namespace = _services(parsed, classifier)
    if where is not None:
        print(where, file=sys.stderr)
    elif not all(target.namespace for target in parsed):
        print(f"namespace {classifier.own.namespace} for names without one", file=sys.stderr)
    subject = service_account or _own_account(config)
    if not subject:
        print("replace CLIENT_NAMESPACE and CLIENT_SERVICE_ACCOUNT, or give --service-account NAMESPACE/NAME", file=sys.stderr)
    objects = list(
        itertools.chain.from_iterable(
            role(namespace, by_namespace[namespace], subject, endpoints=endpoints) for namespace in sorted(by_namespace)
        )
    )
    print(_json(objects) if as_json else to_yaml(objects), end="")
    return 0


def _config(cluster: ClusterFlags, targets: Iterable[Target]) -> tuple[Config, str | None]:
    """A kubeconfig matters only for the namespace of a name without one."""
    if cluster == ClusterFlags() and all(target.namespace for target in targets):
        return resolve_config(None, os.environ)[0], None
    return cluster.config()


def _services(targets: Iterable[Target], classifier: Classifier) -> dict[str, set[str]]:
    """The Services' names by namespace."""
    services: dict[str, set[str]] = {}
    for target in targets:
        services.setdefault(target.namespace or classifier.own.namespace, set()).add(target.service)
    return services


def _classifier(config: Config) -> Classifier:
    """What is a Service, to a client in a cluster."""
    return Classifier(
        config.discovery, config.fallback, scheduler=Loop(), rng=system_rng(), environ=os.environ, assume_cluster=True
    )


def _own_account(config: Config) -> str:
    """The service account of the pod that this runs in; empty elsewhere."""
    credentials = credentials_of(config.discovery, os.environ)
    if not isinstance(credentials, ServiceAccount):
        return ""
    try:
        return user_of(credentials.authorization())
    except CredentialsError:
        return ""


def _json(objects: Sequence[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2) + "\n"
