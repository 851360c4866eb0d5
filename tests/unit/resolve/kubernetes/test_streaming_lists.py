"""Streaming lists: one request where the server has them, an ordinary list where it does not, and never half a state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlb.resolve.kubernetes import reading
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.source import KubernetesSource
from meshlb.resolve.kubernetes.transport import ApiError
from tests.unit.resolve.kubernetes.scripted_api import (
    Heard,
    ScriptedApi,
    ThreadedLoop,
    event,
    eventually,
    slice_list,
    slice_object,
)

ONE = slice_object("a", "90", "10.0.0.1")


def mark(version: str) -> dict[str, Any]:
    annotations = {"k8s.io/initial-events-end": "true"}
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version, "annotations": annotations}}}


def listing(path: str, query: dict[str, str]) -> bytes:
    return slice_list("100", ONE)


class Setup:
    """A source that asks for streaming lists, on a virtual loop with a scripted API server."""

    def __init__(self, answer: Callable[[str, dict[str, str]], bytes] = listing) -> None:
        self.loop = ThreadedLoop()
        self.api = ScriptedApi(answer)
        self.heard = Heard()
        self.source = KubernetesSource(lambda: self.api, self.loop, random.Random(1))

    def watch(self, service: str = "orders") -> Heard:
        heard = self.heard if service == "orders" else Heard()
        self.source.watch("shop", service, heard)
        return heard

    def until(self, condition: Callable[[], Any]) -> None:
        self.loop.run_until(condition)

    def stream(self, number: int = 0) -> Any:
        self.until(lambda: len(self.api.streams) > number)
        return self.api.streams[number]

    @property
    def shop(self) -> dict[str, Any]:
        return dict(self.source.describe()["namespaces"]["shop"])


@pytest.fixture
def made() -> Iterator[Callable[..., Setup]]:
    setups: list[Setup] = []

    def make(*args: Any) -> Setup:
        setups.append(Setup(*args))
        return setups[-1]

    yield make
    for setup in setups:
        setup.source.close()


def refuse_streaming(refusal: Refusal) -> Callable[[str, dict[str, str]], bytes]:
    def answer(path: str, query: dict[str, str]) -> bytes:
        if "sendInitialEvents" in query:
            raise ApiError(str(refusal), refusal)
        return listing(path, query)

    return answer


def test_the_state_is_told_once_it_is_complete_and_the_same_stream_goes_on(made: Callable[..., Setup]) -> None:
    """Slice by slice, a pool would grow out of pieces; and a second request would be one too many."""
    setup = made()
    setup.watch()
    stream = setup.stream()
    stream.send(event("ADDED", ONE))
    stream.send(event("ADDED", slice_object("b", "80", "10.0.0.2")))
    setup.loop.run_until_idle()
    assert setup.heard.words == []
    stream.send(mark("100"), event("MODIFIED", slice_object("a", "101", "10.0.0.3")))
    setup.until(lambda: setup.heard.words and setup.heard.words[-1] == "a:10.0.0.3 b:10.0.0.2")
    assert setup.heard.words[0] in ("a:10.0.0.1 b:10.0.0.2", "a:10.0.0.3 b:10.0.0.2")
    assert setup.api.requests == ["streaming watch 0 kubernetes.io/service-name=orders"]
    assert setup.shop["resource_version"] == "101"


def test_what_changes_before_the_mark_is_in_the_state(made: Callable[..., Setup]) -> None:
    """A slice that is modified or removed meanwhile; what cannot be read is warned of, and the rest counts."""
    setup = made()
    setup.watch()
    gone = event("DELETED", slice_object("b", "103"))
    bad = event("ADDED", slice_object("c", "1") | {"endpoints": "none"})
    changes = [
        event("ADDED", slice_object("b", "80", "10.0.0.2")),
        event("MODIFIED", slice_object("a", "102", "10.0.0.4")),
        gone,
        bad,
    ]
    setup.stream().send(event("ADDED", ONE), *changes, mark("103"))
    setup.until(lambda: setup.heard.words == ["a:10.0.0.4"])
    assert setup.shop["counts"]["unreadable"] == 1


def test_a_server_that_had_none_is_asked_again_after_an_hour(made: Callable[..., Setup]) -> None:
    """Nonsense from a proxy, or a replica that was not upgraded yet, is no reason to do without them for the life of a process."""
    setup = made(refuse_streaming(Refusal(422, "Invalid", "unknown")))
    setup.watch()
    setup.until(lambda: setup.heard.words == ["a:10.0.0.1"])
    setup.until(lambda: setup.api.streams)
    setup.api.answer = listing
    for gone_s, requests in ((3580.0, 5), (30.0, 6)):
        setup.loop.advance(gone_s)
        setup.api.streams[-1].send({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
        setup.loop.let_pass(10.0, lambda wanted=requests: len(setup.api.requests) == wanted)  # type: ignore[misc]
    assert [line.split()[0] for line in setup.api.requests] == ["streaming", "get", "watch", "get", "watch", "streaming"]
    assert setup.source.describe()["streaming_lists"] is True


@pytest.mark.parametrize("code", [400, 422, 501])
def test_a_server_that_refuses_is_asked_for_a_list_at_once_and_not_soon_for_another(made: Callable[..., Setup], code: int) -> None:
    """Whatever way it says that it does not know the parameter."""
    setup = made(refuse_streaming(Refusal(code, "", "unknown")))
    setup.watch()
    setup.until(lambda: setup.heard.words == ["a:10.0.0.1"])
    setup.until(lambda: setup.api.streams)
    assert setup.loop.now_s() == 1000.0
    assert setup.source.describe()["streaming_lists"] is False
    setup.api.streams[0].send({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
    setup.loop.let_pass(10.0, lambda: len(setup.api.requests) == 5)
    assert [line.split()[0] for line in setup.api.requests] == ["streaming", "get", "watch", "get", "watch"]
    assert setup.heard.errors == []


def test_where_only_list_is_allowed_a_forbidden_streaming_list_is_followed_by_a_plain_one(made: Callable[..., Setup]) -> None:
    """It is a watch to the server's RBAC. Once each time: that says nothing of what the server knows."""
    setup = made(refuse_streaming(Refusal(403, "Forbidden", "may not watch")))
    setup.watch()
    setup.until(lambda: setup.heard.words == ["a:10.0.0.1"])
    assert setup.loop.now_s() == 1000.0
    assert setup.heard.errors == []
    assert setup.source.describe()["streaming_lists"] is True


def test_where_nothing_is_allowed_a_forbidden_streaming_list_costs_one_more_question(made: Callable[..., Setup]) -> None:
    """And then the wait that a refusal has."""

    def answer(path: str, query: dict[str, str]) -> bytes:
        refusal = Refusal(403, "Forbidden", "may not")
        raise ApiError(str(refusal), refusal)

    setup = made(answer)
    setup.watch()
    setup.until(lambda: setup.heard.errors)
    assert [error.kind for error in setup.heard.errors] == ["forbidden"]
    setup.loop.advance(20.0)
    of_slices = [line.split()[0] for line in setup.api.requests if "service-name" in line]
    assert of_slices == ["streaming", "get"]


def test_a_server_that_ignores_the_question_is_found_out_after_three_silent_seconds(made: Callable[..., Setup]) -> None:
    """It sends the state and never says where that ends; progress postpones the verdict."""
    setup = made()
    setup.watch()
    stream = setup.stream()
    for number in range(3):
        stream.send(event("ADDED", slice_object(f"s{number}", str(number + 1), f"10.0.1.{number}")))
        posts = setup.loop.posts
        eventually(lambda posts=posts: setup.loop.posts > posts)  # type: ignore[misc]
        setup.loop.run_until_idle()
        setup.loop.advance(2.5)
    assert len(setup.api.requests) == 1
    setup.loop.advance(1.0)
    setup.until(lambda: setup.heard.words == ["a:10.0.0.1"])
    assert stream.interrupted
    assert setup.source.describe()["streaming_lists"] is False
    assert setup.shop["counts"]["streaming lists without an end"] == 1


def test_a_stream_that_ends_before_the_mark_is_one_of_a_server_without_it(made: Callable[..., Setup]) -> None:
    """A clean end is no fault of the network; a list certainly works."""
    setup = made()
    setup.watch()
    setup.stream().end()
    setup.until(lambda: setup.heard.words == ["a:10.0.0.1"])
    assert setup.source.describe()["streaming_lists"] is False


def test_a_cut_before_the_mark_is_retried_with_back_off_and_empties_nothing(made: Callable[..., Setup]) -> None:
    """Half a state is none; the next try is a streaming one again."""
    setup = made()
    setup.watch()
    setup.stream().send(event("ADDED", ONE))
    setup.api.streams[0].end(ApiError("connection reset"))
    setup.until(lambda: setup.heard.errors)
    assert setup.heard.slices == []
    assert len(setup.api.requests) == 1
    setup.loop.let_pass(3.0, lambda: len(setup.api.streams) == 2, step_s=0.2)
    setup.api.streams[1].send(event("ADDED", ONE), mark("100"))
    setup.until(lambda: setup.heard.words[-1] == "a:10.0.0.1")
    assert setup.source.describe()["streaming_lists"] is True


def test_a_lost_history_is_streamed_anew_from_the_last_version_and_nothing_shrinks_meanwhile(made: Callable[..., Setup]) -> None:
    """410: the new state must not be older than what is known; until it is complete, what is known stays."""
    setup = made()
    setup.watch()
    setup.stream().send(event("ADDED", ONE), mark("100"))
    setup.until(lambda: setup.heard.words)
    setup.api.streams[0].send({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
    setup.loop.let_pass(10.0, lambda: len(setup.api.streams) == 2)
    assert setup.api.requests[1] == "streaming watch 100 kubernetes.io/service-name=orders"
    setup.api.streams[1].send(mark("50"))
    setup.until(lambda: setup.heard.errors)
    assert "older" in setup.heard.errors[0].reason
    assert setup.api.streams[1].interrupted
    assert setup.heard.words[0] == "a:10.0.0.1"
    assert len(setup.heard.slices) == 1


def test_a_service_that_joins_meanwhile_is_listed_after_the_mark_and_the_watch_widened(made: Callable[..., Setup]) -> None:
    """The stream of the first is not given up for it."""
    setup = made(lambda path, query: slice_list("110", slice_object("p", "70", "10.0.9.1", service="pay")))
    setup.watch()
    stream = setup.stream()
    pay = setup.watch("pay")
    setup.loop.advance(1.0)
    assert len(setup.api.requests) == 1
    stream.send(event("ADDED", ONE), mark("100"))
    setup.until(lambda: pay.words == ["p:10.0.9.1"] and len(setup.api.streams) == 2)
    assert setup.api.requests[1:] == [
        "get endpointslices kubernetes.io/service-name=pay",
        "watch 100 kubernetes.io/service-name in (orders,pay)",
    ]
    assert setup.heard.words == ["a:10.0.0.1"]


def test_a_state_that_never_ends_is_given_up(made: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: what is gathered is kept in memory until the mark."""
    monkeypatch.setattr(reading, "MAX_ANSWER", 2000)
    setup = made()
    setup.watch()
    stream = setup.stream()
    for number in range(20):
        stream.send(event("ADDED", slice_object(f"s{number}", str(number + 1), "10.0.0.1")))
    setup.until(lambda: setup.heard.errors)
    assert "over 2000 bytes" in setup.heard.errors[0].reason
    assert setup.heard.slices == []


def test_a_state_that_takes_longer_than_thirty_seconds_is_given_up(made: Callable[..., Setup]) -> None:
    """In time: each part of it may have come soon enough."""
    setup = made()
    setup.watch()
    stream = setup.stream()
    for number in range(15):
        stream.send(event("ADDED", slice_object(f"s{number}", str(number + 1), "10.0.0.1")))
        posts = setup.loop.posts
        eventually(lambda posts=posts: setup.loop.posts > posts)  # type: ignore[misc]
        setup.loop.run_until_idle()
        setup.loop.advance(2.1)
    setup.until(lambda: setup.heard.errors)
    assert "within 30 s" in setup.heard.errors[0].reason
    assert stream.interrupted
