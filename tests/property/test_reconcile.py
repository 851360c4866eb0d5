"""Reconciling under any sequence of endpoint sets: nobody is lost, doubled or confused with another."""

from __future__ import annotations

import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.balance.registry import policy_of
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.pool.pool import Pool
from meshlb.pool.reconcile import Plan, reconcile
from meshlb.testing.clock import ManualClock

# Few addresses and uids, so that they meet often; "" is what DNS knows of a uid.
ENDPOINT = st.builds(
    Endpoint,
    host=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
    port=st.sampled_from([80, 81]),
    uid=st.sampled_from(["", "a", "b"]),
    name=st.sampled_from(["", "pod"]),
    weight=st.sampled_from([1.0, 2.0]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)
ENDPOINTS = st.lists(ENDPOINT, max_size=8)
SETS = st.tuples(ENDPOINTS, st.lists(ENDPOINT, max_size=3)).map(lambda two: EndpointSet.of(two[0], "x", fallback=two[1]))


def placed(plan: Plan) -> list[tuple[Endpoint, Subchannel | None]]:
    """Each description with who survives as it."""
    both = []
    for at, sub in enumerate(plan.survivors):
        endpoint = plan.described.get(at) or (sub.endpoint if sub is not None else None)
        assert endpoint is not None
        both.append((endpoint, sub))
    return both


def place(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.host, endpoint.port


@given(ENDPOINTS, ENDPOINTS)
def test_every_record_is_placed_once_or_removed_and_every_endpoint_has_a_place(
    before: list[Endpoint], after: list[Endpoint]
) -> None:
    """Whatever the lists hold, repetitions included."""
    current = [Subchannel(endpoint, LiveOnly(), float(number)) for number, endpoint in enumerate(before)]
    plan = reconcile(current, after)
    kept = [survivor for _, survivor in placed(plan) if survivor is not None]
    assert len(placed(plan)) == len(after)
    assert len(kept) + len(plan.removed) == len(current)
    assert {*kept, *plan.removed} == set(current)
    for endpoint, (described, _) in zip(after, placed(plan), strict=True):
        assert place(described) == place(endpoint)
        assert (described.ready, described.serving, described.terminating) == (
            endpoint.ready,
            endpoint.serving,
            endpoint.terminating,
        )
        assert described.weight == endpoint.weight


@given(SETS, SETS)
def test_a_record_survives_only_as_who_it_was(before: EndpointSet, after: EndpointSet) -> None:
    """At its address; as its own uid, unless one side did not know it; and the uid, once known, is never forgotten."""
    current = [Subchannel(endpoint, LiveOnly()) for endpoint in before.endpoints]
    plan = reconcile(current, after.endpoints)
    listed = {endpoint.identity for endpoint in after.endpoints}
    for endpoint, (described, survivor) in zip(after.endpoints, placed(plan), strict=True):
        if survivor is None:
            assert described == endpoint
            continue
        old = survivor.endpoint
        assert place(old) == place(endpoint)
        assert old.uid == endpoint.uid or "" in (old.uid, endpoint.uid)
        assert described.uid == (endpoint.uid or old.uid)
        if old.identity in listed:
            assert endpoint.identity == old.identity  # an exact match goes before any adoption


@given(SETS, SETS)
def test_nobody_is_dropped_who_could_have_been_adopted(before: EndpointSet, after: EndpointSet) -> None:
    """A record is removed only if no new endpoint may be it: connections are never torn down for want of a uid."""
    plan = reconcile([Subchannel(endpoint, LiveOnly()) for endpoint in before.endpoints], after.endpoints)
    new = [endpoint for endpoint, survivor in placed(plan) if survivor is None]
    for gone in plan.removed:
        for endpoint in new:
            assert place(endpoint) != place(gone.endpoint) or "" not in (endpoint.uid, gone.endpoint.uid)


@given(SETS)
def test_the_same_set_again_changes_nobody(endpoints: EndpointSet) -> None:
    """Updates are idempotent."""
    current = [Subchannel(endpoint, LiveOnly()) for endpoint in endpoints.endpoints]
    plan = reconcile(current, endpoints.endpoints)
    assert [survivor for _, survivor in placed(plan)] == current
    assert plan.removed == ()


@settings(deadline=None)
@given(st.lists(SETS, max_size=8))
def test_through_any_history_a_pool_knows_each_endpoint_once(history: list[EndpointSet]) -> None:
    """Its records are those of the latest set, marked right, and everyone else is marked as removed, but for those it keeps."""
    rng = random.Random(1)
    clock = ManualClock()
    pool = Pool("t", policy_of("p2c").build(rng), clock=clock, rng=rng, new_lock=threading.Lock)
    ever: dict[Subchannel, object] = {}
    for latest in history:
        clock.advance(1.0)
        before = {*pool.snapshot.listed, *pool.snapshot.fallback}
        change = pool.update(latest)
        snapshot = pool.snapshot
        known = snapshot.listed + snapshot.fallback
        ever.update((sub, sub.metric) for sub in change.added)
        assert len(set(known)) == len(known)
        assert len({sub.endpoint.identity for sub in known}) == len(known)
        assert [place(sub.endpoint) for sub in snapshot.listed] == [place(endpoint) for endpoint in latest.endpoints]
        assert [place(sub.endpoint) for sub in snapshot.fallback] == [place(endpoint) for endpoint in latest.fallback]
        assert set(change.added) == set(known) - before
        assert set(change.removed) == before - set(known)
        assert set(snapshot.eligible) <= set(snapshot.listed)
        assert not {*snapshot.lingering, *snapshot.spare} & {*snapshot.eligible, *snapshot.fallback}
        assert {sub for sub in ever if not sub.removed} == {*known, *snapshot.lingering, *snapshot.spare}
        assert set(pool._roster._by_endpoint.values()) == {*known, *pool._roster.leavers.vanished}
        assert {sub for sub in known if sub.fallback} == set(snapshot.fallback)
        assert all(sub.metric is metric for sub, metric in ever.items())  # statistics are never reset
