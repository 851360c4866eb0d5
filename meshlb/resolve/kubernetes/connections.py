"""urllib3 pools as a long-lived stream needs them: dead peers are noticed, TLS files are read once, a blocked read can be ended.

- Keepalive 10/5/3 and a user timeout of 20 s: a cut network is noticed after about 20 s on Linux; without, never.
- One ``SSLContext`` for all connections. urllib3 would read CA and key files again for each, and the package keeps a kubeconfig's
  in temporary files that a forked child's exit removes. It is built here for another reason too: Python 3.13's default context
  refuses cluster CAs without key identifiers (EKS, MicroK8s). Chain and host name are verified as always; what is left out is
  RFC 5280's pedantry about extensions, which Go's clients never asked for.
- Another thread ends a blocked request by ``shutdown`` of its socket. Never by ``close``: the descriptor's number could be reused
  under the reader's hands. The socket's own base class is asked, because ``SSLSocket.shutdown`` takes the TLS layer off first and
  the reader would see ciphertext.

Limits: a request that is still connecting or shaking hands has no socket to shut down; it ends by its connect timeout (3 s).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from meshlb.resolve.kubernetes.transport import Interrupt

KEEPALIVE_S: Final = (10, 5, 3)  # idle, interval, count
USER_TIMEOUT_MS: Final = 20_000
POOL_SIZE: Final = 4  # a watch keeps one; lists and single objects share the others

_current = threading.local()  # the Interrupt of the request that this thread is making


def socket_options() -> list[tuple[int, int, int]]:
    """What the platform has of: no delay (urllib3's own default, which this list replaces), keepalive, user timeout."""
    idle_s, interval_s, count = KEEPALIVE_S
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    named = {
        "TCP_KEEPIDLE": idle_s,
        "TCP_KEEPALIVE": idle_s,  # macOS's name for it
        "TCP_KEEPINTVL": interval_s,
        "TCP_KEEPCNT": count,
        "TCP_USER_TIMEOUT": USER_TIMEOUT_MS,
    }
    for name, value in named.items():
        option = getattr(socket, name, None)
        if option is not None:
            options.append((socket.IPPROTO_TCP, option, value))
    return options


def tls_context(configuration: Any) -> ssl.SSLContext:
    """From a ``kubernetes.client.Configuration``. Raises ValueError that names the file that cannot be used."""
    from urllib3.util.ssl_ import create_urllib3_context

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whose work the comparison of names is: from urllib3 2 on Python's; 1.26 compares itself, and fails at an address otherwise.
    context.check_hostname = create_urllib3_context().check_hostname
    authority = getattr(configuration, "ca_cert_data", None)
    if configuration.ssl_ca_cert or authority:
        with _naming("the CA's certificate", configuration.ssl_ca_cert):
            context.load_verify_locations(cafile=configuration.ssl_ca_cert, cadata=authority)
    else:
        context.load_default_certs()
    if configuration.cert_file:
        with _naming("the client's certificate and key", configuration.cert_file):
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


@contextlib.contextmanager
def _naming(what: str, path: str | None) -> Iterator[None]:
    """A certificate that is inline in the kubeconfig is in a temporary file, whose name says nothing."""
    try:
        yield
    except (OSError, ValueError) as error:
        where = path if path and Path(path).parent != Path(tempfile.gettempdir()) else "inline data"
        raise ValueError(f"{what} ({where}) cannot be used, PEM is expected: {error}") from None


def prepare(manager: Any, context: ssl.SSLContext) -> None:
    """Set up a ``urllib3.PoolManager`` that ``kubernetes`` has built. Before its first request."""
    keywords = manager.connection_pool_kw
    for name in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):  # they are in the context
        keywords.pop(name, None)
    keywords.update(ssl_context=context, socket_options=socket_options(), maxsize=POOL_SIZE, block=False)
    manager.pool_classes_by_scheme = {
        scheme: type(f"Interruptible{pool.__name__}", (pool,), {"ConnectionCls": _interruptible(pool.ConnectionCls)})
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }


@contextlib.contextmanager
def interruptible(interrupt: Interrupt) -> Iterator[None]:
    """Connections that this thread uses inside belong to ``interrupt``."""
    _current.interrupt = interrupt
    try:
        yield
    finally:
        _current.interrupt = None
        interrupt.disarm()


def _interruptible(connection_class: Any) -> Any:
    class Interruptible(connection_class):  # type: ignore[misc]
        def connect(self) -> Any:
            result = super().connect()
            _arm(self)
            return result

        def putrequest(self, *args: Any, **keywords: Any) -> Any:
            _arm(self)  # also a connection that was opened for an earlier request
            return super().putrequest(*args, **keywords)

    return Interruptible


def _arm(connection: Any) -> None:
    interrupt: Interrupt | None = getattr(_current, "interrupt", None)
    if interrupt is not None:
        interrupt.arm(lambda: _shut_down(connection.sock))


def _shut_down(sock: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):  # never connected, or already gone
        if isinstance(sock, socket.socket):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        else:  # TLS inside a proxy's TLS
            sock.shutdown(socket.SHUT_RDWR)
