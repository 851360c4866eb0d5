"""``meshlb resolve TARGET``: what discovery sees of a target, from the real sources, for the embedded cluster and for a real one.

Inside a pod it uses what meshlb itself would. Outside, and only here, the user's own kubeconfig is the default, and the context and
namespace are printed first: nobody shall wonder which cluster was asked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshlb.config import Config, resolve_config
from meshlb.core import validate
from meshlb.core.target import Target
from meshlb.errors import ConfigError
from meshlb.mesh import Mesh
from meshlb.pool.view import View
from meshlb.resolve.settings import Discovery

API_PATIENCE_S = 2.0  # a first list, with the import of the client, is there in under one


def resolve(
    target: str, *, kubeconfig: str | None, context: str | None, namespace: str | None, timeout_s: float, as_json: bool
) -> int:
    """Print what is known after at most ``timeout_s``; 0 if an endpoint may take calls, 1 if none, 2 if the call is wrong."""
    timeout_s = validate.seconds("--timeout", timeout_s)
    if kubeconfig == "":
        raise ConfigError("--kubeconfig='': must be a file")
    parsed = Target.parse(target)
    if parsed.scheme == "xds":
        print(f"{target}: left to stock gRPC and its control plane", file=sys.stderr)
        return 0
    may_need_cluster = not parsed.endpoints and parsed.scheme != "dns"
    config, where = _config(kubeconfig, context, namespace) if may_need_cluster else (resolve_config(None, os.environ)[0], None)
    if where is not None and not as_json:
        print(where, file=sys.stderr)
    with Mesh(config) as mesh:
        binding = mesh.bind(target)
        answered = _Answered()
        view = binding.view(answered)
        answered.wait(lambda: view.known or view.error is not None, timeout_s)
        if config.discovery.kubeconfig is not None or _in_pod(config.discovery):
            # DNS is often first; the API server's answer says more, so it gets a moment.
            answered.wait(lambda: view.error is not None or _is_authoritative(view), min(timeout_s, API_PATIENCE_S))
        described = view.pool.describe()
        described["key"] = str(binding.key)
        described["discovery"] = next((pool["discovery"] for pool in mesh.status()["pools"].values()), None)
        described["explained"] = None if view.known else view.explain()
        view.close()
    if as_json:
        print(json.dumps(described, indent=2, default=str))
    else:
        _print(described)
    usable = [one for one in described["endpoints"] if one["state"] == "usable"]
    return 0 if usable or described["fallback"] else 1


def _is_authoritative(view: View) -> bool:
    latest = view.pool.snapshot.latest
    return latest is not None and latest.authoritative


class _Answered:
    """A view's listener that wakes one waiting thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def on_change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition: Any, timeout_s: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout_s))


def _config(kubeconfig: str | None, context: str | None, namespace: str | None) -> tuple[Config, str | None]:
    """The environment's configuration with the flags on top, and a line that says which cluster is asked if it is not our own."""
    config, _ = resolve_config(None, os.environ)
    discovery = config.discovery
    if kubeconfig is None and discovery.kubeconfig is None and not _in_pod(discovery):
        kubeconfig = _default_kubeconfig()
    changes: dict[str, Any] = {}
    if kubeconfig is not None:
        changes["kubeconfig"] = kubeconfig
    if context is not None:
        changes["context"] = context
    where = None
    if kubeconfig is not None or discovery.kubeconfig is not None:
        name, default_namespace = _context(kubeconfig or str(discovery.kubeconfig), context or discovery.context)
        namespace = namespace or discovery.namespace or default_namespace
        where = f"context {name}, namespace {namespace}"
    if namespace is not None:
        changes["namespace"] = namespace
    return Config(**{**config.to_dict(), "discovery": replace(discovery, **changes)}), where


def _in_pod(discovery: Discovery) -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and (Path(discovery.service_account_dir) / "token").exists()


def _default_kubeconfig() -> str | None:
    named = os.environ.get("KUBECONFIG")
    if named:
        return named
    home = Path.home() / ".kube" / "config"
    return str(home) if home.exists() else None


def _context(kubeconfig: str, context: str | None) -> tuple[str, str]:
    """The context's name and its namespace."""
    from kubernetes.config import ConfigException, list_kube_config_contexts

    try:
        contexts, active = list_kube_config_contexts(config_file=kubeconfig)
    except (ConfigException, OSError) as error:
        raise ConfigError(f"kubeconfig={kubeconfig!r}: cannot be used: {error}") from None
    except Exception as error:  # noqa: BLE001 - a parser's words may quote the file, and with it a token
        raise ConfigError(f"kubeconfig={kubeconfig!r}: cannot be read as a kubeconfig ({type(error).__name__})") from None
    if context is not None:
        active = next((one for one in contexts if one["name"] == context), None)
        if active is None:
            names = ", ".join(one["name"] for one in contexts)
            raise ConfigError(f"context={context!r}: {kubeconfig} has {names}")
    return active["name"], active["context"].get("namespace") or "default"


def _print(described: dict[str, Any]) -> None:
    print(f"{described['target']}  →  {described['key']}")
    if described["explained"]:
        print(f"nothing known: {described['explained']}")
        return
    authority = "authoritative" if described["authoritative"] else "not authoritative"
    print(f"source: {described['source']} ({authority}){': ' + described['note'] if described['note'] else ''}")
    for kind in ("endpoints", "fallback"):
        rows = described[kind]
        print(f"{kind}: {len(rows)}")
        for one in rows:
            words = [
                one["address"],
                one["name"],
                one["zone"],
                "" if one["weight"] == 1 else f"weight {one['weight']:g}",
                one["state"],
            ]
            print("  " + "  ".join(word for word in words if word))
    if described["discovery"]:
        print("sources asked:")
        print("  " + json.dumps(described["discovery"], indent=2, default=str).replace("\n", "\n  "))
