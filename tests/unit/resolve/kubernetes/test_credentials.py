"""Who we are to the API server, when files change, vanish or hold nonsense; and who we never are."""

from __future__ import annotations

import http.client
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import Configuration

from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.credentials import Kubeconfig, ServiceAccount
from meshlb.resolve.kubernetes.transport import CredentialsError
from meshlb.resolve.settings import Discovery
from meshlb.testing.clock import ManualClock

SECRET = "s3cret-t0ken"
IN_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(SECRET)
    return tmp_path


def account(folder: Path, clock: ManualClock) -> ServiceAccount:
    return ServiceAccount("10.96.0.1", "443", str(folder), clock.now_s)


def test_a_token_is_read_again_after_a_minute_and_not_before(folder: Path) -> None:
    """The kubelet rewrites it before it expires."""
    clock = ManualClock(50.0)
    found = account(folder, clock)
    assert found.authorization() == f"Bearer {SECRET}"
    (folder / "token").write_text("next")
    clock.advance(59.0)
    assert found.authorization() == f"Bearer {SECRET}"
    clock.advance(1.0)
    assert found.authorization() == "Bearer next"


def test_a_refused_token_is_read_again_at_once(folder: Path) -> None:
    """``configuration`` is what a transport asks for after a 401."""
    found = account(folder, ManualClock())
    found.authorization()
    (folder / "token").write_text("next")
    found.configuration()
    assert found.authorization() == "Bearer next"


@pytest.mark.parametrize("content", [None, "", " \n", "two words", "line\nline", "b\x00d", "é"])
def test_the_last_good_token_is_kept_while_the_file_holds_none(folder: Path, content: str | None) -> None:
    """Missing, empty, or something that could not stand in a header."""
    clock = ManualClock()
    found = account(folder, clock)
    found.authorization()
    if content is None:
        (folder / "token").unlink()
    else:
        (folder / "token").write_text(content, "utf-8")
    clock.advance(61.0)
    assert found.authorization() == f"Bearer {SECRET}"
    (folder / "token").write_text("next\n")
    clock.advance(61.0)
    assert found.authorization() == "Bearer next"


def test_a_pod_that_never_had_a_token_says_which_file_is_empty(folder: Path) -> None:
    """Not a request without credentials; and the file is looked at again each time."""
    (folder / "token").write_text("")
    found = account(folder, ManualClock())
    with pytest.raises(CredentialsError, match="token: no token in it"):
        found.authorization()
    (folder / "token").write_text(SECRET)
    assert found.authorization() == f"Bearer {SECRET}"


@pytest.mark.parametrize(("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_the_pods_api_server_is_asked_over_https_whatever_its_family(folder: Path, host: str, url: str) -> None:
    """IPv6 addresses stand in brackets."""
    configuration = ServiceAccount(host, "443", str(folder), ManualClock().now_s).configuration()
    assert configuration.host == url
    assert configuration.ssl_ca_cert == str(folder / "ca.crt")
    assert configuration.verify_ssl
    assert configuration.retries is False


def test_no_secret_is_in_a_repr(folder: Path, tmp_path: Path) -> None:
    """Reprs end in logs."""
    found = account(folder, ManualClock())
    found.authorization()
    kubeconfig = Kubeconfig(write_kubeconfig(tmp_path), None)
    kubeconfig.configuration()
    assert kubeconfig.authorization() == f"Bearer {SECRET}"
    assert SECRET not in repr(found) + repr(kubeconfig)


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, True),
        ({**IN_POD, "KUBERNETES_SERVICE_PORT": ""}, True),
        (IN_POD, False),
    ],
)
def test_without_both_the_variables_and_a_token_there_is_no_api(
    folder: Path, environ: dict[str, str], token: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """automountServiceAccountToken: false is common: one debug line, no error."""
    caplog.set_level(logging.DEBUG, "meshlb.resolve.kubernetes")
    if not token:
        (folder / "token").unlink()
    assert connect(Discovery(service_account_dir=str(folder)), environ=environ) is None
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_kubeconfig_is_used_only_where_it_is_configured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on a laptop must not talk to whichever cluster was used last."""
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(Path(write_kubeconfig(tmp_path)).read_text())
    assert credentials_of(Discovery(service_account_dir="/nowhere"), {}) is None
    assert isinstance(credentials_of(Discovery(kubeconfig=write_kubeconfig(tmp_path)), {}), Kubeconfig)
    assert isinstance(credentials_of(Discovery(service_account_dir=str(folder)), IN_POD), ServiceAccount)


def test_without_the_kubernetes_source_there_are_no_credentials(folder: Path) -> None:
    """DNS alone means DNS alone."""
    assert credentials_of(Discovery(sources=("dns",), service_account_dir=str(folder)), IN_POD) is None


def write_kubeconfig(folder: Path, **user: Any) -> str:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in ("one", "two")],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example:6443"}} for name in ("one", "two")],
        "users": [{"name": "u", "user": user or {"token": SECRET}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_a_kubeconfigs_context_is_the_one_configured_else_its_own(tmp_path: Path) -> None:
    """Server and token come from it."""
    for context, host in ((None, "https://one.example:6443"), ("two", "https://two.example:6443")):
        found = Kubeconfig(write_kubeconfig(tmp_path), context)
        assert found.configuration().host == host
        assert found.authorization() == f"Bearer {SECRET}"


def test_a_kubeconfig_without_a_token_sends_no_header(tmp_path: Path) -> None:
    """A client certificate is no header."""
    found = Kubeconfig(write_kubeconfig(tmp_path, **{"as": "nobody"}), None)
    found.configuration()
    assert found.authorization() == ""


def test_a_kubeconfig_that_changed_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    """Tokens in it may be renewed by other programs."""
    found = Kubeconfig(write_kubeconfig(tmp_path), None)
    found.configuration()
    write_kubeconfig(tmp_path, token="next")
    found.configuration()
    assert found.authorization() == "Bearer next"


@pytest.mark.parametrize("content", [None, "", "users: [", f"token: '{SECRET}\n  : :", "{}", '{"current-context": "absent"}'])
def test_a_kubeconfig_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, content: str | None) -> None:
    """A YAML error shows the line, which may hold the token."""
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CredentialsError) as raised:
        Kubeconfig(str(path), None).configuration()
    assert str(path) in raised.value.reason
    assert SECRET not in raised.value.reason
    assert raised.value.kind == "config"


def test_nothing_global_is_touched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the process-wide default configuration, which is not used either, nor logging, nor http.client."""
    default = type.__call__(Configuration)
    default.host = "https://somebody-elses.example"
    default.api_key["authorization"] = "Bearer theirs"
    monkeypatch.setattr(Configuration, "_default", None)
    Configuration.set_default(default)
    levels = {name: logging.getLogger(name).level for name in ("", "urllib3", "client")}
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    try:
        configuration = account(folder, ManualClock()).configuration()
        Kubeconfig(write_kubeconfig(tmp_path), None).configuration()
        assert configuration.host == "https://10.96.0.1:443"
        assert configuration.api_key == {}
        assert Configuration._default.host == "https://somebody-elses.example"
        assert logging.getLogger("urllib3").level == logging.DEBUG
        assert http.client.HTTPConnection.debuglevel == 1
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
