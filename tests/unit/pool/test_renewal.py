"""When a connection is replaced, and when the replaced one may go, in virtual time."""

from __future__ import annotations

import math
import random

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.pool.connection_settings import Connection
from meshlb.pool.renewal import DRAIN_S, Renewals


class Aged:
    """A connection."""

    def __init__(self) -> None:
        self.ready_s: float | None = None
        self.renew_s = math.inf


def subchannel() -> Subchannel:
    return Subchannel(Endpoint(host="10.0.0.1", port=80), LiveOnly())


def attempt_on(sub: Subchannel, *, stream: bool) -> Attempt:
    attempt = Attempt()
    attempt.subchannel, attempt.started_s = sub, 0.0
    attempt.live = sub.streams if stream else sub.unary
    attempt.live.add(attempt)
    return attempt


def renewals(seed: int = 1, **settings: float) -> Renewals[Aged]:
    return Renewals(Connection(**{"max_age_s": 100.0, **settings}), random.Random(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [Connection(), Connection(enabled=False, max_age_s=100.0)])
def test_nothing_is_renewed_unless_it_was_asked_for(settings: Connection) -> None:
    """The default, and ``off`` over whatever else is said; its age is known all the same."""
    off: Renewals[Aged] = Renewals(settings, random.Random(1))
    sub, connection = subchannel(), Aged()
    off.came_up(connection, 5.0)
    assert off.due({sub: connection}, 1e9) == []
    assert off.describe(sub, connection, 7.0) == {"connected_for_s": 2.0, "renewing": False, "replaced": 0}


def test_ages_are_spread_by_the_jitter() -> None:
    """Within its bounds, evenly enough that a hundred which began together are not due together."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    many = renewals(seed)
    due_s = []
    for _ in range(1000):
        connection = Aged()
        many.came_up(connection, 50.0)
        due_s.append(connection.renew_s)
    assert 140.0 <= min(due_s) < 141.0
    assert 159.0 < max(due_s) <= 160.0
    assert max(sum(second <= due < second + 1 for due in due_s) for second in range(140, 160)) < 100


def test_a_connection_is_due_once_and_not_while_its_successor_connects() -> None:
    """Nor before its time, nor where somebody else renews it."""
    all_of_it = renewals()
    sub, other, connection, theirs = subchannel(), subchannel(), Aged(), Aged()
    all_of_it.came_up(connection, 0.0)
    all_of_it.came_up(theirs, 0.0, renew=False)
    used = {sub: connection, other: theirs}
    assert all_of_it.due(used, 89.0) == []
    assert all_of_it.due(used, 111.0) == [sub]
    all_of_it.successors[sub] = Aged()
    assert all_of_it.due(used, 112.0) == []
    assert all_of_it.describe(sub, connection, 112.0)["renewing"]


def test_what_reconnects_by_itself_needs_no_successor() -> None:
    """It is new as well, and gets its own time."""
    one = renewals()
    sub, connection, successor = subchannel(), Aged(), Aged()
    one.came_up(connection, 0.0)
    one.successors[sub] = successor
    assert one.went_down(sub, connection) is successor
    assert one.successors == {}
    assert one.due({sub: connection}, 500.0) == []
    one.came_up(connection, 500.0)
    assert one.due({sub: connection}, 589.0) == []
    assert one.due({sub: connection}, 611.0) == [sub]


def test_a_replaced_connection_stays_until_its_calls_are_over() -> None:
    """And for a moment at least; calls of the successor do not count."""
    one = renewals()
    sub, old = subchannel(), Aged()
    calls = [attempt_on(sub, stream=False), attempt_on(sub, stream=True)]
    one.successors[sub] = Aged()
    one.swapped(sub, old, list(calls), 0.0)
    later = attempt_on(sub, stream=False)
    for call in calls:
        assert one.let_go(1000.0) == ([], [])
        call.live.discard(call)
    assert one.let_go(DRAIN_S / 2) == ([], [])
    assert one.all() == [old]
    assert one.let_go(DRAIN_S) == ([old], [])
    assert one.all() == []
    assert later in sub.unary


def test_the_streams_grace_closes_once_and_never_under_a_unary_call() -> None:
    """What was closed stays known until its streams have ended."""
    one = renewals(max_age_grace_s=10.0)
    sub, old = subchannel(), Aged()
    unary, stream = attempt_on(sub, stream=False), attempt_on(sub, stream=True)
    one.successors[sub] = Aged()
    one.swapped(sub, old, [unary, stream], 0.0)
    assert one.let_go(20.0) == ([], [])
    unary.live.discard(unary)
    assert one.let_go(9.0) == ([], [])
    assert one.let_go(20.0) == ([], [old])
    assert one.let_go(21.0) == ([], [])
    assert one.all() == [old]
    stream.live.discard(stream)
    assert one.let_go(22.0) == ([old], [])


def test_a_grace_needs_no_closing_where_there_is_no_stream() -> None:
    """A unary call that never ends holds its connection, and nothing else."""
    one = renewals(max_age_grace_s=10.0)
    sub = subchannel()
    one.successors[sub] = Aged()
    one.swapped(sub, Aged(), [attempt_on(sub, stream=False)], 0.0)
    assert one.let_go(1e6) == ([], [])
    assert one.describe(sub, None, 1e6) == {"connected_for_s": None, "renewing": False, "replaced": 1}
