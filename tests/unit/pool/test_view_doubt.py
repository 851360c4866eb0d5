"""Endpoints that nobody has confirmed for long: good for as long as they stay connected, and the last resort from then on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.core.endpoint import EndpointSet
from tests.unit.pool.bench import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, Bench, cluster_ip, pod

PODS = (pod(1), pod(2), pod(3))
SPARE = (cluster_ip(0), cluster_ip(1))
HOSTS = frozenset(endpoint.host for endpoint in PODS)


def publish(bench: Bench, *, unverified: frozenset[str] = frozenset(), fallback: bool = True) -> None:
    bench.pool.update(EndpointSet.of(PODS, "kubernetes", fallback=SPARE if fallback else (), unverified=unverified))


def doubtful(*, fallback: bool = True) -> Bench:
    """Three connected pods, none of them confirmed any more."""
    bench = Bench()
    publish(bench, fallback=fallback)
    bench.connect(READY, *bench.view.wanted())
    publish(bench, unverified=HOSTS, fallback=fallback)
    return bench


def numbers(bench: Bench) -> set[str]:
    return {sub.endpoint.name for sub in bench.picked()}


def test_who_stays_connected_is_used_as_before() -> None:
    """However long: nobody else can have its connection."""
    bench = doubtful()
    bench.loop.advance(6 * 3600)
    assert numbers(bench) == {"pod-1", "pod-2", "pod-3"}
    assert bench.view.describe()["doubted"] == 0


def test_who_comes_back_is_not_trusted_while_another_is_there() -> None:
    """The address may be somebody else's by now; the others take its calls, and the ClusterIP is not needed."""
    bench = doubtful()
    bench.connect(IDLE, bench.sub(1))
    bench.connect(CONNECTING, bench.sub(1))
    bench.connect(READY, bench.sub(1))
    assert numbers(bench) == {"pod-2", "pod-3"}
    assert (bench.view.describe()["doubted"], bench.view.describe()["on_fallback"]) == (1, False)


def test_who_was_not_connected_when_the_doubt_began_is_not_trusted_either() -> None:
    """It failed before, and answers now."""
    bench = Bench()
    publish(bench)
    bench.connect(READY, bench.sub(1), bench.sub(2))
    bench.connect(TRANSIENT_FAILURE, bench.sub(3))
    publish(bench, unverified=HOSTS)
    bench.connect(READY, bench.sub(3))
    assert numbers(bench) == {"pod-1", "pod-2"}


def test_the_cluster_ip_is_preferred_to_those_who_came_back() -> None:
    """At once when the last one that was trusted is gone, and for as long as the doubt lasts."""
    bench = doubtful()
    for number in (1, 2, 3):
        bench.connect(IDLE, bench.sub(number))
        bench.connect(READY, bench.sub(number))
    assert bench.view.describe()["on_fallback"] is True
    assert bench.picked() == set()  # its connections are being made: nobody goes to a stranger meanwhile
    bench.connect(READY, bench.spare(0), bench.spare(1))
    assert {name.partition(" ")[0] for name in numbers(bench)} == {"ClusterIP"}
    bench.loop.advance(3600)
    assert {name.partition(" ")[0] for name in numbers(bench)} == {"ClusterIP"}


@pytest.mark.parametrize("fallback", [True, False])
def test_where_nothing_else_can_be_connected_they_are_used_all_the_same(fallback: bool) -> None:
    """Without a ClusterIP, or with one that fails: better than nobody."""
    bench = doubtful(fallback=fallback)
    for number in (1, 2, 3):
        bench.connect(IDLE, bench.sub(number))
        bench.connect(READY, bench.sub(number))
    if fallback:
        bench.connect(TRANSIENT_FAILURE, bench.spare(0), bench.spare(1))
    assert numbers(bench) == {"pod-1", "pod-2", "pod-3"}


def test_a_source_that_confirms_them_ends_the_doubt() -> None:
    """All are used again at once, on the connections that they have."""
    bench = doubtful()
    for number in (1, 2, 3):
        bench.connect(IDLE, bench.sub(number))
        bench.connect(READY, bench.sub(number))
    publish(bench)
    assert numbers(bench) == {"pod-1", "pod-2", "pod-3"}
    assert (bench.view.describe()["doubted"], bench.view.describe()["on_fallback"]) == (0, False)


def test_only_the_unverified_are_doubted() -> None:
    """DNS lists two of three: those may lose their connection and come back."""
    bench = doubtful()
    publish(bench, unverified=frozenset({"10.0.0.1"}))
    for number in (1, 2):
        bench.connect(IDLE, bench.sub(number))
        bench.connect(READY, bench.sub(number))
    assert numbers(bench) == {"pod-2", "pod-3"}


def come_back(bench: Bench, *numbers: int) -> None:
    """Each of them lost its connection, and has another."""
    for number in numbers:
        bench.connect(IDLE, bench.sub(number))
        bench.connect(CONNECTING, bench.sub(number))
        bench.connect(READY, bench.sub(number))


def test_doubt_waits_only_a_quarter_of_a_second_for_the_clusterip() -> None:
    """A black hole takes seconds to fail; calls that a connected pod could take do not wait for it."""
    bench = doubtful()
    come_back(bench, 1, 2, 3)
    bench.connect(CONNECTING, bench.spare(0), bench.spare(1))
    bench.loop.advance(0.24)
    assert numbers(bench) == set()
    heard = bench.listener.changes
    bench.loop.advance(0.02)
    assert numbers(bench) == {"pod-1", "pod-2", "pod-3"}
    assert bench.listener.changes > heard  # who waits has to hear of it
    bench.connect(READY, bench.spare(0))
    assert numbers(bench) == {"ClusterIP #0"}


def test_who_is_trusted_and_connects_slowly_does_not_keep_the_doubted_from_calls() -> None:
    """The ClusterIP is connected at once, and not only after ``fallback_after_s``."""
    bench = doubtful()
    publish(bench, unverified=frozenset({"10.0.0.1"}))
    bench.connect(IDLE, *(bench.sub(number) for number in (1, 2, 3)))
    bench.connect(READY, bench.sub(1))
    assert bench.spare(0) in bench.view.wanted()
    bench.loop.advance(0.26)
    assert numbers(bench) == {"pod-1"}
    bench.connect(READY, bench.sub(2))
    assert numbers(bench) == {"pod-2"}


def test_a_renewed_connection_to_an_address_that_just_failed_is_no_hope() -> None:
    """The ClusterIP's are renewed one by one; each successor would stop all calls for as long as it takes to fail."""
    bench = doubtful()
    bench.connect(IDLE, *(bench.sub(number) for number in (1, 2, 3)))
    bench.connect(TRANSIENT_FAILURE, bench.spare(0), bench.spare(1))
    bench.connect(READY, *(bench.sub(number) for number in (1, 2, 3)))
    for generation in range(1, 20):
        renewed = replace(cluster_ip(0), uid=f"clusterip/0.{generation}")
        bench.pool.update(EndpointSet.of(PODS, "kubernetes", fallback=[*SPARE, renewed], unverified=HOSTS))
        assert numbers(bench) == {"pod-1", "pod-2", "pod-3"}
        bench.loop.advance(15.0)


def test_a_flapping_pod_does_not_renew_the_hope_in_an_address_that_failed() -> None:
    """Each time that the last trusted pod goes, the wait would begin again."""
    bench = doubtful()
    come_back(bench, 1, 2)
    bench.connect(IDLE, bench.sub(3))
    bench.connect(TRANSIENT_FAILURE, bench.spare(0))
    publish(bench, unverified=frozenset({"10.0.0.1", "10.0.0.2"}))
    for _ in range(5):
        bench.connect(READY, bench.sub(3))
        assert numbers(bench) == {"pod-3"}
        bench.connect(IDLE, bench.sub(3))
        assert numbers(bench) == {"pod-1", "pod-2"}


def test_a_doubted_endpoint_that_failed_is_not_dialled_while_another_is_trusted() -> None:
    """Nor again and again: nobody has said for long that it exists. Without anybody trusted it is dialled as a last resort."""
    bench = doubtful()
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    assert {sub.endpoint.name for sub in bench.view.wanted()} == {"pod-2", "pod-3"}
    bench.connect(IDLE, bench.sub(1))  # closed
    assert bench.sub(1) not in bench.view.wanted()
    bench.connect(IDLE, bench.sub(2), bench.sub(3))
    assert bench.sub(1) in bench.view.wanted()
    bench.connect(READY, bench.sub(2))
    publish(bench)
    assert bench.sub(1) in bench.view.wanted()  # confirmed
