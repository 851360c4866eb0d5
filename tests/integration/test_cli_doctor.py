"""``meshlb doctor`` against the fake cluster in every state that it can diagnose: the checks, the advice, the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshlb.cli import main
from meshlb.resolve.kubernetes.rbac import role
from meshlb.resolve.resolv_conf import ResolvConf
from meshlb.testing import FakeCluster, FakeEndpoint, FakeService, Rule
from tests.integration.scripted_dns import ScriptedDns, answer

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 15.0
Examine = Callable[..., "Report"]


class Report:
    """What ``--json`` printed, and the exit status."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.data: dict[str, Any] = json.loads(text)
        self.checks: list[dict[str, Any]] = self.data["checks"]
        self.verdict: dict[str, Any] = self.data["verdict"]

    def check(self, name: str, words: str = "") -> dict[str, Any]:
        """The first check of this name whose question has these words."""
        return next(one for one in self.checks if one["name"] == name and words in one["what"])

    def status(self, name: str, words: str = "") -> str:
        return str(self.check(name, words)["status"])


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as one:
        one.service("orders", replicas=2)
        one.service("users", endpoints=["127.0.0.1:1"], headless=True)
        yield one


@pytest.fixture
def cluster(shared: FakeCluster) -> Iterator[FakeCluster]:
    """As good as new for each test."""
    yield shared
    shared.api.start()
    shared.dns.start()
    shared.api.recover()
    shared.dns.recover()
    shared.permit(Rule())


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return next(service for service in cluster.services if service.name == "orders")


@pytest.fixture
def examine(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Run it with ``--json`` as in a shell whose kubeconfig and nameserver are the cluster's."""
    for variable in list(os.environ):
        if variable.startswith(("MESHLB_", "KUBE")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("MESHLB_DISCOVERY_RESOLV_CONF", cluster.resolv_conf)
    monkeypatch.setenv("HOME", "/nonexistent")

    def run(target: str = "orders.shop:grpc", *, kubeconfig: str | None = cluster.kubeconfig, nameserver: str = "") -> Report:
        flags = ["--nameserver", nameserver or cluster.nameserver, *(["--kubeconfig", kubeconfig] if kubeconfig else [])]
        start_s = time.monotonic()
        code = main(["doctor", target, "--json", *flags])
        assert time.monotonic() - start_s < BOUND_S
        return Report(code, capsys.readouterr().out)

    return run


def test_where_all_is_well_pods_serve_and_every_source_was_asked(examine: Examine) -> None:
    """Status 0; the keys are those that programs rely on."""
    report = examine()
    assert report.code == 0, report.data
    assert set(report.data) == {"target", "service", "namespace", "cluster", "verdict", "checks", "took_ms"}
    assert report.verdict == {"status": 0, "by": "pods", "source": "kubernetes", "endpoints": 2, "why": "2 endpoints by kubernetes"}
    assert all(set(check) == {"name", "status", "what", "took_ms", "detail", "advice"} for check in report.checks)
    assert list(dict.fromkeys(check["name"] for check in report.checks)) == [
        "credentials",
        "api server",
        "list endpointslices",
        "watch endpointslices",
        "list endpoints",
        "get service",
        "environment",
        "resolv.conf",
        "dns udp",
        "dns tcp",
        "sidecar",
        "port",
        "place",
        "discovery",
        "connect pod",
        "connect clusterip",
    ]
    assert "2 ready" in report.check("list endpointslices")["detail"]
    assert "TTL 5 s" in report.check("dns udp", "A orders")["detail"]
    assert "20051 on pods, 50051 on the ClusterIP" in report.check("port")["detail"]


def test_a_refusal_prints_the_role_that_would_end_it(cluster: FakeCluster, examine: Examine) -> None:
    """For the very user who was refused; once it is applied all is well."""
    cluster.permit()
    report = examine("orders.shop:50051")
    assert report.code == 1
    assert report.verdict["by"] == "clusterip"
    refused = report.check("list endpointslices")
    assert refused["status"] == report.status("watch endpointslices") == "fail"
    assert "403" in refused["detail"]
    advised = list(yaml.safe_load_all(refused["advice"].partition("\n")[2]))
    assert advised == list(role("shop", ["orders"], cluster.user))
    assert "headless" in report.check("discovery")["advice"]
    rules = [Rule(resources=rule["resources"], verbs=rule["verbs"], namespaces=["shop"]) for rule in advised[0]["rules"]]
    cluster.permit(*rules)
    assert examine("orders.shop:50051").code == 0


def test_a_permission_to_list_without_one_to_watch_is_seen(cluster: FakeCluster, examine: Examine) -> None:
    """The list alone would look well."""
    cluster.permit(Rule(verbs=["list", "get"]))
    report = examine()
    assert (report.status("list endpointslices"), report.status("watch endpointslices")) == ("ok", "fail")
    assert report.code == 1


def test_an_api_server_that_is_away_leaves_the_clusterip(cluster: FakeCluster, examine: Examine) -> None:
    """What depends on it is not asked again and again."""
    cluster.api.stop()
    report = examine("orders.shop:50051")
    assert (report.code, report.verdict["by"]) == (1, "clusterip")
    assert "connection refused" in report.check("api server")["detail"]
    assert report.status("list endpointslices") == report.status("get service") == "skipped"


def test_when_everything_hangs_it_ends_in_time_and_says_that_nobody_would_serve(cluster: FakeCluster, examine: Examine) -> None:
    """Within 15 s: an API server that accepts and says nothing, a nameserver that drops questions."""
    cluster.api.stall()
    cluster.dns.fail("TIMEOUT")
    report = examine()
    assert (report.code, report.verdict["by"]) == (2, "nobody")
    assert report.status("api server") == report.status("dns udp") == "fail"
    assert "api server, dns udp" in report.verdict["why"]


def test_dns_that_is_away_is_a_failure_though_pods_serve(cluster: FakeCluster, examine: Examine) -> None:
    """The source to fall back to is missing."""
    cluster.dns.stop()
    report = examine()
    assert (report.code, report.verdict["by"]) == (1, "pods")
    assert report.status("dns udp") == "fail"


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NXDOMAIN"])
def test_what_a_nameserver_answers_is_told_apart(rcode: str, cluster: FakeCluster, examine: Examine) -> None:
    """By its own word."""
    cluster.dns.fail(rcode)
    check = examine().check("dns udp")
    assert rcode in check["detail"]
    assert check["status"] == ("warn" if rcode == "NXDOMAIN" else "fail")


def test_a_closed_tcp_port_53_is_a_warning_that_says_what_it_would_cost(examine: Examine) -> None:
    """UDP alone serves until answers grow."""

    def script(query: Any, transport: str) -> Any:
        name = query.question[0].name.to_text()
        return answer(query, f"{name} 5 IN A 127.0.0.9") if query.question[0].rdtype == 1 else answer(query)

    with ScriptedDns(script, tcp=False) as server:
        report = examine(nameserver=server.address)
    assert report.status("dns udp", "A orders") == "ok"
    closed = report.check("dns tcp")
    assert closed["status"] == "warn"
    assert "TCP port 53" in closed["advice"]
    assert report.code == 0


def test_pods_that_do_not_answer_are_told_apart_from_pods_that_refuse(cluster: FakeCluster, examine: Examine) -> None:
    """A NetworkPolicy in one case, the number of the port in the other; never more than five are tried."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    filling = [socket.socket() for _ in range(4)]
    for one in filling:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(listener.getsockname())
    silent = FakeEndpoint(address="127.0.0.1", ports={"grpc": listener.getsockname()[1]}, pod="silent")
    refusing = [FakeEndpoint(address=f"127.9.0.{n}", ports={"grpc": 1}, pod=f"refusing-{n}") for n in range(1, 9)]
    service = cluster.service("closed", endpoints=[silent, *refusing])
    try:
        report = examine("closed.shop:grpc")
    finally:
        service.delete()
        for one in (*filling, listener):
            one.close()
    tried = [check for check in report.checks if check["name"] == "connect pod"]
    assert len(tried) == 5
    by_detail = {check["detail"]: check for check in tried}
    assert "NetworkPolicy" in by_detail["no answer in 1 s"]["advice"]
    assert "targetPort" in by_detail["connection refused"]["advice"]
    assert report.verdict["by"] in ("clusterip", "nobody")
    assert report.code in (1, 2)


def test_a_service_that_is_not_there_is_said_to_be_missing_and_nothing_else_is_asked_for(
    cluster: FakeCluster, examine: Examine
) -> None:
    """No near names are guessed: every request is for what was written."""
    cluster.api.clear_requests()
    report = examine("k8s:///nobody.shop:grpc")
    assert report.code == 2
    assert "no Service nobody in namespace shop" in report.check("get service")["detail"]
    assert "no such Service" in report.verdict["why"]
    assert all("nobody" in str(request.query) + request.path or request.path == "/version" for request in cluster.api.requests)


def test_a_wrong_port_name_lists_the_right_ones(examine: Examine) -> None:
    """With their numbers."""
    report = examine("orders.shop:nope")
    assert report.code == 2
    assert "the ports are grpc (50051 → grpc)" in report.check("port")["detail"]


def test_by_dns_alone_a_headless_service_is_served_and_another_one_is_advised_to_be(
    cluster: FakeCluster, orders: FakeService, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No API at all, as configured: that is no failure."""
    monkeypatch.setenv("MESHLB_DISCOVERY", "dns")
    cluster.api.clear_requests()
    with socket.create_server(("127.0.0.1", 0)) as pod:
        service = cluster.service("pods", endpoints=[f"127.0.0.1:{pod.getsockname()[1]}"], headless=True)
        try:
            report = examine(f"pods.shop:{pod.getsockname()[1]}", kubeconfig=None)
        finally:
            service.delete()
    assert report.status("credentials") == report.status("list endpointslices") == "skipped"
    assert report.verdict["source"] in ("dns", "clusterip")  # one address may be either
    report = examine("orders.shop:50051", kubeconfig=None)
    assert (report.code, report.verdict["by"]) == (1, "clusterip")
    assert "headless" in report.check("discovery")["advice"]
    assert not cluster.api.requests


def test_dns_that_is_not_asked_is_not_left_out_without_a_word(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped, and why, as the API server is."""
    monkeypatch.setenv("MESHLB_DISCOVERY", "kubernetes")
    report = examine()
    assert report.status("dns udp") == "skipped"
    assert "not among the sources" in report.check("dns udp")["detail"]


def test_a_file_that_blocks_ends_the_report_and_does_not_hang_it(
    tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resolv.conf as a FIFO without a writer stands for every file on a mount that hangs."""
    fifo = tmp_path / "token"
    os.mkfifo(fifo)
    monkeypatch.setattr(ResolvConf, "read", lambda path: fifo.read_text())
    report = examine()
    fifo.open("w").close()  # let the thread go
    assert report.code == 2
    assert report.status("configuration") == "fail"
    assert report.verdict["by"] == "nobody"


def test_a_plugin_that_hangs_is_told_in_time(tmp_path: Path, cluster: FakeCluster, examine: Examine) -> None:
    """And DNS is looked at all the same."""
    config = json.loads(Path(cluster.kubeconfig).read_text())
    arguments = ["-c", f"echo $$ >> {tmp_path}/pids; exec sleep 600"]
    exec_user = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": arguments}
    config["users"][0]["user"] = {"exec": exec_user}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    report = examine(kubeconfig=str(tmp_path / "kubeconfig"))
    assert report.status("credentials") == "fail"
    assert report.status("dns udp", "A orders") == "ok"
    for pid in (tmp_path / "pids").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_where_the_caller_runs_is_said(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As discovery has it; its zone is learnt from the slices."""
    monkeypatch.setenv("MESHLB_NODE_NAME", "node-1")
    assert examine().check("place")["detail"] == "node node-1, zone zone-a"


def test_a_sidecar_is_named_and_serves_unless_it_is_ignored(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It balances behind the ClusterIP, so that is as it should be; to dial past it is a warning."""
    monkeypatch.setenv("ISTIO_META_CLUSTER_ID", "one")
    with socket.create_server(("127.77.0.1", 15001)):  # an address of its own: nobody else's port
        report = examine()
        assert (report.code, report.verdict["by"]) == (0, "sidecar"), report.data
        assert "Istio" in report.check("sidecar")["detail"]
        monkeypatch.setenv("MESHLB_DISCOVERY_SIDECAR", "ignore")
        report = examine()
    assert (report.code, report.verdict["by"]) == (0, "pods")
    assert report.status("sidecar") == "warn"


def test_an_ordinary_name_asks_no_cluster(cluster: FakeCluster, examine: Examine) -> None:
    """Its addresses are connected, and that is all."""
    cluster.api.clear_requests()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        report = examine(f"localhost:{listener.getsockname()[1]}")
    assert (report.code, report.verdict["source"]) == (0, "system")
    assert not cluster.api.requests
    assert report.data["service"] == ""
    assert examine("static:///127.0.0.1:1").code == 2


def test_a_certificate_of_another_authority_is_explained(tmp_path: Path, examine: Examine) -> None:
    """Not a bare handshake error."""
    pytest.importorskip("trustme")
    with FakeCluster(namespace="shop", tls=True) as one, FakeCluster(tls=True) as other:
        config = json.loads(Path(one.kubeconfig).read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = other.ca_file
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        report = examine("orders.shop:50051", kubeconfig=str(tmp_path / "kubeconfig"))
    failed = report.check("api server")
    assert failed["status"] == "fail"
    assert "not signed by the CA" in failed["advice"]


def test_a_refused_token_is_told_from_a_missing_permission(cluster: FakeCluster, tmp_path: Path, examine: Examine) -> None:
    """401: whose it is, is not known."""
    config = json.loads(Path(cluster.kubeconfig).read_text())
    config["users"][0]["user"]["token"] = "wrong"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    report = examine("orders.shop:50051", kubeconfig=str(tmp_path / "kubeconfig"))
    assert any("401" in check["detail"] for check in report.checks if check["status"] == "fail")
    assert report.code == 1


def test_the_text_has_a_line_a_check_the_role_once_and_no_colour_in_a_pipe(
    cluster: FakeCluster, examine: Examine, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the verdict last."""
    cluster.permit()
    code = main(["doctor", "orders.shop:50051", "--kubeconfig", cluster.kubeconfig, "--nameserver", cluster.nameserver])
    text = capsys.readouterr().out
    assert code == 1
    assert "\x1b" not in text
    assert text.count("kind: Role\n") == 1
    assert "apply the Role above" in text
    assert text.startswith("orders.shop:50051: Service orders in namespace shop (context fake, namespace shop)\n")
    assert re.search(r"^DEGRADED: by the ClusterIP: its pods are not known; failed: list endpointslices, ", text, re.MULTILINE)


def test_ctrl_c_ends_it_without_a_traceback(cluster: FakeCluster) -> None:
    """130, though everything it asks hangs."""
    cluster.api.stall()
    cluster.dns.fail("TIMEOUT")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf}
    flags = ["--kubeconfig", cluster.kubeconfig, "--nameserver", cluster.nameserver]
    cluster.dns.clear_queries()
    process = subprocess.Popen(
        [sys.executable, "-m", "meshlb", "doctor", "orders.shop:grpc", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        deadline_s = time.monotonic() + 20.0
        while not cluster.dns.queries and time.monotonic() < deadline_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=10)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130
    assert (out, errors) == ("", "interrupted\n")
