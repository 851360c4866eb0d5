"""A view whose endpoints may be full: exact at the last place, and its first in line hears of every end."""

from __future__ import annotations

from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.health.outlier import Outlier
from meshlb.health.relative import MOST_PICKS
from meshlb.limit.gate import Place
from meshlb.pool.limited_view import LimitedView
from meshlb.pool.view import View
from tests.picking import hold
from tests.unit.pool.bench import ANY, READY, Bench, Listener, pod


class Blind:
    """A picker that saw room a moment ago, as another thread's did."""

    def __init__(self, subchannel: Subchannel) -> None:
        self.picks = 0
        self._subchannel = subchannel

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel:
        self.picks += 1
        return self._subchannel


def limited(count: int, limit: int) -> tuple[Bench, LimitedView]:
    bench = Bench(max_in_flight=limit)
    bench.publish(*(pod(number) for number in range(1, count + 1)))
    bench.connect(READY, *bench.view.wanted())
    assert isinstance(bench.view, LimitedView)
    return bench, bench.view


def test_without_a_limit_a_view_is_a_plain_one() -> None:
    """Nobody pays for what he does not use."""
    assert type(Bench().view) is View


def _one_ejected(*, busy: bool = True) -> tuple[Bench, Subchannel]:
    bench = Bench(max_in_flight=2, outlier=Outlier(consecutive_failures=5, base_ejection_s=2.0, ejection_jitter_ratio=0.0))
    bench.publish(*(pod(number) for number in (1, 2, 3)))
    bench.connect(READY, *bench.view.wanted())
    bad = bench.sub(1)
    while bad not in bench.pool.snapshot.ejected:
        attempt = bench.view.begin(ANY)
        assert attempt is not None
        bench.loop.advance(0.01)
        bench.view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)
    bench.sub(2).started += MOST_PICKS if busy else 0
    return bench, bad


class Crowd(set[Attempt]):
    """The live attempts of an endpoint for which another thread is always a moment quicker."""

    def add(self, attempt: Attempt) -> None:
        hold(self, 1)
        super().add(attempt)


def test_with_room_everywhere_the_policy_decides_alone() -> None:
    """The same draws give the same picks as without a limit."""
    (_, view), other = limited(3, 5), Bench()
    other.publish(*(pod(number) for number in (1, 2, 3)))
    other.connect(READY, *other.view.wanted())
    for _ in range(50):
        attempts = view.begin(ANY), other.view.begin(ANY)
        assert attempts[0] is not None
        assert attempts[1] is not None
        assert attempts[0].subchannel.endpoint == attempts[1].subchannel.endpoint
        view.end(attempts[0])
        other.view.end(attempts[1])


def test_an_endpoint_that_is_full_is_passed_over() -> None:
    """Whatever the picker says; and nobody is picked when all are."""
    bench, view = limited(2, 2)
    view.picker = Blind(bench.sub(1))
    taken = [view.begin(ANY, stream=number == 1) for number in range(4)]
    assert [bench.sub(1).in_flight, bench.sub(2).in_flight] == [2, 2]
    assert all(taken)
    assert view.begin(ANY) is None


def test_who_was_too_late_for_the_last_place_takes_himself_out() -> None:
    """He counts for nobody, not even as an attempt, and looks elsewhere, for so long."""
    bench, view = limited(2, 2)
    crowded, other = bench.sub(1), bench.sub(2)
    crowded.unary = Crowd()
    hold(crowded.streams, 1)
    view.picker = blind = Blind(crowded)
    attempt = view.begin(ANY)
    assert attempt is not None
    assert attempt.subchannel is other
    assert blind.picks < 10
    assert (crowded.in_flight, crowded.started, crowded.failed) == (2, 0, 0)
    hold(other.unary, 1)
    assert view.begin(ANY) is None


def test_a_probe_that_was_too_late_is_another_calls() -> None:
    """Who takes himself out gives up his claim."""
    bench, bad = _one_ejected()
    bench.loop.advance(2.5)
    bench.pool.tick()
    risked, plain = PickInfo(ANY.method, replays=True), bad.unary
    bad.unary = Crowd(plain)
    hold(bad.streams)
    attempt = bench.view.begin(risked)
    assert attempt is not None
    assert attempt.subchannel is not bad
    bad.unary = plain
    probe = bench.view.begin(risked)
    assert probe is not None
    assert probe.subchannel is bad


def test_the_first_in_line_hears_of_every_end_in_the_pool() -> None:
    """Also of one that another view ended, and of one that took itself out; only once it is the first."""
    bench, view = limited(1, 1)
    heard: list[str] = []

    def place_of(name: str) -> Place:
        def hear() -> bool:
            heard.append(name)
            return True

        return Place(view.line, hear)

    places = {name: place_of(name) for name in ("first", "second")}
    for place in places.values():
        assert view.line.enter(place, 1)
    attempt = view.begin(ANY)
    assert attempt is not None
    bench.pool.view(Listener()).end(attempt, Outcome.FAILURE)
    assert heard == ["first"]
    assert not view.end(attempt)
    assert heard == ["first"]
    places["first"].leave()
    assert heard == ["first", "second"]
    bench.sub(1).unary = Crowd()
    hold(bench.sub(1).streams, 1)
    heard.clear()
    assert view.begin(ANY) is None
    assert heard == []  # it was full for all to see
    bench.sub(1).streams.clear()
    assert view.begin(ANY) is None
    assert heard == ["second"]  # a rival has its place now, and what he saw of us was wrong


def test_an_ejected_endpoint_that_is_full_gets_no_probe_and_keeps_nobody_from_the_others() -> None:
    """It is often full because it hangs; its probe comes when one of its calls has ended."""
    bench, bad = _one_ejected()
    hold(bad.unary, 2)
    bench.loop.advance(2.5)
    bench.pool.tick()
    risked = PickInfo(ANY.method, replays=True)
    attempt = bench.view.begin(risked)
    assert attempt is not None
    assert attempt.subchannel is not bad
    bad.unary.pop()
    probe = bench.view.begin(risked)
    assert probe is not None
    assert probe.subchannel is bad


def test_while_all_others_are_full_an_ejected_endpoint_gets_its_probe_at_once() -> None:
    """When its time is over, however few calls were picked meanwhile; and a call that may be risked: none that failed before, none whose
    end does not count."""
    bench, bad = _one_ejected(busy=False)
    risked = PickInfo(ANY.method, replays=True)
    for number in (2, 3):
        hold(bench.sub(number).unary, 2)
    assert bench.view.begin(risked) is None
    bench.loop.advance(2.5)
    bench.pool.tick()
    assert bench.view.begin(PickInfo(ANY.method, frozenset([bench.sub(2)]), replays=True)) is None
    assert bench.view.begin(PickInfo(ANY.method, replays=True, judged=False)) is None
    hold(bad.unary, 2)
    assert bench.view.begin(risked) is None
    bad.unary.clear()
    probe = bench.view.begin(risked)
    assert probe is not None
    assert probe.subchannel is bad
    assert bench.view.begin(risked) is None
    bench.view.end(probe)
    back = bench.view.begin(risked)
    assert back is not None
    assert back.subchannel is bad
