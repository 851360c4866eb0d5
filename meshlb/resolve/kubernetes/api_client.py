"""The one real ``ApiTransport``: GET requests through the urllib3 pools that the ``kubernetes`` package configures.

What is used of the package is the least that all its majors have in common: ``Configuration``, ``KubeConfigLoader`` and
``client.rest.RESTClientObject``, which knows proxies, NO_PROXY and TLS options. ``ApiClient.call_api`` changed its meaning in
version 37, its models cost CPU and memory, and ``Watch`` and ``SharedInformer`` ask again without a pause for ever (measured:
thousands of requests a second).

Redirects are not followed (the token would go along), nothing is retried here, and every request has its timeouts: 3 s to connect,
15 s for an answer to begin and between its parts (a server may wait 3 s for a version), the stream's own for the lines of a watch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterable, Iterator
from http.client import HTTPException
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from meshlb import __version__
from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.kubernetes.connections import interruptible, prepare, tls_context
from meshlb.resolve.kubernetes.kubeconfig import without_userinfo
from meshlb.resolve.kubernetes.refusal import parse_refusal
from meshlb.resolve.kubernetes.requests import Query
from meshlb.resolve.kubernetes.tls_words import tls_advice
from meshlb.resolve.kubernetes.transport import MAX_ANSWER, ApiError, CredentialsError, Interrupt

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 15.0
_CHUNK: Final = 65536
_MAX_LINE: Final = 16 * 2**20  # etcd's limit for one object is 1.5 MiB; more without a line's end is no watch
_MAX_REFUSAL: Final = 65536

_log = logging.getLogger("meshlb.resolve.kubernetes")


class Credentials(Protocol):
    """What ``credentials`` has two of."""

    def configuration(self) -> Any: ...

    def authorization(self) -> str: ...


class KubernetesApi:
    """Requests to the API server that ``credentials`` name. Made in a helper thread: it imports ``kubernetes``, reads files and
    raises CredentialsError."""

    def __init__(
        self, credentials: Credentials, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._credentials = credentials
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._distrusted = False  # the server's certificate did not fit the CA that was read: it may have been rotated
        self._manager, self._base = self._connections()

    @property
    def server(self) -> str:
        """Where requests go: ``https://10.96.0.1:443``, and through which proxy."""
        return self._base + _proxy(self._manager)

    def get(self, path: str, query: Query, interrupt: Interrupt) -> bytes:
        with self._answer(path, query, interrupt, "gzip") as response:
            return _whole(response.stream(_CHUNK, decode_content=True))

    def watch(self, path: str, query: Query, interrupt: Interrupt, *, read_timeout_s: float) -> Generator[list[bytes]]:
        with self._answer(path, query, interrupt, "identity") as response:
            _wait_for_lines(response, read_timeout_s)
            yield []
            yield from _lines(response.stream(_CHUNK, decode_content=True))

    def renew_credentials(self) -> None:
        manager, base = self._connections()
        with self._lock:
            self._manager, self._base, self._distrusted = manager, base, False

    def close(self) -> None:
        self._manager.clear()

    def _connections(self) -> tuple[Any, str]:
        from kubernetes.client.rest import RESTClientObject

        configuration = self._credentials.configuration()
        try:
            with fork_gate:
                manager = RESTClientObject(configuration).pool_manager
                prepare(manager, tls_context(configuration))
        except (OSError, ValueError, AssertionError) as error:  # the last is urllib3's for a proxy's URL
            raise CredentialsError(f"{self._credentials!r}: {without_userinfo(str(error))}") from None
        if _proxy(manager):
            _log.info("%s is asked%s", configuration.host, _proxy(manager))
        return manager, configuration.host.rstrip("/")

    @contextlib.contextmanager
    def _answer(self, path: str, query: Query, interrupt: Interrupt, encoding: str) -> Iterator[Any]:
        """An answer with status 200, given back or closed at the end; everything that can happen to it becomes an ApiError."""
        import urllib3

        if self._distrusted:
            self.renew_credentials()
        with self._lock:
            manager, url = self._manager, f"{self._base}{path}?{urlencode(query)}" if query else self._base + path
        token = self._credentials.authorization()
        headers = {"Accept": "application/json", "Accept-Encoding": encoding, "User-Agent": f"meshlb/{__version__}"}
        if token:
            headers["Authorization"] = token
        timeout = urllib3.Timeout(connect=self._connect_timeout_s, read=self._read_timeout_s)
        response = None
        try:
            with interruptible(interrupt):
                # retries=False: urllib3 would sleep through a Retry-After and follow redirects, whoever they lead to.
                response = manager.request("GET", url, headers=headers, timeout=timeout, preload_content=False, retries=False)
                if response.status != 200:
                    body = response.read(_MAX_REFUSAL, decode_content=True)
                    refusal = parse_refusal(body, response.status, response.headers.get("Retry-After", ""))
                    raise ApiError(str(refusal), refusal)
                kind = response.headers.get("Content-Type", "")
                if kind and not kind.startswith("application/json"):
                    raise ApiError(f"an answer of type {kind:.80}, which is no API server's")
                yield response
        except (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError) as error:
            self._distrusted = self._distrusted or isinstance(error, urllib3.exceptions.SSLError)
            raise ApiError(_unreached(error, self._base) or _reason(error, token)) from None
        finally:
            if response is not None:
                _give_back(response)


def _whole(chunks: Iterable[bytes]) -> bytes:
    """An answer, unless it is larger than any cluster's."""
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > MAX_ANSWER:
            raise ApiError(f"an answer of over {MAX_ANSWER} bytes")
    return bytes(whole)


def _lines(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Whole lines, in batches as they come. A last one without an end was cut off, and comes again on the next stream."""
    pending: list[bytes] = []
    for chunk in chunks:
        pending.append(chunk)
        if b"\n" in chunk:
            *lines, rest = b"".join(pending).split(b"\n")
            pending = [rest]
            complete = [line for line in lines if line.strip()]
            if complete:
                yield complete
        elif sum(map(len, pending)) > _MAX_LINE:
            yield [b"".join(pending)[:80]]  # cannot be read, and so is followed by a list of what it would have said
            raise ApiError(f"a line of over {_MAX_LINE} bytes in a watch")


def _wait_for_lines(response: Any, seconds: float) -> None:
    """The head of a stream comes at once or not at all; its lines may take long."""
    sock = getattr(response.connection, "sock", None)
    if sock is not None:
        sock.settimeout(seconds)


def _give_back(response: Any) -> None:
    """To the pool if everything was read (then urllib3 has done so already), else closed: by the thread that read it."""
    with contextlib.suppress(OSError, HTTPException):
        response.close()


def _reason(error: Exception, token: str) -> str:
    """What went wrong, for people; a header's value must not show, however a library came to quote it."""
    from urllib3.exceptions import SSLError

    text = f"{type(error).__name__}: {error}"
    text += tls_advice(text) if isinstance(error, SSLError) else ""
    secret = token.rpartition(" ")[2]
    return without_userinfo(text.replace(secret, "…") if secret else text)


def _unreached(error: Exception, server: str) -> str:
    """The plain words for a connection that was never made; empty for any other failure."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    if not isinstance(error, (ConnectTimeoutError, NewConnectionError)):
        return ""
    cause = error.__cause__ or error.__context__
    what = cause.strerror if isinstance(cause, OSError) and cause.strerror else "no answer in time"
    return f"cannot reach the API server at {server}: {what[:1].lower()}{what[1:]}"


def _proxy(manager: Any) -> str:
    proxy = getattr(manager, "proxy", None)
    return f" through the proxy {proxy.scheme}://{proxy.host}:{proxy.port}" if proxy is not None else ""
