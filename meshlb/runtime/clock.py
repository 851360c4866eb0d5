"""The system's clock and chance, in the shape that the layers below take as arguments."""

from __future__ import annotations

import random
import time

from meshlb.runtime.fork import on_fork_child


class SystemClock:
    """``time.monotonic``: never goes back, and is not moved by whoever sets the date."""

    __slots__ = ()

    now_s = staticmethod(time.monotonic)


def system_rng() -> random.Random:
    """A generator of its own, seeded by the operating system, and again in each forked child.

    Not the functions of ``random``: their sequence belongs to the program, which may have seeded it. Without the second seeding all
    workers of a prefork server would draw the same numbers and pick the same endpoints in step.
    """
    rng = random.Random()
    on_fork_child(rng.seed)
    return rng
