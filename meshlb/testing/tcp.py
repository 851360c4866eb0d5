"""The hard end of a TCP connection, which asyncio has no word for."""

from __future__ import annotations

import asyncio
import socket
import struct


def reset(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, by RST: what a peer sees when a host dies or a middlebox drops the flow. Unsent data is lost."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
