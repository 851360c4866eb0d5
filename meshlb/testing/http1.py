"""As much HTTP/1.1 as an API server needs over asyncio streams: read a request, send an answer, stream chunks.

Why by hand: faults must be exact (a reset in the middle of a chunk, silence after the head), and no server library is a
dependency of the base install.
"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 65_536
# kube-apiserver compresses answers from this size on, if the client accepts it.
GZIP_MIN_BYTES = 128 * 1024
# What `read_head` and writing raise when the other side has gone, or speaks something else than HTTP.
CONNECTION_ENDED = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names

    @property
    def keep_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next request without its body, which is skipped; None when the client is done. Raises `ValueError` if it is not HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise ValueError("the connection ended inside a request") from None
        return None
    request_line, *lines = head.decode("latin-1").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1 request: {request_line!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
    if length := int(headers.get("content-length", "0")):
        await reader.readexactly(length)
    url = urllib.parse.urlsplit(parts[1])
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    return Head(method=parts[0], path=urllib.parse.unquote(url.path), query=query, headers=headers)


def answer(status: int, body: bytes, headers: Mapping[str, str], *, gzip_accepted: bool = False) -> bytes:
    """A whole answer with a Content-Length."""
    extra = dict(headers)
    if gzip_accepted and len(body) >= GZIP_MIN_BYTES:
        body = gzip.compress(body, compresslevel=1)
        extra["Content-Encoding"] = "gzip"
    return stream_head(status, {**extra, "Content-Length": str(len(body))}) + body


def stream_head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
