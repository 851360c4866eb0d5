"""``meshlb demo``: stock gRPC and meshlb on one embedded cluster, through what happens to a Service in a week, in about 40 s.

First the two stock ways: a channel on the ClusterIP (pinned to one pod) and ``dns:///`` with ``round_robin`` (blind to new pods).
Then meshlb, sync and asyncio at once: spread, a scale-up, a rolling update, ``kill -9``, the API server away, API and DNS away with a
client that starts only then. Every scene states what must hold; the exit code is 1 if something did not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from meshlb.config import Config

if TYPE_CHECKING:
    from meshlb.cli.demo_load import Load, Sample
    from meshlb.cli.demo_report import Report, Row
    from meshlb.mesh import Mesh
    from meshlb.testing import FakeCluster, FakeService

SCENE_S = 4.0  # long enough for some 1,500 calls, so that a share of 1/5 is known to a few per cent
STOCK_CALLS = 90
FAIR_SHARE_RATIO = 0.5  # a pod that got less than half of its fair share was not balanced over
SETTLE_S = 5.0


def demo(*, as_json: bool = False) -> int:
    """Run all scenes; 0 if every promise held, 1 if not, 2 if the extra is missing."""
    try:
        from meshlb.cli.demo_report import Report
        from meshlb.testing import FakeCluster
    except ImportError as error:
        missing = "protobuf" if str(error.name).startswith("google") else error.name
        print(f"meshlb: the demo needs its extra ({missing} is missing): pip install 'meshlb[demo]'", file=sys.stderr)
        return 2
    report = Report(as_json=as_json)
    try:
        report.say("starting a cluster: API server, DNS, ClusterIP, pods")
        with FakeCluster(namespace="shop") as cluster:
            _stock_scenes(cluster, report)
            _meshlb_scenes(cluster, report)
    finally:
        report.close()
    return report.print()


def _stock_scenes(cluster: FakeCluster, report: Report) -> None:
    import grpc

    from meshlb.cli.demo_report import row

    headless = cluster.service("orders-headless", replicas=3, headless=True)
    report.say("stock gRPC on the ClusterIP")
    orders = cluster.service("orders", replicas=3)
    with grpc.insecure_channel(f"{orders.cluster_ip}:{orders.port}") as channel:
        pinned = row("ClusterIP", "stock gRPC", _calls(channel, STOCK_CALLS), _names(orders))
    pinned.note = "pinned to one pod"
    report.add(pinned)

    report.say("stock gRPC with dns:/// and round_robin, 3 → 5 pods")
    pod_port = headless.pods[0].port
    target = f"dns://{cluster.nameserver}/orders-headless.shop.svc.cluster.local:{pod_port}"
    with grpc.insecure_channel(target, options=[("grpc.lb_policy_name", "round_robin")]) as channel:
        _calls(channel, STOCK_CALLS // 3)
        headless.scale(5)
        samples = _calls(channel, STOCK_CALLS * 2, period_s=0.02)
    blind = row("dns round_robin, 3 → 5", "stock gRPC", samples, _names(headless))
    idle = sum(1 for share in blind.shares.values() if share == 0)
    blind.note = f"{idle} new pods idle"
    report.add(blind)
    headless.delete()


def _meshlb_scenes(cluster: FakeCluster, report: Report) -> None:
    import meshlb.grpc
    import meshlb.grpc.aio
    from meshlb.cli.demo_load import Load

    orders = next(service for service in cluster.services if service.name == "orders")
    with _mesh(cluster) as mesh, meshlb.grpc.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
        load = Load(channel, lambda: meshlb.grpc.aio.insecure_channel("orders.shop:grpc", mesh=mesh))
        load.start()
        stage = _Stage(load, orders, report)
        try:
            stage.play("spread over 3 pods", lambda: None)
            stage.play("3 → 5 pods", lambda: orders.scale(5))
            stage.play("rolling update", lambda: orders.rolling_update(version="v2", prestop_s=1.0, max_surge=2), linger_s=1.0)
            stage.play("kill -9", lambda: orders.pods[0].kill(), hard=True)
            stage.play("API server away", cluster.api.stop)
            stage.play("API and DNS away", cluster.dns.stop, linger_s=1.5)
            _newcomer(cluster, report)
        finally:
            load.stop()


def _newcomer(cluster: FakeCluster, report: Report) -> None:
    """A client that starts when nothing answers has only what the kubelet wrote into its environment."""
    import meshlb.grpc
    from meshlb.cli.demo_load import Load
    from meshlb.cli.demo_report import row

    report.say("a client that starts now")
    with _mesh(cluster) as mesh, meshlb.grpc.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
        load = Load(channel, None)
        load.start()
        time.sleep(1.5)
        load.stop()
        one = row("… and a client that starts now", "meshlb sync", load.samples)
        sources = {pool["source"] for pool in mesh.status()["pools"].values()}
    one.note = "over the ClusterIP"
    _expect(one, not one.failed, f"{one.failed} calls failed: {_first_error(load.samples)}")
    _expect(one, sources == {"environment"}, f"expected the environment as the source, got {', '.join(sources)}")
    report.add(one)


def _mesh(cluster: FakeCluster) -> Mesh:
    from meshlb.mesh import Mesh

    discovery = {"kubeconfig": cluster.kubeconfig, "nameservers": [cluster.nameserver], "resolv_conf": cluster.resolv_conf}
    return Mesh(Config(discovery=discovery), environ=cluster.environ("shop"))


class _Stage:
    """Plays one scene at a time under the running load and judges it."""

    def __init__(self, load: Load, orders: FakeService, report: Report) -> None:
        self._load = load
        self._orders = orders
        self._report = report

    def play(self, scene: str, act: Callable[[], object], *, linger_s: float = SCENE_S, hard: bool = False) -> None:
        """Act, go on for ``linger_s``, and look at the calls between. ``hard``: calls in flight on the dying pod may fail."""
        from meshlb.cli.demo_report import row

        self._report.say(scene)
        known = set(_names(self._orders))
        first, begun_s = len(self._load.samples), time.monotonic()
        act()
        self._await_all(hard=hard)
        settled, settled_s = len(self._load.samples), time.monotonic()
        time.sleep(linger_s)
        if hard:
            self._orders.wait_ready()
        played = self._load.samples[first:]
        new = {pod.name for pod in self._orders.ready_pods} - known
        for mode in ("sync", "asyncio"):
            mine = [sample for sample in played if sample.mode == mode]
            steady = [sample for sample in self._load.samples[settled:] if sample.mode == mode and sample.start_s >= settled_s]
            one = row(scene, f"meshlb {mode}", mine)
            one.shares = row(scene, "", steady, _names(self._orders)).shares
            failed = [sample for sample in mine if sample.error]
            lost = [sample for sample in failed if not (hard and sample.start_s <= begun_s + 0.005)]
            _expect(one, bool(mine), "no call was made")
            _expect(one, not lost, f"{len(lost)} calls failed: {_first_error(lost)}")
            if hard:
                one.note = f"{len(failed)} in flight on the dead pod"
            else:
                fair = 100 / max(len(one.shares), 1)
                starved = [pod for pod, share in one.shares.items() if share < FAIR_SHARE_RATIO * fair]
                _expect(one, not starved, f"{', '.join(starved)} got less than half of a fair share")
            self._time_first_calls(one, mine, new)
            self._report.add(one)

    def _await_all(self, *, hard: bool) -> None:
        """Until both clients have met every pod, so that shares are those of connected ones on a slow machine as well; a while."""
        first, until_s = len(self._load.samples), time.monotonic() + SETTLE_S
        missing = {(mode, pod) for mode in ("sync", "asyncio") for pod in _names(self._orders)}
        while missing and not hard and time.monotonic() < until_s:
            time.sleep(0.01)
            missing -= {(sample.mode, sample.pod) for sample in self._load.samples[first:]}

    def _time_first_calls(self, one: Row, samples: list[Sample], new: set[str]) -> None:
        delays = []
        for pod in sorted(new):
            starts = [sample.start_s for sample in samples if sample.pod == pod]
            _expect(one, bool(starts), f"the new pod {pod} got no call")
            if starts:
                delays.append(max(0.0, min(starts) - self._orders.ready_since_s[pod]))
        if delays:
            one.first_call_ms = round(max(delays) * 1000, 1)


def _calls(channel: object, count: int, period_s: float = 0.0) -> list[Sample]:
    """Calls one after the other on a stock channel."""
    from meshlb._proto import echo_pb2, echo_pb2_grpc
    from meshlb.cli.demo_load import TIMEOUT_S, Sample

    stub = echo_pb2_grpc.EchoStub(channel)
    samples = []
    for _ in range(count):
        start_s = time.monotonic()
        reply = stub.Get(echo_pb2.EchoRequest(payload="hello"), timeout=TIMEOUT_S)
        samples.append(Sample("stock", reply.pod, start_s, time.monotonic()))
        time.sleep(period_s)
    return samples


def _names(service: FakeService) -> list[str]:
    return [pod.name for pod in service.ready_pods]


def _first_error(samples: list[Sample]) -> str:
    return next((sample.error for sample in samples if sample.error), "")


def _expect(one: Row, held: bool, broken: str) -> None:
    if not held:
        one.broken.append(broken)
