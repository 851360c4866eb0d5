"""A name that may be a Service, in virtual time: what DNS says decides, and an ordinary name never becomes a Service's rival."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.resolver import Listener
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.asked import AskedResolver
from meshlb.resolve.lookup import Found, Lookup
from meshlb.testing.loop import ManualLoop

KNOWN = Lookup(name="n", found=Found.ADDRESSES, addresses=("10.96.0.7",))
DENIED = Lookup(name="n", found=Found.NO_NAME, reason="NXDOMAIN from 10.96.0.10:53")
SILENT = Lookup(name="n", found=Found.FAILED, reason="no reply from 10.96.0.10:53")
POD = EndpointSet.of([Endpoint(host="10.0.0.1", port=1)], "kubernetes")
HOST = EndpointSet.of([Endpoint(host="192.0.2.1", port=1)], "system")


class Inner:
    """A resolver that says what the test says."""

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.closed = False
        self.hints = 0

    def start(self, listener: Listener, /) -> None:
        self.listener = listener

    def resolve_now(self) -> None:
        self.hints += 1

    def close(self) -> None:
        self.closed = True

    def says(self, endpoints: EndpointSet) -> None:
        assert self.listener is not None
        self.listener.on_endpoints(endpoints)

    def fails(self) -> None:
        assert self.listener is not None
        self.listener.on_error(ResolveError("redis:6379", ["system: Name or service not known"]))


class Scene:
    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.asked: list[float] = []
        self._done: Callable[[Lookup], None] | None = None
        self.service = Inner()
        self.ordinary = Inner()
        self.heard: list[EndpointSet] = []
        self.errors: list[ResolveError] = []
        self.resolver = AskedResolver(
            "redis:6379",
            ask=self._ask,
            new_service=lambda: self.service,
            new_ordinary=lambda: self.ordinary,
            scheduler=self.loop,
            rng=random.Random(1),
        )
        self.resolver.start(self)

    def _ask(self, done: Callable[[Lookup], None]) -> None:
        self.asked.append(self.loop.now_s())
        self._done = done

    def wait_for_a_question(self) -> None:
        while self._done is None:
            self.loop.advance(0.1)

    def dns(self, found: Lookup) -> None:
        """DNS answers the question that is open."""
        done, self._done = self._done, None
        assert done is not None
        done(found)

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.heard.append(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        self.errors.append(error)


def test_a_name_that_dns_knows_is_a_service_for_good() -> None:
    """The Service's resolver takes over and speaks for itself; DNS is not asked again, the system never."""
    scene = Scene()
    scene.dns(KNOWN)
    scene.service.says(POD)
    scene.loop.advance(3600)
    assert scene.heard == [POD]
    assert scene.asked == [0.0]
    assert scene.ordinary.listener is None
    scene.resolver.resolve_now()
    assert scene.service.hints == 1


def test_a_name_that_dns_denies_and_the_system_knows_is_ordinary_and_asked_again_once_a_minute() -> None:
    """Whatever the system says is told; DNS costs at most one question a minute, and never fewer."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.says(HOST)
    scene.ordinary.fails()
    scene.ordinary.says(HOST)
    for answer in [DENIED, SILENT] * 10:
        scene.wait_for_a_question()
        scene.dns(answer)
    assert scene.heard == [HOST, HOST]
    assert len(scene.errors) == 1
    delays = [later - earlier for earlier, later in zip(scene.asked, scene.asked[1:], strict=False)]
    for delay, expected in zip(delays, [5.0, 10.0, 20.0, 40.0, *[60.0] * 16], strict=True):
        assert 0.9 * expected <= delay <= 1.1 * expected + 0.11
    assert scene.service.listener is None


def test_a_service_that_is_made_after_its_client_takes_over_from_the_ordinary_name() -> None:
    """Make-before-break: the host goes on, and its changes are told, until the Service has an endpoint; then it is silent for good."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.says(HOST)
    scene.wait_for_a_question()
    scene.dns(KNOWN)
    assert not scene.ordinary.closed
    assert "until" in scene.resolver.describe()["is"]
    scene.service.says(EndpointSet.of([], "kubernetes"))
    moved = EndpointSet.of([Endpoint(host="192.0.2.2", port=1)], "system")
    scene.ordinary.says(moved)
    assert scene.heard == [HOST, moved]
    scene.service.says(POD)
    assert scene.ordinary.closed
    scene.ordinary.says(HOST)
    scene.service.says(EndpointSet.of([], "kubernetes"))
    assert [len(heard.endpoints) for heard in scene.heard] == [1, 1, 1, 0]
    assert scene.heard[2] == POD
    assert scene.resolver.describe()["is"] == "service"
    assert scene.loop.timers == ()


def test_a_hint_asks_about_an_ordinary_name_after_five_seconds_at_the_earliest() -> None:
    """A host that cannot be connected may be the wrong one; and hints come as often as they like."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.says(HOST)
    for _ in range(4):
        scene.wait_for_a_question()
        scene.dns(DENIED)
    asked = len(scene.asked)
    for _ in range(100):
        scene.loop.advance(0.11)
        scene.resolver.resolve_now()
        if len(scene.asked) > asked and scene._done is not None:
            scene.dns(DENIED)
    assert len(scene.asked) == asked + 2
    assert scene.asked[asked] - scene.asked[asked - 1] == pytest.approx(5.0, abs=0.12)


def test_close_ends_both_while_one_takes_over_from_the_other() -> None:
    """The Service's and the ordinary name's."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.says(HOST)
    scene.wait_for_a_question()
    scene.dns(KNOWN)
    scene.resolver.close()
    assert scene.ordinary.closed
    assert scene.service.closed


def test_while_nobody_knows_it_dns_is_asked_again_soon() -> None:
    """After 1 s, then every 2 s, jittered by a tenth: calls fail until it answers. The error holds both answers."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    assert isinstance(scene.errors[-1], ServiceNotFoundError)
    assert "NXDOMAIN" in str(scene.errors[-1])
    assert "Name or service not known" in str(scene.errors[-1])
    for answer in [DENIED, SILENT] * 5:
        scene.wait_for_a_question()
        scene.dns(answer)
    delays = [later - earlier for earlier, later in zip(scene.asked, scene.asked[1:], strict=False)]
    assert 0.9 <= delays[0] <= 1.2
    assert all(1.8 <= delay <= 2.3 for delay in delays[1:])


def test_dns_is_asked_with_back_off_while_the_system_has_an_answer() -> None:
    """What the system said is used while DNS is silent: up to 30 s are no loss then."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    scene.ordinary.says(HOST)
    for _ in range(8):
        scene.dns(SILENT)
        scene.wait_for_a_question()
    assert scene.asked[-1] - scene.asked[-2] >= 27


def test_a_hint_asks_dns_again_at_most_once_a_second() -> None:
    """Calls that fail meanwhile hint as often as they like; a question under way is not repeated."""
    scene = Scene()
    scene.resolver.resolve_now()
    assert scene.asked == [0.0]
    scene.dns(SILENT)
    scene.loop.advance(1.2)
    scene.dns(SILENT)
    for _ in range(100):
        scene.loop.advance(0.011)
        scene.resolver.resolve_now()
    assert len(scene.asked) == 3
    assert scene.asked[2] - scene.asked[1] == pytest.approx(1.0, abs=0.02)


def test_a_service_that_gets_its_first_pod_becomes_a_service() -> None:
    """Denied at first, known later: the ordinary name's resolver is closed and says nothing any more."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    scene.loop.advance(1.2)
    scene.dns(KNOWN)
    assert scene.ordinary.closed
    scene.ordinary.says(HOST)
    scene.service.says(POD)
    assert scene.heard == [POD]


def test_an_ordinary_name_that_begins_to_work_is_confirmed_by_dns_first() -> None:
    """The system finds a new Service on its search path before we ask again: the Service wins."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    scene.ordinary.says(HOST)
    assert scene.heard == []
    scene.dns(KNOWN)
    scene.service.says(POD)
    assert scene.heard == [POD]
    settled = Scene()
    settled.dns(DENIED)
    settled.ordinary.fails()
    settled.ordinary.says(HOST)
    settled.dns(DENIED)
    assert settled.heard == [HOST]
    assert settled.resolver.describe()["is"] == "ordinary"


def test_silence_of_dns_makes_no_ordinary_name() -> None:
    """SERVFAIL and time-outs are asked again; the system, which would find the Service as one address, is not tried."""
    scene = Scene()
    scene.dns(SILENT)
    assert scene.ordinary.listener is None
    assert type(scene.errors[-1]) is ResolveError
    assert "no reply" in str(scene.errors[-1])
    scene.loop.advance(1.2)
    scene.dns(KNOWN)
    scene.service.says(POD)
    assert scene.heard == [POD]


def test_what_the_system_knows_is_used_while_dns_is_away_but_not_for_good() -> None:
    """A name that worked again while DNS is silent is used, and is still a Service when DNS says so."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    scene.ordinary.says(HOST)
    scene.dns(SILENT)
    assert scene.heard == [HOST]
    scene.loop.advance(3)
    scene.dns(KNOWN)
    scene.service.says(POD)
    assert scene.heard == [HOST, POD]


def test_nothing_is_left_after_close() -> None:
    """Late answers change nothing, no timer is left, and what was in use is closed."""
    scene = Scene()
    scene.dns(DENIED)
    scene.ordinary.fails()
    scene.loop.advance(1.2)
    scene.resolver.close()
    scene.dns(KNOWN)
    scene.ordinary.says(HOST)
    assert scene.heard == []
    assert scene.ordinary.closed
    assert scene.service.listener is None
    assert scene.loop.timers == ()


def test_describe_says_what_it_is_taken_for() -> None:
    """Plain data, before and after it is settled."""
    scene = Scene()
    assert scene.resolver.describe() == {"is": "not known yet"}
    scene.dns(DENIED)
    scene.ordinary.says(HOST)
    assert scene.resolver.describe() == {"is": "ordinary", "dns_said": DENIED.reason}
    assert "ordinary" in repr(scene.resolver)
