"""``meshlb resolve TARGET``: what discovery sees of a target, from the real sources, for the embedded cluster and for a real one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from meshlb.cli.cluster import ClusterFlags, in_pod, stock_channel, tell_stock_channel
from meshlb.config import Config
from meshlb.core import validate
from meshlb.core.target import Target
from meshlb.mesh import Mesh
from meshlb.pool.view import View

API_PATIENCE_S = 2.0  # a first list, with the import of the client, is there in under one


def resolve(target: str, cluster: ClusterFlags, *, timeout_s: float, as_json: bool) -> int:
    """Print what is known after at most ``timeout_s``; 0 if an endpoint may take calls, 1 if none, 2 if the call is wrong."""
    timeout_s = validate.seconds("--timeout", timeout_s)
    stock = stock_channel(target)
    if stock:
        tell_stock_channel(target, stock, as_json=as_json)
        return 0
    config, where = cluster.config_for(Target.parse(target))
    if where is not None and not as_json:
        print(where, file=sys.stderr)
    described = look(target, config, timeout_s)
    if as_json:
        print(json.dumps(described, indent=2, default=str))
    else:
        _print(described)
    usable = [one for one in described["endpoints"] if one["state"].startswith("usable")]
    return 0 if usable or described["fallback"] else 1


def look(target: str, config: Config, timeout_s: float) -> dict[str, Any]:
    """What discovery knows after at most ``timeout_s`` and a moment for the API server, as ``Pool.describe`` says it, with ``key``,
    ``discovery`` (the sources, each by itself) and ``explained`` (why nothing is known, or None)."""
    with Mesh(config) as mesh:
        binding = mesh.bind(target)
        answered = _Answered()
        view = binding.view(answered)
        answered.wait(lambda: view.known or view.error is not None, timeout_s)
        if config.discovery.kubeconfig is not None or in_pod(config.discovery):
            # DNS is often first; the API server's answer says more, so it gets a moment.
            answered.wait(lambda: view.error is not None or _is_authoritative(view), min(timeout_s, API_PATIENCE_S))
        described = view.pool.describe()
        described["key"] = str(binding.key)
        described["discovery"] = next((pool["discovery"] for pool in mesh.status()["pools"].values()), None)
        described["explained"] = None if view.known else view.explain()
        view.close()
    return described


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

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)


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
