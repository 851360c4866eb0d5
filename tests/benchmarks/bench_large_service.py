"""One pod that changes in a Service of 10,000: CPU from the bytes of its slice to what is published to pools.

``python -m tests.benchmarks.bench_large_service [--events N]``. 100 slices of 100 endpoints; parsing, reducing, merging, judging and
publishing are real, time is virtual. The pool's own part is in ``bench_memory`` and ``tests/unit/pool/bench.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from meshlb.core.endpoint import EndpointSet
from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices
from meshlb.resolve.kubernetes.merging import Merger
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import Recall, SliceEvent, parse_slice_line, parse_slice_list
from meshlb.resolve.ports import PortSelector
from tests.benchmarks import common
from tests.unit.resolve.chain_fixtures import Scene

T = TypeVar("T")
GRPC = PortSelector(name="grpc")


def slice_object(number: int, version: int, unready: int = -1) -> dict[str, Any]:
    endpoints = []
    for pod in range(number * 100, number * 100 + 100):
        ready = pod % 100 != unready
        endpoints.append(
            {
                "addresses": [f"10.{pod // 62500}.{pod // 250 % 250}.{pod % 250 + 1}"],
                "conditions": {"ready": ready, "serving": ready, "terminating": False},
                "nodeName": f"node-{pod % 50}",
                "zone": f"zone-{pod % 3}",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "shop",
                    "name": f"orders-6dbc6d496c-{pod:05d}",
                    "uid": f"113663a3-{pod:012d}",
                },
            }
        )
    metadata = {
        "name": f"orders-{number:03d}",
        "namespace": "shop",
        "resourceVersion": str(version),
        "labels": {"kubernetes.io/service-name": "orders"},
    }
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "grpc", "port": 9000}]}


class ToChain:
    """Feeds a chain that is driven by hand."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def on_slices(self, slices: ServiceSlices, /) -> None:
        assert self._scene.api.listener is not None
        self._scene.api.listener.on_slices(slices)

    def on_source_error(self, error: SourceError, /) -> None: ...


def run(events: int) -> None:
    items = [slice_object(number, number + 1) for number in range(100)]
    whole = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": "1000"}, "items": items}
    recall = Recall()
    listed = parse_slice_list(json.dumps(whole).encode(), recall)
    scene = Scene()
    feed = Feed("shop", "orders", scene.loop)
    feed.add(ToChain(scene))
    feed.slices.replace(listed.slices, "1000", ())
    scene.loop.advance(20.0)
    merger, times = Merger(), dict[str, list[float]]()
    merger.merge(listed.slices, GRPC)

    def timed(name: str, work: Callable[[], T]) -> T:
        start_s = time.process_time()
        result = work()
        times.setdefault(name, []).append((time.process_time() - start_s) * 1000.0)
        return result

    def publish(event: SliceEvent) -> None:
        feed.slices.apply(event)
        scene.loop.run_until_idle()
        scene.loop.advance(0.01)

    for version in range(1001, 1001 + events):
        line = json.dumps({"type": "MODIFIED", "object": slice_object(random.randrange(100), version, version % 100)}).encode()
        scene.loop.advance(1.0)
        event = timed("bytes to record", lambda line=line: parse_slice_line(line, recall))  # type: ignore[misc]
        assert isinstance(event, SliceEvent)
        timed("record to published set", lambda event=event: publish(event))  # type: ignore[misc]
        slices = feed.slices.slices
        merged = timed("of which merging", lambda slices=slices: merger.merge(slices, GRPC))  # type: ignore[misc]
        timed("of which EndpointSet.of", lambda merged=merged: EndpointSet.of(merged, "kubernetes"))  # type: ignore[misc]
    timed("merging everything anew, for comparison", lambda: merge(feed.slices.slices, GRPC))
    print(f"a lock pair takes {common.lock_pair_ns():.0f} ns here; with the pool and its picker, {common.at_most_ms(5)}")
    rows = [(name, f"{common.quantile(spent, 0.5):.2f}", f"{common.quantile(spent, 0.99):.2f}") for name, spent in times.items()]
    common.table((f"{events} changes among 10,000 endpoints", "p50 ms CPU", "p99 ms CPU"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200)
    run(parser.parse_args().events)
