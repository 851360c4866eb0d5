"""Session: one endpoint a key, while its lease lasts and its endpoint serves."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import pytest

from meshlb.balance.random_pick import RandomPolicy
from meshlb.balance.session import AWAY_S, LEASE_S, Session, SessionPolicy
from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from tests.picking import hold, seeded, shares, subchannels_of

NOBODY: frozenset[Subchannel] = frozenset()


class Bench:
    """A policy and n of its endpoints, all of them members."""

    def __init__(self, n: int = 10, *, weights: list[float] | None = None, **fields: object) -> None:
        self.rng = seeded()
        policy = Session(**fields).build(self.rng)  # type: ignore[arg-type]
        assert isinstance(policy, SessionPolicy)
        self.policy = policy
        self.subs = subchannels_of(policy, weights or [1.0] * n)
        policy.know(self.subs, 0.0)
        self.picker = self.picker_of(*self.subs)

    def picker_of(self, *ready: Subchannel) -> Picker:
        return self.policy.new_picker(ready, self.rng)

    def without(self, *absent: Subchannel) -> Picker:
        return self.picker_of(*(sub for sub in self.subs if sub not in absent))

    def others(self, *absent: Subchannel) -> list[Subchannel]:
        return [sub for sub in self.subs if sub not in absent]


def pick(picker: Picker, key: int | None, now_s: float = 0.0, exclude: frozenset[Subchannel] = NOBODY) -> Subchannel:
    picked = picker.pick(PickInfo("/shop.Orders/Get", exclude, hash=key), now_s)
    assert picked is not None
    return picked


def test_a_key_keeps_its_endpoint() -> None:
    """Whatever load it has by then, and whoever joins."""
    bench = Bench()
    first = pick(bench.picker, 7)
    hold(first.unary, 50)
    assert {pick(bench.picker, 7, float(now_s)) for now_s in range(200)} == {first}
    joined = [*bench.subs, *subchannels_of(bench.policy, [1.0] * 20)[10:]]
    bench.policy.know(joined, 200.0)
    assert {pick(bench.picker_of(*joined), 7, 200.0) for _ in range(50)} == {first}


def test_keys_are_placed_by_the_first_policy() -> None:
    """In proportion to weight where all are idle; and not where it is busy."""
    bench = Bench(weights=[1.0, 2.0, 1.0])
    got = shares([pick(bench.picker, key) for key in range(20_000)], bench.subs)
    assert got == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    hold(bench.subs[1].unary, 1000)
    later = Counter(pick(bench.picker, key) for key in range(20_000, 20_200))
    assert later[bench.subs[1]] == 0
    assert Session(first="round_robin").build(bench.rng).first.name == "round_robin"


def test_calls_without_a_key_belong_to_the_process() -> None:
    """ClientIP affinity, with the process as the client; another process goes elsewhere."""
    bench = Bench()
    assert len({pick(bench.picker, None) for _ in range(100)}) == 1
    places = {bench.subs.index(pick(Session().build(bench.rng).new_picker(bench.subs, bench.rng), None)) for _ in range(200)}
    assert len(places) == 10


def test_a_lease_slides_with_each_use_and_then_lapses() -> None:
    """Just before its end it is renewed; at its end the key is placed anew."""
    bench = Bench(n=2, lease_s=60)
    first = pick(bench.picker, 1)
    assert [pick(bench.picker, 1, 59.0 * turn) for turn in range(10)] == [first] * 10
    hold(first.unary, 5)
    assert pick(bench.picker, 1, 59.0 * 9 + 60.0) is not first


def test_a_retry_goes_elsewhere_and_the_lease_stays() -> None:
    """Also if it is the hint of a caller; and if all are to be avoided, somebody is picked nonetheless."""
    bench = Bench(n=3)
    first = pick(bench.picker, 1)
    for _ in range(20):
        assert pick(bench.picker, 1, exclude=frozenset([first])) is not first
    assert pick(bench.picker, 1) is first
    assert pick(bench.picker, 1, exclude=frozenset(bench.subs)) in bench.subs
    assert pick(bench.picker, 1) is first


def test_who_leaves_the_service_loses_the_lease_at_once() -> None:
    """And does not get it back when it returns."""
    bench = Bench()
    first = pick(bench.picker, 1)
    bench.policy.know(bench.others(first), 0.0)
    second = pick(bench.without(first), 1)
    assert second is not first
    bench.policy.know(bench.subs, 1.0)
    assert {pick(bench.picker, 1, 1.0) for _ in range(50)} == {second}


def test_a_connection_that_is_made_anew_costs_no_session() -> None:
    """Meanwhile one stand-in serves, the same for each call."""
    bench = Bench()
    first = pick(bench.picker, 1)
    connecting = bench.without(first)
    stand_ins = {pick(connecting, 1, now_s) for now_s in (1.0, 2.0, 5.9)}
    assert len(stand_ins) == 1
    assert pick(bench.picker, 1, 6.0) is first
    assert pick(connecting, 1, 6.5 + AWAY_S) in bench.others(first)  # another absence, which begins here
    assert pick(bench.picker, 1, 7.0 + AWAY_S) is first


def test_who_takes_no_traffic_for_long_loses_the_lease_to_the_stand_in() -> None:
    """Ejected, for one: the session is lost once, and not again when it comes back."""
    bench = Bench()
    first = pick(bench.picker, 1)
    ejected = bench.without(first)
    stand_in = pick(ejected, 1, 1.0)
    assert pick(ejected, 1, 1.0 + AWAY_S) is stand_in
    assert pick(bench.picker, 1, 2.0 + AWAY_S) is stand_in


def test_a_stand_in_that_goes_too_has_one_of_its_own() -> None:
    """The absence counts from its beginning."""
    bench = Bench()
    first = pick(bench.picker, 1)
    second = pick(bench.without(first), 1, 1.0)
    fewer = bench.without(first, second)
    third = pick(fewer, 1, 2.0)
    assert third not in (first, second)
    assert pick(fewer, 1, 3.0) is third
    assert pick(fewer, 1, 3.0, exclude=frozenset([third])) not in (first, second, third)
    assert pick(fewer, 1, 1.0 + AWAY_S) is third
    assert pick(bench.picker, 1, 2.0 + AWAY_S) is third


def test_without_word_of_the_members_whoever_is_not_ready_has_left() -> None:
    """For pools that never say."""
    bench = Bench()
    bench.policy.leases.members = None
    first = pick(bench.picker, 1)
    second = pick(bench.without(first), 1)
    assert pick(bench.picker, 1) is second


def test_leases_survive_new_pickers_and_are_shared_by_all_views() -> None:
    """They belong to the policy."""
    bench = Bench()
    placed = {key: pick(bench.picker, key) for key in range(100)}
    other = bench.picker_of(*reversed(bench.subs))
    assert {key: pick(other, key) for key in range(100)} == placed


def test_no_more_than_max_keys_are_remembered_and_the_least_used_goes_first() -> None:
    """Bounded memory, whatever the callers send."""
    bench = Bench(max_keys=10)
    placed = {key: pick(bench.picker, key) for key in range(10)}
    for key in range(10, 15):
        assert pick(bench.picker, 0) is placed[0]  # in use all the time
        pick(bench.picker, key)
        assert len(bench.policy.leases) == 10
    assert bench.policy.leases.get(0) is not None
    assert [bench.policy.leases.get(key) for key in range(1, 6)] == [None] * 5


def test_leases_that_lapsed_are_dropped_as_new_ones_come() -> None:
    """So a table that was large once is not large for ever."""
    bench = Bench(lease_s=60)
    for key in range(1000):
        pick(bench.picker, key)
    for key in range(1000, 2000):
        pick(bench.picker, key, 61.0)
    assert len(bench.policy.leases) == 1000
    for key in range(500):
        pick(bench.picker, 1000 + key, 100.0)
    pick(bench.picker, 5000, 130.0)
    assert len(bench.policy.leases) == 999  # two of those that nobody used went, one came


def test_the_services_own_timeout_holds_unless_the_config_says_another() -> None:
    """``timeoutSeconds``; kube-proxy's default where there is none."""
    latest = replace(EndpointSet.of((), "test"), affinity_s=120.0)
    bench, said = Bench(), Bench(lease_s=60)
    assert bench.policy.leases.lease_s == LEASE_S == 10800.0
    bench.policy.on_endpoints(latest)
    said.policy.on_endpoints(latest)
    assert (bench.policy.leases.lease_s, said.policy.leases.lease_s) == (120.0, 60.0)
    bench.policy.on_endpoints(replace(latest, affinity_s=0.0))
    assert bench.policy.leases.lease_s == LEASE_S


def test_nobody_to_pick_leaves_no_lease() -> None:
    """Neither for a new key nor for one that has an endpoint."""
    bench = Bench()
    nobody = bench.picker_of()
    assert nobody.pick(PickInfo(hash=1), 0.0) is None
    assert len(bench.policy.leases) == 0
    first = pick(bench.picker, 1)
    assert nobody.pick(PickInfo(hash=1), 0.0) is None
    assert pick(bench.picker, 1) is first


def test_what_the_first_policy_wants_to_know_it_hears() -> None:
    """Members and time, for policies that have tables or clocks."""

    class Curious:
        name = "curious"
        heard: list[object] = []  # noqa: RUF012

        def know(self, members: object, now_s: float) -> None:
            self.heard.append((members, now_s))

        def tick(self, now_s: float) -> bool:
            self.heard.append(now_s)
            return True

        def due_s(self) -> float:
            return 5.0

    policy = SessionPolicy(Session(), Curious())  # type: ignore[arg-type]
    policy.know([], 1.0)
    assert (policy.tick(2.0), policy.due_s(), Curious.heard) == (True, 5.0, [([], 1.0), 2.0])
    plain = Bench().policy
    assert (plain.tick(0.0), plain.due_s()) == (False, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lease_s": 0}, "policy.lease_s=0: must be > 0"),
        ({"lease_s": float("nan")}, "policy.lease_s=nan"),
        ({"max_keys": 0}, "policy.max_keys=0: must be >= 1"),
        ({"first": "session"}, "policy.first='session': must be another policy"),
        ({"first": "p2b"}, "policy.first='p2b': must be another policy; did you mean 'p2c'"),
        ({"first": {"name": "p2c"}}, "policy.first="),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError, match=message):
        Session(**fields)  # type: ignore[arg-type]


def test_threads_agree_on_one_endpoint_for_each_new_key() -> None:
    """Eight threads meet every key at once; none fails, and each key has one endpoint."""
    bench = Bench(max_keys=200)
    seen: list[dict[int, Subchannel]] = [{} for _ in range(8)]
    barrier, failures = threading.Barrier(8), list[BaseException]()

    def run(own: dict[int, Subchannel]) -> None:
        try:
            for key in range(150):
                if key % 10 == 0:
                    barrier.wait(30)
                own[key] = pick(bench.picker, key)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(own,)) for own in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert all(own == seen[0] for own in seen)


def test_of_two_first_calls_at_the_same_time_the_second_follows_the_first() -> None:
    """Another thread may have placed the key while this one was choosing."""
    bench = Bench(n=2)
    one, other = bench.subs

    class Interrupted:
        """Chooses one; but meanwhile a second call of the key was placed on the other."""

        def pick(self, info: PickInfo, now_s: float, /) -> Subchannel:
            hold(one.unary, 5)
            assert pick(bench.picker, 1) is other
            return one

    assert pick(bench.policy.around(Interrupted(), bench.subs), 1) is other
    assert pick(bench.picker, 1) is other


def test_threads_keep_the_memory_bound() -> None:
    """Also while each of them makes room for the others."""
    bench = Bench(max_keys=5, lease_s=1.0)
    failures = list[BaseException]()

    def run(number: int) -> None:
        try:
            for step in range(3000):
                pick(bench.picker, (step * 8 + number) % 97, step / 100)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    pick(bench.picker, 1000, 30.0)
    assert len(bench.policy.leases) <= 5


class _Listening(RandomPolicy):
    """Wants to know what discovery said."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[EndpointSet] = []

    def on_endpoints(self, latest: EndpointSet) -> None:
        self.heard.append(latest)


def test_the_policy_that_places_keys_hears_what_discovery_said() -> None:
    """Whether or not the lease is configured."""
    latest = EndpointSet.of((), "test")
    for lease_s in (None, 60.0):
        first = _Listening()
        SessionPolicy(Session(lease_s=lease_s), first).on_endpoints(latest)
        assert first.heard == [latest]
