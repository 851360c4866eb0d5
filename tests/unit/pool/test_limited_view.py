"""A view whose endpoints may be full: exact at the last place, and its first in line hears of every end."""

from __future__ import annotations

from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.health.outlier import Outlier
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


def test_who_was_too_late_for_the_last_place_takes_himself_out() -> None:
    """He counts for nobody, and ends as if he had been cancelled: the endpoint is not to blame."""
    bench, view = limited(1, 2)
    view.picker = blind = Blind(bench.sub(1))
    attempts = [view.begin(ANY), view.begin(ANY, True)]
    assert all(attempts)
    assert view.begin(ANY) is None
    assert blind.picks < 10
    assert (bench.sub(1).in_flight, bench.sub(1).failed) == (2, 0)


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
        assert place.enter(1)
    attempt = view.begin(ANY)
    assert attempt is not None
    bench.pool.view(Listener()).end(attempt, Outcome.FAILURE)
    assert heard == ["first"]
    assert not view.end(attempt)
    assert heard == ["first"]
    places["first"].leave()
    assert heard == ["first", "second"]
    attempt = view.begin(ANY)
    view.picker = Blind(bench.sub(1))
    assert view.begin(ANY) is None
    assert heard[2:5] == ["second"] * 3


def test_an_ejected_endpoint_that_is_full_gets_no_probe_and_keeps_nobody_from_the_others() -> None:
    """It is often full because it hangs; its probe comes when one of its calls has ended."""
    bench = Bench(max_in_flight=2, outlier=Outlier(consecutive_failures=5, base_ejection_s=2.0, ejection_jitter_ratio=0.0))
    bench.publish(*(pod(number) for number in (1, 2, 3)))
    bench.connect(READY, *bench.view.wanted())
    bad = bench.sub(1)
    while bad not in bench.pool.snapshot.ejected:
        attempt = bench.view.begin(ANY)
        assert attempt is not None
        bench.loop.advance(0.01)
        bench.view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)
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
