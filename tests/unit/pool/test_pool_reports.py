"""Load reports in a pool with several views: whose connections start a blackout."""

from __future__ import annotations

from meshlb.core.report import LoadReport
from meshlb.load.weight import Weight
from tests.unit.pool.bench import READY, Bench, Listener, pod


def _reporting(bench: Bench, seconds: float) -> None:
    """Two pods, the second at three times the utilization, twice a second."""
    for _ in range(int(seconds * 2)):
        for number, utilization in ((1, 0.2), (2, 0.6)):
            bench.pool.on_report(bench.sub(number), LoadReport(qps=100.0, application_utilization=utilization))
        bench.loop.advance(0.5)


def _capacities(bench: Bench) -> list[float]:
    return [round(bench.sub(number).capacity, 3) for number in (1, 2)]


def test_another_channels_connection_beside_one_that_is_ready_starts_no_blackout() -> None:
    """Or a program that opens channels now and then would never have weights."""
    bench = Bench("weighted_round_robin", weight=Weight.of("a58"))
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    _reporting(bench, 12.0)
    another = bench.pool.view(Listener())
    bench.connect(READY, bench.sub(1), bench.sub(2), view=another)
    _reporting(bench, 2.0)
    assert _capacities(bench) == [1.5, 0.5]
    another.close()
