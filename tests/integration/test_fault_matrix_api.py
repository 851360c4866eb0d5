"""Each way in which the API server fails, for each source that needs it: pools keep what they hold, requests stay few, all heals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import pytest

from meshlb.testing import Rule
from tests.support.fault_matrix import Fault, Row, Setting, World, outcomes, rows

SETTINGS = {
    "slices": Setting(),
    "slices, no DNS": Setting(discovery={"sources": ["kubernetes"]}),
    "slices, lists": Setting(cluster={"watch_list": False}),
    "Endpoints": Setting(usual="endpoints", rules=(Rule(resources=("endpoints", "services")),)),
    "ClusterIP": Setting(usual="clusterip", rules=(Rule(resources=("services",)),), discovery={"sources": ["kubernetes"]}),
}

HUGE = b"x" * (17 * 2**20)
HALF = b'{"type":"MODIFIED","object":{"kind":"EndpointSlice","metadata":{"name":"orders-'


def failing(status: int, **how: object) -> Fault:
    def begin(world: World) -> None:
        world.cluster.api.fail(status, **how)  # type: ignore[arg-type]
        world.cluster.api.cut()

    return Fault(begin=begin)


def corrupt(data: bytes, *, cut: bool = False) -> Fault:
    def begin(world: World) -> None:
        world.cluster.api.corrupt(data)
        if cut:
            world.cluster.api.cut()

    return Fault(begin=begin)


def cut(world: World) -> None:
    world.cluster.api.cut()


def restart(world: World) -> None:
    world.cluster.api.restart()


def compacted(world: World) -> None:
    world.cluster.api.compact()
    world.cluster.api.cut()


def forbidden(world: World) -> None:
    world.cluster.permit()
    world.cluster.api.cut()


def slices_forbidden(world: World) -> None:
    world.cluster.permit(Rule(resources=("endpoints", "services")))
    world.cluster.api.cut()


def unreachable(world: World) -> bool:
    return any("cannot reach" in said or "refused" in said for said in world.said.values())


def asked_once(world: World) -> bool:
    return world.asked() >= 1


FAULTS = {
    "connections refused": Fault(begin=lambda world: world.cluster.api.stop(), met=unreachable),
    "black hole": Fault(begin=lambda world: world.cluster.api.stall(), met=asked_once),
    "stalled watch": Fault(begin=lambda world: world.cluster.api.stall(), met=lambda world: True),
    "cut": Fault(begin=cut, met=asked_once),
    "restart": Fault(begin=restart, met=asked_once),
    "410 in the stream": Fault(begin=compacted, met=asked_once),
    "410 for each request": failing(410, in_stream=False),
    "410 in each stream": failing(410, in_stream=True, verbs=["watch"]),
    "401": failing(401),
    "403": Fault(begin=forbidden),
    "404": failing(404),
    "429 with Retry-After": failing(429, retry_after_s=2),
    "500": failing(500),
    "503": failing(503),
    "garbage lines": corrupt(b"<html>\n"),
    "garbage, cut": corrupt(b"<html>\n", cut=True),
    "truncated JSON": corrupt(HALF),
    "truncated lines": corrupt(HALF + b"\n"),
    "huge line": corrupt(HUGE),
    "403 for slices": Fault(begin=slices_forbidden),
    "404 for the slices' group": failing(404, resources=["endpointslices"]),
}

SILENT = ["connections refused", "black hole"]
FAILING = ["410 for each request", "401", "500", "503"]
REFUSED = ["403", "404"]
BROKEN = ["garbage lines", "truncated JSON", "truncated lines", "huge line"]
LATER = ["connections refused", "stalled watch", *FAILING, "429 with Retry-After", *BROKEN, "garbage, cut"]
PASSING = ["cut", "restart", "410 in the stream"]
INSTEAD = ["403 for slices", "404 for the slices' group"]

# Requests in any second: two a stream (slices; where these are refused, Endpoints too), one or two (401) for the Service, one to DNS
# at the start.
# Back: the next two tries (1.6 to 3.2 s, and where the second finds no watch 3.2 to 6.4 s); the Service is read every 10 s at most.
# fmt: off
TABLE = [
    #     source            faults                   when     holds         by            a second  back within
    *rows("slices",         [*SILENT, *FAILING],     "start", "cluster IP", "clusterip",  4,  5.0),
    *rows("slices",         [*REFUSED, *BROKEN],     "start", "cluster IP", "clusterip",  6,  5.0),
    *rows("slices",         ["429 with Retry-After"], "start", "cluster IP", "clusterip", 4,  7.0),
    *rows("slices",         PASSING,                 "later", "live",       "kubernetes", 3,  7.0),
    *rows("slices",         LATER,                   "later", "kept",       "kubernetes", 3,  8.0),
    *rows("slices",         REFUSED,                 "later", "kept",       "kubernetes", 5,  7.0),
    *rows("slices",         INSTEAD,                 "start", "live",       "endpoints",  6,  5.0),
    *rows("slices",         INSTEAD,                 "later", "live",       "endpoints",  5,  5.0),
    *rows("slices, lists",  ["500", *BROKEN],        "start", "cluster IP", "clusterip",  5,  5.0),
    *rows("slices, lists",  PASSING,                 "later", "live",       "kubernetes", 3,  7.0),
    *rows("slices, lists",  ["500", *BROKEN],        "later", "kept",       "kubernetes", 3,  8.0),
    *rows("slices, lists",  ["410 in each stream"],  "later", "live",       "kubernetes", 3,  7.0),
    *rows("slices, no DNS", [*SILENT, *FAILING],     "start", "nothing",    "none",       3,  5.0),
    *rows("slices, no DNS", [*REFUSED, *BROKEN],     "start", "nothing",    "none",       5,  5.0),
    *rows("Endpoints",      [*SILENT, *FAILING],     "start", "cluster IP", "clusterip",  4,  5.0),
    *rows("Endpoints",      [*REFUSED, *BROKEN],     "start", "cluster IP", "clusterip",  6,  5.0),
    *rows("Endpoints",      PASSING,                 "later", "live",       "endpoints",  5,  7.0),
    *rows("Endpoints",      [*LATER, *REFUSED],      "later", "kept",       "endpoints",  5,  8.0),
    *rows("ClusterIP",      [*SILENT, *FAILING],     "start", "nothing",    "none",       5,  5.0),
    *rows("ClusterIP",      [*REFUSED, *BROKEN],     "start", "nothing",    "none",       5, 12.0),
    *rows("ClusterIP",      [*FAILING, *REFUSED],    "later", "kept",       "clusterip",  5,  7.0),
]
# fmt: on


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Mapping[Row, Future[None]]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from outcomes(request, SETTINGS, FAULTS, monkeypatch)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_no_fault_of_the_api_server_takes_a_pod_away_or_is_asked_often_or_outlives_itself(
    played: Mapping[Row, Future[None]], row: Row
) -> None:
    """What the pool holds at every moment, who serves, how often anybody is asked, and when all is well again: see ``Row``."""
    played[row].result()
