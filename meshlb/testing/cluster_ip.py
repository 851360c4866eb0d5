"""One port of a Service's cluster IP: a TCP forwarder that picks a pod for each *connection*, as kube-proxy's rules do.

A ready endpoint at random; if none is ready anywhere, one that is serving while it terminates; if there is none either, the
connection is refused. What is connected stays with its pod for life, whatever happens to the endpoints.

``internalTrafficPolicy: Local`` is kept for the node on which the client is said to be.

Deviations: no topology hints; a connection that Local would drop is refused; kube-proxy rewrites packets, so a dead pod refuses before the client is connected; here the client is connected first
and then reset.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence

from meshlb.testing.errors import FakeClusterError
from meshlb.testing.objects import FakeEndpoint
from meshlb.testing.tcp import reset

Address = tuple[str, int]
_BACKLOG = 1024


class ClusterIpPort:
    """Listens on ``(ip, port)`` while there is an endpoint to forward to. Belongs to the cluster's loop."""

    def __init__(self, ip: str, port: int, targets: Callable[[], Sequence[Address]]) -> None:
        self.ip = ip
        self.port = port
        self._targets = targets
        self._listener: socket.socket | None = None
        self._clients: set[_Half] = set()
        self._connecting: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks weakly
        self._rng = random.Random()

    def update(self) -> None:
        """Listen if there are targets, refuse if there are none."""
        if self._targets() and self._listener is None:
            self._listen()
        elif not self._targets() and self._listener is not None:
            self._refuse()

    def close(self) -> None:
        self._refuse()
        for client in list(self._clients):
            client.reset()

    def reserve(self) -> None:
        """Draw a free port now, where several Services share one address."""
        self._listen()
        self._refuse()

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((self.ip, self.port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            hint = "; ports below 1024 need privileges" if isinstance(error, PermissionError) else ""
            raise FakeClusterError(f"cannot listen on cluster IP {self.ip}:{self.port}: {error}{hint}") from error
        self.port = listener.getsockname()[1]
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connecting = asyncio.get_running_loop().create_task(self._forward(client))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _forward(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        client = _Half()
        self._clients.add(client)
        client.on_lost = lambda: self._clients.discard(client)
        await loop.connect_accepted_socket(lambda: client, sock)
        targets = self._targets()
        if not targets:  # the last endpoint went between the client's handshake and now
            client.reset()
            return
        try:
            await loop.create_connection(lambda: _Half(client), *self._rng.choice(targets))
        except OSError:
            client.reset()


class _Half(asyncio.Protocol):
    """One side of a forwarded connection. The client's is made first and reads nothing until the pod's, made with it, joins."""

    def __init__(self, peer: _Half | None = None) -> None:
        self.on_lost: Callable[[], object] = lambda: None
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._read_all = False

    def reset(self) -> None:
        if self._transport is not None:
            reset(self._transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._peer is None:
            transport.pause_reading()
        elif self._peer._transport is None:  # the client did not wait
            transport.abort()
        else:
            self._peer._peer = self
            self._peer._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.write(data)

    def eof_received(self) -> bool:
        self._read_all = True
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.write_eof()
            return not self._peer._read_all  # the other direction goes on until it has ended too
        return False

    def pause_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.on_lost()
        if self._peer is not None and self._peer._transport is not None:
            if exc is None:
                self._peer._transport.close()
            else:
                self._peer.reset()


def choose(endpoints: Sequence[FakeEndpoint], port_name: str, *, local_to: str | None = None) -> list[Address]:
    """The addresses a proxy may use now: kube-proxy's rule, without hints. ``local_to``: only those on this node."""
    having = [endpoint for endpoint in endpoints if port_name in endpoint.ports and local_to in (None, endpoint.node)]
    usable = [endpoint for endpoint in having if endpoint.routable] or [endpoint for endpoint in having if endpoint.draining]
    return [(endpoint.address, endpoint.ports[port_name]) for endpoint in usable]
