"""Time and chance as arguments: the decisions below the adapters are functions of these two and of what they were told.

Implementations live in ``meshlb.runtime`` (the system's) and ``meshlb.testing`` (a clock that the test moves by hand).
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol


class Clock(Protocol):
    """Seconds on a clock that never goes back; the zero is arbitrary."""

    def now_s(self) -> float: ...


class Rng(Protocol):
    """Uniform floats in [0, 1); safe to call from any thread."""

    def random(self) -> float: ...


class Lock(Protocol):
    """What ``threading.Lock`` offers; single-threaded users may pass one that does nothing."""

    def acquire(self, blocking: bool = True, /) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
