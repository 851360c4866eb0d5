"""A stream of requests that may be sent elsewhere only as long as nobody has asked it for a message.

gRPC reads the user's iterator in a thread of its own, from the moment the call begins, and what it has read cannot be put back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any


class Once:
    """The user's iterator, lent to one attempt after the other. ``take_back`` is the only way from one to the next."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self._lock = threading.Lock()
        self._touched = False
        self._lent: _Lent | None = None

    def lend(self) -> Iterator[Any]:
        """For one attempt."""
        self._lent = _Lent(self)
        return self._lent

    def take_back(self) -> bool:
        """The attempt ended. True if nothing was asked for, and from now on the attempt's thread cannot ask any more."""
        with self._lock:
            if not self._touched:
                self._lent = None
            return not self._touched

    def next_for(self, lent: _Lent) -> Any:
        with self._lock:
            if self._lent is not lent:
                raise StopIteration
            self._touched = True
        return next(self._requests)


class _Lent:
    __slots__ = ("_once",)

    def __init__(self, once: Once) -> None:
        self._once = once

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._once.next_for(self)
