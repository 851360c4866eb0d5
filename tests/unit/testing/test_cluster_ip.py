"""Which endpoints a cluster IP forwards to."""

from __future__ import annotations

from dataclasses import replace

from meshlb.testing.cluster_ip import choose
from meshlb.testing.objects import FakeEndpoint


def endpoint(number: int, **flags: bool | None) -> FakeEndpoint:
    return FakeEndpoint(address=f"10.0.0.{number}", ports={"grpc": 9000}, **flags)


READY = endpoint(1)
UNREADY = endpoint(2, ready=False, serving=False)
DRAINING = endpoint(3, ready=False, serving=True, terminating=True)
ENDING = endpoint(4, ready=False, serving=False, terminating=True)
UNKNOWN = endpoint(5, ready=None, serving=None, terminating=None)


def test_ready_endpoints_are_used_while_there_is_one() -> None:
    """An absent condition means ready; the port is the endpoint's own, not the Service's."""
    assert choose([READY, UNREADY, DRAINING, ENDING, UNKNOWN], "grpc") == [("10.0.0.1", 9000), ("10.0.0.5", 9000)]


def test_serving_terminating_endpoints_are_the_last_resort() -> None:
    """kube-proxy's fallback; what does not serve is never used."""
    assert choose([UNREADY, DRAINING, ENDING], "grpc") == [("10.0.0.3", 9000)]
    assert choose([UNREADY, ENDING], "grpc") == []


def test_endpoints_without_the_port_do_not_count() -> None:
    """Readiness is per port: others being ready does not hide the last resort of this one."""
    assert choose([READY, DRAINING], "http") == []


def test_local_leads_to_the_endpoints_of_one_node_alone() -> None:
    """Ready ones, else those that serve while they terminate, else none."""
    here, there = replace(READY, node="n1"), replace(UNKNOWN, node="n2")
    draining = replace(DRAINING, node="n3")
    assert choose([here, there, draining], "grpc", local_to="n1") == [("10.0.0.1", 9000)]
    assert choose([here, there, draining], "grpc", local_to="n3") == [("10.0.0.3", 9000)]
    assert choose([here, there, draining], "grpc", local_to="n4") == []
