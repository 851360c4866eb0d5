"""Calls that find room at their limits go out without a ``Call``, and leave nothing behind; the queues stay fair."""

from __future__ import annotations

import linecache
import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import meshlb.call.entrance
import meshlb.limit.gate
import meshlb.pool.limited_view
from meshlb.call.entrance import Entrance, entrance_of
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.pool.limited_view import LimitedView
from tests.unit.call.test_admission import GET, REPORT, Caller, Shop
from tests.unit.pool.bench import TRANSIENT_FAILURE

INFO = PickInfo(GET)
FILES = (meshlb.call.entrance.__file__, meshlb.limit.gate.__file__, meshlb.pool.limited_view.__file__)


def _entrance(shop: Shop) -> Entrance:
    entrance = entrance_of(shop.bench.view, shop.gates)
    assert isinstance(entrance, Entrance)
    return entrance


def _begun(entrance: Entrance) -> Attempt:
    attempt = entrance.begin(INFO)
    assert attempt is not None
    return attempt


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
    assert view.line.in_flight
    entrance.end(first)
    assert entrance.begin(INFO) is None
    waits.ask()
    assert waits.attempt is not None
    assert shop.nothing_is_left()


def _run(act: Callable[[], Any], at: int, then: Callable[[], Any]) -> bool:
    """``act``, with something else before the ``at``-th line that runs of the entrance and what it enters; False: it was over before. Not
    between a lock and its block, where Python looks for no signal."""
    left = at

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and "with " not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            left -= 1
            if left == 0:
                sys.settrace(None)
                then()
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        act()
    finally:
        sys.settrace(before)
    return left <= 0


def _interrupted(act: Callable[[], Any], at: int) -> bool:
    """Ctrl-C there."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    try:
        return _run(act, at, interrupt)
    except KeyboardInterrupt:
        return True


def _at_every_line(once: Callable[[int], bool], least: int) -> None:
    """``once(n)`` with something happening at the n-th line, until there are no more."""
    at = 1
    while once(at):
        at += 1
    assert at > least


def _is_served(caller: Caller, at: int) -> None:
    caller.ask()
    assert caller.attempt is not None, at
    assert caller.shop.nothing_is_left(), at


ONE_PLACE = pytest.mark.parametrize("limits", [{"max_in_flight": 1}, {"max_in_flight_per_endpoint": 1}], ids=str)


@ONE_PLACE
def test_two_that_come_at_once_do_not_both_get_the_last_place(limits: dict[str, int]) -> None:
    """The other one is there at any line of the first one's way; at most one of them stays, and whoever then waits is served."""

    def once(at: int) -> bool:
        shop = Shop(pods=1, **limits)
        entrance, got = _entrance(shop), list[Any]()
        ran = _run(lambda: got.append(entrance.begin(INFO)), at, lambda: got.append(entrance.begin(INFO)))
        inside = [attempt for attempt in got if attempt is not None]
        assert len(inside) == shop.in_flight <= 1, at
        waits = shop.call()
        for attempt in inside:
            entrance.end(attempt)
        _is_served(waits, at)
        return ran

    _at_every_line(once, 10)


@ONE_PLACE
def test_nobody_slips_in_while_a_place_changes_hands(limits: dict[str, int]) -> None:
    """At any line of the end that makes room somebody else comes: he finds none, and who waited has it."""

    def once(at: int) -> bool:
        shop = Shop(pods=1, **limits)
        entrance, late = _entrance(shop), list[Any]()
        first = _begun(entrance)
        waits = shop.call()
        ran = _run(lambda: entrance.end(first), at, lambda: late.append(entrance.begin(INFO)))
        assert late == [None] * ran, at
        _is_served(waits, at)
        return ran

    _at_every_line(once, 4)


@pytest.mark.parametrize("own", [{}, {"max_in_flight_per_endpoint": 5}], ids=["", "per endpoint"])
def test_an_interrupt_at_any_line_of_a_begin_leaves_nothing_behind(own: dict[str, int]) -> None:
    """Its caller has no attempt to end."""
    shop = Shop(max_in_flight=3, methods={GET: {"max_in_flight": 2}}, **own)
    entrance = _entrance(shop)

    def once(at: int) -> bool:
        if not _interrupted(lambda: entrance.begin(INFO), at):
            return False
        assert {counts[:2] for counts in shop.counts().values()} == {(0, 0)}, at
        assert shop.in_flight == 0, at
        return True

    _at_every_line(once, 20)


@pytest.mark.parametrize("waiting", [0, 1, 3])
@pytest.mark.parametrize("limits", [{"max_in_flight": 2}, {"max_in_flight_per_endpoint": 1}], ids=str)
def test_an_interrupt_at_any_line_of_an_end_is_made_up_for_by_leaving_again(limits: dict[str, int], waiting: int) -> None:
    """As whoever is interrupted there does; nobody who waits is forgotten, and the first of them hears of it."""

    def once(at: int) -> bool:
        shop = Shop(pods=2, **limits)
        entrance = _entrance(shop)
        attempt, other = _begun(entrance), _begun(entrance)
        callers = [shop.call() for _ in range(waiting)]
        first_alone = [number == 0 for number in range(waiting)]
        interrupted = _interrupted(lambda: entrance.end(attempt), at)
        attempt.live.discard(attempt)
        entrance.leave(attempt)
        assert [caller.woken > 0 for caller in callers] == first_alone, at
        for caller in callers:
            caller.ask()
        assert [caller.attempt is not None for caller in callers] == first_alone, at
        entrance.end(other)
        assert shop.nothing_is_left(), at
        return interrupted

    _at_every_line(once, 5)


def test_an_interrupt_at_any_line_of_a_hand_over_costs_nobody_a_place() -> None:
    """The call is closed, and its first attempt ended: whoever waits gets the place."""

    def once(at: int) -> bool:
        shop = Shop(max_in_flight=1)
        entrance, goes_on = _entrance(shop), shop.idle_call()
        attempt = _begun(entrance)
        waits = shop.call()
        interrupted = _interrupted(lambda: entrance.hand_over(attempt, goes_on.call), at)
        assert shop.counts() == {"limits.max_in_flight": (1, 1, 0)} or interrupted, at
        goes_on.call.close()
        entrance.end(attempt)
        _is_served(waits, at)
        return interrupted

    _at_every_line(once, 10)


def test_a_call_that_is_made_when_all_is_over_keeps_nothing() -> None:
    """As asyncio makes one when somebody asks for what is left of the time."""
    shop = Shop(max_in_flight=1)
    entrance, late = _entrance(shop), shop.idle_call()
    attempt = entrance.begin(INFO)
    assert attempt is not None
    entrance.end(attempt)
    entrance.hand_over(attempt, late.call)
    assert shop.counts() == {"limits.max_in_flight": (0, 0, 0)}
    late.ask()
    assert late.attempt is not None
    assert shop.nothing_is_left()


@pytest.mark.parametrize("limits", [{"max_in_flight": 2}, {"max_in_flight_per_endpoint": 1}], ids=str)
def test_threads_that_find_room_and_threads_that_wait_are_never_too_many_together(limits: dict[str, int]) -> None:
    """Through the entrance, and through the queue when that is full; all are served or gave up, and nothing is left."""
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    shop = Shop(pods=2, max_wait_s=60.0, **limits)
    entrance, lock, inside, most = _entrance(shop), threading.Lock(), 0, 0
    done = list[int]()

    def work(step: int) -> None:
        nonlocal inside, most
        with lock:
            inside += step
            most = max(most, inside)

    def come_and_go(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(100):
            attempt = entrance.begin(INFO)
            if attempt is not None:
                work(1)
                work(-1)
                entrance.end(attempt)
                continue
            caller, rung = Caller(shop, GET), threading.Event()
            caller.call.wake_with(lambda rung=rung: rung.set() is None)  # type: ignore[misc]
            caller.ask()
            while caller.attempt is None and rung.wait(chance.choice([0.0, 30.0])):
                rung.clear()
                caller.ask()
            if caller.attempt is not None:
                work(1)
                work(-1)
            assert caller.error is None
            caller.end()
        done.append(number)

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before_s)
    assert len(done) == 8, "somebody was never told"
    assert 1 <= most <= 2
    assert shop.nothing_is_left()


def test_where_nothing_is_limited_calls_begin_at_the_view() -> None:
    """They pay for nothing."""
    shop = Shop()
    assert entrance_of(shop.bench.view, None) is shop.bench.view
