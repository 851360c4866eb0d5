"""A TCP proxy before a server, which knows how many connections there were and are, and can refuse more."""

from __future__ import annotations

import contextlib
import socket
import threading

from meshlb.core.endpoint import Endpoint


class CountingProxy:
    """Counts the connections to a server, by standing before it."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self.closed = 0  # twice for each: either direction ends
        self.port = 0
        self._target = port
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self.closed += 1
        for end in (source, sink):  # wakes the other direction's thread, which a mere close would not
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    @property
    def alive(self) -> int:
        """Connections that are up."""
        return self.connections - self.closed // 2

    def close(self) -> None:
        """Refuse new connections; those that are up stay."""
        with contextlib.suppress(OSError):  # closed already
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, and with it frees the port
        self._server.close()

    def endpoint(self, uid: str = "") -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.port, uid=uid)
