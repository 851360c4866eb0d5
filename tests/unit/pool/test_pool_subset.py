"""A pool of which this process uses a part: who is wanted, who is left in peace, and what that must not be taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshlb.health.subset import Subset
from tests.unit.pool.bench import READY, TRANSIENT_FAILURE, Bench, cluster_ip, pod

if TYPE_CHECKING:
    import pytest

TEN_OF_TWENTY = Subset(size=10, min_endpoints=20)


def bench_with(count: int) -> Bench:
    bench = Bench(subset=TEN_OF_TWENTY)
    bench.publish(*map(pod, range(1, count + 1)), fallback=[cluster_ip(0)])
    bench.connect(READY, *bench.view.wanted())
    return bench


def test_only_the_subset_is_connected_and_picked() -> None:
    """The rest is listed, and idle."""
    bench = bench_with(20)
    assert len(bench.pool.snapshot.listed) == 20
    assert len(bench.view.wanted()) == 10
    assert bench.picked(500) == set(bench.view.wanted())


def test_below_the_minimum_everybody_is_used() -> None:
    """Off below ``min_endpoints``."""
    assert len(bench_with(19).view.wanted()) == 19


def test_one_that_comes_or_goes_moves_one_at_most() -> None:
    """Connections do not churn with the fleet."""
    bench = bench_with(30)
    before = set(bench.view.wanted())
    bench.publish(*map(pod, range(1, 32)), fallback=[cluster_ip(0)])
    after = set(bench.pool.snapshot.eligible)
    assert len(after) == 10
    assert len(after - before) <= 1
    gone = next(iter(after)).endpoint
    bench.publish(*(pod(at) for at in range(1, 32) if pod(at) != gone), fallback=[cluster_ip(0)])
    assert len(set(bench.pool.snapshot.eligible) - after) == 1


def test_a_fleet_that_grows_past_the_minimum_is_no_mass_removal(caplog: pytest.LogCaptureFixture) -> None:
    """Who is left out has nothing wrong with it: no warning, no spare, no connection kept."""
    bench = bench_with(19)
    bench.publish(*map(pod, range(1, 21)), fallback=[cluster_ip(0)])
    assert len(bench.view.wanted()) == 10
    assert bench.pool.snapshot.spare == bench.pool.snapshot.lingering == ()
    assert bench.pool.describe()["mass_removals"] == 0
    assert not caplog.records


def test_the_fallback_is_no_part_of_it() -> None:
    """However few may be used, the ClusterIP is there for when none of them can be connected."""
    bench = bench_with(20)
    bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
    assert bench.spare(0) in bench.view.wanted()
