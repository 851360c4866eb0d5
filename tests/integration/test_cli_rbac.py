"""``meshlb rbac`` and what all verbs have in common on the command line."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
import yaml

from meshlb.cli import main
from meshlb.resolve.kubernetes.rbac import role
from meshlb.testing import FakeCluster


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster around, no kubeconfig, no settings."""
    for variable in list(os.environ):
        if variable.startswith(("MESHLB_", "KUBE")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", "/nonexistent")


def test_targets_of_a_namespace_are_joined_in_one_role_in_a_stable_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the order of the arguments; the YAML is what the library itself advises."""
    targets = ["users.web:grpc", "orders.shop:grpc", "pay.shop", "k8s:///orders.shop:admin", "pod-0.orders.shop.svc:grpc"]
    assert main(["rbac", *targets, "--service-account", "ci/client"]) == 0
    text = capsys.readouterr().out
    expected = [*role("shop", ["orders", "pay"], "ci/client"), *role("web", ["users"], "ci/client")]
    assert list(yaml.safe_load_all(text)) == expected
    assert main(["rbac", *reversed(targets), "--service-account", "ci/client"]) == 0
    assert capsys.readouterr().out == text


def test_json_is_a_list_that_kubectl_applies(capsys: pytest.CaptureFixture[str]) -> None:
    """With the Endpoints objects when they are wanted."""
    assert main(["rbac", "orders.shop", "--json", "--endpoints", "--service-account", "ci/client"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["apiVersion"], described["kind"]) == ("v1", "List")
    assert described["items"] == list(role("shop", ["orders"], "ci/client", endpoints=True))


def test_a_bare_name_is_taken_to_be_where_meshlb_would_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The flag, else the kubeconfig's context, else the default; and it is said."""
    with FakeCluster(namespace="team") as cluster:
        assert main(["rbac", "orders", "--kubeconfig", cluster.kubeconfig]) == 0
        out, err = capsys.readouterr()
        assert "namespace: team" in out
        assert "context fake, namespace team" in err
    assert main(["rbac", "orders", "--namespace", "shop"]) == 0
    out, err = capsys.readouterr()
    assert "namespace: shop" in out
    assert "namespace shop for names without one" in err
    assert "replace CLIENT_NAMESPACE" in err


def test_in_a_pod_the_subject_is_its_own_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its token says; the token itself is nowhere."""
    claims = base64.urlsafe_b64encode(b'{"sub":"system:serviceaccount:web:frontend"}').decode().rstrip("=")
    (tmp_path / "token").write_text(f"header.{claims}.signature")
    (tmp_path / "namespace").write_text("web")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setenv("MESHLB_DISCOVERY_SERVICE_ACCOUNT_DIR", str(tmp_path))
    assert main(["rbac", "orders"]) == 0
    out, err = capsys.readouterr()
    assert list(yaml.safe_load_all(out)) == list(role("web", ["orders"], "web/frontend"))
    assert claims not in out + err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rbac", "orders.shop", "api.example.com:443"], "api.example.com:443: an ordinary name"),
        (["rbac", "dns:///orders.shop:443"], "needs no permission"),
        (["rbac", "static:///10.0.0.1:80"], "needs no permission"),
        (["rbac", "localhost:50051"], "needs no permission"),
        (["rbac", "orders.shop", "--service-account", "client"], "--service-account='client': must be NAMESPACE/NAME"),
        (["rbac", "orders.shop.svc.other.example:80"], "an ordinary name for clients in zone cluster.local"),
        (["rbac", "orders..shop"], "expected"),
        (["rbac", "orders", "--kubeconfig", "/nonexistent/config"], "/nonexistent/config"),
        (["rbac", "orders.shop", "--kubeconfig", "/nonexistent/config"], "/nonexistent/config"),
        (["rbac", "orders", "--namespace", "Not_one"], "discovery.namespace"),
        (["watch", "orders.shop", "--for", "0"], "--for=0"),
        (["watch", "orders.shop", "--nameserver", "nonsense"], "discovery.nameservers"),
        (["doctor", "foo://x"], "expected"),
        (["doctor", "orders.shop", "--context", "x"], "discovery.context"),
        (["resolve", "orders.shop", "--kubeconfig", ""], "--kubeconfig"),
    ],
)
def test_a_wrong_call_is_told_and_ends_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing on standard output, one message."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_no_role_is_printed_where_the_api_server_is_never_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where it is, but not DNS, an ordinary port makes one or two labels an ordinary name, as for the library."""
    monkeypatch.setenv("MESHLB_DISCOVERY", "dns")
    assert main(["rbac", "orders.shop"]) == 2
    assert "needs no permission" in capsys.readouterr().err
    monkeypatch.setenv("MESHLB_DISCOVERY", "kubernetes")
    assert main(["rbac", "google.com:443"]) == 2
    assert main(["rbac", "orders.shop:grpc"]) == 0


def test_a_role_that_may_be_needed_by_nobody_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the cluster's DNS knows whether two labels are a Service."""
    assert main(["rbac", "google.com:443", "orders.shop.svc:80", "pay.shop:grpc"]) == 0
    assert "needed only for those that the cluster's DNS knows as Services: google.com:443\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["rbac"], ["rbac", "orders.shop", "--nameserver", "10.0.0.1"], ["doctor"], ["nonsense"], []])
def test_unknown_verbs_and_flags_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: meshlb" in capsys.readouterr().err


def test_help_lists_every_verb_and_what_the_doctor_does(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each; its limits, its variables and its exit status."""
    for arguments in (["--help"], ["doctor", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    text = capsys.readouterr().out
    for verb in ("demo", "resolve", "watch", "doctor", "rbac"):
        assert f"    {verb} " in text
    for said in ("2 nobody would", "the first five pods", "TCP only", "MESHLB_NODE_NAME and MESHLB_ZONE"):
        assert said in " ".join(text.split())
