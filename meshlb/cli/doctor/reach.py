"""Can what was found be connected from here? TCP only: whether it answers sensibly is for the pod's own health checks to say."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from meshlb.cli.doctor.check import FAIL, OK, Check, Finding, Probe, examine, skipped

TIMEOUT_S: Final = 1.0
PODS: Final = 5
_MARGIN_S: Final = 0.3  # for a thread to start on a busy machine
_SILENT: Final = (
    "nothing comes back: a NetworkPolicy closes it (egress of this pod's namespace, or ingress of the target's), "
    "or this is outside the cluster's network"
)
_REFUSED: Final = (
    "nobody listens there: is that the number the process listens on (targetPort), on all addresses and not on localhost?"
)


def checks(pods: Sequence[dict[str, Any]], cluster_ip: str, why_no_cluster_ip: str) -> list[Check]:
    """``pods`` as ``Pool.describe`` has its endpoints, the first few are tried; ``cluster_ip`` is ``ip:port``, or empty."""
    chosen = [one for one in pods if not one["address"].startswith(("unix:", "unix-abstract:"))][:PODS]
    probes = [Probe("connect pod", _what(one), _connect(one["address"]), _SILENT) for one in chosen]
    if cluster_ip:
        probes.append(Probe("connect clusterip", f"the ClusterIP {cluster_ip}", _connect(cluster_ip), _SILENT))
    found = examine(probes, TIMEOUT_S + _MARGIN_S)
    if not chosen:
        found.insert(0, skipped("connect pod", "the pods", "no pod's address is known"))
    if not cluster_ip:
        found.append(skipped("connect clusterip", "the ClusterIP", why_no_cluster_ip))
    return found


def _what(one: dict[str, Any]) -> str:
    return f"{one['name']} at {one['address']}" if one["name"] else str(one["address"])


def _connect(address: str) -> Callable[[], Finding]:
    host, _, port = address.rpartition(":")

    def ask() -> Finding:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
        except TimeoutError:
            return Finding(FAIL, f"no answer in {TIMEOUT_S:g} s", _SILENT)
        except ConnectionRefusedError:
            return Finding(FAIL, "connection refused", _REFUSED)
        except OSError as error:
            return Finding(FAIL, error.strerror or str(error), _SILENT)
        return Finding(OK, "connected")

    return ask
