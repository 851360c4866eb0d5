"""When a change is told: bursts, held removals, held emptiness, and the limit per second."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.errors import ResolveError
from meshlb.resolve.publish import Publisher
from meshlb.testing.loop import ManualLoop


class Heard:
    """A listener that keeps what it hears, with the time."""

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.sets: list[tuple[float, EndpointSet]] = []

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.sets.append((self.loop.now_s(), endpoints))

    def on_error(self, error: ResolveError, /) -> None:
        raise AssertionError(error)

    @property
    def hosts(self) -> list[tuple[float, str]]:
        return [(round(at_s, 3), " ".join(endpoint.host for endpoint in found.endpoints)) for at_s, found in self.sets]


def pods(*hosts: str, **more: object) -> EndpointSet:
    return EndpointSet.of([replace(Endpoint(host=host, port=1), **more) for host in hosts], "kubernetes")  # type: ignore[arg-type]


def start() -> tuple[ManualLoop, Heard, Publisher]:
    loop = ManualLoop()
    heard = Heard(loop)
    return loop, heard, Publisher(heard, loop)


def test_the_first_set_is_told_at_once() -> None:
    """Nobody waits for the coalescing of a first answer, be it empty."""
    _, heard, publisher = start()
    publisher.offer(pods())
    assert heard.hosts == [(0.0, "")]


def test_a_burst_becomes_one_set() -> None:
    """What comes within 5 ms of the first change is told together."""
    loop, heard, publisher = start()
    publisher.offer(pods("a"))
    loop.advance(1)
    publisher.offer(pods("a", "b"))
    loop.advance(0.004)
    publisher.offer(pods("a", "b", "c"))
    loop.advance(1)
    assert heard.hosts == [(0.0, "a"), (1.005, "a b c")]


def test_a_removal_waits_100_ms_and_an_addition_does_not() -> None:
    """Of one change the new part is told after 5 ms, the missing part 100 ms later."""
    loop, heard, publisher = start()
    publisher.offer(pods("a", "b"))
    loop.advance(1)
    publisher.offer(pods("b", "c"))
    loop.advance(1)
    assert heard.hosts == [(0.0, "a b"), (1.005, "a b c"), (1.105, "b c")]


@pytest.mark.parametrize("others_ready", [True, False])
def test_who_was_out_of_use_is_removed_without_a_hold(others_ready: bool) -> None:
    """By its conditions: one that ends is of use only where nobody is ready, and its removal waits like any other there."""
    loop, heard, publisher = start()
    others = Endpoint(host="b", port=1, ready=others_ready, serving=True, terminating=not others_ready)
    ending = Endpoint(host="c", port=1, ready=False, serving=True, terminating=True)
    broken = Endpoint(host="d", port=1, ready=False, serving=False)
    publisher.offer(EndpointSet.of([others, ending, broken], "kubernetes"))
    loop.advance(1)
    publisher.offer(EndpointSet.of([others], "kubernetes"))
    loop.advance(1)
    told = [(1.005, "b")] if others_ready else [(1.005, "b c"), (1.105, "b")]
    assert heard.hosts == [(0.0, "b c d"), *told]


def test_a_pod_that_moves_between_slices_is_never_removed() -> None:
    """Gone and back within the hold: nobody hears of it."""
    loop, heard, publisher = start()
    publisher.offer(pods("a", "b"))
    loop.advance(1)
    publisher.offer(pods("b"))
    loop.advance(0.05)
    publisher.offer(pods("a", "b"))
    loop.advance(1)
    assert heard.hosts == [(0.0, "a b")]


def test_each_removal_has_its_own_clock() -> None:
    """A second removal does not prolong the hold of the first."""
    loop, heard, publisher = start()
    publisher.offer(pods("a", "b", "c"))
    publisher.offer(pods("b", "c"))
    loop.advance(0.08)
    publisher.offer(pods("c"))
    loop.advance(1)
    assert heard.hosts == [(0.0, "a b c"), (0.105, "b c"), (0.185, "c")]


def test_a_change_of_conditions_is_not_held() -> None:
    """A pod that begins to terminate leaves the picks within 5 ms, and its later removal needs no hold."""
    loop, heard, publisher = start()
    publisher.offer(pods("a", "b"))
    loop.advance(1)
    leaving = replace(Endpoint(host="a", port=1), ready=False, terminating=True)
    publisher.offer(EndpointSet.of([leaving, *pods("b").endpoints], "kubernetes"))
    loop.advance(0.005)
    assert heard.sets[-1][0] == 1.005
    assert not heard.sets[-1][1].endpoints[0].ready
    publisher.offer(pods("b"))
    loop.advance(0.005)
    assert heard.hosts[-1] == (1.01, "b")


def test_emptiness_is_believed_after_a_second() -> None:
    """A set that had usable endpoints stays whole for 1 s, whether the new one lists none or only unready ones."""
    for nothing in (pods(), pods("a", "b", ready=False, serving=False)):
        loop, heard, publisher = start()
        publisher.offer(pods("a", "b"))
        loop.advance(1)
        publisher.offer(nothing)
        loop.advance(0.9)
        assert len(heard.sets) == 1
        loop.advance(0.2)
        assert heard.sets[-1] == (2.005, nothing)


def test_a_moment_of_emptiness_is_not_told() -> None:
    """Empty and back within the second: nobody hears of it, and the next emptiness has its own second."""
    loop, heard, publisher = start()
    publisher.offer(pods("a"))
    publisher.offer(pods())
    loop.advance(0.9)
    publisher.offer(pods("a"))
    loop.advance(0.5)
    publisher.offer(pods())
    loop.advance(0.9)
    assert heard.hosts == [(0.0, "a")]
    loop.advance(0.2)
    assert heard.hosts[1:] == [(2.405, "")]


def test_what_moves_to_the_fallback_is_not_held() -> None:
    """The ClusterIP's connections leave the endpoints at once when pods become known: they stay known as the fallback."""
    loop, heard, publisher = start()
    publisher.offer(pods("vip"))
    loop.advance(1)
    publisher.offer(replace(pods("a"), fallback=pods("vip").endpoints))
    loop.advance(1)
    assert heard.hosts == [(0.0, "vip"), (1.005, "a")]


def test_at_most_20_sets_are_told_in_any_second() -> None:
    """Under a storm the newest truth is told as soon as the limit allows, and the last truth is always told."""
    loop, heard, publisher = start()
    for number in range(300):
        publisher.offer(replace(pods("a"), note=str(number)))
        loop.advance(0.01)
    loop.advance(2)
    times = [at_s for at_s, _ in heard.sets]
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in zip(times, times[20:], strict=False))
    assert len(times) >= 3 * 16
    assert max(later - earlier for earlier, later in pairwise(times)) < 0.07  # never quiet for the rest of a second
    assert heard.sets[-1][1].note == "299"


def test_the_same_truth_is_told_once() -> None:
    """A new version of an unchanged set is no news."""
    loop, heard, publisher = start()
    publisher.offer(pods("a"))
    publisher.offer(replace(pods("a"), version="2"))
    loop.advance(1)
    assert len(heard.sets) == 1


def test_nothing_is_told_after_close() -> None:
    """A pending change dies with the publisher."""
    loop, heard, publisher = start()
    publisher.offer(pods("a"))
    publisher.offer(pods("b"))
    publisher.close()
    loop.advance(1)
    assert heard.hosts == [(0.0, "a")]
    assert loop.timers == ()


@pytest.mark.parametrize("every_s", [0.003, 0.005, 0.0075, 0.01, 0.02, 0.04, 0.049, 0.06])
def test_a_removal_in_a_storm_of_additions_is_told_within_150_ms(every_s: float) -> None:
    """Wherever in the storm it happens: its hold is counted once, and the limit keeps a set for it."""
    delays_s = []
    for phase in range(8):
        loop, heard, publisher = start()
        names = ["a", "b", "c"]
        publisher.offer(pods(*names))
        loop.advance(5)
        removed_s = loop.now_s() + 0.3 + phase * 0.007
        while loop.now_s() < removed_s + 0.5:
            names.append(f"x{len(names):05}")
            if loop.now_s() >= removed_s and names[0] == "a":
                removed_s = loop.now_s()
                del names[0]
            publisher.offer(pods(*names))
            loop.advance(every_s)
        delays_s.append(next(at_s for at_s, found in heard.sets if found.endpoints[0].host != "a") - removed_s)
    assert min(delays_s) >= 0.1
    assert max(delays_s) < 0.13


@pytest.mark.parametrize("every_s", [0.005, 0.01, 0.03])
def test_of_many_removals_in_a_storm_each_is_told_within_150_ms(every_s: float) -> None:
    """As many pods go as come; those whose hold is nearly over go with one whose hold is."""
    loop, heard, publisher = start()
    names = [f"{number:05}" for number in range(50)]
    publisher.offer(pods(*names))
    loop.advance(5)
    gone_s: dict[str, float] = {}
    for number in range(50, 250):
        gone_s[names[0]] = loop.now_s()
        names = [*names[1:], f"{number:05}"]
        publisher.offer(pods(*names))
        loop.advance(every_s)
    loop.advance(1)
    delays_s = []
    for name, left_s in gone_s.items():
        told_s = next(at_s for at_s, found in heard.sets if at_s > left_s and all(one.host != name for one in found.endpoints))
        delays_s.append(told_s - left_s)
    assert min(delays_s) >= 0.08
    assert max(delays_s) < 0.15
