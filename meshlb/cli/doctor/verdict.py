"""Who would serve, and how well: from what discovery itself came to and from what could be connected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshlb.cli.doctor.check import FAIL, OK, Check

SERVED: Final = 0
DEGRADED: Final = 1
UNSERVED: Final = 2
BY_CLUSTER_IP: Final = ("clusterip", "environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``status`` is the exit status; ``by`` is ``pods``, ``sidecar``, ``clusterip``, ``stock`` (the transport's
    own channel) or ``nobody``, ``source`` who told their addresses."""

    status: int
    by: str
    source: str
    endpoints: int
    why: str


def judge(described: dict[str, Any], checks: Sequence[Check], *, sidecar: bool = False) -> Verdict:
    """``described``: what discovery says (``resolve.look``); ``checks``: all that was looked at; ``sidecar``: calls pass through to one,
    which balances behind the ClusterIP."""
    source = described["source"]
    usable = [one for one in described["endpoints"] if one["state"].startswith("usable")]
    failed = list(dict.fromkeys(check.name for check in checks if check.status == FAIL and check.name != "discovery"))
    also = f"; failed: {', '.join(failed)}" if failed else ""
    known = f"{len(usable)} endpoint{'' if len(usable) == 1 else 's'} by {source}"
    if described["explained"] or not usable:
        why = described["explained"] or described["note"] or "no endpoint may take calls"
        return Verdict(status=UNSERVED, by="nobody", source=source, endpoints=0, why=f"{why}{also}")
    if source not in BY_CLUSTER_IP and _connects("connect pod", checks) is not False:
        status = DEGRADED if failed else SERVED
        return Verdict(status=status, by="pods", source=source, endpoints=len(usable), why=f"{known}{also}")
    if sidecar and _connects("connect clusterip", checks):
        status, why = DEGRADED if failed else SERVED, f"by the sidecar, at the ClusterIP{also}"
        return Verdict(status=status, by="sidecar", source=source, endpoints=len(usable), why=why)
    if _connects("connect clusterip", checks):
        reason = "its pods are not known" if source in BY_CLUSTER_IP else f"none of the {known} can be connected from here"
        return Verdict(
            status=DEGRADED, by="clusterip", source=source, endpoints=len(usable), why=f"by the ClusterIP: {reason}{also}"
        )
    why = f"cannot be connected from here: {'the ClusterIP' if source in BY_CLUSTER_IP else known}{also}"
    return Verdict(status=UNSERVED, by="nobody", source=source, endpoints=0, why=why)


def _connects(name: str, checks: Sequence[Check]) -> bool | None:
    """Any of them; None if none was tried."""
    tried = [check for check in checks if check.name == name and check.status in (OK, FAIL)]
    return any(check.status == OK for check in tried) if tried else None
