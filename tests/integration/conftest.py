"""What the asyncio tests share: each runs in asyncio's own loop and in uvloop's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.aio import LOOPS, NewLoop, run_in


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    made: NewLoop = request.param
    return made


@pytest.fixture
def run(new_loop: NewLoop) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a case to its end in a loop of that kind."""
    return lambda coroutine: run_in(new_loop, coroutine)
