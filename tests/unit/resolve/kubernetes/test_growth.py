"""What ten thousand events leave behind: nothing."""

from __future__ import annotations

import gc
import json
import tracemalloc

from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices
from meshlb.resolve.kubernetes.merging import Merger
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import Recall, Removal, SliceEvent, parse_slice_line
from meshlb.resolve.ports import PortSelector
from meshlb.testing.loop import ManualLoop
from tests.unit.resolve.kubernetes.scripted_api import event, slice_object


class Merging:
    """A listener that merges, as a target does."""

    def __init__(self) -> None:
        self.merger = Merger()
        self.endpoints = 0

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.endpoints = len(self.merger.merge(slices.slices, PortSelector(name="grpc")))

    def on_source_error(self, error: SourceError, /) -> None: ...


def test_ten_thousand_events_leave_no_growth() -> None:
    """Pods, slices and versions that never come again must not be kept; the second half may not cost more than the first."""
    loop, listener, recall = ManualLoop(), Merging(), Recall()
    feed = Feed("shop", "orders", loop)
    feed.add(listener)
    feed.slices.replace((), "1", ())

    def events(first: int, count: int) -> None:
        for number in range(first, first + count):
            hosts = [f"10.{number // 250 % 250}.{number % 250}.{n + 1}" for n in range(5)]
            item = slice_object(f"s{number // 2}", str(number + 10), *hosts)
            parsed = parse_slice_line(json.dumps(event("DELETED" if number % 2 else "ADDED", item)).encode(), recall)
            assert isinstance(parsed, (SliceEvent, Removal))
            feed.slices.apply(parsed)
            loop.run_until_idle()

    events(0, 2000)
    gc.collect()
    tracemalloc.start()
    try:
        events(2000, 5000)
        gc.collect()
        half = tracemalloc.get_traced_memory()[0]
        events(7000, 5000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - half
    finally:
        tracemalloc.stop()
    print(f"{half} bytes after the first half, {grown} more after the second")
    assert listener.endpoints == 0
    assert grown < 64 * 1024
