"""The API client against servers that misbehave on the wire: timeouts, interruption, redirects, TLS, and what must never leak."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshlb.resolve.kubernetes import api_client
from meshlb.resolve.kubernetes.api_client import KubernetesApi
from meshlb.resolve.kubernetes.connections import interruptible, prepare, tls_context
from meshlb.resolve.kubernetes.credentials import Kubeconfig, ServiceAccount, blank_configuration
from meshlb.resolve.kubernetes.transport import ApiError, CredentialsError, Interrupt
from tests.integration.fake_cluster_client import eventually

SECRET = "s3cret-t0ken"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Accepts connections one after the other and hands each to ``serve``, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket, bytes], None], tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
                connection = self._tls.wrap_socket(raw, server_side=True) if self._tls else raw
            except ssl.SSLError:
                continue
            except OSError:
                return
            self._sockets.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            while head := self._head(connection):
                self.heads.append(head)
                self._serve(connection, head)
        except OSError:
            return

    def _head(self, connection: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            if not part:
                return b""
            head += part
        return head

    def close(self) -> None:
        self._listener.close()
        for connection in self._sockets:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: bytes | Callable[[socket.socket, bytes], None], **options: Any) -> Server:
        send = answer if callable(answer) else lambda connection, head: connection.sendall(answer)
        servers.append(Server(send, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def kubeconfig(folder: Path, server: str, cluster: dict[str, Any] | None = None, **user: Any) -> Kubeconfig:
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {"token": SECRET}}],
    }
    path.write_text(json.dumps(config))
    return Kubeconfig(str(path), None)


def api(folder: Path, server: Server, read_timeout_s: float = 5.0) -> KubernetesApi:
    return KubernetesApi(kubeconfig(folder, f"http://127.0.0.1:{server.port}"), read_timeout_s=read_timeout_s)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_connections_notice_a_dead_peer(serve: Callable[..., Server], tmp_path: Path) -> None:
    """The sockets themselves have keepalive 10/5/3, a user timeout of 20 s where there is one, and no delay."""
    server = serve(CHUNKED + chunk(b"{}"))
    manager = urllib3.PoolManager()
    prepare(manager, ssl.create_default_context())
    response = manager.request("GET", f"http://127.0.0.1:{server.port}/", preload_content=False)
    sock = response.connection.sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    expected = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
    options = {name: getattr(socket, name) for name in expected if hasattr(socket, name)}
    assert {name: sock.getsockopt(socket.IPPROTO_TCP, option) for name, option in options.items()} == {
        name: expected[name] for name in options
    }
    response.close()


def test_an_answer_is_read_and_its_connection_used_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Compressed or not; the token goes along, and our name."""
    body = gzip.compress(b'{"a":1}')
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    client = api(tmp_path, server)
    for _ in range(3):
        assert client.get("/apis/x", (("labelSelector", "a in (b,c)"),), Interrupt()) == b'{"a":1}'
    assert len(server._sockets) == 1
    assert server.heads[0].startswith(b"GET /apis/x?labelSelector=a+in+%28b%2Cc%29 HTTP/1.1\r\n")
    assert f"authorization: bearer {SECRET}".encode() in server.heads[0].lower()


def test_lines_are_whole_wherever_the_server_cut_them(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Chunk boundaries mean nothing; empty lines neither; a line without an end was cut and comes again."""
    parts = [b'{"a"', b":1}\n", b'{"b":2}\n{"c":3}\n\n{"d"', b":4}\n{", b'"e":5}']
    server = serve(CHUNKED + b"".join(map(chunk, parts)) + b"0\r\n\r\n")
    batches = list(api(tmp_path, server).watch("/w", (), Interrupt(), read_timeout_s=5.0))
    assert batches[0] == []
    assert [line for batch in batches for line in batch] == [b'{"a":1}', b'{"b":2}', b'{"c":3}', b'{"d":4}']


def test_a_line_of_sixteen_mebibytes_is_no_watch(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Memory is bounded whatever a server sends."""

    def flood(connection: socket.socket, head: bytes) -> None:
        connection.sendall(CHUNKED)
        for _ in range(400):
            connection.sendall(chunk(b"x" * 65536))

    with pytest.raises(ApiError, match="a line of over"):
        list(api(tmp_path, serve(flood)).watch("/w", (), Interrupt(), read_timeout_s=5.0))


def test_a_server_that_asks_for_an_hour_is_answered_to_at_once(serve: Callable[..., Server], tmp_path: Path) -> None:
    """urllib3 would sleep through it; here the caller decides."""
    server = serve(b"HTTP/1.1 429 Too Many\r\nRetry-After: 3600\r\nContent-Length: 4\r\n\r\nbusy")
    started_s = time.monotonic()
    with pytest.raises(ApiError) as raised:
        api(tmp_path, server).get("/x", (), Interrupt())
    assert time.monotonic() - started_s < 2.0
    assert raised.value.refusal is not None
    assert (raised.value.refusal.retry_after_s, raised.value.refusal.message) == (3600.0, "busy")
    assert len(server.heads) == 1


def test_a_redirect_is_a_refusal_and_the_token_does_not_go_along(serve: Callable[..., Server], tmp_path: Path) -> None:
    """It would be given to whoever the Location names."""
    other = serve(OK)
    server = serve(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other.port)
    with pytest.raises(ApiError) as raised:
        api(tmp_path, server).get("/x", (), Interrupt())
    assert raised.value.refusal is not None
    assert raised.value.refusal.code == 302
    assert other.heads == []


@pytest.mark.parametrize("verb", ["get", "watch"])
def test_a_server_that_never_answers_is_given_up(serve: Callable[..., Server], tmp_path: Path, verb: str) -> None:
    """A watch waits for its head as long as any answer; only its lines may take minutes."""
    client = api(tmp_path, serve(lambda connection, head: None), read_timeout_s=0.2)
    started_s = time.monotonic()
    with pytest.raises(ApiError, match=r"timed out") as raised:
        if verb == "get":
            client.get("/x", (), Interrupt())
        else:
            list(client.watch("/x", (), Interrupt(), read_timeout_s=600.0))
    assert time.monotonic() - started_s < 2.0
    assert raised.value.kind == "unreachable"


def test_a_stream_that_falls_silent_is_given_up_after_its_own_time(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Not after that of answers."""
    client = api(tmp_path, serve(CHUNKED + chunk(b"{}\n")), read_timeout_s=0.1)
    lines = client.watch("/x", (), Interrupt(), read_timeout_s=0.6)
    started_s = time.monotonic()
    with pytest.raises(ApiError, match="timed out"):
        list(lines)
    assert 0.5 < time.monotonic() - started_s < 3.0


def test_a_stream_that_is_cut_is_an_error_and_a_clean_end_is_none(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A chunk that never comes, against the last chunk."""

    def cut(connection: socket.socket, head: bytes) -> None:
        connection.sendall(CHUNKED + chunk(b'{"a":1}\n'))
        connection.shutdown(socket.SHUT_RDWR)

    with pytest.raises(ApiError):
        list(api(tmp_path, serve(cut)).watch("/x", (), Interrupt(), read_timeout_s=5.0))
    clean = serve(CHUNKED + chunk(b'{"a":1}\n') + b"0\r\n\r\n")
    assert list(api(tmp_path, clean).watch("/x", (), Interrupt(), read_timeout_s=5.0)) == [[], [b'{"a":1}']]


@pytest.mark.parametrize("answer", [b"", CHUNKED, CHUNKED + chunk(b"{}\n")], ids=["no head", "no line", "after a line"])
def test_a_blocked_reader_is_ended_from_another_thread(serve: Callable[..., Server], tmp_path: Path, answer: bytes) -> None:
    """Whatever it waits for; within milliseconds."""
    server = serve(answer) if answer else serve(lambda connection, head: None)
    client, interrupt = api(tmp_path, server), Interrupt()
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append(list(client.watch("/x", (), interrupt, read_timeout_s=600.0)))
        except ApiError as error:
            outcome.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    eventually(lambda: server.heads)
    interrupt.fire()
    thread.join(1.0)
    assert not thread.is_alive()
    assert isinstance(outcome[0], ApiError)


def test_an_interrupted_request_is_not_even_begun(serve: Callable[..., Server], tmp_path: Path) -> None:
    """On a new connection and on one that is open."""
    server = serve(OK)
    client, interrupt = api(tmp_path, server), Interrupt()
    client.get("/x", (), Interrupt())
    interrupt.fire()
    for _ in range(2):
        with pytest.raises(ApiError):
            client.get("/y", (), interrupt)
    assert len(server.heads) == 1


def test_an_interrupt_that_comes_late_does_not_hurt_the_next_request_on_that_connection(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """The connection belongs to somebody else by then."""
    server = serve(OK)
    client, interrupt = api(tmp_path, server), Interrupt()
    client.get("/x", (), interrupt)
    interrupt.fire()
    assert client.get("/y", (), Interrupt()) == b"{}"
    assert len(server._sockets) == 1


def test_nobody_listening_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Connection refused, at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = KubernetesApi(kubeconfig(tmp_path, f"http://127.0.0.1:{port}"))
    with pytest.raises(ApiError) as error:
        client.get("/x", (), Interrupt())
    assert str(error.value) == f"cannot reach the API server at http://127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("verb", ["get", "watch"])
def test_a_page_for_people_is_no_answer(serve: Callable[..., Server], tmp_path: Path, verb: str) -> None:
    """A portal or a proxy answers anything with 200 and HTML."""
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n<html>\n")
    client = api(tmp_path, server)
    with pytest.raises(ApiError, match="text/html"):
        client.get("/x", (), Interrupt()) if verb == "get" else next(client.watch("/x", (), Interrupt(), read_timeout_s=1.0))


def test_an_answer_without_an_end_is_given_up(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of the program is not the server's."""
    monkeypatch.setattr(api_client, "MAX_ANSWER", 100_000)
    client = api(tmp_path, serve(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b" " * 200_000))
    with pytest.raises(ApiError, match="over 100000 bytes"):
        client.get("/x", (), Interrupt())


def test_no_secret_is_in_an_error_or_a_repr(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Not even where a server, or a library, quotes what it was sent."""

    def quote(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 " + head.replace(b"\r\n", b" ") + b"\r\n\r\n")

    client = api(tmp_path, serve(quote))
    with pytest.raises(ApiError) as raised:
        client.get("/x", (), Interrupt())
    assert SECRET not in f"{raised.value!r} {raised.value} {client!r} {client.server}"
    assert raised.value.__cause__ is None


def test_a_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An injected proxy breaks in-cluster calls; whoever looks must see it, without its password."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:3128")
    credentials = kubeconfig(tmp_path, "https://10.96.0.1:443")
    if credentials.configuration().proxy is None:
        pytest.skip("this version of kubernetes does not look at the environment")
    client = KubernetesApi(credentials)
    assert client.server == "https://10.96.0.1:443 through the proxy http://127.0.0.1:3128"


def certificates(folder: Path, *, identifiers: bool) -> ssl.SSLContext:
    """A cluster CA at ``ca.crt``, with or without key identifiers, and a server context for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("cluster-ca", "apiserver")]
    made = []
    for index in (0, 1):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[index])
            .issuer_name(names[0])
            .public_key(keys[index].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
        )
        if index == 1:
            address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        if identifiers:
            own = x509.SubjectKeyIdentifier.from_public_key(keys[index].public_key())
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
            builder = builder.add_extension(own, critical=False).add_extension(issuer, critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "ca.crt").write_bytes(made[0])
    pem = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(made[1] + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def account(folder: Path, server: Server) -> ServiceAccount:
    (folder / "token").write_text(SECRET)
    return ServiceAccount("127.0.0.1", str(server.port), str(folder), time.monotonic)


@pytest.mark.parametrize("identifiers", [True, False])
def test_a_cluster_ca_without_key_identifiers_is_accepted(serve: Callable[..., Server], tmp_path: Path, identifiers: bool) -> None:
    """Several clouds have such; Python 3.13's default context refuses them, Go's clients never did."""
    server = serve(OK, tls=certificates(tmp_path, identifiers=identifiers))
    assert KubernetesApi(account(tmp_path, server)).get("/x", (), Interrupt()) == b"{}"


def test_a_server_that_the_ca_does_not_vouch_for_is_refused_and_the_ca_read_again(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Nothing is sent to it; when the cluster's CA was rotated, the next request knows the new one."""
    server = serve(OK, tls=certificates(tmp_path, identifiers=True))
    right = (tmp_path / "ca.crt").read_bytes()
    certificates(tmp_path, identifiers=True)
    client = KubernetesApi(account(tmp_path, server))
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get("/x", (), Interrupt())
    assert server.heads == []
    (tmp_path / "ca.crt").write_bytes(right)
    assert client.get("/x", (), Interrupt()) == b"{}"


def test_a_server_with_another_name_is_refused(serve: Callable[..., Server], tmp_path: Path) -> None:
    """The certificate names 127.0.0.1 and nothing else."""
    server = serve(OK, tls=certificates(tmp_path, identifiers=True))
    (tmp_path / "token").write_text(SECRET)
    client = KubernetesApi(ServiceAccount("localhost", str(server.port), str(tmp_path), time.monotonic))
    with pytest.raises(ApiError, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match"):
        client.get("/x", (), Interrupt())
    assert server.heads == []


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    """Before any request."""
    (tmp_path / "token").write_text(SECRET)
    if content is not None:
        (tmp_path / "ca.crt").write_text(content)
    with pytest.raises(CredentialsError, match=r"the CA.s certificate .*ca.crt.* cannot be used") as raised:
        KubernetesApi(ServiceAccount("127.0.0.1", "1", str(tmp_path), time.monotonic))
    assert raised.value.kind == "config"


def test_verification_is_never_left_out(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A kubeconfig with insecure-skip-tls-verify is refused before any request, with what to write instead."""
    server = serve(OK, tls=certificates(tmp_path, identifiers=True))
    url = f"https://127.0.0.1:{server.port}"
    with pytest.raises(CredentialsError, match=r"insecure-skip-tls-verify.*certificate-authority"):
        KubernetesApi(kubeconfig(tmp_path, url, {"insecure-skip-tls-verify": True}))
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        KubernetesApi(kubeconfig(tmp_path, url)).get("/x", (), Interrupt())
    assert server.heads == []
    assert tls_context(blank_configuration()).verify_mode == ssl.CERT_REQUIRED


def test_a_client_certificate_of_a_kubeconfig_is_shown(serve: Callable[..., Server], tmp_path: Path) -> None:
    """It is who we are; there is no header then."""
    context = certificates(tmp_path, identifiers=True)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tmp_path / "ca.crt")
    server = serve(OK, tls=context)
    files = {"client-certificate": str(tmp_path / "server.pem"), "client-key": str(tmp_path / "server.pem")}
    cluster = {"certificate-authority": str(tmp_path / "ca.crt")}
    client = KubernetesApi(kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}", cluster, **files))
    assert client.get("/x", (), Interrupt()) == b"{}"
    assert b"authorization" not in server.heads[0].lower()


def test_outside_of_a_request_nothing_is_interruptible(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Connections that other code makes with such a pool are left alone."""
    server = serve(OK)
    manager = urllib3.PoolManager()
    prepare(manager, ssl.create_default_context())
    interrupt = Interrupt()
    with interruptible(interrupt):
        pass
    interrupt.fire()
    assert manager.request("GET", f"http://127.0.0.1:{server.port}/").status == 200
