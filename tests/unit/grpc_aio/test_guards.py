"""Where asyncio channels may be used."""

from __future__ import annotations

import asyncio

import pytest

from meshlb.errors import MeshError
from meshlb.grpc.aio.guards import ForkGuard, NoRunningLoopError, running_loop


def test_without_a_loop_the_rule_is_named() -> None:
    """What may be done there, what may not, and what to use instead."""
    with pytest.raises(NoRunningLoopError, match=r"made anywhere.*coroutine.*meshlb\.grpc instead") as caught:
        running_loop()
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, MeshError)


async def test_in_a_loop_it_is_that_loop() -> None:
    """As asyncio says."""
    assert running_loop() is asyncio.get_running_loop()


def test_a_process_that_was_not_forked_may_go_on() -> None:
    """The guard is silent where nothing happened."""
    guard = ForkGuard()
    assert not guard.broken
    guard.check()
