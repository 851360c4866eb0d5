"""What ``meshlb watch`` says of one state of a pool after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meshlb.cli.watch import PENDING, Event, Followed, News
from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError
from tests.unit.pool.bench import READY, Bench, cluster_ip, pod


def lines(events: Any) -> list[str]:
    return [f"{event.kind} {event.text}" for event in events]


def test_the_whole_set_comes_first_and_then_only_what_changes() -> None:
    """Added, removed, changed, another source; the same state again says nothing."""
    bench, followed = Bench(), Followed()
    bench.publish(pod(1), pod(2))
    assert lines(followed.snapshot(bench.pool.snapshot)) == [
        "state 2 endpoints by kubernetes",
        "added 10.0.0.1:80  pod-1  usable",
        "added 10.0.0.2:80  pod-2  usable",
    ]
    assert followed.known
    bench.publish(replace(pod(1), ready=False, terminating=True), pod(2, weight=2.0), pod(3))
    assert lines(followed.snapshot(bench.pool.snapshot)) == [
        "changed 10.0.0.1:80  pod-1  state usable → terminating",
        "changed 10.0.0.2:80  pod-2  weight 1.0 → 2.0",
        "added 10.0.0.3:80  pod-3  usable",
    ]
    assert lines(followed.snapshot(bench.pool.snapshot)) == []
    bench.pool.update(EndpointSet.of([replace(pod(3), ready=False)], "dns", note="1 endpoint, none ready", service_port=80))
    assert lines(followed.snapshot(bench.pool.snapshot)) == [
        "state 1 endpoint by dns, Service port 80, 1 endpoint, none ready",
        "removed 10.0.0.1:80  pod-1  terminating",
        "removed 10.0.0.2:80  pod-2  weight 2  usable",
        "changed 10.0.0.3:80  pod-3  state usable → not ready",
    ]


def test_connections_to_the_clusterip_are_one_whose_renewals_are_no_news() -> None:
    """They have no pod's identity."""
    bench, followed = Bench(), Followed()
    bench.pool.update(EndpointSet.of([pod(1)], "test", fallback=[cluster_ip(0), cluster_ip(1)]))
    assert [line for line in lines(followed.snapshot(bench.pool.snapshot)) if "ClusterIP" in line] == [
        f"added {cluster_ip(0).address}  ClusterIP  fallback"
    ]
    renewed = replace(cluster_ip(0), uid="clusterip/0.7")
    bench.pool.update(EndpointSet.of([pod(1)], "test", fallback=[renewed, cluster_ip(1)]))
    assert lines(followed.snapshot(bench.pool.snapshot)) == []


def test_pods_lost_in_a_mass_removal_are_spare_and_gone_later() -> None:
    """They are not forgotten while they may still take calls."""
    bench, followed = Bench(), Followed()
    bench.publish(*(pod(n) for n in range(1, 7)))
    bench.connect(READY, *(bench.sub(n) for n in range(1, 7)))
    list(followed.snapshot(bench.pool.snapshot))
    bench.publish(pod(1))
    said = lines(followed.snapshot(bench.pool.snapshot))
    assert "changed 10.0.0.2:80  pod-2  state usable → spare" in said
    bench.loop.advance(60.0)
    assert "removed 10.0.0.2:80  pod-2  spare" in lines(followed.snapshot(bench.pool.snapshot))


def test_an_error_is_said_once_and_again_when_it_changes() -> None:
    """While nothing is known."""
    bench, followed = Bench(), Followed()
    said = []
    for text in ("refused", "refused", "silent"):
        bench.pool.on_error(ResolveError("orders", [text]))
        said += lines(followed.snapshot(bench.pool.snapshot))
    assert [line.partition(" ")[0] for line in said] == ["error", "error"]
    assert "silent" in said[-1]
    assert not followed.known


def test_sources_that_fail_and_recover_and_staleness_are_told() -> None:
    """From the resolver's own description, each change once."""
    followed = Followed()

    def status(stale: bool, said: str, failed: bool) -> list[Event]:
        described = {"stale": stale, "sources": {"kubernetes": {"said": said, "failed": failed}, "dns": {"said": "not used"}}}
        return list(followed.status(described))

    assert status(False, "2 endpoints", False) == []
    assert lines(status(False, "refused", True)) == ["error kubernetes: refused"]
    assert status(False, "refused", True) == []
    assert lines(status(True, "refused", True)) == ["error stale: not confirmed for a while"]
    assert lines(status(False, "2 endpoints", False)) == ["recovered confirmed again", "recovered kubernetes: 2 endpoints"]
    assert list(followed.status({})) == []


def test_what_nobody_reads_is_bounded_and_the_last_state_is_told_all_the_same() -> None:
    """``meshlb watch | less``: the oldest states that wait are merged, the differences add up."""
    bench, followed, news = Bench(), Followed(), News()
    news.view = bench.view
    for weight in range(1, PENDING + 50):
        bench.publish(pod(1, weight=weight))
        news.on_change()
    told = []
    while (snapshot := news.next(0.0)) is not None:
        told.append(lines(followed.snapshot(snapshot)))
    assert len(told) == PENDING
    assert told[0][-1] == f"added 10.0.0.1:80  pod-1  weight {PENDING + 49}  usable"
