"""Which stream carries which Service: the fewest that the requests allow (see ``Resource.fits``).

A Service joins the first stream of its namespace with room for it, else it begins a new one. A stream that nobody needs any more is
closed; streams that have become small are not joined again, as moving a Service costs a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.side import Side
from meshlb.resolve.kubernetes.stream import NamespaceStream


class Streams:
    """Of one server. Belongs to the discovery thread; ``describe`` to any."""

    def __init__(self, new_stream: Callable[[str, Resource], NamespaceStream]) -> None:
        self._new_stream = new_stream
        self._streams: dict[tuple[str, Resource], tuple[NamespaceStream, ...]] = {}

    def add(self, namespace: str, side: Side) -> None:
        key = (namespace, side.resource)
        running = self._streams.get(key, ())
        stream = next((stream for stream in running if side.resource.fits({*stream.services, side.service})), None)
        if stream is None:
            stream = self._new_stream(*key)
            self._streams[key] = (*running, stream)
        stream.add(side)

    def discard(self, namespace: str, side: Side) -> None:
        key = (namespace, side.resource)
        for stream in self._streams.get(key, ()):
            if side.service in stream.services:
                stream.discard(side)
        left = []
        for stream in self._streams.pop(key, ()):
            if stream.services:
                left.append(stream)
            else:
                stream.close()
        if left:
            self._streams[key] = tuple(left)

    def close(self) -> None:
        for streams in self._streams.values():
            for stream in streams:
                stream.close()
        self._streams.clear()

    def describe(self) -> dict[str, Any]:
        """By namespace; further streams of one are numbered, those of Endpoints carry the Service's name."""
        told = {}
        for (namespace, resource), streams in sorted(self._streams.copy().items(), key=lambda item: (item[0][0], item[0][1].value)):
            for number, stream in enumerate(streams, 1):
                further = f" ({number})" if number > 1 else ""
                name = f" Endpoints {', '.join(sorted(stream.services))}" if resource is Resource.ENDPOINTS else further
                told[f"{namespace}{name}"] = stream.describe()
        return told
