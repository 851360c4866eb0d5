"""What a pool makes of updates, errors and time, and what it tells about itself."""

from __future__ import annotations

import gc
import json
import random
import threading
import weakref
from collections.abc import Sequence

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ResolveError
from meshlb.pool.pool import Pool
from meshlb.testing.clock import ManualClock
from tests.unit.pool.bench import ANY, READY, TRANSIENT_FAILURE, Bench, Listener, cluster_ip, pod, terminating, unready


def test_an_update_says_who_came_and_who_went() -> None:
    """And nobody, if endpoints are only described anew."""
    bench = Bench()
    first = bench.publish(pod(1), pod(2))
    assert [str(sub.endpoint) for sub in first.added] == ["pod-1 (10.0.0.1:80)", "pod-2 (10.0.0.2:80)"]
    second = bench.publish(pod(2, weight=3.0), pod(3))
    assert second.removed == (first.added[0],)
    assert [sub.endpoint for sub in second.added] == [pod(3)]
    assert not bench.publish(pod(2), pod(3))


def test_survivors_keep_record_statistics_connections_and_live_attempts() -> None:
    """And take traffic on, without a pause."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    sub = bench.sub(1)
    bench.connect(READY, sub)
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.publish(pod(1, weight=2.0), pod(3))
    assert bench.sub(1) is sub
    assert sub.endpoint.weight == 2.0
    assert sub.unary == {attempt}
    assert bench.picked() == {sub}


def test_a_removed_endpoint_gets_no_new_attempt_and_finishes_what_it_has() -> None:
    """Draining: the record says so, and its end still counts."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)
    live = [bench.view.begin(ANY) for _ in range(20)]
    bench.publish(pod(2))
    assert (one.removed, two.removed) == (True, False)
    assert bench.picked() == {two}
    assert one.in_flight > 0
    assert all(attempt is not None and bench.view.end(attempt) for attempt in live)
    assert (one.in_flight, two.in_flight) == (0, 0)


def test_a_removed_endpoint_that_comes_back_late_is_a_new_record() -> None:
    """Statistics live as long as the endpoint is known, or remembered; the old record goes on draining."""
    bench = Bench()
    bench.publish(pod(1))
    old = bench.sub(1)
    bench.publish()
    bench.loop.advance(30.0)
    bench.publish(pod(1))
    assert bench.sub(1) is not old
    assert old.removed


def test_an_attempt_that_an_old_picker_began_too_late_is_taken_back_and_made_anew() -> None:
    """Whoever drains may close a connection once no attempt is live: none appears on it afterwards."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)

    class Late:
        """A pick that was made before an update and is used after it."""

        def pick(self, info: object, now_s: float, /) -> Subchannel | None:
            bench.publish(pod(2))
            return one

    bench.view.picker = Late()
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    assert attempt.subchannel is two
    assert (one.in_flight, one.started, two.in_flight) == (0, 0, 1)


def test_the_same_goes_for_attempts_on_unready_endpoints() -> None:
    """They need a connection as well."""
    bench = Bench()
    bench.publish(pod(1))
    one = bench.sub(1)

    class Late:
        """A draw during which an update comes."""

        def random(self) -> float:
            bench.publish(pod(2))
            return 0.0

    bench.view._rng = Late()
    attempt = bench.view.begin_unready(ANY)
    assert attempt is not None
    assert attempt.subchannel is bench.sub(2)
    assert (one.in_flight, one.started) == (0, 0)


def test_pickers_change_before_records_are_marked_and_listeners_hear_last() -> None:
    """In another order ``begin`` would spin on an old picker, or a drain could miss an attempt."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    gone = bench.sub(1)
    bench.connect(READY, gone, bench.sub(2))
    policy, events = bench.pool.policy, []

    class Spying:
        name = policy.name
        new_metric = staticmethod(policy.new_metric)

        @staticmethod
        def new_picker(subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
            events.append(("new picker", gone.removed))
            return policy.new_picker(subchannels, rng)

    class Watching:
        def on_change(self) -> None:
            events.append(("told", gone.removed))

    bench.pool.balancer.policy = Spying()
    bench.view.listener = Watching()
    bench.publish(pod(2))
    assert events == [("new picker", False), ("told", True)]


def test_a_failure_of_discovery_changes_nothing_that_is_known() -> None:
    """Nor does it disturb anybody: no picker is rebuilt, no listener called."""
    bench = Bench()
    bench.publish(pod(1))
    bench.connect(READY, bench.sub(1))
    picker, changes = bench.view.picker, bench.listener.changes
    bench.pool.on_error(ResolveError("orders.shop", ["api: 403"]))
    assert bench.view.picker is picker
    assert bench.listener.changes == changes
    assert bench.view.error is None
    assert bench.pool.describe()["error"] == "orders.shop: no source knows its endpoints (api: 403)"


def test_a_view_made_after_a_failure_knows_of_none_either() -> None:
    """What is known counts."""
    bench = Bench()
    bench.publish(pod(1))
    bench.pool.on_error(ResolveError("orders.shop", ["api: 403"]))
    assert bench.pool.view(Listener()).error is None


def test_weights_take_effect_although_nobody_came_or_went() -> None:
    """The picker is made anew with each update."""
    bench = Bench("round_robin")
    bench.publish(pod(1), pod(2))
    bench.connect(READY, *bench.view.wanted())
    bench.publish(pod(1, weight=3.0), pod(2))
    for _ in range(400):
        attempt = bench.view.begin(ANY)
        assert attempt is not None
        bench.view.end(attempt)
    assert (bench.sub(1).started, bench.sub(2).started) == (300, 100)


def test_a_failure_before_anything_is_known_is_told_and_an_answer_ends_it() -> None:
    """Waiting callers learn why, and that it is over."""
    bench = Bench()
    error = ResolveError("orders.shop", ["api: 403"])
    bench.pool.on_error(error)
    assert bench.listener.changes == 1
    assert bench.view.error is error
    assert bench.view.state is TRANSIENT_FAILURE
    bench.publish(pod(1))
    assert bench.view.error is None
    assert bench.pool.describe()["error"] is None


def test_the_cluster_ip_keeps_its_connections_when_the_pods_become_known() -> None:
    """Make before break: what was all there is becomes the fallback, and carries calls until a pod is connected."""
    bench = Bench()
    bench.publish(cluster_ip(0), cluster_ip(1), source="dns")
    spare = [bench.spare(0), bench.spare(1)]
    bench.connect(READY, *spare)
    change = bench.publish(pod(1), fallback=[cluster_ip(0), cluster_ip(1)])
    assert [sub.endpoint for sub in change.added] == [pod(1)]
    assert change.removed == ()
    assert [bench.spare(0), bench.spare(1)] == spare
    assert [sub.fallback for sub in spare] == [True, True]
    assert bench.picked() == set(spare)
    bench.connect(READY, bench.sub(1))
    assert bench.picked() == {bench.sub(1)}
    assert bench.view.wanted() == (bench.sub(1),)


def test_and_they_are_kept_the_other_way_round_too() -> None:
    """From fallback to all there is: a source that lost the pods."""
    bench = Bench()
    bench.publish(pod(1), fallback=[cluster_ip(0)])
    spare = bench.spare(0)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.connect(READY, spare)
    bench.publish(cluster_ip(0), source="dns")
    assert bench.pool.snapshot.eligible == (spare,)
    assert not spare.fallback
    assert bench.picked() == {spare}


def test_views_share_load_and_not_readiness() -> None:
    """A connection of one transport is none of another's."""
    bench = Bench()
    bench.publish(pod(1))
    second = bench.pool.view(Listener())
    bench.connect(READY, bench.sub(1))
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    assert second.begin(ANY) is None
    assert bench.sub(1).in_flight == 1
    assert second.end(attempt)


def test_a_new_view_knows_at_once_what_the_pool_knows() -> None:
    """A second channel to a target does not wait for discovery."""
    bench = Bench()
    bench.publish(pod(1))
    assert bench.pool.view(Listener()).wanted() == (bench.sub(1),)


def test_a_forgotten_view_is_freed_and_leaves_nothing_behind() -> None:
    """The pool holds views weakly."""
    bench = Bench()
    bench.publish(pod(1))
    view = weakref.ref(bench.pool.view(Listener()))
    gc.collect()
    assert view() is None
    bench.publish(pod(2))
    assert len(bench.pool.describe()["views"]) == 1


def test_a_view_that_is_closed_by_a_finalizer_under_the_pools_lock_does_not_hang() -> None:
    """The collector may run anywhere: closing takes no lock."""
    bench = Bench()
    bench.publish(pod(1))
    closed = threading.Event()

    def close() -> None:
        bench.view.close()
        closed.set()

    with bench.pool._lock:
        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        assert closed.wait(10)
    thread.join(10)


class Broken(Listener):
    def on_change(self) -> None:
        super().on_change()
        raise LookupError(f"change {self.changes}")


def test_a_listener_that_raises_keeps_no_other_view_from_hearing() -> None:
    """Without anybody to tell, the first error reaches whoever caused it, after all were told."""
    bench = Bench()
    broken, sound = Broken(), Listener()
    views = [bench.pool.view(broken), bench.pool.view(sound)]
    with pytest.raises(LookupError, match="change 1"):
        bench.publish(pod(1))
    assert (bench.listener.changes, broken.changes, sound.changes) == (1, 1, 1)
    assert [view.wanted() for view in views] == [(bench.sub(1),)] * 2


def test_a_listeners_error_goes_to_whoever_wants_it_and_not_into_a_call_or_discovery() -> None:
    """The mesh counts and logs it."""
    heard: list[Exception] = []
    rng = random.Random(1)
    pool = Pool(
        "orders.shop",
        policy_of("p2c").build(rng),
        clock=ManualClock(),
        rng=rng,
        new_lock=threading.Lock,
        on_listener_error=heard.append,
    )
    view = pool.view(Broken())
    pool.update(EndpointSet.of([pod(1)], "static"))
    view.set_states([(view.wanted()[0], READY)])
    attempt = view.begin(ANY)
    assert attempt is not None
    assert view.end(attempt, Outcome.UNREACHABLE)
    assert [str(error) for error in heard] == ["change 1", "change 2", "change 3"]


def test_describe_is_plain_data_with_what_a_person_needs() -> None:
    """It can be written as JSON."""
    bench = Bench()
    empty = bench.pool.describe()
    assert (empty["source"], empty["age_s"], empty["endpoints"]) == ("none", None, [])
    bench.publish(pod(1), pod(2), terminating(3), unready(4), fallback=[cluster_ip(0)], note="3 of 4 ready")
    bench.connect(READY, bench.sub(1))
    bench.loop.advance(2.5)
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.view.begin(ANY, True)
    bench.view.end(attempt, Outcome.FAILURE)
    described = json.loads(json.dumps(bench.pool.describe()))
    assert described["target"] == "orders.shop"
    assert (described["policy"], described["source"], described["note"]) == ("p2c", "kubernetes", "3 of 4 ready")
    assert (described["authoritative"], described["age_s"]) == (True, 2.5)
    assert [entry["state"] for entry in described["endpoints"]] == ["usable", "usable", "terminating", "not ready"]
    assert [entry["connections"] for entry in described["endpoints"]] == [["ready"], ["idle"], ["idle"], ["idle"]]
    one = described["endpoints"][0]
    assert (one["address"], one["name"], one["uid"]) == ("10.0.0.1:80", "pod-1", "u1")
    assert (one["in_flight"], one["streams"], one["started"], one["failed"]) == (0, 1, 2, 1)
    assert one["age_s"] == 2.5
    assert [entry["state"] for entry in described["fallback"]] == ["fallback"]
    view = {"state": "ready", "on_fallback": False, "on_spare": False, "picking_from": 1, "probing": 0, "wanted": 2, "doubted": 0}
    assert described["views"] == [view]


def test_the_repr_counts_what_is_known() -> None:
    """It is what a debugger shows."""
    bench = Bench()
    bench.publish(pod(1), unready(2), fallback=[cluster_ip(0)])
    assert repr(bench.pool) == "<Pool orders.shop p2c source=kubernetes endpoints=2 eligible=1 fallback=1>"
