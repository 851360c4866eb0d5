"""One transport's eye on a pool: who takes traffic, when the ClusterIP does, and what the driver and waiting callers are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.errors import ResolveError
from tests.unit.pool.bench import (
    ANY,
    CONNECTING,
    IDLE,
    READY,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    Bench,
    Listener,
    cluster_ip,
    pod,
    terminating,
    unready,
)

SPARE = (cluster_ip(0), cluster_ip(1))

# --- who takes traffic ----------------------------------------------------------------------------------------------------


def test_nobody_is_picked_before_the_first_answer() -> None:
    """And the caller is to wait."""
    view = Bench().view
    assert view.begin(ANY) is None
    assert view.begin_unready(ANY) is None
    assert (view.state, view.known, view.wanted()) == (CONNECTING, False, ())
    assert view.explain() == "no source has answered yet"


def test_a_new_endpoint_takes_no_traffic_before_it_is_connected() -> None:
    """Nor one that cannot be connected, while another is ready."""
    bench = Bench()
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(READY, bench.sub(1))
    bench.connect(TRANSIENT_FAILURE, bench.sub(2))
    bench.connect(CONNECTING, bench.sub(3))
    assert bench.picked() == {bench.sub(1)}
    bench.connect(READY, bench.sub(3))
    assert bench.picked() == {bench.sub(1), bench.sub(3)}


def test_a_connection_that_is_lost_takes_its_endpoint_out_until_it_is_back() -> None:
    """Readiness is the connection's."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    bench.connect(CONNECTING, bench.sub(1))
    assert bench.picked() == {bench.sub(2)}
    bench.connect(READY, bench.sub(1))
    assert bench.picked() == {bench.sub(1), bench.sub(2)}


def test_an_endpoint_that_is_not_ready_any_more_takes_none_and_gets_no_new_connection() -> None:
    """When it is ready again its connection is where the driver left it."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)
    bench.publish(unready(1), pod(2))
    assert bench.picked() == {two}
    bench.connect(IDLE, one)
    assert bench.view.wanted() == (two,)
    bench.publish(pod(1), pod(2))
    assert bench.view.wanted() == (one, two)
    assert bench.picked() == {two}


def test_a_terminating_endpoint_keeps_its_connection_while_it_lasts() -> None:
    """It may yet be the last resort, and then it is picked without a new connect; one that never connected is not connected now."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)
    bench.publish(terminating(1), pod(2), terminating(3))
    assert bench.picked() == {two}
    assert set(bench.view.wanted()) == {one, two}
    bench.publish(terminating(1), terminating(2), terminating(3))
    assert bench.picked() == {one, two}
    bench.publish(terminating(1), pod(2), terminating(3))
    bench.connect(IDLE, one)  # the server said goodbye
    assert bench.view.wanted() == (two,)


def test_an_endpoint_that_serves_but_is_neither_ready_nor_terminating_is_no_last_resort() -> None:
    """It is starting, or overloaded; kube-proxy does not use it either."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    bench.publish(*[replace(pod(number), ready=False, serving=True) for number in (1, 2)])
    assert bench.view.begin(ANY) is None
    assert bench.pool.snapshot.eligible == ()


def test_excluded_subchannels_are_avoided_while_others_are_ready() -> None:
    """And picked if there is no other."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)
    info = PickInfo(exclude=frozenset({one}))
    assert {attempt.subchannel for _ in range(30) if (attempt := bench.view.begin(info))} == {two}
    bench.connect(IDLE, two)
    assert {attempt.subchannel for _ in range(30) if (attempt := bench.view.begin(info))} == {one}


# --- counting -------------------------------------------------------------------------------------------------------------


def test_an_attempt_is_counted_while_it_lives_unary_and_streams_apart() -> None:
    """Exactly."""
    bench = Bench()
    bench.publish(pod(1))
    sub = bench.sub(1)
    bench.connect(READY, sub)
    unary, stream = bench.view.begin(ANY), bench.view.begin(ANY, True)
    assert unary is not None
    assert stream is not None
    assert (len(sub.unary), len(sub.streams), sub.started) == (1, 1, 2)
    bench.view.end(stream)
    assert (len(sub.unary), len(sub.streams)) == (1, 0)
    bench.view.end(unary)
    assert sub.in_flight == 0


@pytest.mark.parametrize("outcome", Outcome)
def test_an_end_counts_once_however_often_it_is_reported(outcome: Outcome) -> None:
    """True the first time; later ends, of any outcome, change nothing."""
    bench = Bench()
    bench.publish(pod(1))
    sub = bench.sub(1)
    bench.connect(READY, sub)
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    assert bench.view.end(attempt, outcome)
    failed, state = sub.failed, bench.view.state
    assert not bench.view.end(attempt, Outcome.UNREACHABLE)
    assert not bench.view.end(attempt)
    assert (sub.in_flight, sub.failed, bench.view.state) == (0, failed, state)


def test_failures_are_counted_and_a_caller_who_gave_up_blames_nobody() -> None:
    """``failed`` is what ``status()`` shows."""
    bench = Bench()
    bench.publish(pod(1))
    for outcome in Outcome:
        bench.connect(READY, bench.sub(1))
        attempt = bench.view.begin(ANY)
        assert attempt is not None
        bench.view.end(attempt, outcome)
    assert bench.sub(1).failed == 3  # failure, overloaded, unreachable


def test_the_metric_hears_when_an_attempt_began_how_long_it_took_and_how_it_went() -> None:
    """In seconds on the pool's clock."""
    heard: list[tuple[object, ...]] = []

    class Metric:
        def on_start(self, now_s: float, /) -> None:
            heard.append((now_s,))

        def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
            heard.append((now_s, rtt_s, outcome))

        def load(self, now_s: float, /) -> float:
            return 0.0

    bench = Bench("round_robin")
    bench.publish(pod(1))
    bench.sub(1).metric = Metric()
    bench.connect(READY, bench.sub(1))
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.loop.advance(0.25)
    bench.view.end(attempt, Outcome.OVERLOADED)
    bench.view.end(attempt)
    assert heard == [(1000.0,), (1000.25, 0.25, Outcome.OVERLOADED)]


def test_an_attempt_that_never_left_takes_its_endpoint_out_at_once() -> None:
    """Other calls need not find out one by one; the driver hears of it and looks."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    one, two = bench.sub(1), bench.sub(2)
    bench.connect(READY, one, two)
    info, changes = PickInfo(exclude=frozenset({two})), bench.listener.changes
    attempt = bench.view.begin(info)
    assert attempt is not None
    bench.view.end(attempt, Outcome.UNREACHABLE)
    assert bench.view.state_of(one) is TRANSIENT_FAILURE
    assert bench.listener.changes == changes + 1
    assert bench.picked() == {two}
    bench.connect(READY, one)  # the driver looked: it was a mistake, or is over
    assert bench.picked() == {one, two}


def test_an_end_after_its_endpoint_was_removed_does_not_bring_it_back() -> None:
    """Neither an unreachable one nor a late report of its connection."""
    bench = Bench()
    bench.publish(pod(1))
    one = bench.sub(1)
    bench.connect(READY, one)
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    bench.publish(pod(2))
    bench.view.end(attempt, Outcome.UNREACHABLE)
    bench.connect(READY, one)
    assert bench.view.state_of(one) is IDLE
    assert bench.picked() == set()


# --- the fallback ---------------------------------------------------------------------------------------------------------


def test_the_fallback_is_neither_wanted_nor_picked_while_a_pod_is_ready_or_still_may_be() -> None:
    """The ClusterIP costs connections and balances worse."""
    bench = Bench()
    bench.publish(pod(1), pod(2), fallback=SPARE)
    assert bench.view.wanted() == (bench.sub(1), bench.sub(2))
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.loop.advance(0.5)
    assert bench.view.wanted() == (bench.sub(1), bench.sub(2))
    bench.connect(READY, bench.sub(2))
    bench.loop.advance(60.0)
    assert bench.view.wanted() == (bench.sub(1), bench.sub(2))
    assert bench.picked() == {bench.sub(2)}


def test_when_every_pod_failed_the_fallback_is_tried_at_once() -> None:
    """And is used when connected, and the pods stay wanted."""
    bench = Bench()
    bench.publish(pod(1), pod(2), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1), bench.sub(2))
    spare = {bench.spare(0), bench.spare(1)}
    assert set(bench.view.wanted()) == {bench.sub(1), bench.sub(2)} | spare
    assert bench.view.state is CONNECTING
    assert bench.picked() == set()
    bench.connect(READY, bench.spare(1))
    assert bench.picked() == {bench.spare(1)}
    assert bench.view.state is READY


def test_when_no_pod_becomes_ready_in_time_the_fallback_is_tried() -> None:
    """Black holes neither connect nor fail; one tick does it, and none follows."""
    bench = Bench(fallback_after_s=1.0)
    bench.publish(pod(1), pod(2), fallback=SPARE)
    bench.connect(CONNECTING, bench.sub(1), bench.sub(2))
    bench.loop.advance(0.999)
    assert len(bench.view.wanted()) == 2
    changes = bench.listener.changes
    bench.loop.advance(0.001)
    assert len(bench.view.wanted()) == 4
    assert bench.listener.changes == changes + 1
    bench.loop.advance(3600.0)
    assert bench.ticks == 1


def test_the_first_pod_that_is_ready_ends_the_fallback() -> None:
    """A published pod set is displaced only while none of it can be connected."""
    bench = Bench()
    bench.publish(pod(1), pod(2), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1), bench.sub(2))
    bench.connect(READY, bench.spare(0), bench.spare(1))
    bench.connect(READY, bench.sub(2))
    assert bench.view.wanted() == (bench.sub(1), bench.sub(2))
    assert bench.picked() == {bench.sub(2)}


def test_a_pod_that_tries_again_does_not_end_the_fallback() -> None:
    """Only one that is ready does; else traffic would swing with every attempt to connect."""
    bench = Bench()
    bench.publish(pod(1), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.connect(READY, bench.spare(0))
    bench.connect(IDLE, bench.sub(1))
    bench.connect(CONNECTING, bench.sub(1))
    assert bench.picked() == {bench.spare(0)}


def test_pods_that_flap_swing_to_connections_that_are_still_there_and_wake_nobody() -> None:
    """Between two flaps the fallback's connections are used as long as they last; ticks do not pile up."""
    bench = Bench()
    bench.publish(pod(1), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.connect(READY, bench.spare(0))
    for _ in range(100):
        bench.connect(READY, bench.sub(1))
        assert bench.picked(5) == {bench.sub(1)}
        bench.connect(CONNECTING, bench.sub(1))
        assert bench.picked(5) == {bench.spare(0)}
        bench.loop.advance(0.01)
    bench.loop.advance(60.0)
    assert bench.ticks <= 1


def test_ticks_do_not_pile_up_while_pods_flap_without_a_connected_fallback() -> None:
    """Each loss starts the waiting anew; one timer at a time is enough for that."""
    bench = Bench()
    bench.publish(pod(1), pod(2), fallback=SPARE)
    for _ in range(200):
        bench.connect(READY, bench.sub(1))
        bench.connect(CONNECTING, bench.sub(1))
        bench.loop.advance(0.1)
        assert len(bench.loop.timers) <= 1
    assert bench.ticks <= 22  # 20 s, a tick a second and a little
    assert len(bench.view.wanted()) == 2


def test_ticks_are_few_with_many_views_too() -> None:
    """One timer a pool."""
    bench = Bench()
    views = [bench.pool.view(Listener()) for _ in range(50)]
    bench.publish(pod(1), fallback=SPARE)
    bench.loop.advance(0.5)
    late = bench.pool.view(Listener())
    assert len(bench.loop.timers) == 1
    bench.loop.advance(60.0)
    assert all(len(view.wanted()) == 3 for view in [*views, late])
    assert bench.ticks == 2


def test_time_that_is_no_binary_fraction_leads_to_no_hot_loop() -> None:
    """A tick that rounding made too early asks for the rest, and that is all."""
    bench = Bench(fallback_after_s=0.1)
    bench.loop.advance(1 / 3)
    for _ in range(50):
        bench.publish(pod(1), fallback=SPARE)
        bench.loop.advance(0.7)
        assert len(bench.view.wanted()) == 3
        bench.connect(READY, bench.sub(1))
        bench.connect(CONNECTING, bench.sub(1))
        bench.loop.advance(0.1 / 3)
    assert bench.ticks <= 110


def test_a_fallback_that_becomes_known_late_is_used_as_if_it_had_been_known() -> None:
    """The wait for the pods has already been long enough; nobody ticks again just for it."""
    bench = Bench()
    bench.publish(pod(1))
    bench.loop.advance(5.0)
    bench.publish(pod(1), fallback=SPARE)
    assert set(bench.view.wanted()) == {bench.sub(1), bench.spare(0), bench.spare(1)}


def test_a_fallback_that_becomes_known_in_time_is_waited_for_no_longer() -> None:
    """Counted from when the pods were missed."""
    bench = Bench()
    bench.publish(pod(1))
    bench.loop.advance(0.75)
    bench.publish(pod(1), fallback=SPARE)
    assert len(bench.view.wanted()) == 1
    bench.loop.advance(0.25)
    assert len(bench.view.wanted()) == 3


def test_a_fallback_that_discovery_withdraws_is_not_used_any_more() -> None:
    """Its records drain as any other."""
    bench = Bench()
    bench.publish(pod(1), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    spare = bench.spare(0)
    bench.connect(READY, spare)
    bench.publish(pod(1))
    assert spare.removed
    assert bench.view.wanted() == (bench.sub(1),)
    assert bench.picked() == set()
    assert bench.view.state is TRANSIENT_FAILURE


def test_a_service_without_a_ready_pod_does_not_use_its_cluster_ip() -> None:
    """That would refuse as well; the caller learns what is known instead."""
    bench = Bench()
    bench.publish(unready(1), unready(2), fallback=SPARE, note="2 endpoints, none ready")
    bench.loop.advance(60.0)
    assert bench.view.wanted() == ()
    assert bench.view.state is TRANSIENT_FAILURE
    assert bench.view.explain() == "2 endpoints known from kubernetes, none ready (2 endpoints, none ready)"
    assert bench.ticks == 0


def test_a_closed_or_forgotten_view_wants_no_tick() -> None:
    """Nothing is left of it but the tick that was asked for already."""
    bench = Bench()
    bench.publish(pod(1), fallback=SPARE)
    bench.view.close()
    bench.loop.advance(60.0)
    assert bench.ticks == 1


# --- the aggregated state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "aggregated"),
    [
        ((READY, TRANSIENT_FAILURE, CONNECTING), READY),
        ((TRANSIENT_FAILURE, CONNECTING, TRANSIENT_FAILURE), CONNECTING),
        ((IDLE, TRANSIENT_FAILURE, TRANSIENT_FAILURE), CONNECTING),
        ((TRANSIENT_FAILURE, TRANSIENT_FAILURE, TRANSIENT_FAILURE), TRANSIENT_FAILURE),
        ((CONNECTING, CONNECTING, CONNECTING), CONNECTING),
        ((READY, READY, READY), READY),
    ],
)
def test_the_state_is_aggregated_as_round_robin_does(states: tuple[Connectivity, ...], aggregated: Connectivity) -> None:
    """READY if any, else CONNECTING if any, else TRANSIENT_FAILURE."""
    bench = Bench()
    bench.publish(pod(1), pod(2), pod(3))
    bench.view.set_states(zip(bench.view.wanted(), states, strict=True))
    assert bench.view.state is aggregated


def test_what_failed_and_tries_again_is_still_failing() -> None:
    """Else a pool in which all are down would look as if it were connecting most of the time, and calls would wait in vain."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    bench.connect(TRANSIENT_FAILURE, *bench.view.wanted())
    bench.connect(CONNECTING, bench.sub(1))
    assert bench.view.state is TRANSIENT_FAILURE
    bench.connect(READY, bench.sub(1))
    assert bench.view.state is READY
    bench.connect(CONNECTING, bench.sub(1))
    assert bench.view.state is CONNECTING
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.connect(IDLE, bench.sub(1))  # closed by the driver: the next connect is a new one
    bench.connect(CONNECTING, bench.sub(1))
    assert bench.view.state is CONNECTING


def test_connections_that_may_not_take_traffic_say_nothing_about_the_state() -> None:
    """A terminating pod that is still connected does not make callers wait for one that failed."""
    bench = Bench()
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    bench.publish(terminating(1), pod(2))
    bench.connect(TRANSIENT_FAILURE, bench.sub(2))
    assert bench.view.state is TRANSIENT_FAILURE


def test_an_unresolved_target_is_connecting_until_its_sources_failed() -> None:
    """As a gRPC channel is."""
    bench = Bench()
    assert bench.view.state is CONNECTING
    bench.pool.on_error(ResolveError("orders.shop"))
    assert bench.view.state is TRANSIENT_FAILURE
    bench.publish(pod(1))
    assert bench.view.state is CONNECTING
    bench.publish()
    assert bench.view.state is TRANSIENT_FAILURE


# --- what the driver and waiting callers hear -----------------------------------------------------------------------------


def test_the_listener_hears_what_matters_and_may_call_back() -> None:
    """Outside the pool's lock."""
    bench = Bench()

    class Driver(Listener):
        def on_change(self) -> None:
            super().on_change()
            bench.view.set_states([(sub, READY) for sub in bench.view.wanted()])

    bench.view.listener = driver = Driver()
    bench.publish(pod(1), pod(2))
    assert bench.picked() == {bench.sub(1), bench.sub(2)}
    assert driver.changes == 2  # the endpoints, and that they are ready; the second look finds nothing new


def test_reports_that_change_nothing_are_not_passed_on() -> None:
    """The same state again, and the first steps of a connect."""
    bench = Bench()
    bench.publish(pod(1))
    changes = bench.listener.changes
    picker = bench.view.picker
    for state in (IDLE, CONNECTING, CONNECTING, IDLE, CONNECTING):
        bench.connect(state, bench.sub(1))
        assert bench.view.state_of(bench.sub(1)) is state
    assert bench.listener.changes == changes
    bench.connect(READY, bench.sub(1))
    bench.connect(READY, bench.sub(1))
    assert bench.listener.changes == changes + 1
    assert bench.view.picker is not picker


def test_a_batch_of_states_makes_one_picker_and_one_notice() -> None:
    """However many connections change at once."""
    bench = Bench()
    bench.publish(*(pod(number) for number in range(50)))
    changes = bench.listener.changes
    bench.connect(READY, *bench.view.wanted())
    assert bench.listener.changes == changes + 1
    assert len(bench.picked(1000)) == 50


def test_any_wanted_subchannel_may_be_tried_unready_in_its_turn() -> None:
    """So that a call hears the transport's own reason; those to be avoided only when there is no other."""
    bench = Bench()
    bench.publish(pod(1), pod(2), pod(3))
    subs = set(bench.view.wanted())
    tried = [bench.view.begin_unready(ANY) for _ in range(60)]
    assert {attempt.subchannel for attempt in tried if attempt} == subs
    avoid = frozenset({bench.sub(1), bench.sub(2)})
    assert {attempt.subchannel for _ in range(30) if (attempt := bench.view.begin_unready(PickInfo(exclude=avoid)))} == {
        bench.sub(3)
    }
    assert bench.view.begin_unready(PickInfo(exclude=frozenset(subs))) is not None
    assert sum(sub.in_flight for sub in subs) == 91


def test_a_closed_view_wants_nothing_picks_nobody_and_stays_closed() -> None:
    """Attempts that live may still end; whoever closes is not told so."""
    bench = Bench()
    bench.publish(pod(1))
    sub = bench.sub(1)
    bench.connect(READY, sub)
    attempt = bench.view.begin(ANY)
    assert attempt is not None
    changes = bench.listener.changes
    bench.view.close()
    bench.view.close()
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(2))
    bench.pool.on_error(ResolveError("orders.shop"))
    assert (bench.view.state, bench.view.wanted(), bench.view.begin(ANY)) == (SHUTDOWN, (), None)
    assert bench.view.begin_unready(ANY) is None
    assert bench.listener.changes == changes
    assert bench.view.end(attempt, Outcome.UNREACHABLE)
    assert sub.in_flight == 0
    assert bench.pool.describe()["views"] == []


def test_a_view_that_is_closed_while_it_chooses_stays_closed() -> None:
    """Closing takes no lock, so it may come in the middle of an update in another thread."""
    bench = Bench()
    policy = bench.pool.policy
    bench.publish(pod(1), pod(2))

    class Closing:
        name = policy.name
        new_metric = staticmethod(policy.new_metric)

        @staticmethod
        def new_picker(subchannels: object, rng: object, /) -> object:
            bench.view.close()
            return policy.new_picker(subchannels, rng)  # type: ignore[arg-type]

    bench.pool.balancer.policy = Closing()  # type: ignore[assignment]
    bench.connect(READY, bench.sub(1))
    assert (bench.view.state, bench.view.wanted(), bench.view.begin(ANY)) == (SHUTDOWN, (), None)


def test_the_explanation_says_what_is_known_and_how_the_connections_are() -> None:
    """One clause, for error messages."""
    bench = Bench()
    bench.pool.on_error(ResolveError("orders.shop", ["dns: SERVFAIL"]))
    assert bench.view.explain() == "orders.shop: no source knows its endpoints (dns: SERVFAIL)"
    bench.publish(note="scaled to zero")
    assert bench.view.explain() == "0 endpoints known from kubernetes, none ready (scaled to zero)"
    bench.publish(pod(1))
    assert bench.view.explain() == "1 endpoint known from kubernetes, none connected: 1 idle"
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(TRANSIENT_FAILURE, bench.sub(1), bench.sub(2))
    assert bench.view.explain() == "3 endpoints known from kubernetes, none connected: 1 idle, 2 transient failure"
    bench.connect(READY, bench.sub(3))
    assert bench.view.explain() == "3 endpoints known from kubernetes, 1 connection ready"


def test_describe_is_plain_data() -> None:
    """For ``status()``."""
    bench = Bench()
    bench.publish(pod(1), fallback=SPARE)
    bench.connect(TRANSIENT_FAILURE, bench.sub(1))
    bench.connect(READY, bench.spare(0))
    described = {
        "state": "ready",
        "on_fallback": True,
        "on_spare": False,
        "picking_from": 1,
        "probing": 0,
        "wanted": 3,
        "doubted": 0,
    }
    assert bench.view.describe() == described
