"""Who hears of a Service late hears how old the news is."""

from __future__ import annotations

from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.testing.loop import ManualLoop

AWAY = SourceError("unreachable", "connection refused")


class Ear:
    def __init__(self) -> None:
        self.heard: list[ServiceSlices | SourceError] = []

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.heard.append(slices)

    def on_source_error(self, error: SourceError, /) -> None:
        self.heard.append(error)

    @property
    def lost_s(self) -> list[float | None]:
        """Of what was told as the truth."""
        return [said.lost_s for said in self.heard if isinstance(said, ServiceSlices)]


def test_a_late_listener_hears_since_when_nobody_confirms_the_state() -> None:
    """The first failure counts, not the last; and it is over when the source works again."""
    loop, early, late, last = ManualLoop(), Ear(), Ear(), Ear()
    feed = Feed("shop", "orders", loop)
    feed.add(early)
    feed.slices.replace((), "1", ())
    loop.advance(100)
    lost_s = loop.now_s()
    feed.slices.fail(AWAY)
    loop.advance(1000)
    feed.slices.fail(AWAY)
    feed.add(late)
    loop.run_until_idle()
    assert late.lost_s == [lost_s]
    assert late.heard[-1] == AWAY
    feed.slices.recover()
    feed.add(last)
    loop.run_until_idle()
    assert (early.lost_s, late.lost_s[-1], last.lost_s[-1]) == ([None, None], None, None)


def test_what_fails_before_it_was_told_is_not_told_as_confirmed() -> None:
    """Events wait for the loop, a failure does not wait for them."""
    loop, ear = ManualLoop(), Ear()
    feed = Feed("shop", "orders", loop)
    feed.add(ear)
    feed.slices.replace((), "1", ())
    feed.slices.fail(AWAY)
    loop.run_until_idle()
    assert ear.lost_s == [loop.now_s()]
