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


def test_a_reader_that_is_gone_is_no_error() -> None:
    """Nothing is said, also not by the interpreter when it ends."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "meshlb", "resolve", "static:///10.0.0.1:80", "--json"],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


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
        (("resolve", "orders.shop:grpc", "--kubeconfig", sys.executable), "cannot be used: no valid YAML"),
        (("resolve",), "TARGET"),
        (("nonsense",), "demo"),
    ],
)
def test_wrong_calls_end_with_2_and_a_reason(arguments: tuple[str, ...], words: str) -> None:
    """No traceback, the place and the rule."""
    done = meshlb(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("resolve", "foo://x"), 2, "TargetError"),
        (("watch", "orders.shop", "--for", "0"), 2, "ConfigError"),
        (("doctor", "a b"), 2, ""),
    ],
)
def test_with_json_an_error_is_an_object_too(arguments: tuple[str, ...], code: int, kind: str) -> None:
    """For programs on standard output, for people on standard error as ever."""
    done = meshlb(*arguments, "--json")
    said = json.loads(done.stdout)
    assert done.returncode == code
    assert set(said) == {"error", "kind"}
    assert said["error"] in done.stderr
    assert kind in said["kind"]


@pytest.mark.parametrize("verb", ["resolve", "watch", "doctor"])
@pytest.mark.parametrize(
    ("target", "mode", "words"),
    [
        ("orders.shop:grpc", "off", "turned off by MESHLB_MODE; the stock channel is used"),
        ("orders.shop:grpc", "off:orders.shop", "turned off by MESHLB_MODE; the stock channel is used"),
        ("no target at all", "off", "turned off by MESHLB_MODE; the stock channel is used"),
        ("xds:///orders", "", "left to stock gRPC"),
    ],
)
def test_what_the_stock_channel_serves_is_said_and_nobody_is_asked(verb: str, target: str, mode: str, words: str) -> None:
    """Status 0, in text and as one object; no endpoints are claimed."""
    done = meshlb(verb, target, MESHLB_MODE=mode, KUBECONFIG="/nonexistent/config")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    done = meshlb(verb, target, "--json", MESHLB_MODE=mode, KUBECONFIG="/nonexistent/config")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert said["target"] == target
    assert words in (said["verdict"]["why"] if verb == "doctor" else said["note"])
    assert (said["verdict"]["by"] if verb == "doctor" else said["source"]) == "stock"


def test_another_target_is_looked_at_while_one_is_turned_off(cluster: FakeCluster) -> None:
    """The mode is the target's own."""
    done = meshlb("resolve", "orders.shop:grpc", "--kubeconfig", cluster.kubeconfig, cluster=cluster, MESHLB_MODE="off:users.shop")
    assert "127.9.0.1:9000" in done.stdout


def test_a_pipe_for_a_kubeconfig_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """It could be read only once, and a FIFO without a writer never."""
    os.mkfifo(tmp_path / "fifo")
    for verb in ("resolve", "watch", "doctor", "rbac"):
        done = meshlb(verb, "orders:grpc", "--kubeconfig", str(tmp_path / "fifo"))
        assert done.returncode == 2
        assert "is no regular file" in done.stderr


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
