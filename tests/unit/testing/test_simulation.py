"""A simulated client with its real pool, and pods that break: what a user's call meets, reckoned by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from meshlb.config import Config
from meshlb.core.connectivity import Connectivity
from meshlb.testing.simulation import (
    INTERNAL,
    NOT_FOUND,
    SETTLE_S,
    Client,
    Network,
    Record,
    Server,
    Simulation,
    constant,
    exponential,
)

CONNECTING, READY, TRANSIENT_FAILURE = Connectivity.CONNECTING, Connectivity.READY, Connectivity.TRANSIENT_FAILURE
WIRE = Network(one_way_s=0.001, jitter_s=0.0)
WORK_S, ROUND_TRIP_S = 0.1, 0.002


class Scene:
    """One client, ``n`` pods of one worker, and calls when they are made."""

    def __init__(self, n: int = 1, **config: Any) -> None:
        print("seed=1")
        self.sim = Simulation(1, network=WIRE)
        self.pods: list[Server] = self.sim.start_all(n, workers=1)
        self.client: Client = self.sim.add_client(Config(**config))
        self.sim.run(SETTLE_S)

    def call(self, at_s: float, deadline_s: float | None = None) -> None:
        self.sim.at(at_s, self.client.call, WORK_S, deadline_s)

    def ends(self, until_s: float = 60.0) -> list[tuple[str, float, int]]:
        """Code, seconds and attempts of each call."""
        return [(call.code, round(call.ended_s - call.began_s, 6), call.attempts) for call in self.sim.run(until_s).calls]


def test_a_call_takes_a_round_trip_and_its_work() -> None:
    """Two at once on one worker: the second waits for the first."""
    scene = Scene()
    scene.call(2.0)
    scene.call(2.0)
    assert scene.ends() == [("OK", 0.102, 1), ("OK", 0.202, 1)]


def test_a_deadline_ends_a_call_and_what_waits_for_it_is_not_begun() -> None:
    """The second would begin after 0.1 s and has 0.05: the third is next. Where it had begun, the worker is busy until its end."""
    for deadline_s, third_s in [(0.05, 0.202), (0.15, 0.302)]:
        scene = Scene()
        for one_s in (None, deadline_s, None):
            scene.call(2.0, one_s)
        assert sorted(scene.ends()) == [("DEADLINE_EXCEEDED", deadline_s, 1), ("OK", 0.102, 1), ("OK", third_s, 1)]


def test_what_a_pod_refuses_is_tried_elsewhere_if_it_may_be() -> None:
    """UNAVAILABLE may have been processed, so an idempotent call goes on; INTERNAL and NOT_FOUND are the application's word."""
    scene = Scene(2, policy="round_robin", retry={"idempotent": "*"}, outlier="off")
    scene.pods[0].fail()
    for at in range(4):
        scene.call(2.0 + at)
    assert {code for code, *_ in scene.ends()} == {"OK"}
    assert sum(attempts for *_, attempts in scene.ends()) == 8  # by turns: each second attempt takes the good pod's turn
    for answer, failed in [(INTERNAL, 2), (NOT_FOUND, 0)]:
        scene = Scene(2, policy="round_robin", retry={"idempotent": "*"}, outlier="off")
        scene.pods[0].fail(answer=answer)
        for at in range(4):
            scene.call(2.0 + at)
        assert sorted(scene.ends()) == sorted([("OK", 0.102, 1)] * 2 + [(answer.code, 0.0025, 1)] * 2)
        assert scene.sim.record.failed == failed


def test_a_frozen_pod_answers_when_it_thaws() -> None:
    """Half of the work was done; 5 s later comes the rest."""
    scene = Scene()
    scene.call(2.0)
    scene.sim.at(2.051, scene.pods[0].freeze)
    scene.sim.at(7.051, scene.pods[0].thaw)
    assert scene.ends() == [("OK", pytest.approx(5.0 + WORK_S + ROUND_TRIP_S), 1)]


def test_a_vanished_pod_is_given_up_and_connected_again() -> None:
    """A call to it ends when the kernel gives up its packet, the next one waits for the connection; it is back, and all is well."""
    scene = Scene()
    scene.sim.at(1.9, scene.pods[0].vanish)
    scene.call(2.0)
    scene.sim.at(10.0, scene.pods[0].reappear)
    scene.call(30.0)
    assert scene.ends() == [("UNAVAILABLE", WIRE.give_up_s, 1), ("OK", 0.102, 1)]


def test_a_pod_that_stops_takes_its_calls_along_and_is_taken_off_the_list() -> None:
    """The call under way ends a way later; later ones go to the other pod only."""
    scene = Scene(2, policy="round_robin", outlier="off")
    scene.call(2.0)
    scene.call(2.0)
    scene.sim.at(2.05, lambda: scene.sim.take_out(scene.pods[0], told_after_s=1.0))
    for at in range(4):
        scene.call(3.0 + 0.2 * at)
    assert sorted(scene.ends())[-1] == ("UNAVAILABLE", 0.051, 1)
    assert [code for code, *_ in scene.ends()].count("OK") == 5
    assert [endpoint["address"] for endpoint in scene.client.pool.describe()["endpoints"]] == [scene.pods[1].endpoint.address]


@pytest.mark.parametrize(("deaf", "codes"), [(False, ["OK"]), (True, ["DEADLINE_EXCEEDED"])])
def test_a_process_that_stands_still_hears_everything_at_its_end(deaf: bool, codes: list[str]) -> None:
    """From 2.05 to 5.05 s: the reply of 2.102 s is heard at 5.05, in time for a transport that was awake."""
    scene = Scene()
    scene.call(2.0, 1.0)
    scene.sim.at(2.05, lambda: scene.client.stall(3.0, deaf=deaf))
    assert scene.ends() == [(code, 3.05, 1) for code in codes]


def test_a_connection_that_is_refused_is_tried_again_later_and_later() -> None:
    """At once, then after 0.2 s, 1.6 times as much each time, at most 5 s, give or take a fifth; it is back with the next after that."""
    scene = Scene()
    link, states, began_s = next(iter(scene.client.links.values())), [READY], []
    scene.pods[0].stop()
    for at in range(1000, 60_000):
        scene.sim.run(at / 1000)
        if link.state is CONNECTING and states[-1] is not CONNECTING:
            began_s.append(at / 1000)
        states.append(link.state)
    gaps_s = [after_s - before_s for before_s, after_s in pairwise(began_s)]
    expected_s = [min(5.0, 0.2 * 1.6**retry) for retry in range(len(gaps_s))]
    assert len(gaps_s) > 10
    assert gaps_s == [pytest.approx(gap_s, rel=0.21, abs=0.005) for gap_s in expected_s]
    assert scene.client.view.state is TRANSIENT_FAILURE


def test_a_closed_loop_has_never_more_calls_than_users() -> None:
    """Two clients with three users each and one pod of one worker: 6 in the system, so 10 calls a second and 0.6 s each."""
    print("seed=3")
    sim = Simulation(3, network=WIRE)
    sim.start_all(1, workers=1)
    sim.add_client()
    sim.add_client()
    sim.closed_loop(3, constant(WORK_S))
    record = sim.run(101.0)
    assert len(record.calls) == pytest.approx(1000, abs=6)
    assert record.between(5.0).mean_s == pytest.approx(6 * WORK_S, abs=0.003)


def test_one_client_and_one_pod_are_m_m_c() -> None:
    """The whole way, through meshlb: mean latency within 2 % of Erlang's for 4 workers at 70 %, and the wire's."""
    print("seed=5")
    sim = Simulation(5, network=WIRE)
    sim.start_all(1, workers=4)
    sim.add_client()
    sim.poisson(0.7 * 4 / 0.01, exponential(0.01))
    record = sim.run(400.0)
    waits = 2.8**4 / 24 / 0.3
    waits /= sum(2.8**k / f for k, f in enumerate((1, 1, 2, 6))) + waits
    assert record.mean_s - ROUND_TRIP_S == pytest.approx(0.01 * (1.0 + waits / (4 * 0.3)), rel=0.02)


def test_a_seed_is_a_run_and_the_load_is_the_same_for_every_policy() -> None:
    """Twice the same; with another policy the same calls at the same moments, in another order of ends."""

    def played(seed: int, policy: str) -> Record:
        sim = Simulation(seed)
        pods = sim.start_all(3, cores=1)
        for _ in range(2):
            sim.add_client(Config(policy=policy))
        sim.poisson(150.0, exponential(0.01), deadline_s=1.0)
        sim.at(2.0, pods[0].fail, 0.5)
        return sim.run(5.0)

    assert played(1, "p2c").calls == played(1, "p2c").calls != played(2, "p2c").calls
    began = [sorted(call.began_s for call in played(1, policy).calls)[:500] for policy in ("p2c", "round_robin")]
    assert began[0] == began[1]


def test_a_record_counts_what_was_asked_of_it() -> None:
    """Two pods by turns, one of which fails: half of the calls have a second attempt."""
    scene = Scene(2, policy="round_robin", retry={"idempotent": "*"}, outlier="off")
    scene.pods[0].fail()
    for at in range(10):
        scene.call(2.0 + at)
    record = scene.sim.run(30.0)
    first, second = (pod.endpoint.address for pod in scene.pods)
    tried_twice = record.count(first)
    assert (record.count(second), len(record.attempts)) == (10, 10 + tried_twice)
    assert record.extra_ratio == tried_twice / 10
    assert record.share([first]) == tried_twice / (10 + tried_twice)
    assert record.busiest_to_mean([first, second]) == 20 / (10 + tried_twice)
    assert record.peak(second, 1.0) == 1
    assert len(record.between(4.0, 6.0).calls) == 2
