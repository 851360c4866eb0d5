"""Two views of a pool under any sequence of updates, connections, calls, time and closing, against a naive model of the promises."""

from __future__ import annotations

import functools
import random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ResolveError
from meshlb.pool.snapshot import PoolSnapshot
from meshlb.pool.view import View
from tests.unit.pool.bench import CONNECTING, IDLE, READY, SHUTDOWN, TRANSIENT_FAILURE, Bench, Listener, cluster_ip

FALLBACK_AFTER_S = 1.0
STATES = [IDLE, CONNECTING, READY, TRANSIENT_FAILURE]
ENDPOINT = st.builds(
    Endpoint,
    host=st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    port=st.just(80),
    uid=st.sampled_from(["", "a", "b"]),
    ready=st.sampled_from([True, True, False]),
    serving=st.booleans(),
    terminating=st.booleans(),
)


class Memory:
    """Who left and what is kept of them: the rules of leavers.py in so many words, replayed from the first answer each time."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, PoolSnapshot, dict[Subchannel, Endpoint]]] = []
        self.at = functools.cache(self._at)

    def hear(self, at_s: float, snapshot: PoolSnapshot) -> None:
        self.answers.append((at_s, snapshot, {sub: sub.endpoint for sub in snapshot.listed + snapshot.fallback}))
        self.at.cache_clear()

    def _at(self, now_s: float) -> tuple[set[Subchannel], set[Subchannel], set[Subchannel]]:
        """Whoever lingers, is a spare, is remembered though nobody lists it."""
        left: dict[Subchannel, float] = {}
        vanished: dict[Subchannel, float] = {}
        lost: dict[Subchannel, float] = {}
        spare: dict[Subchannel, float] = {}
        ever: set[Subchannel] = set()
        known: dict[Subchannel, Endpoint] = {}
        listed: set[Subchannel] = set()
        eligible: set[Subchannel] = set()
        pool = 0

        def pass_time(until_s: float) -> None:
            for since_s, length_s in ((left, 30.0), (vanished, 30.0), (lost, 5.0), (spare, 30.0)):
                for sub in [sub for sub, at_s in since_s.items() if at_s + length_s <= until_s]:
                    del since_s[sub]
            for sub in [sub for sub in known if sub not in listed and sub not in vanished]:
                del known[sub]

        for at_s, snapshot, endpoint_of in self.answers:
            pass_time(at_s)
            taken = {place(sub) for sub in endpoint_of if sub not in ever}
            ever |= set(endpoint_of)
            known |= endpoint_of
            replaced = {sub for sub in known if sub not in endpoint_of and place(sub) in taken}
            back = {sub for sub in known if sub in snapshot.eligible or sub in snapshot.fallback}
            for sub in replaced | back:
                for since_s in (left, lost, spare):
                    since_s.pop(sub, None)
            for sub in known:
                if sub in endpoint_of or sub in replaced:
                    vanished.pop(sub, None)
                else:
                    vanished.setdefault(sub, at_s)
            for since_s in (lost, spare):
                for sub in [sub for sub in since_s if known[sub].terminating]:
                    del since_s[sub]
            leaving = eligible - back - replaced
            if leaving:
                pool = len(eligible) + sum(since_s > at_s - 5.0 for since_s in left.values())
                left |= dict.fromkeys(leaving, at_s)
                pods = {sub for sub in leaving if not sub.endpoint.uid.startswith("clusterip/")}
                unwilling = {s for s in pods if not known[s].terminating and (s in vanished or not known[s].ready)}
                lost |= dict.fromkeys(unwilling, at_s)
                if unwilling and pool >= 4 and len(lost) > pool / 2:
                    spare |= {sub: since_s for sub, since_s in lost.items() if sub not in spare}
            listed, eligible = set(endpoint_of), set(snapshot.eligible)
        pass_time(now_s)
        ending = {sub for sub in known if known[sub].serving and known[sub].terminating and sub not in vanished}
        fallback = set(self.answers[-1][1].fallback) if self.answers else set()
        resting = {sub for sub in left if sub not in vanished} | (set(lost) if pool >= 4 else set())
        return (resting | ending - eligible - fallback) - set(spare), set(spare), set(vanished)


def place(sub: Subchannel) -> tuple[str, int]:
    return sub.endpoint.host, sub.endpoint.port


class Eye:
    """What one view must make of what it was told."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.states: dict[Subchannel, Connectivity] = {}
        self.missing_since_s: float | None = None
        self.on_fallback = False
        self.closed = False


class Views(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(["p2c", "round_robin", "least_request"]), seed=st.integers(0, 2**16))
    def begin_world(self, policy: str, seed: int) -> None:
        self.bench = Bench(policy, fallback_after_s=FALLBACK_AFTER_S, seed=seed)
        self.draws = random.Random(seed)
        self.eyes = [Eye(self.bench.view), Eye(self.bench.pool.view(Listener()))]
        self.ever: list[Subchannel] = []
        self.live: list[tuple[View, Attempt, bool]] = []
        self.over: list[tuple[View, Attempt]] = []
        self.answered = self.failed = False
        self.memory = Memory()

    # --- what happens ---------------------------------------------------------------------------------------------------

    @rule(endpoints=st.lists(ENDPOINT, max_size=5), spares=st.integers(0, 2), spares_are_all=st.booleans())
    def discovery_answers(self, endpoints: list[Endpoint], spares: int, spares_are_all: bool) -> None:
        spare = [cluster_ip(slot) for slot in range(spares)]
        latest = EndpointSet.of(spare, "dns") if spares_are_all else EndpointSet.of(endpoints, "kubernetes", fallback=spare)
        self.ever += [sub for sub in self.bench.pool.update(latest).added if sub not in self.ever]
        self.memory.hear(self.bench.loop.now_s(), self.bench.pool.snapshot)
        self.answered, self.failed = True, False
        for eye in self.eyes:
            self.forget(eye)
            self.look(eye)

    @rule()
    def discovery_fails(self) -> None:
        self.bench.pool.on_error(ResolveError("orders.shop"))
        self.failed = True

    @precondition(lambda self: self.ever)
    @rule(data=st.data(), which=st.integers(0, 1), state=st.sampled_from(STATES), everybody=st.booleans())
    def connections_change(self, data: st.DataObject, which: int, state: Connectivity, everybody: bool) -> None:
        eye = self.eyes[which]
        subs = list(eye.view.wanted()) if everybody else [data.draw(st.sampled_from(self.ever))]
        eye.view.set_states([(sub, state) for sub in subs])
        self.told(eye, [(sub, state) for sub in subs])

    @rule(which=st.integers(0, 1), stream=st.booleans(), avoid=st.booleans())
    def a_call_begins(self, which: int, stream: bool, avoid: bool) -> None:
        eye = self.eyes[which]
        usable = self.usable(eye)
        exclude = frozenset(self.draws.sample(usable, len(usable) // 2)) if avoid else frozenset()
        attempt = eye.view.begin(PickInfo(exclude=exclude), stream)
        assert (attempt is not None) == bool(usable)
        if attempt is not None:
            assert attempt.subchannel in usable
            assert attempt.subchannel not in exclude
            self.live.append((eye.view, attempt, stream))

    @rule(which=st.integers(0, 1), stream=st.booleans())
    def a_call_tries_an_unready_one(self, which: int, stream: bool) -> None:
        eye = self.eyes[which]
        view, snapshot = eye.view, self.bench.pool.snapshot
        attempt = view.begin_unready(PickInfo(), stream)
        in_use = () if eye.closed else snapshot.eligible + (snapshot.fallback if eye.on_fallback else ())
        assert (attempt is not None) == bool(in_use)
        if attempt is not None:
            assert attempt.subchannel in in_use
            self.live.append((view, attempt, stream))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def a_call_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        view, attempt, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        assert view.end(attempt, outcome)
        self.over.append((view, attempt))
        if outcome is Outcome.UNREACHABLE:
            self.told(next(eye for eye in self.eyes if eye.view is view), [(attempt.subchannel, TRANSIENT_FAILURE)])

    @precondition(lambda self: self.over)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def an_end_is_reported_again(self, data: st.DataObject, outcome: Outcome) -> None:
        view, attempt = data.draw(st.sampled_from(self.over))
        assert not view.end(attempt, outcome)

    @rule(delta_s=st.sampled_from([0.25, 0.5, 1.0, 4.0, 10.0, 26.0]))
    def time_passes(self, delta_s: float) -> None:
        self.bench.loop.advance(delta_s)
        for eye in self.eyes:
            self.forget(eye)
            self.look(eye)

    @precondition(lambda self: not any(eye.closed for eye in self.eyes))
    @rule()
    def the_second_channel_is_closed(self) -> None:
        self.eyes[1].view.close()
        self.eyes[1].closed = True

    # --- the model ------------------------------------------------------------------------------------------------------

    def told(self, eye: Eye, changes: list[tuple[Subchannel, Connectivity]]) -> None:
        for sub, state in changes:
            sticks = eye.states.get(sub) is TRANSIENT_FAILURE and state is CONNECTING
            if eye.closed:
                continue
            if sub.removed and state is not READY:
                eye.states.pop(sub, None)
            elif not sub.removed and not sticks:
                eye.states[sub] = state
        self.look(eye)

    def forget(self, eye: Eye) -> None:
        """What was said of a connection is remembered for as long as its endpoint is."""
        known = {*self.bench.pool.snapshot.listed, *self.bench.pool.snapshot.fallback, *self.memory.at(self.bench.loop.now_s())[2]}
        eye.states = {sub: state for sub, state in eye.states.items() if sub in known}

    def look(self, eye: Eye) -> None:
        """Decide anew whether the fallback is in use."""
        snapshot = self.bench.pool.snapshot
        states = [eye.states.get(sub, IDLE) for sub in snapshot.eligible]
        if READY in states or not states:
            eye.missing_since_s, eye.on_fallback = None, False
            return
        now_s = self.bench.loop.now_s()
        if eye.missing_since_s is None:
            eye.missing_since_s = now_s
        spare = [eye.states.get(sub, IDLE) for sub in snapshot.fallback]
        due = now_s >= eye.missing_since_s + FALLBACK_AFTER_S
        eye.on_fallback = bool(spare) and (eye.on_fallback or due or READY in spare or set(states) == {TRANSIENT_FAILURE})

    def usable(self, eye: Eye) -> list[Subchannel]:
        """The first of these of whom any is ready, never two of them together."""
        snapshot, spare = self.bench.pool.snapshot, self.memory.at(self.bench.loop.now_s())[1]
        for group in (snapshot.eligible, snapshot.fallback if eye.on_fallback else (), spare):
            ready = [sub for sub in group if eye.states.get(sub) is READY and not eye.closed]
            if ready:
                return ready
        return []

    # --- what must always hold ------------------------------------------------------------------------------------------

    @invariant()
    def nobody_removed_is_wanted(self) -> None:
        for eye in self.eyes:
            assert not any(sub.removed for sub in eye.view.wanted())

    @invariant()
    def wanted_are_the_eligible_the_fallback_in_use_and_who_keeps_its_connection(self) -> None:
        snapshot = self.bench.pool.snapshot
        lingering, spare, _ = self.memory.at(self.bench.loop.now_s())
        for eye in self.eyes:
            wanted = eye.view.wanted()
            kept = {sub for sub in lingering | spare if eye.states.get(sub) is READY}
            expected = {*snapshot.eligible, *kept, *(snapshot.fallback if eye.on_fallback else ())}
            assert set(wanted) == (set() if eye.closed else expected)
            assert len(set(wanted)) == len(wanted)

    @invariant()
    def who_left_is_remembered_kept_or_let_go_as_the_rules_say(self) -> None:
        snapshot = self.bench.pool.snapshot
        lingering, spare, vanished = self.memory.at(self.bench.loop.now_s())
        assert set(snapshot.lingering) == lingering
        assert set(snapshot.spare) == spare
        assert len(snapshot.lingering) == len(lingering)
        alive = {*snapshot.listed, *snapshot.fallback, *spare, *(lingering & vanished)}
        assert {sub for sub in self.ever if not sub.removed} == alive

    @invariant()
    def counts_are_exact(self) -> None:
        for sub in self.ever:
            mine = [stream for _, attempt, stream in self.live if attempt.subchannel is sub]
            assert (len(sub.unary), len(sub.streams)) == (mine.count(False), mine.count(True))

    @invariant()
    def the_state_is_aggregated_as_round_robin_does(self) -> None:
        snapshot = self.bench.pool.snapshot
        for eye in self.eyes:
            asked = snapshot.eligible + (snapshot.fallback if eye.on_fallback else ())
            states = {eye.states.get(sub, IDLE) for sub in asked}
            if eye.closed:
                expected = SHUTDOWN
            elif not self.answered:
                expected = TRANSIENT_FAILURE if self.failed else CONNECTING
            elif READY in states or self.usable(eye):
                expected = READY
            else:
                expected = CONNECTING if states & {IDLE, CONNECTING} else TRANSIENT_FAILURE
            assert eye.view.state is expected

    @invariant()
    def reports_are_remembered_for_whoever_is_known(self) -> None:
        for eye in self.eyes:
            for sub in self.bench.pool.snapshot.listed + self.bench.pool.snapshot.fallback:
                assert eye.closed or eye.view.state_of(sub) is eye.states.get(sub, IDLE)

    @invariant()
    def timers_do_not_pile_up(self) -> None:
        """A new one is only asked for when it is the earliest, and there are four reasons: 1, 5 and twice 30 s."""
        assert len(self.bench.loop.timers) <= 4

    @invariant()
    def the_pool_can_be_described(self) -> None:
        described: dict[str, Any] = self.bench.pool.describe()
        assert len(described["views"]) == sum(not eye.closed for eye in self.eyes)

    def teardown(self) -> None:
        for view, attempt, _ in getattr(self, "live", []):
            assert view.end(attempt)
        assert all(sub.in_flight == 0 for sub in getattr(self, "ever", []))


Views.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestViews = Views.TestCase
