"""What tests of meshlb, and of services that use it, need: a small Kubernetes in one object, and clocks that stand still.

::

    from meshlb.testing import FakeCluster

    with FakeCluster() as cluster:                                  # API server and DNS on loopback; a few ms
        orders = cluster.service("orders", "shop", replicas=3, ports={"grpc": 50051})    # 3 server processes, ready
        cluster.kubeconfig, cluster.nameserver                      # paths and "ip:port" for the client under test
        cluster.environ("shop")                                     # what the kubelet would set: ORDERS_SERVICE_HOST, …
        orders.cluster_ip                                           # picks a pod a *connection*, as kube-proxy does

        orders.scale(5)                                             # returns when 5 are ready; wait=False returns at once
        orders.rolling_update(version="v2", prestop_s=0.2, grace_s=5.0)
        orders.pods[0].kill(); orders.pods[1].freeze(); orders.pods[2].set_ready(False)
        orders.wait_ready(5)

        cluster.api.cut(); cluster.api.stall(); cluster.api.resume()          # watches reset; silence; go on
        cluster.api.fail(500, times=3); cluster.api.fail(403); cluster.api.recover()
        cluster.api.compact(); cluster.api.restart(); cluster.api.stop(); cluster.api.start()
        cluster.dns.fail("SERVFAIL"); cluster.dns.recover(); cluster.dns.stop(); cluster.dns.start()
        cluster.dns.add("db.example.com", ["127.0.0.1"])
        cluster.api.requests, cluster.dns.queries                   # everything that was asked, to count and to assert on

        big = cluster.service("big", endpoints=[f"127.9.{i // 250}.{i % 250 + 1}:80" for i in range(10_000)])   # no processes
        big.set_endpoints(["127.9.0.1:80"])

    from meshlb.testing import check_policy

    check_policy("mine")                                            # what every policy promises, tried on a policy of your own

Every pod serves ``meshlb.testing.v1.Echo`` (``meshlb._proto.echo_pb2_grpc.EchoStub``) on each target port and says in each reply
which pod it is. The service port and the target port differ. Methods may be called from any thread; they block, so in asyncio
tests wrap the long ones in ``asyncio.to_thread``. With pytest: ``-p meshlb.testing.plugin`` gives the fixture ``fake_cluster``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshlb.testing.api_server import ApiServer as ApiServer
    from meshlb.testing.authorization import Rule as Rule
    from meshlb.testing.clock import ManualClock as ManualClock
    from meshlb.testing.cluster import FakeCluster as FakeCluster
    from meshlb.testing.dns_server import DnsServer as DnsServer
    from meshlb.testing.errors import FakeClusterError as FakeClusterError
    from meshlb.testing.objects import FakeEndpoint as FakeEndpoint
    from meshlb.testing.pod import Pod as Pod
    from meshlb.testing.policy_check import check_policy as check_policy
    from meshlb.testing.service import FakeService as FakeService

# Name -> module: importing this package must not import grpc, dnspython or asyncio before one of these is used.
_HOME = {
    "ApiServer": "meshlb.testing.api_server",
    "DnsServer": "meshlb.testing.dns_server",
    "FakeCluster": "meshlb.testing.cluster",
    "FakeClusterError": "meshlb.testing.errors",
    "FakeEndpoint": "meshlb.testing.objects",
    "FakeService": "meshlb.testing.service",
    "ManualClock": "meshlb.testing.clock",
    "Pod": "meshlb.testing.pod",
    "Rule": "meshlb.testing.authorization",
    "check_policy": "meshlb.testing.policy_check",
}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # a type checker that saw it would take any misspelt name for one of ours

    def __getattr__(name: str) -> object:
        try:
            home = _HOME[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
