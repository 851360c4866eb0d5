"""Endpoints objects stand in where slices are refused, and slices come back: nothing is empty in between."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.source import KubernetesSource
from meshlb.resolve.kubernetes.transport import ApiError
from tests.unit.resolve.kubernetes.scripted_api import Heard, ScriptedApi, ThreadedLoop, event, slice_list, slice_object


def endpoints_object(version: str, *hosts: str, service: str = "orders", **metadata: Any) -> dict[str, Any]:
    subset = {"addresses": [{"ip": host, "targetRef": {"uid": host}} for host in hosts], "ports": [{"name": "grpc", "port": 9000}]}
    return {
        "metadata": {"name": service, "namespace": "shop", "resourceVersion": version, **metadata},
        "subsets": [subset] if hosts else [],
    }


def endpoints_list(version: str, *items: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "EndpointsList", "metadata": {"resourceVersion": version}, "items": list(items)}).encode()


class Setup:
    """A server that may refuse slices, slice watches, or Endpoints; what it would answer can be changed."""

    def __init__(self) -> None:
        self.loop = ThreadedLoop()
        self.api = ScriptedApi(self.answer)
        self.heard = Heard()
        self.refused: dict[str, int] = {"slices": 403}
        self.slices = slice_list("100", slice_object("a", "90", "10.0.0.1"))
        self.endpoints = endpoints_list("100", endpoints_object("80", "10.0.0.1"))
        self.source = KubernetesSource(lambda: self.api, self.loop, random.Random(1), streaming_lists=False)

    def answer(self, path: str, query: dict[str, str]) -> bytes:
        kind = "slices" if path.endswith("endpointslices") else "endpoints"
        for what in (kind, f"{kind} watch" if "watch" in query else ""):
            if what in self.refused:
                refusal = Refusal(self.refused[what], "", f"{what} refused")
                raise ApiError(str(refusal), refusal)
        return self.slices if kind == "slices" else self.endpoints

    def until(self, condition: Callable[[], Any]) -> None:
        self.loop.run_until(condition)

    def stream(self, kind: str) -> Any:
        """The latest open one."""
        selects = "fieldSelector" if kind == "endpoints" else "labelSelector"
        self.until(lambda: any(selects in stream.query for stream in self.api.streams))
        return next(stream for stream in reversed(self.api.streams) if selects in stream.query)

    def legacy(self) -> Setup:
        """Watch orders until its Endpoints are watched."""
        self.source.watch("shop", "orders", self.heard)
        self.stream("endpoints")
        self.until(lambda: self.heard.slices)
        return self

    @property
    def kinds(self) -> list[str]:
        return [slices.kind for slices in self.heard.slices]


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.source.close()


@pytest.mark.parametrize("code", [403, 404])
def test_where_slices_are_refused_the_endpoints_object_speaks(setup: Setup, code: int) -> None:
    """No permission, or no such API group. The refusal is told first, so that the fastest of the other sources is heard meanwhile."""
    setup.refused["slices"] = code
    setup.legacy()
    assert setup.heard.words == [f"error:{'forbidden' if code == 403 else 'not_served'}", "orders/0:10.0.0.1"]
    assert setup.kinds == ["endpoints"]
    assert setup.api.requests[1:] == ["get endpoints orders", "watch 100 orders"]
    setup.stream("endpoints").send(event("MODIFIED", endpoints_object("101", "10.0.0.2", "10.0.0.3")))
    setup.until(lambda: setup.heard.words[-1] == "orders/0:10.0.0.2,10.0.0.3")
    setup.stream("endpoints").send(event("MODIFIED", endpoints_object("102")))
    setup.until(lambda: setup.heard.words[-1] == "orders/0:")
    setup.stream("endpoints").send(event("DELETED", endpoints_object("103")))
    setup.until(lambda: setup.heard.words[-1] == "empty")


def test_refusals_of_slices_are_nobodys_concern_while_the_endpoints_object_works(setup: Setup) -> None:
    """They are tried again every half minute to five minutes; whoever listens would take each for the loss of the source."""
    setup.legacy()
    lists = "get endpointslices kubernetes.io/service-name=orders"
    setup.loop.let_pass(400.0, lambda: setup.api.requests.count(lists) == 3, step_s=10.0)
    assert setup.heard.words == ["error:forbidden", "orders/0:10.0.0.1"]


def test_slices_that_work_again_take_over_without_a_gap(setup: Setup) -> None:
    """And the Endpoints are not watched any longer."""
    setup.legacy()
    endpoints = setup.stream("endpoints")
    del setup.refused["slices"]
    setup.loop.let_pass(120.0, lambda: "slices" in setup.kinds, step_s=10.0)
    setup.until(lambda: endpoints.interrupted)
    assert setup.heard.words == ["error:forbidden", "orders/0:10.0.0.1", "a:10.0.0.1"]
    assert list(setup.source.describe()["namespaces"]) == ["shop"]
    setup.stream("slices").send(event("MODIFIED", slice_object("a", "101", "10.0.0.9")))
    setup.until(lambda: setup.heard.words[-1] == "a:10.0.0.9")


def test_a_permission_that_is_taken_away_later_leaves_what_is_known_until_the_endpoints_object_speaks(setup: Setup) -> None:
    """Make before break in this direction too."""
    setup.refused.clear()
    setup.source.watch("shop", "orders", setup.heard)
    setup.until(lambda: setup.heard.slices)
    stream = setup.stream("slices")
    setup.refused["slices"] = 403
    setup.endpoints = endpoints_list("200", endpoints_object("180", "10.0.0.1", "10.0.0.2"))
    stream.send({"type": "ERROR", "object": {"code": 403, "reason": "Forbidden"}})
    setup.until(lambda: setup.kinds == ["slices", "endpoints"])
    assert setup.heard.words == ["a:10.0.0.1", "error:forbidden", "orders/0:10.0.0.1,10.0.0.2"]


def test_where_slices_may_be_listed_but_not_watched_the_two_do_not_take_turns(setup: Setup) -> None:
    """A list is true for a moment; the watched object is true all the time."""
    setup.refused = {"slices watch": 403}
    setup.source.watch("shop", "orders", setup.heard)
    setup.until(lambda: "endpoints" in setup.kinds)
    told = list(setup.heard.words)
    setup.slices = slice_list("300", slice_object("a", "290", "10.0.0.7"))
    lists = "get endpointslices kubernetes.io/service-name=orders"
    setup.loop.let_pass(700.0, lambda: setup.api.requests.count(lists) >= 3, step_s=10.0)
    assert setup.heard.words == told
    del setup.refused["slices watch"]
    setup.loop.let_pass(400.0, lambda: setup.heard.words[-1] == "a:10.0.0.7", step_s=10.0)


def test_a_service_without_an_endpoints_object_has_not_none_but_no_word_of_it(setup: Setup) -> None:
    """Slices made by hand have none; taking its absence for "no endpoints" would empty the pool that DNS could fill."""
    setup.endpoints = endpoints_list("100")
    setup.source.watch("shop", "orders", setup.heard)
    stream = setup.stream("endpoints")
    setup.loop.advance(5.0)
    assert setup.heard.words == ["error:forbidden"]
    stream.send(event("ADDED", endpoints_object("101", "10.0.0.4")))
    setup.until(lambda: setup.heard.words[-1] == "orders/0:10.0.0.4")


def test_an_endpoints_object_that_is_lost_too_is_told_and_changes_nothing(setup: Setup) -> None:
    """Both refused: the refusal of slices is told, whose Role is the one to ask for."""
    setup.legacy()
    setup.loop.advance(2.0)
    setup.refused["endpoints"] = 403
    setup.stream("endpoints").send({"type": "ERROR", "object": {"code": 403, "reason": "Forbidden"}})
    setup.until(lambda: len(setup.heard.errors) == 2)
    assert "slices refused" in setup.heard.errors[1].reason
    assert len(setup.heard.slices) == 1
    del setup.refused["endpoints"]
    setup.loop.let_pass(120.0, lambda: len(setup.heard.slices) == 2, step_s=10.0)
    assert setup.heard.words[-1] == "orders/0:10.0.0.1"


def test_each_service_has_an_endpoints_stream_of_its_own_and_it_ends_with_the_service(setup: Setup) -> None:
    """The field selector takes one name; RBAC's resourceNames allow exactly that."""
    setup.legacy()
    pay = Heard()
    setup.endpoints = endpoints_list("100", endpoints_object("80", "10.0.5.1", service="pay"))
    subscription = setup.source.watch("shop", "pay", pay)
    setup.until(lambda: pay.slices)
    assert pay.words[-1] == "pay/0:10.0.5.1"
    assert sorted(setup.source.describe()["namespaces"]) == ["shop", "shop Endpoints orders", "shop Endpoints pay"]
    setup.until(lambda: len(setup.api.streams) == 2)
    subscription.close()
    setup.loop.advance(6.0)
    assert sorted(setup.source.describe()["namespaces"]) == ["shop", "shop Endpoints orders"]
    assert [stream.interrupted for stream in setup.api.streams] == [False, True]


def test_an_object_over_capacity_is_told_as_truncated(setup: Setup) -> None:
    """Whoever listens warns of it: only some of the pods are known."""
    annotations = {"endpoints.kubernetes.io/over-capacity": "truncated"}
    setup.endpoints = endpoints_list("100", endpoints_object("80", "10.0.0.1", annotations=annotations))
    setup.legacy()
    assert setup.heard.slices[-1].truncated is True


@pytest.mark.parametrize("code", [401, 429, 500, 503])
def test_other_failures_of_slices_are_waited_out(setup: Setup, code: int) -> None:
    """The same server would refuse the Endpoints as well."""
    setup.refused = {"slices": code}
    setup.source.watch("shop", "orders", setup.heard)
    setup.until(lambda: setup.heard.errors)
    setup.loop.advance(10.0)
    assert not any("get endpoints " in request for request in setup.api.requests)
