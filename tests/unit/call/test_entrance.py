"""Calls that find room at their limits go out without a ``Call``, and leave nothing behind; the queues stay fair."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import meshlb.call.entrance
import meshlb.limit.gate
from meshlb.call.entrance import Entrance, entrance_of
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.pool.limited_view import LimitedView
from tests.unit.call.test_admission import GET, REPORT, Shop
from tests.unit.pool.bench import TRANSIENT_FAILURE

INFO = PickInfo(GET)
FILES = (meshlb.call.entrance.__file__, meshlb.limit.gate.__file__)


def _entrance(shop: Shop) -> Entrance:
    entrance = entrance_of(shop.bench.view, shop.gates)
    assert isinstance(entrance, Entrance)
    return entrance


def test_a_call_that_finds_room_takes_it_and_gives_it_back_with_its_end() -> None:
    """At every gate that it passes, once however often it ends."""
    shop = Shop(max_in_flight=3, methods={GET: {"max_in_flight": 2}})
    entrance = _entrance(shop)
    first, second = entrance.begin(INFO), entrance.begin(INFO)
    assert first is not None
    assert second is not None
    own = f"limits.methods {GET}.max_in_flight"
    assert shop.counts() == {own: (2, 0, 0), "limits.max_in_flight": (2, 0, 0)}
    assert entrance.begin(PickInfo(REPORT)) is not None
    assert shop.counts() == {own: (2, 0, 0), "limits.max_in_flight": (3, 0, 0)}
    assert [entrance.end(first), entrance.end(first, Outcome.CANCELLED)] == [True, False]
    assert shop.counts() == {own: (1, 0, 0), "limits.max_in_flight": (2, 0, 0)}
    assert shop.in_flight == 2


def test_a_call_that_finds_none_takes_no_place_at_any_gate() -> None:
    """Also where the first gate has room and the second has none; and it was not rejected: it may wait yet."""
    shop = Shop(max_in_flight=1, methods={GET: {"max_in_flight": 2}})
    entrance = _entrance(shop)
    assert entrance.begin(INFO) is not None
    assert entrance.begin(INFO) is None
    assert shop.counts() == {f"limits.methods {GET}.max_in_flight": (1, 0, 0), "limits.max_in_flight": (1, 0, 0)}
    assert shop.in_flight == 1


def test_nobody_gets_in_past_those_who_wait() -> None:
    """A place that is free goes to the queue, and one in whose queue somebody stands is not free."""
    shop = Shop(max_in_flight=1)
    entrance = _entrance(shop)
    first = entrance.begin(INFO)
    assert first is not None
    waits = shop.call()
    entrance.end(first)
    assert entrance.begin(INFO) is None
    waits.ask()
    assert waits.attempt is not None
    waits.end()
    last = entrance.begin(INFO)
    assert last is not None
    entrance.end(last)
    assert shop.nothing_is_left()


def test_who_goes_on_as_a_call_keeps_its_place_until_that_is_over() -> None:
    """With one place for all, it would wait for itself; the end of its first attempt lets nobody in."""
    shop = Shop(max_in_flight=1)
    entrance, goes_on = _entrance(shop), shop.idle_call()
    attempt = entrance.begin(INFO)
    assert attempt is not None
    entrance.hand_over(attempt, goes_on.call)
    entrance.end(attempt, Outcome.UNREACHABLE)
    assert shop.counts() == {"limits.max_in_flight": (1, 0, 0)}
    goes_on.ask()
    assert goes_on.attempt is not None
    assert entrance.begin(INFO) is None
    goes_on.end()
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}
    assert shop.nothing_is_left()


def test_nothing_is_entered_while_nothing_is_ready() -> None:
    """What could not be served takes no place."""
    shop = Shop(max_in_flight=1)
    shop.bench.connect(TRANSIENT_FAILURE, *shop.bench.view.wanted())
    assert _entrance(shop).begin(INFO) is None
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}


def test_whoever_stands_in_line_for_an_endpoint_comes_first() -> None:
    """An endpoint that got room is the line's."""
    shop = Shop(pods=1, max_in_flight_per_endpoint=1)
    entrance, view = _entrance(shop), shop.bench.view
    assert isinstance(view, LimitedView)
    first = entrance.begin(INFO)
    assert first is not None
    assert entrance.begin(INFO) is None
    waits = shop.call()
    assert not view.line.open
    entrance.end(first)
    assert entrance.begin(INFO) is None
    waits.ask()
    assert waits.attempt is not None
    assert shop.nothing_is_left()


def _interrupted(act: Callable[[], Any], at: int) -> bool:
    """Ctrl-C before the ``at``-th line that runs of the entrance and its gates; False: it was over before. Not between a lock and its
    block, where Python looks for no signal."""
    left = at

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and "with " not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_of_a_begin_leaves_nothing_behind() -> None:
    """Its caller has no attempt to end."""
    limits = {"max_in_flight": 3, "methods": {GET: {"max_in_flight": 2}}}
    shop = Shop(**limits)
    entrance = _entrance(shop)
    at = 1
    while _interrupted(lambda: entrance.begin(INFO), at):
        assert {counts[:2] for counts in shop.counts().values()} == {(0, 0)}, at
        assert shop.in_flight == 0, at
        assert not entrance._held, at
        at += 1
    assert at > 20


@pytest.mark.parametrize("waiting", [0, 1])
def test_an_interrupt_at_any_line_of_an_end_is_made_up_for_by_leaving_again(waiting: int) -> None:
    """As whoever is interrupted there does; nobody who waits is forgotten."""
    at, interrupted = 1, True
    while interrupted:
        shop = Shop(max_in_flight=1)
        entrance = _entrance(shop)
        attempt = entrance.begin(INFO)
        assert attempt is not None
        callers = [shop.call() for _ in range(waiting)]
        interrupted = _interrupted(lambda: entrance.end(attempt), at)  # noqa: B023 - called at once
        attempt.live.discard(attempt)
        entrance.leave(attempt)
        for caller in callers:
            caller.ask()
            assert caller.attempt is not None, at
        assert shop.nothing_is_left(), at
        at += 1
    assert at > 10


def test_threads_that_come_and_go_are_never_more_than_may_be_and_leave_nothing() -> None:
    """Through the entrance, and through the queue when that is full."""
    shop = Shop(max_in_flight=3)
    entrance, most, inside, lock = _entrance(shop), 0, 0, threading.Lock()

    def come_and_go() -> None:
        nonlocal most, inside
        for _ in range(300):
            attempt = entrance.begin(INFO)
            if attempt is not None:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                entrance.end(attempt)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= most <= 3
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}
    assert shop.nothing_is_left()


def test_where_nothing_is_limited_calls_begin_at_the_view() -> None:
    """They pay for nothing."""
    shop = Shop()
    assert entrance_of(shop.bench.view, None) is shop.bench.view
