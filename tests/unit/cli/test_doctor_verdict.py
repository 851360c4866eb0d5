"""Who would serve, from what discovery says and what could be connected."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.cli.doctor.check import Check
from meshlb.cli.doctor.verdict import judge


def check(name: str, status: str) -> Check:
    return Check(name=name, status=status, what="", took_ms=0.0, detail="")


def said(source: str, *states: str, explained: str | None = None, note: str = "") -> dict[str, Any]:
    endpoints = [{"state": state, "address": f"10.0.0.{n}:80"} for n, state in enumerate(states)]
    return {"source": source, "endpoints": endpoints, "explained": explained, "note": note}


POD, POD_FAILS = check("connect pod", "ok"), check("connect pod", "fail")
VIP, VIP_FAILS = check("connect clusterip", "ok"), check("connect clusterip", "fail")


@pytest.mark.parametrize(
    ("described", "checks", "status", "by"),
    [
        pytest.param(said("kubernetes", "usable"), [POD, VIP], 0, "pods", id="all well"),
        pytest.param(said("dns", "usable"), [POD, check("api server", "skipped")], 0, "pods", id="DNS alone, as configured"),
        pytest.param(said("kubernetes", "usable"), [POD, check("dns tcp", "warn")], 0, "pods", id="a warning"),
        pytest.param(said("dns", "usable"), [POD, check("list endpointslices", "fail")], 1, "pods", id="a better source failed"),
        pytest.param(said("kubernetes", "usable", "usable"), [POD, POD_FAILS], 1, "pods", id="one pod away"),
        pytest.param(said("kubernetes", "usable"), [POD_FAILS, VIP], 1, "clusterip", id="pods closed, ClusterIP open"),
        pytest.param(said("kubernetes", "usable"), [POD_FAILS, VIP_FAILS], 2, "nobody", id="everything closed"),
        pytest.param(said("clusterip", "usable"), [VIP], 1, "clusterip", id="ClusterIP"),
        pytest.param(said("environment", "usable"), [VIP_FAILS], 2, "nobody", id="a ClusterIP that is closed"),
        pytest.param(said("kubernetes", "not ready"), [], 2, "nobody", id="nobody ready"),
        pytest.param(said("none", explained="no such Service"), [VIP], 2, "nobody", id="nothing known"),
        pytest.param(
            said("static", "usable"), [check("connect pod", "skipped")], 0, "pods", id="nothing to connect: a unix socket"
        ),
    ],
)
def test_the_exit_status_says_who_would_serve(described: dict[str, Any], checks: list[Check], status: int, by: str) -> None:
    """0 pods and all well, 1 the ClusterIP or something failed, 2 nobody."""
    verdict = judge(described, checks)
    assert (verdict.status, verdict.by) == (status, by)
    assert verdict.why


def test_the_reason_names_what_failed() -> None:
    """Once each, by its stable name."""
    verdict = judge(
        said("dns", "usable"), [POD, check("list endpointslices", "fail"), check("dns udp", "fail"), check("dns udp", "fail")]
    )
    assert verdict.why == "1 endpoint by dns; failed: list endpointslices, dns udp"


def test_a_sidecar_serves_at_the_clusterip_as_it_should() -> None:
    """Which would be a fallback without one."""
    verdict = judge(said("clusterip", "usable"), [VIP], sidecar=True)
    assert (verdict.status, verdict.by) == (0, "sidecar")
    assert judge(said("clusterip", "usable"), [VIP_FAILS], sidecar=True).status == 2
    assert judge(said("kubernetes", "usable"), [POD], sidecar=True).by == "pods"  # a headless Service
