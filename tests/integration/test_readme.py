"""The README is true: each snippet runs, each command works. Its test line is what ``.ci/run`` runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import meshlb.mesh
from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.resolve.place import OWN_VARIABLES
from meshlb.testing import FakeCluster

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_snippets_run_against_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, as a reader would."""
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("orders", replicas=2)
        cluster.service("cache", ports={"redis": 6379}, endpoints=["127.0.0.1:6379"])
        monkeypatch.setenv("MESHLB_DISCOVERY_KUBECONFIG", cluster.kubeconfig)
        monkeypatch.setenv("MESHLB_DISCOVERY_NAMESERVERS", cluster.nameserver)
        monkeypatch.setenv("MESHLB_DISCOVERY_RESOLV_CONF", cluster.resolv_conf)
        monkeypatch.setattr(meshlb.mesh, "_default", None)
        names = {"OrdersStub": echo_pb2_grpc.EchoStub, "request": echo_pb2.EchoRequest(payload="x")}
        snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        assert len(snippets) >= 2
        for snippet in snippets:
            exec(compile(snippet, "README.md", "exec"), names)
            channel = names["channel"]
            reply = echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(payload="hello"), timeout=10)
            assert reply.payload == "hello"
            channel.close()
        meshlb.mesh.default_mesh().close()


def test_the_two_commands_are_one_line_each_and_end_in_what_is_tested_here() -> None:
    """The demo line ends in ``meshlb demo``, the test line in pytest."""
    lines = re.findall(r"^python3\.11 -m venv .*$", README, re.MULTILINE)
    assert len(lines) == 2
    assert lines[0].endswith(".venv/bin/meshlb demo")
    assert ".[demo]" in lines[0]
    assert ".venv/bin/python -m pytest" in lines[1]
    assert ".[test]" in lines[1]


def test_the_demo_keeps_every_promise() -> None:
    """The main job, as a newcomer runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "meshlb", "demo"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise held." in done.stdout
    assert "Traceback" not in done.stderr


def test_the_simulation_compares_policies() -> None:
    """As it is written there."""
    (command,) = re.findall(r"`python (-m meshlb\.testing\.simulation [^`]*)`", README)
    done = subprocess.run(
        [sys.executable, *command.split()],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(policy in done.stdout for policy in ("p2c", "anchor"))


@pytest.mark.parametrize("example", ["grpc_sync.py", "grpc_aio.py"])
def test_the_examples_call_every_pod(example: str) -> None:
    """In a process of their own, configured by variables as a pod would be."""
    with FakeCluster(namespace="shop") as cluster:
        orders = cluster.service("orders", replicas=2)
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MESHLB_DISCOVERY_KUBECONFIG": cluster.kubeconfig,
            "MESHLB_DISCOVERY_NAMESERVERS": cluster.nameserver,
            "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf,
        }
        answered = ""
        for _ in range(5):  # on a busy machine all calls of a run may be over before the second connection is there
            done = subprocess.run(
                [sys.executable, str(ROOT / "examples" / example), "orders.shop:grpc"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env=environ,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            answered += done.stdout
            if all(pod.name in answered for pod in orders.pods):
                return
        raise AssertionError(answered)


def test_the_manifests_are_valid_and_agree_with_each_other() -> None:
    """Names, ports and the Role fit; nothing is left over."""
    import yaml

    server = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "examples/kubernetes/server.yaml").read_text())}
    client = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "examples/kubernetes/client.yaml").read_text())}
    made: set[str] = set()
    for path in sorted((ROOT / "examples/kubernetes").glob("*.yaml")):  # the order in which kubectl applies them
        for one in yaml.safe_load_all(path.read_text()):
            if one["kind"] == "Namespace":
                made.add(one["metadata"]["name"])
            else:
                assert one["metadata"]["namespace"] in made, f"{path.name}: {one['kind']} comes before its namespace"
    container = server["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert server["Service"]["spec"]["selector"] == server["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert server["Service"]["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert client["Role"]["metadata"]["namespace"] == server["Service"]["metadata"]["namespace"]
    assert client["RoleBinding"]["roleRef"]["name"] == client["Role"]["metadata"]["name"]
    subject = client["RoleBinding"]["subjects"][0]
    assert (subject["name"], subject["namespace"]) == (
        client["ServiceAccount"]["metadata"]["name"],
        client["ServiceAccount"]["metadata"]["namespace"],
    )
    assert client["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] == client["ServiceAccount"]["metadata"]["name"]
    said = {variable["name"] for variable in client["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert said == {"MESHLB_NODE_NAME"} < set(OWN_VARIABLES)
    for one in (container, client["Deployment"]["spec"]["template"]["spec"]["containers"][0]):
        for word in one["command"]:
            script = re.search(r"examples/\S+\.py", word)
            assert script is None or (ROOT / script.group()).exists()


def test_the_example_server_serves_and_ends_gracefully() -> None:
    """The script that the manifests run."""
    import grpc

    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples/grpc_server.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[-1])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(payload="x"), timeout=10).payload == "x"
    process.terminate()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


def test_python_dash_m_meshlb_has_help() -> None:
    """``--help`` names the verbs."""
    done = subprocess.run(
        [sys.executable, "-m", "meshlb", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "demo" in done.stdout
    assert "resolve" in done.stdout


def test_the_package_has_no_other_top_level_entry() -> None:
    """meshlb/, examples/, tests/, proto/, pyproject.toml, CHANGELOG.md, README.md, LICENSE, .ci/ and dot-files; nothing else."""
    allowed = {"meshlb", "examples", "tests", "proto", "pyproject.toml", "CHANGELOG.md", "README.md", "LICENSE"}
    if shutil.which("git") is None:
        pytest.skip("git is not installed: there is no telling what belongs to the project")
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT).stdout.splitlines()
    assert {path.split("/")[0] for path in tracked if not path.startswith(".")} <= allowed
