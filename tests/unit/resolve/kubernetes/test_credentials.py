"""Who we are to the API server, when files change, vanish or hold nonsense; and who we never are."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import Configuration

from meshlb.resolve.kubernetes.api_client import KubernetesApi
from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.credentials import Kubeconfig, ServiceAccount
from meshlb.resolve.kubernetes.tls_words import tls_advice
from meshlb.resolve.kubernetes.transport import ApiError, CredentialsError, Interrupt
from meshlb.resolve.settings import Discovery
from meshlb.testing.clock import ManualClock
from tests.unit.resolve.kubernetes.scripted_api import eventually

ROOT = Path(__file__).resolve().parents[4]
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


CLUSTER = {"server": "https://127.0.0.1:1"}


def plugin(path: Path, body: str) -> dict[str, object]:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": str(path)}}


def lying(path: Path, user: dict[str, object], cluster: dict[str, object] | None = None, current: str = "c") -> str:
    config = {
        "current-context": current,
        "clusters": [{"name": "k", "cluster": CLUSTER if cluster is None else cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("user", "cluster", "current", "words"),
    [
        ({"token": SECRET}, CLUSTER, "nope", "there is no context nope, only c"),
        ({"token": SECRET}, {**CLUSTER, "certificate-authority-data": "%%%"}, "c", "the CA's certificate (inline data)"),
        ({"token": SECRET}, {**CLUSTER, "certificate-authority": "/nope/ca.crt"}, "c", "there is no file /nope/ca.crt"),
        ({"client-certificate": "/nope/c.crt", "client-key": "/nope/c.key"}, CLUSTER, "c", "there is no file /nope/c.crt"),
        ({"tokenFile": "/nope/token"}, CLUSTER, "c", "there is no file /nope/token"),
        ({"token": SECRET}, {}, "c", "server '' is no https:// URL"),
        ({"token": SECRET}, {"server": 12}, "c", "server '12' is no https:// URL"),
        ({"token": SECRET}, {"server": "nonsense"}, "c", "server 'nonsense' is no https:// URL"),
        (
            {"exec": {"apiVersion": "v1", "command": "/nope/plugin"}},
            CLUSTER,
            "c",
            "plugin gave none: it cannot be started: No such file",
        ),
    ],
)
def test_a_kubeconfig_that_lies_is_told_with_the_file_and_the_rule(
    tmp_path: Path, user: dict[str, object], cluster: dict[str, object], current: str, words: str
) -> None:
    """A wrong context, files that are not there, what is no base64 or no URL: one error each, that says what and where."""
    path = lying(tmp_path / "kubeconfig", user, cluster, current)
    with pytest.raises(CredentialsError) as raised:
        KubernetesApi(Kubeconfig(path, None))
    assert path in raised.value.reason
    assert words in raised.value.reason
    assert SECRET not in raised.value.reason


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo no json", "no JSON"),
        (f"echo {SECRET} >&2; exit 3", "status 3"),
        ("echo '{}'", "no ExecCredential"),
        (f'echo \'{{"token": "{SECRET}\'', "no JSON"),
        ("read answer; echo $answer", "no JSON"),
    ],
)
def test_a_credentials_plugin_that_gives_none_is_an_error_and_no_silent_anonymous_request(
    tmp_path: Path, body: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And no word of what it printed is passed on: it may be a token."""
    path = lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", body))
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with pytest.raises(CredentialsError) as raised:
            KubernetesApi(Kubeconfig(path, None))
        assert root.handlers == []
    finally:
        root.handlers = handlers
    assert path in raised.value.reason
    assert words in raised.value.reason
    assert SECRET not in raised.value.reason
    assert capfd.readouterr().err == ""


def exec_credential(**status: object) -> str:
    return json.dumps({"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential", "status": status})


def test_a_credentials_plugins_token_is_used(tmp_path: Path) -> None:
    """While it says nothing of an end, it is asked once."""
    body = f"echo x >> {tmp_path}/count; echo '{exec_credential(token=SECRET)}'"
    found = Kubeconfig(lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", body)), None)
    found.configuration()
    assert [found.authorization() for _ in range(3)] == [f"Bearer {SECRET}"] * 3
    assert (tmp_path / "count").read_text() == "x\n"
    assert SECRET not in repr(found._plugin.credential if found._plugin else None)


def test_a_credentials_plugins_certificate_is_used(tmp_path: Path) -> None:
    """It is given as PEM, where a kubeconfig's own is base64."""
    body = f"echo '{exec_credential(clientCertificateData='CERT', clientKeyData='KEY')}'"
    found = Kubeconfig(lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", body)), None)
    configuration = found.configuration()
    assert Path(configuration.cert_file).read_text() == "CERT"
    assert Path(configuration.key_file).read_text() == "KEY"
    assert found.authorization() == ""


def test_an_expired_token_is_renewed_within_bounds_by_one_of_all_who_wait(tmp_path: Path) -> None:
    """A plug-in that hangs then costs each request a bounded time and the machine one process, which is gone afterwards."""
    first = exec_credential(token=SECRET, expirationTimestamp="2020-01-01T00:00:00Z")
    hang = f"if test -e {tmp_path}/hang; then sleep 600 & echo $! > {tmp_path}/child; wait; fi"
    body = f"echo $$ >> {tmp_path}/pids; {hang}; echo '{first}'"
    found = Kubeconfig(lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", body)), None, plugin_limit_s=1.0)
    found.configuration()
    assert found.authorization() == f"Bearer {SECRET}"
    pids = (tmp_path / "pids").read_text().split()
    (tmp_path / "hang").touch()
    errors: list[str] = []

    def ask() -> None:
        try:
            found.authorization()
        except CredentialsError as error:
            errors.append(error.reason)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(errors) == 8
    assert all("did not answer within 1 s" in error for error in errors)
    (hung,) = set((tmp_path / "pids").read_text().split()) - set(pids)
    eventually(lambda: not running(int(hung)) and not running(int((tmp_path / "child").read_text())))
    (tmp_path / "hang").unlink()
    assert found.authorization() == f"Bearer {SECRET}"


def test_a_plugin_that_hangs_is_killed_with_its_children_and_its_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """At the first connect; also one whose child, in a session of its own, keeps standard output open."""
    body = f"setsid sh -c 'echo $$ > {tmp_path}/escaped; exec sleep 5' & exit 0"
    path = lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", body))
    start_s = time.monotonic()
    with pytest.raises(CredentialsError, match=r"did not answer within 0\.5 s"):
        Kubeconfig(path, None, plugin_limit_s=0.5).configuration()
    assert time.monotonic() - start_s < 3.0
    os.kill(int((tmp_path / "escaped").read_text()), signal.SIGKILL)


def test_a_plugin_that_runs_when_the_program_ends_does_not_outlive_it(tmp_path: Path) -> None:
    """A doctor who is done must leave nobody behind."""
    path = lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", f"echo $$ > {tmp_path}/pid; exec sleep 600"))
    program = f"""
import pathlib, threading, time
from meshlb.resolve.kubernetes.credentials import Kubeconfig
threading.Thread(target=Kubeconfig({path!r}, None).configuration, daemon=True).start()
end_s = time.monotonic() + 20
while not pathlib.Path({str(tmp_path / "pid")!r}).exists() and time.monotonic() < end_s: time.sleep(0.01)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    pid = int((tmp_path / "pid").read_text())
    end_s = time.monotonic() + 5.0
    while running(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert not running(pid)


def running(pid: int) -> bool:
    """Also a dead one that nobody has reaped is not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def id_token(expires_s: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_s, "sub": "dev"}).encode()).decode().rstrip("=")
    return f"e30.{claims}.{SECRET}"


def oidc(token: str) -> dict[str, object]:
    """One whose identity provider would have to be asked, at an address where nobody answers."""
    issuer = {"idp-issuer-url": "https://192.0.2.1", "refresh-token": SECRET, "client-id": "cli", "client-secret": SECRET}
    return {"auth-provider": {"name": "oidc", "config": {**issuer, "id-token": token}}}


def test_an_oidc_token_is_taken_from_the_kubeconfig_while_it_is_valid(tmp_path: Path) -> None:
    """It is stronger than other tokens of that user; one whose end cannot be read is for the server to judge."""
    token = id_token(time.time() + 600)
    user = {**oidc(token), "token": "other", "tokenFile": str(tmp_path / "none")}
    found = Kubeconfig(lying(tmp_path / "kubeconfig", user), None)
    found.configuration()
    assert found.authorization() == f"Bearer {token}"
    opaque = Kubeconfig(lying(tmp_path / "opaque", oidc("opaque")), None)
    opaque.configuration()
    assert opaque.authorization() == "Bearer opaque"


def test_an_expired_oidc_token_is_an_error_at_once_and_nobody_is_asked_for_another(tmp_path: Path) -> None:
    """The package's loader would wait for the identity provider for minutes, and not check its certificate."""
    path = lying(tmp_path / "kubeconfig", oidc(id_token(time.time() - 1)))
    start_s = time.monotonic()
    with pytest.raises(CredentialsError, match="has expired: run kubectl once"):
        Kubeconfig(path, None).configuration()
    assert time.monotonic() - start_s < 1.0
    lying(tmp_path / "kubeconfig", oidc(id_token(time.time() + 600)))  # it was run
    Kubeconfig(path, None).configuration()


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"name": "gcp", "config": {"access-token": SECRET}}, "gke-gcloud-auth-plugin"),
        ({"name": "azure", "config": {"access-token": SECRET}}, "kubelogin"),
        ({"name": SECRET}, "none that Kubernetes knows"),
        ({"name": "oidc"}, "no id-token"),
        ({"name": "oidc", "config": {"id-token": 7}}, "no id-token"),
        (SECRET, "no name"),
        ({"config": {"id-token": SECRET}}, "no name"),
    ],
)
def test_other_auth_providers_are_refused_by_name(tmp_path: Path, provider: object, said: str) -> None:
    """What Kubernetes' own clients dropped fails with what to use instead, not with a 401 or in silence."""
    with pytest.raises(CredentialsError, match=said) as raised:
        Kubeconfig(lying(tmp_path / "kubeconfig", {"auth-provider": provider}), None).configuration()
    assert SECRET not in raised.value.reason


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"token": f"{SECRET}\nX"}, CLUSTER),
        ({"token": f"{SECRET}é"}, CLUSTER),
        ({"token": "t"}, {"server": f"https://admin:{SECRET}@127.0.0.1:1"}),
        ({"token": "t"}, {"server": f"https://admin:a/b@{SECRET}@127.0.0.1:1"}),
        ({"token": "t"}, {"server": f"ftp://admin:{SECRET}@127.0.0.1:1"}),
        ({"token": "t"}, {**CLUSTER, "proxy-url": f"nonsense://u:{SECRET}@127.0.0.1:1"}),
        ({"token": "t"}, {**CLUSTER, "proxy-url": f"http://u:{SECRET}@host:99999"}),
        ({"auth-provider": {"name": "gcp", "config": {"access-token": SECRET, "expiry": "never"}}}, CLUSTER),
        ({"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET}}}, CLUSTER),
        ({"token": "t", "client-certificate-data": SECRET, "client-key-data": SECRET}, CLUSTER),
    ],
)
def test_no_secret_of_a_kubeconfig_is_ever_told(
    tmp_path: Path, user: dict[str, object], cluster: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it, in whichever library's words: neither in the error, nor in the log, nor in the server's name."""
    caplog.set_level(logging.DEBUG)
    path = lying(tmp_path / "kubeconfig", user, cluster)
    told = []
    try:
        api = KubernetesApi(Kubeconfig(path, None), connect_timeout_s=0.2)
        told.append(api.server)
        api.get("/version", (), Interrupt())
    except ApiError as error:
        told.append(error.reason)
    assert told
    assert SECRET not in "".join(told) + caplog.text


@pytest.mark.parametrize(
    "user", [{"token": f"{SECRET}\nX"}, {"token": f"{SECRET}\r\nX: y"}, {"token": f"{SECRET}é"}, {"token": f"{SECRET}\x00"}]
)
def test_a_token_that_no_header_may_have_is_refused_before_http_client_quotes_it(tmp_path: Path, user: dict[str, object]) -> None:
    """Its own errors show the whole value, escaped, so that no search for the token would find it."""
    found = Kubeconfig(lying(tmp_path / "kubeconfig", user), None)
    found.configuration()
    with pytest.raises(CredentialsError, match="no header may have") as raised:
        found.authorization()
    assert SECRET not in raised.value.reason


def test_a_plugins_token_that_no_header_may_have_is_refused_too(tmp_path: Path) -> None:
    """The same rule, wherever it comes from."""
    (tmp_path / "answer").write_text(exec_credential(token=f"{SECRET}\nX"))
    found = Kubeconfig(lying(tmp_path / "kubeconfig", plugin(tmp_path / "plugin", f"cat {tmp_path}/answer")), None)
    found.configuration()
    with pytest.raises(CredentialsError, match="no header may have"):
        found.authorization()


def test_several_kubeconfigs_are_joined_and_a_pipe_is_refused(tmp_path: Path) -> None:
    """The first to name something holds, as with kubectl, and paths are relative to their own file."""
    for name, server in (("a", "https://a.example"), ("b", "https://b.example")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t").write_text(name)
        lying(tmp_path / name / "config", {"tokenFile": "t"}, {"server": server})
    found = Kubeconfig(f"/nonexistent:{tmp_path}/b/config:{tmp_path}/a/config", None)
    assert found.configuration().host == "https://b.example"
    assert found.authorization() == "Bearer b"
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CredentialsError, match="fifo is no regular file"):
        Kubeconfig(str(tmp_path / "fifo"), None).configuration()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed: Missing Authority Key Identifier (_ssl.c:1032)",
            "VERIFY_X509_STRICT",
        ),
        ("certificate verify failed: CA cert does not include key usage extension", "keyCertSign"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "tls-server-name"),
        ("certificate verify failed: unable to get local issuer certificate", "did not sign"),
        ("certificate verify failed: certificate has expired", "clock"),
    ],
)
def test_a_refused_certificate_comes_with_what_to_do(text: str, words: str) -> None:
    """What OpenSSL says is wrong seldom says what would help."""
    assert words in tls_advice(text)
    assert tls_advice("connection reset") == ""
