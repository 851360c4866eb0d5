"""Pods of the fake cluster: real processes that are scaled, updated, killed and frozen, and what the cluster says of them."""

from __future__ import annotations

import asyncio
import atexit
import collections
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.testing import FakeCluster, FakeClusterError, FakeService, Pod
from tests.integration.fake_cluster_client import SLICES, Api, eventually

SHOP = SLICES.format("shop")
ORDERS = "kubernetes.io/service-name=orders"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


def call(address: str, **request: Any) -> echo_pb2.EchoReply:
    """One call over a connection of its own."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(**request), timeout=5)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as stat:  # ended, but its new parent has not looked yet
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return os.path.exists("/proc") is False


class Story:
    """Follows a Service's slices by watch, in a thread, and remembers every state of every endpoint."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._watch = Api(cluster).watch(SHOP, labelSelector=ORDERS)
        self.states: dict[str, list[str]] = collections.defaultdict(list)
        self.ready_counts: list[int] = []
        self.live_counts: list[int] = []  # listed and not terminating
        self.ready_when_gone: dict[str, int] = {}
        self._slices: dict[str, list[Any]] = {}
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event in self._watch.lines():
                self._apply(event)
        except (OSError, ValueError, AttributeError):
            pass  # the cluster was closed

    def _apply(self, event: Any) -> None:
        name = event["object"]["metadata"]["name"]
        self._slices[name] = [] if event["type"] == "DELETED" else event["object"]["endpoints"] or []
        present = {entry["targetRef"]["uid"]: entry["conditions"] for entries in self._slices.values() for entry in entries}
        for uid, conditions in present.items():
            flags = "".join(key[0] if conditions[key] else "-" for key in ("ready", "serving", "terminating"))
            if self.states[uid][-1:] != [flags]:
                self.states[uid].append(flags)
        for uid in set(self.states) - set(present):
            if self.states[uid][-1] != "gone":
                self.states[uid].append("gone")
                self.ready_when_gone[uid] = sum(conditions["ready"] for conditions in present.values())
        self.ready_counts.append(sum(conditions["ready"] for conditions in present.values()))
        self.live_counts.append(sum(not conditions["terminating"] for conditions in present.values()))


def test_a_service_starts_with_its_pods_ready_each_at_an_address_of_its_own(cluster: FakeCluster) -> None:
    """They say who they are, what they saw, and listen on the target port, which is not the service port."""
    orders = cluster.service("orders", replicas=3, version="v7")
    pods = orders.ready_pods
    assert len({pod.address for pod in pods}) == len({pod.uid for pod in pods}) == len({pod.name for pod in pods}) == 3
    assert orders.port not in {pod.port for pod in pods}
    reply = call(pods[0].address, payload="hello")
    assert (reply.payload, reply.pod, reply.version) == ("hello", pods[0].name, "v7")
    assert reply.authority in ("", pods[0].address)
    assert "user-agent" in {entry.key for entry in reply.metadata}
    assert {(pod.node, pod.zone) for pod in pods} == {("node-1", "zone-a"), ("node-2", "zone-b"), ("node-3", "zone-c")}


def test_pods_serve_all_four_kinds_of_call(cluster: FakeCluster) -> None:
    """And fail as asked, with code and details."""
    orders = cluster.service("orders", replicas=1)
    with grpc.insecure_channel(orders.pods[0].address) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        ask = echo_pb2.EchoRequest
        assert [reply.sequence for reply in stub.Watch(ask(count=3, interval_s=0.001), timeout=5)] == [0, 1, 2]
        collected = stub.Collect(iter([ask(payload="a"), ask(payload="b")]), timeout=5)
        assert (collected.payload, collected.sequence) == ("b", 2)
        chat = stub.Chat(iter([ask(payload="a"), ask(payload="b")]), timeout=5)
        assert [(reply.payload, reply.sequence) for reply in chat] == [("a", 0), ("b", 1)]
        with pytest.raises(grpc.RpcError) as failed:
            stub.Get(ask(fail_code=8, fail_details="busy"), timeout=5)
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        started_s = time.monotonic()
        stub.Get(ask(delay_s=0.05), timeout=5)
        assert time.monotonic() - started_s >= 0.05


def test_a_pod_is_listed_not_ready_before_it_listens_and_gone_after_it_ended(cluster: FakeCluster) -> None:
    """The life of an endpoint through scaling up and down: not ready, ready, terminating but serving, gone."""
    orders = cluster.service("orders", replicas=0)
    story = Story(cluster)
    orders.scale(3)
    assert len(orders.ready_pods) == 3
    orders.scale(1)
    assert len(orders.pods) == 1
    eventually(lambda: sum(states[-1] == "gone" for states in story.states.values()) == 2)
    lives = sorted(tuple(states) for states in story.states.values())
    assert lives == [("---", "rs-"), ("---", "rs-", "-st", "gone"), ("---", "rs-", "-st", "gone")]


def test_a_rolling_update_replaces_every_pod_and_never_falls_below_the_wanted_number(cluster: FakeCluster) -> None:
    """New ip, uid and version for each; with max_surge=1 there is one more at most."""
    orders = cluster.service("orders", replicas=3)
    old = {pod.uid: pod.ip for pod in orders.pods}
    story = Story(cluster)
    eventually(lambda: story.ready_counts)
    orders.rolling_update(version="v2", prestop_s=0.05)
    assert {pod.version for pod in orders.pods} == {"v2"}
    assert not set(old) & {pod.uid for pod in orders.pods}
    assert not set(old.values()) & {pod.ip for pod in orders.pods}
    eventually(lambda: all(story.states[uid][-1] == "gone" for uid in old))
    assert all(story.states[uid] == ["rs-", "-st", "gone"] for uid in old)
    assert min(story.ready_counts) >= 3
    assert max(story.live_counts) == 4


def test_max_unavailable_lets_pods_go_first(cluster: FakeCluster) -> None:
    """Without surge there is never a fourth pod."""
    orders = cluster.service("orders", replicas=3)
    story = Story(cluster)
    eventually(lambda: story.ready_counts)
    orders.rolling_update(max_surge=0, max_unavailable=1)
    assert (min(story.ready_counts), max(story.live_counts)) == (2, 3)
    with pytest.raises(ValueError, match="max_surge=0, max_unavailable=0: one must be > 0"):
        orders.rolling_update(max_surge=0, max_unavailable=0)


def test_a_pod_serves_through_prestop_and_finishes_its_calls_after_sigterm(cluster: FakeCluster) -> None:
    """Graceful: a call that began before the update outlives preStop and SIGTERM; a new connection works during preStop."""
    orders = cluster.service("orders", replicas=1)
    (old,) = orders.pods
    with grpc.insecure_channel(old.address) as channel:
        slow = echo_pb2_grpc.EchoStub(channel).Get.future(echo_pb2.EchoRequest(delay_s=1.6), timeout=10)
        eventually(lambda: call(old.address).pod)
        orders.rolling_update(prestop_s=1.0, wait=False)
        eventually(lambda: old.terminating)
        assert call(old.address).pod == old.name
        assert slow.result().pod == old.name
    orders.wait_ready()
    assert old not in orders.pods


def test_a_pod_that_does_not_handle_sigterm_breaks_its_calls(cluster: FakeCluster) -> None:
    """``on_sigterm="exit"``: what many real servers do."""
    orders = cluster.service("orders", replicas=1, on_sigterm="exit")
    with grpc.insecure_channel(orders.pods[0].address) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        stub.Get(echo_pb2.EchoRequest(), timeout=5)
        slow = stub.Watch(echo_pb2.EchoRequest(count=2, interval_s=30))
        next(slow)
        orders.rolling_update()
        with pytest.raises(grpc.RpcError) as failed:
            next(slow)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_grace_period_ends_in_sigkill(cluster: FakeCluster) -> None:
    """A call that does not end does not hold up the update."""
    orders = cluster.service("orders", replicas=1)
    (old,) = orders.pods
    with grpc.insecure_channel(old.address) as channel:
        endless = echo_pb2_grpc.EchoStub(channel).Watch(echo_pb2.EchoRequest(count=2, interval_s=60))
        next(endless)
        started_s = time.monotonic()
        orders.rolling_update(grace_s=0.3)
        assert 0.3 <= time.monotonic() - started_s < 5
    assert not alive(old.pid)


def test_a_killed_pod_turns_not_ready_and_is_replaced(cluster: FakeCluster) -> None:
    """By a pod with another ip and uid; the dead one stays in sight, not ready, until the new one is ready."""
    orders = cluster.service("orders", replicas=2)
    story = Story(cluster)
    eventually(lambda: len(story.states) == 2)
    victim = orders.pods[0]
    victim.kill()
    orders.wait_ready(1)
    orders.wait_ready()
    assert len(orders.ready_pods) == 2
    eventually(lambda: story.states[victim.uid][-1] == "gone")
    assert story.states[victim.uid][:2] == ["rs-", "---"]
    assert len(story.states) == 3
    assert story.ready_when_gone[victim.uid] == 2
    assert victim.ip not in {pod.ip for pod in orders.pods}


def test_a_killed_pod_stays_not_ready_if_nobody_replaces_it(cluster: FakeCluster) -> None:
    """``restart=False``."""
    orders = cluster.service("orders", replicas=2, restart=False)
    victim = orders.pods[0]
    victim.kill()
    orders.wait_ready(1)
    assert victim.failed
    assert orders.pods[0] is victim
    orders.scale(0)
    assert orders.pods == []


def test_a_frozen_pod_stays_ready_and_answers_after_thaw(cluster: FakeCluster) -> None:
    """Its connections stay open and silent, which is the hardest case for a client."""
    orders = cluster.service("orders", replicas=1)
    (pod,) = orders.pods
    with grpc.insecure_channel(pod.address) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        stub.Get(echo_pb2.EchoRequest(), timeout=5)
        pod.freeze()
        with pytest.raises(grpc.RpcError) as late:
            stub.Get(echo_pb2.EchoRequest(), timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert pod.ready
        pod.thaw()
        assert stub.Get(echo_pb2.EchoRequest(), timeout=5).pod == pod.name


def test_a_frozen_pod_is_ended_by_the_grace_period(cluster: FakeCluster) -> None:
    """SIGTERM waits for a process that is stopped; SIGKILL does not."""
    orders = cluster.service("orders", replicas=1, grace_s=0.2)
    (pod,) = orders.pods
    pod.freeze()
    orders.scale(0)
    assert not alive(pod.pid)


def test_set_ready_moves_the_endpoint_and_leaves_the_process(cluster: FakeCluster) -> None:
    """A failing readiness probe: out of the ready endpoints, and still answering who asks it directly."""
    orders = cluster.service("orders", replicas=2)
    pod = orders.pods[0]
    pod.set_ready(False)
    assert orders.ready_pods == [orders.pods[1]]
    assert [endpoint.ready for endpoint in orders.endpoints] == [False, True]
    assert call(pod.address).pod == pod.name
    pod.set_ready(True)
    assert len(orders.ready_pods) == 2


def test_scaling_during_a_rolling_update_ends_as_last_asked_for(cluster: FakeCluster) -> None:
    """What is wanted is one thing; how to get there is found out again after every change."""
    orders = cluster.service("orders", replicas=2)
    orders.rolling_update(version="v2", wait=False)
    orders.scale(3, wait=False)
    orders.pods[0].kill()
    orders.wait_ready()
    assert [pod.version for pod in orders.ready_pods] == ["v2"] * 3


def test_other_target_ports_make_a_second_slice_during_the_update(cluster: FakeCluster) -> None:
    """Named target ports: each pod has its own number."""
    orders = cluster.service("orders", replicas=1, target_port=9000)
    watch = Api(cluster).watch(SHOP, labelSelector=ORDERS)
    orders.rolling_update(target_port=9001)
    ports = set()
    while len(ports) < 2:
        ports |= {port["port"] for port in watch.next()["object"]["ports"] or ()}
    assert ports == {9000, 9001}
    assert orders.pods[0].port == 9001


def test_pods_with_hostnames_have_names_in_dns_that_survive_replacement(cluster: FakeCluster) -> None:
    """As in a StatefulSet: orders-0, orders-1, whatever the pod behind it."""
    orders = cluster.service("orders", replicas=2, headless=True, hostnames=True)
    assert sorted(pod.hostname or "" for pod in orders.pods) == ["orders-0", "orders-1"]
    orders.pods[0].kill()
    orders.wait_ready(1)
    orders.wait_ready()
    assert sorted(pod.hostname or "" for pod in orders.pods) == ["orders-0", "orders-1"]


def test_a_connection_to_the_cluster_ip_stays_with_one_pod_and_a_new_one_draws_again(cluster: FakeCluster) -> None:
    """Why meshlb exists: a gRPC channel to the cluster IP is pinned; many channels spread."""
    orders = cluster.service("orders", replicas=3)
    seen = set()
    for _ in range(30):
        with grpc.insecure_channel(
            f"{orders.cluster_ip}:{orders.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            pods = {stub.Get(echo_pb2.EchoRequest(), timeout=5).pod for _ in range(3)}
            assert len(pods) == 1
            seen |= pods
    assert seen == {pod.name for pod in orders.pods}  # missed with probability 3 * (2/3)**30 < 2e-5


def test_the_cluster_ip_refuses_while_there_is_no_endpoint(cluster: FakeCluster) -> None:
    """Connection refused at once, as kube-proxy rejects; and it is back with the first pod."""
    orders = cluster.service("orders", replicas=1)
    address = f"{orders.cluster_ip}:{orders.port}"
    orders.scale(0)
    with pytest.raises(grpc.RpcError) as refused:
        call(address)
    assert "refused" in (refused.value.details() or "")
    orders.scale(1)
    assert call(address).pod == orders.pods[0].name


def test_a_connection_through_the_cluster_ip_breaks_when_its_pod_dies(cluster: FakeCluster) -> None:
    """The call fails at once, and the next connection goes to the other pod."""
    orders = cluster.service("orders", replicas=2, restart=False)
    address = f"{orders.cluster_ip}:{orders.port}"
    with grpc.insecure_channel(address) as channel:
        stream = echo_pb2_grpc.EchoStub(channel).Watch(echo_pb2.EchoRequest(count=2, interval_s=60), timeout=10)
        pinned = next(stream).pod
        next(pod for pod in orders.pods if pod.name == pinned).kill()
        with pytest.raises(grpc.RpcError) as broken:
            next(stream)
        assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    orders.wait_ready(1)
    assert call(address).pod == orders.ready_pods[0].name


def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on(cluster: FakeCluster) -> None:
    """A client that has sent all it has to say still gets its answer; then both connections are closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        orders = cluster.service("orders", endpoints=[f"127.0.0.1:{server.getsockname()[1]}"])
        with socket.create_connection((str(orders.cluster_ip), orders.port), timeout=5) as client:
            backend, _ = server.accept()
            with backend:
                backend.settimeout(5)
                client.sendall(b"question" * 100_000)
                client.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: backend.recv(65_536), b""))
                assert received == b"question" * 100_000
                backend.sendall(b"answer")
            assert b"".join(iter(lambda: client.recv(65_536), b"")) == b"answer"


def test_where_there_is_one_address_pods_and_services_differ_by_port() -> None:
    """The mode for systems with 127.0.0.1 alone: everything works, with other numbers."""
    with FakeCluster(namespace="shop", single_address=True) as cluster:
        orders, billing = cluster.service("orders", replicas=2), cluster.service("billing", replicas=1)
        assert {pod.ip for pod in (*orders.pods, *billing.pods)} == {"127.0.0.1"} == {orders.cluster_ip, billing.cluster_ip}
        assert len({orders.port, billing.port, *(pod.port for pod in (*orders.pods, *billing.pods))}) == 5
        assert call(f"127.0.0.1:{billing.port}").pod == billing.pods[0].name
        assert cluster.environ()["ORDERS_SERVICE_PORT"] == str(orders.port)
        (spec,) = Api(cluster).get("/api/v1/namespaces/shop/services/orders").json["spec"]["ports"]
        assert spec["port"] == orders.port
        orders.rolling_update()
        assert len(orders.ready_pods) == 2


def test_pods_serve_tls_under_the_services_names() -> None:
    """A certificate for the name, not for the address."""
    pytest.importorskip("trustme")
    with FakeCluster(namespace="shop", tls=True) as cluster:
        orders = cluster.service("orders", replicas=1, tls=True)
        with open(cluster.ca_file, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        options = [("grpc.ssl_target_name_override", "orders.shop.svc.cluster.local")]
        with grpc.secure_channel(orders.pods[0].address, credentials, options=options) as channel:
            assert echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(), timeout=5).pod == orders.pods[0].name


def test_environ_has_what_the_kubelet_sets_for_the_namespace(cluster: FakeCluster) -> None:
    """Services with a cluster IP, of this namespace only; the host and port lead to the pods."""
    orders = cluster.service("orders", replicas=1)
    cluster.service("headless", headless=True, endpoints=[])
    cluster.service("elsewhere", "other", endpoints=[])
    variables = cluster.environ()
    assert {name.split("_")[0] for name in variables} == {"ORDERS"}
    assert call(f"{variables['ORDERS_SERVICE_HOST']}:{variables['ORDERS_SERVICE_PORT']}").pod == orders.pods[0].name
    assert "ELSEWHERE_SERVICE_HOST" in cluster.environ("other")


def test_deleting_a_service_removes_all_of_it(cluster: FakeCluster) -> None:
    """Objects, pods, address; its name is free again."""
    orders = cluster.service("orders", replicas=1)
    (pod,) = orders.pods
    orders.delete()
    orders.delete()
    api = Api(cluster)
    assert api.get(SHOP).json["items"] == []
    assert api.get("/api/v1/namespaces/shop/services/orders").status == 404
    assert api.get("/api/v1/namespaces/shop/endpoints/orders").status == 404
    assert not alive(pod.pid)
    assert cluster.service("orders", endpoints=[]) in cluster.services


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda cluster: cluster.service("orders", endpoints=["nonsense"]), "endpoint 'nonsense': must be 'ip:port'"),
        (lambda cluster: cluster.service("orders", on_sigterm="never"), "on_sigterm='never': must be"),
        (lambda cluster: cluster.service("orders", replicas=-1), "replicas=-1: must be >= 0"),
        (lambda cluster: cluster.service("orders", ports={"a": 1001, "": 1002}), "must all have names"),
        (lambda cluster: cluster.service("orders", ports={}), "must have a port"),
        (lambda cluster: cluster.service("orders", ports={"a": 1025, "b": 1026}, target_port=1), "must be a mapping"),
        (lambda cluster: cluster.service("orders", ports={"a": 21051, "b": 31051}), "target_port=None: must be given"),
        (lambda cluster: cluster.api.fail(200), "status=200: must be an HTTP error"),
        (lambda cluster: cluster.api.fail(500, verbs="list"), "verbs='list': must be a collection"),
        (lambda cluster: cluster.dns.fail("BROKEN"), "how='BROKEN': must be one of"),
    ],
)
def test_a_wrong_argument_is_named(cluster: FakeCluster, wrong: Callable[[FakeCluster], object], message: str) -> None:
    """Field, value and rule; and nothing is left behind."""
    with pytest.raises(ValueError, match=message):
        wrong(cluster)
    assert cluster.services == []


def test_what_cannot_be_done_says_why(cluster: FakeCluster) -> None:
    """The cluster's own errors."""
    orders = cluster.service("orders", endpoints=[])
    with pytest.raises(FakeClusterError, match="exists"):
        cluster.service("orders", endpoints=[])
    with pytest.raises(FakeClusterError, match="has no pods"):
        orders.scale(1)
    with pytest.raises(FakeClusterError, match=r"tls=True needs FakeCluster\(tls=True\)"):
        cluster.service("secure", tls=True)
    billing = cluster.service("billing", replicas=1)
    with pytest.raises(FakeClusterError, match="its endpoints are its pods"):
        billing.set_endpoints([])
    billing.pods[0].freeze()
    with pytest.raises(TimeoutError, match=r"<FakeService billing.shop> did not settle in 0\.\d s: \[<Pod billing-"):
        billing.rolling_update(grace_s=60, timeout_s=0.3)


def test_a_pod_that_cannot_start_is_an_error_that_shows_its_output(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a hang, and not an endless loop of restarts."""
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    with pytest.raises(FakeClusterError, match=r"pod orders-\S+ did not start: a pod ended with code \d+ before it listened: .*\S"):
        cluster.service("orders", replicas=1)


def test_a_port_that_is_taken_on_every_address_is_an_error_that_says_so(cluster: FakeCluster) -> None:
    """By whoever listens on all of them; the message says what to do. Nothing is left of the Service."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(
            FakeClusterError, match=rf"ports \[{number}\] are taken on every address: choose others with target_port"
        ):
            cluster.service("orders", target_port=number)
        with pytest.raises(FakeClusterError, match=rf"cannot listen on cluster IP 127\.\S+:{number}: "):
            cluster.service("orders", ports={"grpc": number})
    assert cluster.services == []


def test_after_close_nothing_is_left(cluster: FakeCluster) -> None:
    """No process, thread or file; a second close does nothing, and use after it is an error."""
    orders = cluster.service("orders", replicas=2)
    pids, kubeconfig = [pod.pid for pod in orders.pods], cluster.kubeconfig
    orders.pods[0].freeze()
    cluster.close()
    cluster.close()
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(kubeconfig)
    assert "meshlb-fake-cluster" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(FakeClusterError, match="the fake cluster is closed"):
        orders.scale(3)


async def test_it_can_be_used_from_an_asyncio_test(cluster: FakeCluster) -> None:
    """Short calls block shortly; long ones go to a thread, and the test's own loop goes on."""
    orders = cluster.service("orders", replicas=1)
    scaling = asyncio.create_task(asyncio.to_thread(orders.scale, 2))
    async with grpc.aio.insecure_channel(orders.pods[0].address) as channel:
        assert (await echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(), timeout=5)).pod
    await scaling
    assert len(orders.ready_pods) == 2


PARENT = """
import json, sys, time
from meshlb.testing import FakeCluster
cluster = FakeCluster()
pods = cluster.service("orders", replicas=2).pods
{}
print(json.dumps([pod.pid for pod in pods]), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("then", ["", "pods[0].freeze()", "import os\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)"])
def test_pods_die_with_a_killed_parent(then: str, tmp_path: Any) -> None:
    """Also a frozen one, and also while a forked child of the parent lives on and holds its pipes."""
    command = [sys.executable, "-c", PARENT.format(then)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody is left to remove its files
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=environment)
    assert parent.stdout is not None
    try:
        pids = json.loads(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        eventually(lambda: not any(alive(pid) for pid in pids))
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if "fork" in then else None
        parent.stdout.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 and later warn of threads, rightly; gRPC is idle here
def test_a_forked_child_does_not_hold_the_clusters_sockets(cluster: FakeCluster) -> None:
    """A prefork server under test must not keep a stopped API server's port open, nor end the cluster when it exits."""
    api = Api(cluster)
    assert api.get(SHOP).status == 200
    watch = api.watch(SHOP)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        cluster.close()
        atexit._run_exitfuncs()
        os._exit(0)
    os.close(reading)
    try:
        cluster.api.stop()
        with pytest.raises((OSError, ValueError)):
            watch.next()
        with pytest.raises(ConnectionRefusedError):
            api.get(SHOP)
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    cluster.api.start()
    assert api.get(SHOP).status == 200
    assert os.path.exists(cluster.kubeconfig)


def test_the_pytest_plugin_gives_a_cluster(pytester_run: Callable[[str], str]) -> None:
    """Opt in with -p; each test gets an empty one."""
    test = (
        "def test_one(fake_cluster):\n"
        "    assert fake_cluster.service('a', replicas=1).ready_pods\n"
        "def test_two(fake_cluster):\n"
        "    assert fake_cluster.services == []\n"
    )
    assert "2 passed" in pytester_run(test)


@pytest.fixture
def pytester_run(tmp_path: Any) -> Callable[[str], str]:
    """Run pytest on a file of its own, in a process of its own."""

    def run(source: str) -> str:
        (tmp_path / "test_it.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "meshlb.testing.plugin", "-c", os.devnull, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    return run


def test_repr_shows_what_a_failing_test_wants_to_know(cluster: FakeCluster) -> None:
    """The debugging view: addresses, states, versions."""
    orders: FakeService = cluster.service("orders", replicas=1)
    pod: Pod = orders.pods[0]
    assert repr(pod) == f"<Pod {pod.name} {pod.address} v1 ready serving>"
    assert repr(orders) == "<FakeService orders.shop>"
    assert cluster.api.url in repr(cluster)
    assert cluster.nameserver in repr(cluster)
