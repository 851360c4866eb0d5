"""The source as its listeners see it: shared streams, whole truths, errors beside them, and a quiet end."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlb.errors import ClosedError
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.source import KubernetesSource, SourceError
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, CredentialsError
from tests.unit.resolve.kubernetes.scripted_api import Heard, ScriptedApi, ThreadedLoop, event, eventually, slice_list, slice_object

SERVICE = b'{"kind":"Service","metadata":{"name":"orders","namespace":"shop"},"spec":{"clusterIP":"10.96.0.1"}}'
FORBIDDEN = Refusal(403, "Forbidden", 'User "viewer" cannot list')


def refused(refusal: Refusal) -> ApiError:
    return ApiError(str(refusal), refusal)


def refuse(code: int) -> Callable[[str, dict[str, str]], bytes]:
    def answer(path: str, query: dict[str, str]) -> bytes:
        raise refused(Refusal(code, "", "no"))

    return answer


def orders(path: str, query: dict[str, str]) -> bytes:
    return slice_list("100", slice_object("a", "90", "10.0.0.1"))


class Setup:
    """A source on a virtual loop with a scripted API server."""

    def __init__(self, answer: Callable[[str, dict[str, str]], bytes] = orders) -> None:
        self.loop = ThreadedLoop()
        self.api = ScriptedApi(answer)
        self.connects = 0
        self.heard = Heard()
        self.source = KubernetesSource(self.connect, self.loop, random.Random(1), streaming_lists=False)

    def connect(self) -> ApiTransport | None:
        self.connects += 1
        return self.api

    def until(self, condition: Callable[[], Any]) -> None:
        self.loop.run_until(condition)

    def watch(self, service: str = "orders", listener: Heard | None = None, namespace: str = "shop") -> Any:
        return self.source.watch(namespace, service, listener or self.heard)

    def synced(self) -> Any:
        """Watch orders until its stream is open."""
        subscription = self.watch()
        self.until(lambda: self.heard.slices and self.opened)
        return subscription

    @property
    def opened(self) -> bool:
        return all(stream["open_for_s"] is not None for stream in self.source.describe()["namespaces"].values())


@pytest.fixture
def made() -> Iterator[Callable[..., Setup]]:
    setups: list[Setup] = []

    def make(*args: Any) -> Setup:
        setups.append(Setup(*args))
        return setups[-1]

    yield make
    for setup in setups:
        setup.source.close()


def test_nothing_happens_before_anybody_asks(made: Callable[..., Setup]) -> None:
    """No thread, no import, no request to a cluster that nobody uses."""
    setup = made()
    setup.loop.advance(100.0)
    assert (setup.connects, setup.loop.started, setup.api.requests) == (0, [], [])


def test_the_whole_truth_is_told_after_the_list_and_after_every_change(made: Callable[..., Setup]) -> None:
    """A listener never hears of a part of the slices."""
    setup = made()
    setup.synced()
    setup.api.streams[0].send(event("ADDED", slice_object("b", "101", "10.0.0.2")))
    setup.until(lambda: len(setup.heard.words) == 2)
    setup.api.streams[0].send(event("DELETED", slice_object("a", "102")))
    setup.until(lambda: len(setup.heard.words) == 3)
    assert setup.heard.words == ["a:10.0.0.1", "a:10.0.0.1 b:10.0.0.2", "b:10.0.0.2"]
    assert [told.resource_version for told in setup.heard.slices] == ["100", "101", "102"]
    assert setup.api.requests == [
        "get endpointslices kubernetes.io/service-name=orders",
        "watch 100 kubernetes.io/service-name=orders",
    ]


def test_a_service_without_slices_is_told_as_such(made: Callable[..., Setup]) -> None:
    """Empty is an answer; silence is none."""
    setup = made(lambda path, query: slice_list("100"))
    setup.synced()
    assert setup.heard.words == ["empty"]


def test_events_that_wait_while_the_discovery_thread_is_busy_become_one_statement(made: Callable[..., Setup]) -> None:
    """The last state counts; whoever hears us works in proportion to the Service's size."""
    setup = made()
    setup.synced()
    before = len(setup.heard.words)
    for number in range(50):
        setup.api.streams[0].send(event("MODIFIED", slice_object("a", str(101 + number), f"10.0.1.{number}")))
    reader = setup.loop.started[-1]
    setup.api.streams[0].end()  # the reader ends, so everything was posted
    reader.join(5.0)
    setup.until(lambda: setup.heard.words[-1] == "a:10.0.1.49")
    assert len(setup.heard.words) - before < 5


def test_two_listeners_and_two_services_share_one_stream(made: Callable[..., Setup]) -> None:
    """One list and one watch a namespace, whoever asks."""
    setup = made(
        lambda path, query: slice_list(
            "100", slice_object("a", "90", "10.0.0.1"), slice_object("p", "91", "10.0.0.9", service="pay")
        )
    )
    other, pay = Heard(), Heard()
    setup.watch()
    setup.watch(listener=other)
    setup.watch("pay", pay)
    setup.until(lambda: pay.slices and setup.opened)
    assert setup.api.requests == [
        "get endpointslices kubernetes.io/service-name in (orders,pay)",
        "watch 100 kubernetes.io/service-name in (orders,pay)",
    ]
    assert (setup.heard.words, other.words, pay.words) == (["a:10.0.0.1"], ["a:10.0.0.1"], ["p:10.0.0.9"])


def test_who_comes_later_is_told_what_is_known_at_once(made: Callable[..., Setup]) -> None:
    """Without a request."""
    setup = made()
    setup.synced()
    late = Heard()
    setup.watch(listener=late)
    setup.loop.run_until_idle()
    assert late.words == ["a:10.0.0.1"]
    assert len(setup.api.requests) == 2


def test_services_that_join_within_fifty_milliseconds_are_listed_together(made: Callable[..., Setup]) -> None:
    """And the wider watch is opened once, from where the narrow one was."""
    setup = made()
    setup.synced()
    for name in ("pay", "stock", "users"):
        setup.watch(name, Heard())
        setup.loop.advance(0.016)
    assert len(setup.api.requests) == 2
    setup.loop.advance(0.01)
    setup.until(lambda: len(setup.api.streams) == 2 and setup.opened)
    assert setup.api.requests[2:] == [
        "get endpointslices kubernetes.io/service-name in (pay,stock,users)",
        "watch 100 kubernetes.io/service-name in (orders,pay,stock,users)",
    ]
    assert setup.api.streams[0].interrupted
    assert setup.heard.words == ["a:10.0.0.1"]


def test_what_an_abandoned_stream_still_says_is_not_heard(made: Callable[..., Setup]) -> None:
    """Its versions would make the new stream skip what the others have yet to hear; the new stream tells the same again."""
    setup = made()
    setup.synced()
    answered = threading.Event()
    setup.api.answer = lambda path, query: orders(path, query) if answered.wait(5.0) else b""
    setup.watch("pay", Heard())
    setup.loop.advance(0.06)
    answered.set()
    eventually(lambda: not setup.loop.started[-1].is_alive())  # the list of pay waits to be processed
    posts = setup.loop.posts
    setup.api.streams[0].send(event("MODIFIED", slice_object("a", "150", "10.0.0.2")))
    eventually(lambda: setup.loop.posts > posts)
    setup.until(lambda: len(setup.api.streams) == 2 and setup.opened)
    assert setup.heard.words == ["a:10.0.0.1"]
    assert setup.source.describe()["namespaces"]["shop"]["resource_version"] == "100"


def test_a_slice_that_cannot_be_read_any_more_is_removed_all_the_same(made: Callable[..., Setup]) -> None:
    """The last state of a deleted object is of no interest; its label need not be there either."""
    setup = made(lambda path, query: slice_list("100", slice_object("a", "90", "10.0.0.1"), slice_object("b", "91", "10.0.0.2")))
    setup.synced()
    bare = {"metadata": {"name": "b", "namespace": "shop", "resourceVersion": "102"}}
    setup.api.streams[0].send(event("DELETED", slice_object("a", "101") | {"endpoints": "none"}), event("DELETED", bare))
    setup.until(lambda: setup.heard.words[-1] == "empty")


def test_a_slice_that_is_given_to_another_service_leaves_the_one_that_had_it(made: Callable[..., Setup]) -> None:
    """Its pods would get the requests of both."""
    setup, pay = made(), Heard()
    setup.watch("pay", pay)
    setup.synced()
    setup.api.streams[0].send(event("MODIFIED", slice_object("a", "101", "10.0.0.1", service="pay")))
    setup.until(lambda: pay.words[-1] == "a:10.0.0.1")
    setup.until(lambda: setup.heard.words[-1] == "empty")


def test_a_slice_that_is_given_to_a_service_that_nobody_wants_any_more_leaves_its_old_one(made: Callable[..., Setup]) -> None:
    """The watch is still as wide as before, so the server says MODIFIED where a narrow one would hear DELETED."""
    setup = made()
    pay = setup.watch("pay", Heard())
    setup.synced()
    pay.close()
    setup.loop.advance(6.0)
    setup.api.streams[0].send(event("MODIFIED", slice_object("a", "101", "10.0.0.1", service="pay")))
    setup.until(lambda: setup.heard.words[-1] == "empty")


def test_an_error_is_told_beside_the_truth_and_the_truth_again_when_it_is_over(made: Callable[..., Setup]) -> None:
    """Losing the server changes nothing that is known; whoever listens learns that it is back, changed or not."""
    setup = made()
    setup.synced()
    setup.api.answer = refuse(429)
    setup.api.streams[0].end(ApiError("connection reset"))
    setup.loop.let_pass(20.0, lambda: setup.heard.errors)
    setup.api.answer = orders
    setup.loop.let_pass(90.0, lambda: setup.heard.words[-1] != "error:unreachable")
    assert setup.heard.words[0] == setup.heard.words[-1] == "a:10.0.0.1"
    assert set(setup.heard.words[1:-1]) == {"error:unreachable"}
    late = Heard()
    setup.watch(listener=late)
    setup.loop.run_until_idle()
    assert late.words == ["a:10.0.0.1"]


def test_who_joins_a_stream_in_trouble_is_told_why_at_once(made: Callable[..., Setup]) -> None:
    """Its fallback must not wait for the next attempt, which may be five minutes away."""
    setup = made(refuse(403))
    setup.watch()
    setup.until(lambda: setup.heard.errors)
    late, other = Heard(), Heard()
    setup.watch(listener=late)
    setup.watch("pay", other)
    setup.loop.run_until_idle()
    assert late.words == other.words == ["error:forbidden"]
    setup.until(lambda: len(setup.api.requests) == 3)  # and the Endpoints of each are asked for, once
    assert setup.api.requests[0].startswith("get endpointslices")
    assert sorted(setup.api.requests[1:]) == ["get endpoints orders", "get endpoints pay"]
    setup.loop.advance(10.0)
    assert (len(setup.api.requests), late.words) == (3, ["error:forbidden"])


def test_an_error_event_ends_its_stream_and_what_came_before_it_counts(made: Callable[..., Setup]) -> None:
    """In one read or in several."""
    setup = made()
    setup.synced()
    status = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    setup.api.answer = lambda path, query: slice_list("200", slice_object("a", "150", "10.0.0.3"))
    setup.api.streams[0].send(
        event("MODIFIED", slice_object("a", "101", "10.0.0.2")), status, event("DELETED", slice_object("a", "102"))
    )
    setup.until(lambda: len(setup.api.streams) == 2)
    assert setup.heard.words == ["a:10.0.0.1", "a:10.0.0.2", "a:10.0.0.3"]
    assert setup.api.requests[2:] == [
        "get endpointslices kubernetes.io/service-name=orders",
        "watch 200 kubernetes.io/service-name=orders",
    ]


def test_a_stream_that_falls_silent_after_a_bookmark_is_replaced(made: Callable[..., Setup]) -> None:
    """150 s without a line: its reader is ended, another stream is opened from the last version."""
    setup = made()
    setup.synced()
    setup.loop.advance(1000.0)
    assert len(setup.api.streams) == 1
    setup.api.streams[0].send(event("BOOKMARK", {"metadata": {"resourceVersion": "150"}}))
    setup.until(lambda: setup.source.describe()["namespaces"]["shop"]["resource_version"] == "150")
    setup.loop.advance(149.0)
    assert not setup.api.streams[0].interrupted
    setup.loop.advance(2.0)
    setup.until(lambda: len(setup.api.streams) == 2)
    assert setup.api.streams[0].interrupted
    assert setup.api.requests[-1] == "watch 150 kubernetes.io/service-name=orders"
    assert setup.heard.words == ["a:10.0.0.1"]


def test_an_unreadable_slice_is_warned_of_once_and_what_was_known_of_it_stays(
    made: Callable[..., Setup], caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on; a custom controller that writes nonsense every second must not fill the log."""
    setup = made()
    setup.synced()
    bad = slice_object("a", "101") | {"endpoints": "none"}
    setup.api.streams[0].send(event("MODIFIED", bad), b"garbage", event("MODIFIED", bad))
    setup.api.streams[0].send(event("ADDED", slice_object("b", "103", "10.0.0.2")))
    setup.until(lambda: len(setup.heard.words) == 2)
    assert setup.heard.words[-1] == "a:10.0.0.1 b:10.0.0.2"
    warnings = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(warnings) == 2
    assert "EndpointSlices shop/a cannot be read and is skipped: endpoints: 'none' is no list" in warnings
    setup.api.answer = lambda path, query: slice_list("200", bad, slice_object("b", "103", "10.0.0.4"))
    setup.api.streams[0].send({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
    setup.until(lambda: len(setup.heard.words) == 3)
    assert setup.heard.words[-1] == "a:10.0.0.1 b:10.0.0.4"


def test_a_200_that_is_no_list_is_an_error_and_empties_nothing(made: Callable[..., Setup]) -> None:
    """A proxy's welcome page."""
    setup = made()
    setup.synced()
    setup.loop.advance(2.0)
    setup.api.answer = lambda path, query: b'{"welcome":"guest"}'
    setup.api.streams[0].send({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
    setup.loop.let_pass(6.0, lambda: setup.heard.errors)
    assert "unreadable answer" in setup.heard.errors[0].reason
    assert setup.heard.words == ["a:10.0.0.1", "error:unreachable"]


def test_a_reader_that_meets_a_bug_is_a_failed_request_and_not_the_end(
    made: Callable[..., Setup], caplog: pytest.LogCaptureFixture
) -> None:
    """Logged with its traceback, retried like any failure."""
    setup = made()

    def bug(path: str, query: dict[str, str]) -> bytes:
        raise ZeroDivisionError("a bug")

    setup.api.answer = bug
    setup.watch()
    setup.until(lambda: setup.heard.errors)
    assert setup.heard.errors == [SourceError("unreachable", "ZeroDivisionError: a bug")]
    assert any(record.exc_info for record in caplog.records)
    setup.api.answer = orders
    setup.loop.let_pass(5.0, lambda: setup.heard.slices)


def test_a_system_without_threads_to_spare_is_retried(made: Callable[..., Setup]) -> None:
    """The stream does not die for it."""
    setup = made()
    setup.synced()
    setup.loop.refuse_threads = True
    setup.api.streams[0].end(ApiError("connection reset"))
    setup.loop.let_pass(5.0, lambda: setup.heard.errors)
    assert "no thread" in setup.heard.errors[0].reason
    setup.loop.refuse_threads = False
    setup.loop.let_pass(20.0, lambda: len(setup.api.streams) == 2)


def test_a_listener_that_raises_does_not_keep_the_others_from_hearing(made: Callable[..., Setup]) -> None:
    """Each is told in a callback of its own."""
    setup = made()

    class Broken(Heard):
        def on_slices(self, slices: object, /) -> None:
            raise ZeroDivisionError("a listener's bug")

    setup.watch(listener=Broken())
    setup.watch()
    with pytest.raises(ZeroDivisionError):
        setup.until(lambda: setup.heard.slices)
    setup.until(lambda: setup.heard.slices)


def test_a_closed_subscription_hears_nothing_more_not_even_what_is_on_its_way(made: Callable[..., Setup]) -> None:
    """Closing twice is closing once."""
    setup = made()
    setup.synced()
    other = Heard()
    subscription = setup.watch(listener=other)
    subscription.close()
    subscription.close()
    setup.api.streams[0].send(event("DELETED", slice_object("a", "101")))
    setup.until(lambda: len(setup.heard.words) == 2)
    assert other.words == []


def test_a_service_that_nobody_wants_is_kept_for_five_seconds_and_its_stream_ended_then(made: Callable[..., Setup]) -> None:
    """Programs that make a channel per call cause one list, not one per call."""
    setup = made()
    subscription = setup.synced()
    for _ in range(20):
        subscription.close()
        setup.loop.advance(4.0)
        subscription = setup.watch()
    assert len(setup.api.requests) == 2
    subscription.close()
    setup.loop.advance(5.0)
    assert setup.api.streams[0].interrupted
    assert setup.source.describe()["namespaces"] == {}
    setup.until(lambda: not setup.loop.running)
    setup.loop.advance(3600.0)
    assert len(setup.api.requests) == 2


def test_a_service_that_leaves_a_shared_stream_is_forgotten_and_the_stream_goes_on(made: Callable[..., Setup]) -> None:
    """Its state is dropped; the others see nothing of it."""
    setup = made()
    setup.synced()
    pay = setup.watch("pay", Heard())
    setup.loop.advance(0.06)
    setup.until(lambda: len(setup.api.streams) == 2 and setup.opened)
    pay.close()
    setup.loop.advance(6.0)
    assert list(setup.source.describe()["services"]) == ["orders.shop"]
    setup.api.streams[1].send(
        event("MODIFIED", slice_object("p", "110", service="pay")), event("DELETED", slice_object("a", "111"))
    )
    setup.until(lambda: len(setup.heard.words) == 2)
    assert not setup.api.streams[1].interrupted


def test_where_no_cluster_is_configured_everybody_is_told_so_and_nothing_is_tried(
    made: Callable[..., Setup], caplog: pytest.LogCaptureFixture
) -> None:
    """A pod without a token is no error: nothing is logged above debug."""
    caplog.set_level(logging.DEBUG)
    setup = made()
    setup.connect = lambda: None  # type: ignore[method-assign]
    setup.source = KubernetesSource(setup.connect, setup.loop, random.Random(1), streaming_lists=False)
    setup.watch()
    answers: list[Any] = []
    setup.source.get_service("shop", "orders", lambda record, error: answers.append((record, error)))
    setup.until(lambda: setup.heard.errors and answers)
    assert setup.heard.words == ["error:absent"]
    assert answers[0][1].kind == "absent"
    late = Heard()
    setup.watch("pay", late)
    setup.source.get_service("shop", "pay", lambda record, error: answers.append((record, error)))
    setup.loop.advance(3600.0)
    assert late.words == ["error:absent"]
    assert len(answers) == 2
    assert setup.api.requests == []
    assert [thread.name for thread in setup.loop.started] == ["connect"]
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_credentials_that_cannot_be_read_are_told_and_read_again_later(made: Callable[..., Setup]) -> None:
    """A kubeconfig may be repaired; 30 s and more lie between two looks."""
    setup = made()
    tries: list[float] = []

    def connect() -> ApiTransport:
        tries.append(setup.loop.now_s())
        if len(tries) < 3:
            raise CredentialsError("kubeconfig /x cannot be used")
        return setup.api

    setup.source = KubernetesSource(connect, setup.loop, random.Random(1), streaming_lists=False)
    setup.watch()
    setup.until(lambda: setup.heard.errors)
    assert setup.heard.errors == [SourceError("config", "kubeconfig /x cannot be used")]
    setup.loop.let_pass(300.0, lambda: setup.heard.slices, step_s=5.0)
    assert tries[1] - tries[0] >= 30.0
    assert setup.heard.words[-1] == "a:10.0.0.1"


def services_of(setup: Setup, *names: str) -> list[tuple[ServiceRecord | None, SourceError | None]]:
    answers: list[tuple[ServiceRecord | None, SourceError | None]] = []
    for name in names:
        setup.source.get_service("shop", name, lambda record, error: answers.append((record, error)))
    setup.until(lambda: len(answers) == len(names))
    return answers


def test_a_service_is_read_once_and_one_that_is_not_there_is_neither_record_nor_error(made: Callable[..., Setup]) -> None:
    """404 is an answer."""

    def answer(path: str, query: dict[str, str]) -> bytes:
        if path == "/api/v1/namespaces/shop/services/orders":
            return SERVICE
        raise refused(Refusal(404, "NotFound", "no"))

    (found, error), missing = services_of(made(answer), "orders", "pay")
    assert found is not None
    assert (found.cluster_ips, error) == (("10.96.0.1",), None)
    assert missing == (None, None)


def test_a_refused_service_is_told_why_and_does_not_speak_for_the_next(made: Callable[..., Setup]) -> None:
    """RBAC may name single Services."""

    def answer(path: str, query: dict[str, str]) -> bytes:
        if path.endswith("/orders"):
            raise refused(FORBIDDEN)
        return SERVICE

    (_, forbidden), (found, _) = services_of(made(answer), "orders", "pay")
    assert forbidden == SourceError("forbidden", '403 Forbidden: User "viewer" cannot list')
    assert found is not None


def test_while_the_server_is_away_the_first_failure_answers_for_all_who_wait(made: Callable[..., Setup]) -> None:
    """Ten targets at start are one connection timeout, not ten."""

    def answer(path: str, query: dict[str, str]) -> bytes:
        raise ApiError("connect timed out")

    setup = made(answer)
    answers = services_of(setup, "a", "b", "c", "d")
    assert {error.reason for _, error in answers if error} == {"connect timed out"}
    assert setup.api.requests == ["get a"]
    setup.api.answer = lambda path, query: SERVICE
    assert services_of(setup, "a")[0][0] is not None


def test_a_service_refused_with_401_is_asked_for_once_more_with_new_credentials(made: Callable[..., Setup]) -> None:
    """A rotated token costs nobody an answer."""
    setup = made()
    setup.api.answer = lambda path, query: SERVICE if setup.api.renewed else refuse(401)(path, query)
    ((found, _),) = services_of(setup, "orders")
    assert found is not None
    assert setup.api.requests == ["get orders", "get orders"]


def test_after_close_nothing_is_heard_nothing_is_asked_and_every_reader_ends(made: Callable[..., Setup]) -> None:
    """Close waits for nobody; readers find their connections shut."""
    setup = made()
    setup.synced()
    answers: list[object] = []
    setup.source.get_service("shop", "orders", lambda record, error: answers.append(record))
    setup.source.close()
    setup.until(lambda: not setup.loop.running)
    setup.loop.advance(3600.0)
    assert setup.heard.words == ["a:10.0.0.1"]
    assert answers == []
    assert setup.api.closed
    assert setup.api.streams[0].interrupted
    with pytest.raises(ClosedError):
        setup.watch()
    with pytest.raises(ClosedError):
        setup.source.get_service("shop", "orders", lambda record, error: None)


def test_closing_while_credentials_are_being_read_connects_to_nobody(made: Callable[..., Setup]) -> None:
    """What comes too late is given back."""
    setup = made()
    setup.watch()
    setup.source.close()
    setup.until(lambda: not setup.loop.running and setup.api.closed)
    assert setup.api.requests == []


def test_trouble_is_logged_once_when_it_begins_and_once_when_it_is_over(
    made: Callable[..., Setup], caplog: pytest.LogCaptureFixture
) -> None:
    """One line a change, not one an attempt."""
    caplog.set_level(logging.INFO, "meshlb.resolve.kubernetes")
    setup = made(refuse(500))
    setup.watch()
    setup.loop.let_pass(60.0, lambda: len(setup.heard.errors) >= 4)
    setup.api.answer = orders
    setup.loop.let_pass(120.0, lambda: setup.heard.slices)
    setup.loop.let_pass(5.0, lambda: setup.source.describe()["namespaces"]["shop"]["trouble"] is None)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("WARNING", "EndpointSlices of namespace shop: 500: no"),
        ("INFO", "EndpointSlices of namespace shop are watched again"),
    ]


def test_describe_is_plain_data_and_says_where_the_stream_is(made: Callable[..., Setup]) -> None:
    """For status(), from any thread."""
    setup = made()
    setup.synced()
    setup.loop.advance(2.0)
    described = setup.source.describe()
    assert json.loads(json.dumps(described)) == described
    shop = described["namespaces"]["shop"]
    assert shop["watching"] == ["orders"]
    assert shop["resource_version"] == "100"
    assert shop["open_for_s"] == 2.0
    assert described["services"]["orders.shop"]["endpoints"] == 1
    assert described["services"]["orders.shop"]["by"] == "slices"


def test_a_service_is_read_once_for_all_who_want_it_within_ten_seconds(made: Callable[..., Setup]) -> None:
    """A program that makes a channel for each call must not read the Service for each."""
    setup = made(lambda path, query: SERVICE)
    answers: list[Any] = []
    for _ in range(20):
        setup.source.get_service("shop", "orders", lambda *answer: answers.append(answer))
    setup.until(lambda: len(answers) == 20)
    for _ in range(20):
        setup.source.get_service("shop", "orders", lambda *answer: answers.append(answer))
    setup.until(lambda: len(answers) == 40)
    assert setup.api.requests == ["get orders"]
    setup.loop.advance(10.1)
    setup.source.get_service("shop", "orders", lambda *answer: answers.append(answer))
    setup.until(lambda: len(answers) == 41)
    assert setup.api.requests == ["get orders", "get orders"]


def test_a_service_that_is_missing_is_asked_for_once_a_second(made: Callable[..., Setup]) -> None:
    """However many targets want it; it may be made any moment, so not for longer."""

    def missing(path: str, query: dict[str, str]) -> bytes:
        raise ApiError("HTTP 404", Refusal(code=404))

    setup = made(missing)
    answers: list[Any] = []
    for count in (5, 10, 15):
        for _ in range(5):
            setup.source.get_service("shop", "orders", lambda *answer: answers.append(answer))
        setup.until(lambda: len(answers) == count)  # noqa: B023
    assert answers == [(None, None)] * 15
    assert setup.api.requests == ["get orders"]
    setup.loop.advance(1.1)
    setup.source.get_service("shop", "orders", lambda *answer: answers.append(answer))
    setup.until(lambda: len(answers) == 16)
    assert setup.api.requests == ["get orders", "get orders"]


def test_at_most_five_services_are_read_a_second(made: Callable[..., Setup]) -> None:
    """Nobody is forgotten meanwhile."""
    setup = made(lambda path, query: SERVICE)
    answers: list[Any] = []
    for number in range(12):
        setup.source.get_service("shop", f"orders-{number}", lambda *answer: answers.append(answer))
    setup.until(lambda: len(answers) == 5)
    setup.loop.run_until_idle()
    assert len(setup.api.requests) == 5
    setup.loop.let_pass(3.0, lambda: len(answers) == 10, 1.01)
    assert len(setup.api.requests) == 10
    setup.loop.let_pass(3.0, lambda: len(answers) == 12, 1.01)


def test_credentials_that_hang_are_told_after_ten_seconds_and_used_when_they_come() -> None:
    """Whoever waits can turn to DNS meanwhile."""
    loop, release, heard, answers = ThreadedLoop(), threading.Event(), Heard(), list[Any]()
    api = ScriptedApi(orders)

    def connect() -> ApiTransport | None:
        release.wait(30.0)
        return api

    source = KubernetesSource(connect, loop, random.Random(1), streaming_lists=False)
    source.watch("shop", "orders", heard)
    source.get_service("shop", "orders", lambda *answer: answers.append(answer))
    loop.advance(9.9)
    assert heard.words == []
    loop.advance(0.2)
    assert heard.errors == [SourceError("config", "the credentials cannot be read within 10 s")]
    assert answers == [(None, heard.errors[0])]
    release.set()
    loop.run_until(lambda: heard.slices)
    assert heard.words[-1] == "a:10.0.0.1"
    source.close()


def test_credentials_that_hang_for_good_are_read_a_second_time_and_no_third() -> None:
    """The API must not be lost for one dead mount, nor a thread a minute."""
    loop, release, heard = ThreadedLoop(), threading.Event(), Heard()
    api, calls = ScriptedApi(orders), list[int]()
    works = threading.Event()

    def connect() -> ApiTransport | None:
        calls.append(1)
        if not works.is_set():
            release.wait(30.0)
        return api

    source = KubernetesSource(connect, loop, random.Random(1), streaming_lists=False)
    source.watch("shop", "orders", heard)
    try:
        for _ in range(20):
            loop.advance(59.0)
        eventually(lambda: len(calls) == 2)
        assert [thread.name for thread in loop.started] == ["connect", "connect"]
    finally:
        release.set()
        source.close()
    loop, heard = ThreadedLoop(), Heard()
    release.clear()
    calls.clear()
    source = KubernetesSource(connect, loop, random.Random(1), streaming_lists=False)
    source.watch("shop", "orders", heard)
    eventually(lambda: len(calls) == 1)
    works.set()
    try:
        loop.advance(61.0)
        loop.run_until(lambda: heard.slices)
    finally:
        release.set()
        source.close()


def test_a_list_that_does_not_end_is_given_up_after_thirty_seconds(made: Callable[..., Setup]) -> None:
    """A server that sends a byte now and then keeps every time limit but this one."""
    release = threading.Event()

    def never(path: str, query: dict[str, str]) -> bytes:
        release.wait(30.0)
        return orders(path, query)

    setup = made(never)
    setup.watch()
    setup.until(lambda: setup.api.requests)
    setup.loop.advance(29.9)
    assert setup.heard.words == []
    setup.loop.advance(0.2)
    assert [error.kind for error in setup.heard.errors] == ["unreachable"]
    assert "within 30 s" in setup.heard.errors[0].reason
    setup.api.answer = orders
    release.set()
    setup.loop.let_pass(5.0, lambda: setup.heard.slices, 0.5)


def spread_out(made: Callable[..., Setup]) -> Setup:
    setup = made()
    setup.source = KubernetesSource(
        setup.connect, setup.loop, random.Random(1), streaming_lists=False, start_within_s=0.8, head_start_s=0.3
    )
    return setup


def test_the_first_list_is_made_at_a_moment_of_its_own(made: Callable[..., Setup]) -> None:
    """Within the time given, whatever the import took of it; whoever comes meanwhile waits for the same moment."""
    setup = spread_out(made)
    setup.watch()
    setup.loop.advance(0.3)
    setup.until(lambda: setup.source.describe()["server"])
    setup.watch("pay", Heard())
    setup.until(lambda: not setup.loop.running)
    assert setup.api.requests == []
    setup.loop.advance(0.5)
    setup.until(lambda: setup.heard.slices and setup.opened)
    assert setup.api.requests[0] == "get endpointslices kubernetes.io/service-name in (orders,pay)"


@pytest.mark.parametrize("when", ["before the import", "after it"])
def test_whoever_has_no_other_answer_ends_the_wait_for_all(made: Callable[..., Setup], when: str) -> None:
    """No virtual time passes after the import."""
    setup = spread_out(made)
    subscription = setup.watch()
    if when == "before the import":
        subscription.hurry()
    setup.loop.advance(0.3)
    setup.until(lambda: setup.source.describe()["server"])
    if when == "after it":
        subscription.hurry()
        subscription.hurry()
    setup.until(lambda: setup.heard.slices and setup.opened)
    assert len([request for request in setup.api.requests if request.startswith("get")]) == 1


def test_a_source_that_is_closed_while_it_waits_asks_nothing(made: Callable[..., Setup]) -> None:
    """A program that was short."""
    setup = spread_out(made)
    setup.watch()
    setup.loop.advance(0.3)
    setup.until(lambda: setup.source.describe()["server"])
    setup.source.close()
    assert setup.loop.timers == ()
    assert setup.api.requests == []
