"""Few streams for many Services, and none of them disturbed by the others' coming and going."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from meshlb.resolve.kubernetes.requests import MAX_SELECTOR, Resource
from meshlb.resolve.kubernetes.source import KubernetesSource
from tests.unit.resolve.kubernetes.scripted_api import Heard, ScriptedApi, ThreadedLoop, event, slice_list, slice_object


def names(count: int) -> list[str]:
    return [f"a-service-with-a-name-of-ordinary-length-{number:04d}" for number in range(count)]


def services_of(query: dict[str, str]) -> list[str]:
    text = query["labelSelector"]
    return text.partition("(")[2].rstrip(")").split(",") if "(" in text else [text.partition("=")[2]]


class Setup:
    """Every Service has one slice with one pod, the number of its name as the version."""

    def __init__(self) -> None:
        self.loop = ThreadedLoop()
        self.api = ScriptedApi(self.answer)
        self.heard: dict[str, Heard] = {}
        self.subscriptions: dict[str, Any] = {}
        self.source = KubernetesSource(lambda: self.api, self.loop, random.Random(1), streaming_lists=False)

    def answer(self, path: str, query: dict[str, str]) -> bytes:
        items = [slice_object(f"{name}-x", "90", "10.0.0.1", service=name) for name in services_of(query)]
        return slice_list("100", *items)

    def watch(self, *services: str) -> None:
        for service in services:
            self.heard[service] = Heard()
            self.subscriptions[service] = self.source.watch("shop", service, self.heard[service])

    def until(self, condition: Any) -> None:
        self.loop.run_until(condition)

    @property
    def streams(self) -> dict[str, Any]:
        return dict(self.source.describe()["namespaces"])

    @property
    def watching(self) -> list[str]:
        return sorted(service for stream in self.streams.values() for service in stream["watching"])


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.source.close()


def test_two_hundred_services_share_few_streams_with_selectors_below_four_kilobytes(setup: Setup) -> None:
    """Proxies refuse requests of over 8 kB; one stream each would be two hundred watches."""
    services = names(200)
    setup.watch(*services)
    setup.until(lambda: all(heard.slices for heard in setup.heard.values()) and setup.watching == services)
    assert len(setup.streams) == 3
    assert len(setup.api.requests) == 6
    for stream in setup.api.streams:
        assert len(quote(stream.query["labelSelector"], safe="")) <= MAX_SELECTOR


def test_a_service_that_joins_goes_where_there_is_room_and_the_full_stream_is_left_alone(setup: Setup) -> None:
    """The other stream is widened by one list of the new one alone, and one watch."""
    services = names(100)
    setup.watch(*services)
    setup.until(lambda: setup.watching == services)
    assert len(setup.streams) == 2
    (late,) = names(101)[100:]
    setup.watch(late)
    setup.loop.advance(0.06)
    setup.until(lambda: late in setup.watching)
    assert setup.api.requests[4] == f"get endpointslices kubernetes.io/service-name={late}"
    sizes = {len(services_of(stream.query)): stream.interrupted for stream in setup.api.streams}
    full, narrow, wide = max(sizes), min(sizes), 101 - max(sizes)  # whichever of the two streams was opened first
    assert sizes == {full: False, narrow: True, wide: False}
    assert len(setup.api.requests) == 6


def test_services_that_go_cost_no_request_and_what_still_comes_of_them_is_ignored(setup: Setup) -> None:
    """Narrowing waits for the stream's own end; a stream that nobody needs is closed at once."""
    services = names(100)
    setup.watch(*services)
    setup.until(lambda: setup.watching == services)
    asked = len(setup.api.requests)
    first = services_of(setup.api.streams[0].query)
    for service in services:
        if service != first[0]:
            setup.subscriptions[service].close()
    setup.loop.advance(6.0)
    assert list(setup.streams) == ["shop"]
    assert [stream.interrupted for stream in setup.api.streams] == [False, True]
    gone, kept = first[1], first[0]
    setup.api.streams[0].send(event("MODIFIED", slice_object(f"{gone}-x", "101", "10.0.0.2", service=gone)))
    setup.api.streams[0].send(event("MODIFIED", slice_object(f"{kept}-x", "102", "10.0.0.3", service=kept)))
    setup.until(lambda: setup.heard[kept].words[-1] == f"{kept}-x:10.0.0.3")
    assert len(setup.api.requests) == asked
    setup.api.streams[0].end()
    setup.loop.let_pass(5.0, lambda: len(setup.api.requests) == asked + 1)
    assert setup.api.requests[-1] == f"watch 102 kubernetes.io/service-name={kept}"


def test_one_long_name_is_a_stream_whatever_its_length() -> None:
    """A selector is split between Services, never within one; Endpoints have one name a stream."""
    assert Resource.SLICES.fits(["x" * 10_000])
    assert not Resource.SLICES.fits(["x" * 10_000, "y"])
    assert Resource.ENDPOINTS.fits(["orders"])
    assert not Resource.ENDPOINTS.fits(["orders", "pay"])
