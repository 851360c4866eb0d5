"""What becomes of an endpoint's calls, in words: one function for ``status()`` and ``meshlb watch``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.cli.watch import Followed
from meshlb.core.endpoint import Endpoint, EndpointSet, Hints, Locality, Place
from tests.unit.pool.bench import Bench, pod, terminating, unready

HERE = replace(pod(1), hints=Hints(("zone-a",)), locality=Locality(zone="zone-a"))
ELSEWHERE = replace(pod(2), hints=Hints(("zone-b",)), locality=Locality(zone="zone-b"))


@pytest.mark.parametrize(
    ("endpoints", "words"),
    [
        pytest.param((HERE, ELSEWHERE), ["usable", "for callers elsewhere"], id="a ready pod that is hinted for others"),
        pytest.param((pod(1), terminating(2), unready(3)), ["usable", "terminating", "not ready"], id="by its conditions"),
        pytest.param((terminating(1),), ["usable, though terminating"], id="the last resort"),
    ],
)
def test_status_and_watch_say_the_same_of_an_endpoint(endpoints: tuple[Endpoint, ...], words: list[str]) -> None:
    """A Ready pod is never called "not ready" because its calls are somebody else's."""
    bench, followed = Bench(), Followed()
    bench.pool.update(EndpointSet.of(endpoints, "kubernetes", place=Place("", "zone-a")))
    assert [one["state"] for one in bench.pool.describe()["endpoints"]] == words
    events = list(followed.snapshot(bench.pool.snapshot))
    assert [event.data["state"] for event in events if event.kind == "added"] == words
