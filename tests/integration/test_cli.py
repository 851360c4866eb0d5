"""``meshlb resolve`` on the fake cluster, and how the command line fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlb.testing import FakeCluster, FakeEndpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as one:
        one.service("orders", endpoints=["127.9.0.1:9000", "127.9.0.2:9000"])
        users = FakeEndpoint(address="127.9.0.3", ports={"grpc": 9000, "admin": 9001})
        one.service("users", endpoints=[users], ports={"grpc": 50051, "admin": 8080})
        yield one


def meshlb(*arguments: str, cluster: FakeCluster | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", **variables}
    if cluster is not None:
        environ |= {"MESHLB_DISCOVERY_NAMESERVERS": cluster.nameserver, "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf}
    done = subprocess.run(
        [sys.executable, "-m", "meshlb", *arguments], capture_output=True, text=True, timeout=60, check=False, env=environ
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_resolve_prints_the_endpoints_and_which_cluster_was_asked(cluster: FakeCluster) -> None:
    """Text on standard output, the context on standard error."""
    done = meshlb("resolve", "orders.shop:grpc", "--kubeconfig", cluster.kubeconfig, cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert "127.9.0.1:9000" in done.stdout
    assert "127.9.0.2:9000" in done.stdout
    assert "context fake, namespace shop" in done.stderr


def test_resolve_takes_the_users_kubeconfig_by_default_and_says_so(cluster: FakeCluster) -> None:
    """Only the command line does that."""
    done = meshlb("resolve", "k8s:///orders:grpc", KUBECONFIG=cluster.kubeconfig, cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert "context fake" in done.stderr
    assert "127.9.0.1:9000" in done.stdout


def test_resolve_as_json_is_plain_data(cluster: FakeCluster) -> None:
    """For scripts."""
    done = meshlb("resolve", "orders.shop:grpc", "--json", "--kubeconfig", cluster.kubeconfig, cluster=cluster)
    described = json.loads(done.stdout)
    assert {one["address"] for one in described["endpoints"]} == {"127.9.0.1:9000", "127.9.0.2:9000"}
    assert described["source"] == "endpointslice" or described["source"] == "kubernetes"


def test_an_unknown_service_says_what_each_source_answered(cluster: FakeCluster) -> None:
    """Exit code 1, one message, no traceback."""
    done = meshlb("resolve", "k8s:///nobody.shop:grpc", "--kubeconfig", cluster.kubeconfig, cluster=cluster)
    assert done.returncode == 1
    assert "nobody" in done.stdout
    assert "dns" in done.stdout.lower()


def test_an_ambiguous_port_lists_the_names(cluster: FakeCluster) -> None:
    """What to write instead."""
    done = meshlb("resolve", "k8s:///users.shop:nope", "--kubeconfig", cluster.kubeconfig, cluster=cluster)
    assert done.returncode == 1
    assert "grpc" in done.stdout
    assert "admin" in done.stdout


def test_a_static_target_needs_no_cluster() -> None:
    """Nothing is asked."""
    done = meshlb("resolve", "static:///10.0.0.1:80?weight=3")
    assert done.returncode == 0, done.stderr
    assert "10.0.0.1:80" in done.stdout
    assert "weight 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resolve", "foo://x"), "expected"),
        (("resolve", "static:///10.0.0.1:80", "--timeout", "0"), "--timeout=0"),
        (("resolve", "orders.shop:grpc", "--kubeconfig", "/nonexistent/config"), "/nonexistent/config"),
        (("resolve", "orders.shop:grpc", "--kubeconfig", ""), "--kubeconfig"),
        (("resolve", "orders.shop:grpc", "--kubeconfig", sys.executable), "cannot be read as a kubeconfig"),
        (("resolve",), "TARGET"),
        (("nonsense",), "demo"),
    ],
)
def test_wrong_calls_end_with_2_and_a_reason(arguments: tuple[str, ...], words: str) -> None:
    """No traceback, the place and the rule."""
    done = meshlb(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr


def test_a_bad_variable_names_itself() -> None:
    """Field, value, rule."""
    done = meshlb("resolve", "static:///10.0.0.1:80", MESHLB_POLICY="nonsense")
    assert done.returncode == 2
    assert "MESHLB_POLICY" in done.stderr


def test_ctrl_c_ends_the_demo_at_once_and_leaves_no_pod() -> None:
    """130, as shells expect, and no traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "meshlb", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    while "ok: ClusterIP" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_version_is_printed() -> None:
    """``--version``."""
    import meshlb as package

    assert meshlb("--version").stdout.strip() == f"meshlb {package.__version__}"
