"""Scenarios that are played by clients whose connections stand: closed forms, the same for a seed, and what happens to servers and calls."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.config import Config
from meshlb.core.clock import Rng
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from meshlb.load.in_flight import LiveOnly
from meshlb.testing.simulation import Burst, Change, Done, Failing, Played, Scenario, Simulation, What, constant, exponential, play
from tests.picking import seed_of_run

WIRE_S = 0.0006  # both ways, on average
SMALL = Scenario(name="small", load_ratio=0.5, clients=2, servers=3, length_s=12.0, warm_up_s=2.0)


@dataclass(frozen=True)
class These:
    """Exactly these changes."""

    of: tuple[Change, ...]

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        return iter(self.of)


def mean_s(played: Played) -> float:
    return sum(call.took_s for call in played.calls) / len(played.calls)


def drawn(scenario: Scenario, seed: int) -> tuple[float, float]:
    """Mean work of the calls, and the load that chance made of what was asked for; else these would be most of the error."""
    works = [arrival.work_s for arrival in scenario.arrivals(seed)]
    return sum(works) / len(works), sum(works) / scenario.length_s / scenario.workers


def test_one_server_is_m_m_c() -> None:
    """Mean latency within 2 % of Erlang's, the wire's apart."""
    workers = 4
    one = replace(
        SMALL, name="m/m/c", load_ratio=0.7, servers=1, workers=workers, work=exponential(0.01), length_s=220.0, warm_up_s=0.0
    )
    seed = seed_of_run()
    work_s, rho = drawn(one, seed)
    load = workers * rho
    last = load**workers / math.factorial(workers) / (1.0 - rho)
    waits = last / (sum(load**k / math.factorial(k) for k in range(workers)) + last)
    assert mean_s(play(one, Config(), seed)) - WIRE_S == pytest.approx(work_s * (1.0 + waits / (workers * (1.0 - rho))), rel=0.02)


def test_one_shared_core_is_m_g_1_ps() -> None:
    """Mean latency is work / (1 - rho), whatever the distribution: here log-normal."""
    one = replace(SMALL, name="ps", servers=1, workers=1, sharing=True, load_ratio=0.5, length_s=1200.0, warm_up_s=0.0)
    seed = seed_of_run()
    work_s, rho = drawn(one, seed)
    assert mean_s(play(one, Config(), seed)) - WIRE_S == pytest.approx(work_s / (1.0 - rho), rel=0.02)


def test_a_seed_is_a_run() -> None:
    """Twice the same calls; another seed has others."""
    assert play(SMALL, Config(), 1).calls == play(SMALL, Config(), 1).calls != play(SMALL, Config(), 2).calls


def test_all_policies_of_a_seed_meet_the_same() -> None:
    """The same calls at the same moments; where there is one server to go to, and so no choice, to the same ends."""
    began = [sorted(call.at_s for call in play(SMALL, Config(policy=policy), 1).calls) for policy in ("p2c", "round_robin")]
    assert began[0] == began[1]
    alone = replace(SMALL, servers=1)
    assert play(alone, Config(policy="p2c"), 1).calls == play(alone, Config(policy="round_robin"), 1).calls


def test_what_does_not_count_is_left_out() -> None:
    """The warm-up's calls, and streams; those that begin before the end are waited for."""
    played = play(replace(SMALL, work=constant(5.0), mean_s=5.0), Config(), 1)
    assert min(call.at_s for call in played.calls) >= 2.0
    assert max(call.at_s + call.took_s for call in played.calls) > SMALL.length_s
    with_streams = replace(SMALL, streams_ratio=0.5)
    streams = sum(arrival.stream for arrival in with_streams.arrivals(1))
    assert streams == pytest.approx(sum(not arrival.stream for arrival in with_streams.arrivals(1)), rel=0.1)
    assert play(with_streams, Config(), 1).latency_s(0.5) < 0.02  # they keep no worker busy, and their seconds are nowhere


class FewestStreams:
    """A policy of a user's own."""

    name = "fewest_streams"

    def new_metric(self, now_s: float) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng) -> FewestStreamsPicker:
        return FewestStreamsPicker(subchannels)


class FewestStreamsPicker:
    def __init__(self, subchannels: Sequence[Subchannel]) -> None:
        self.subchannels = subchannels

    def pick(self, info: PickInfo, now_s: float) -> Subchannel:
        return min(self.subchannels, key=lambda sub: len(sub.streams))


@dataclass(frozen=True, kw_only=True, slots=True)
class FewestStreamsConfig(PolicyConfig):
    name: ClassVar[str] = "fewest_streams"

    def build(self, rng: Rng) -> FewestStreams:
        return FewestStreams()


def test_streams_are_counted_as_streams_by_any_policy() -> None:
    """One client and streams that outlive the run: by fewest streams they are even, and all else goes where one is missing."""
    lasting = replace(SMALL, clients=1, load_ratio=0.05, streams_ratio=0.3, stream_s=300.0)
    without = play(replace(lasting, streams_ratio=0.0), Config(policy=FewestStreamsConfig()), 1)
    assert {call.place for call in without.calls} == {0}
    places = Counter(call.place for call in play(lasting, Config(policy=FewestStreamsConfig()), 1).calls)
    assert len(places) == 3
    assert min(places.values()) > 0.2 * sum(places.values())


def test_a_server_that_leaves_finishes_what_it_has_and_gets_no_more() -> None:
    """From 4 to 6 s none begins there; afterwards a new pod at that place takes its share. Nothing fails."""
    away = These((Change(4.0, 0, What.LEAVE), Change(6.0, 0, What.REPLACE, 1.0)))
    played = play(replace(SMALL, disturbances=(away,)), Config(), 1)
    assert played.failed_ratio == 0.0
    share = [sum(call.place == 0 for call in part) / len(part) for part in by_thirds(played, 4.0, 6.0)]
    assert share == [pytest.approx(1 / 3, abs=0.08), 0.0, pytest.approx(1 / 3, abs=0.08)]


def test_a_new_pod_has_nothing_of_the_old_ones_queue() -> None:
    """The old one is twenty times too slow from 3 s on, and still has calls when the new one is there, whose calls take no longer than others'."""
    changes = (Change(3.0, 0, What.SPEED, 0.05), Change(4.0, 0, What.LEAVE), Change(4.5, 0, What.REPLACE, 1.0))
    played = play(replace(SMALL, disturbances=(These(changes),)), Config(policy="round_robin"), 1)
    _, slow, _ = by_thirds(played, 3.0, 4.0)
    _, _, new = by_thirds(played, 4.0, 4.5)
    assert max(call.at_s + call.took_s for call in slow) > 10.0
    assert max(call.took_s for call in new if call.place == 0) < 0.5


def test_a_server_that_never_goes_on_is_an_error() -> None:
    """And no run without an end."""
    halted = These((Change(3.0, 0, What.SPEED, 0.0),))
    with pytest.raises(RuntimeError, match=r"small: \d+ calls do not end; does a server stand still for ever\?"):
        play(replace(SMALL, disturbances=(halted,)), Config(policy="round_robin"), 1)


def test_a_server_that_is_not_listed_for_a_moment_is_the_same_one_afterwards() -> None:
    """Its paused queue is still there when it is back: its calls end when it goes on."""
    changes = (
        Change(3.0, 0, What.SPEED, 0.0),
        Change(4.0, 0, What.LEAVE),
        Change(5.0, 0, What.COME_BACK),
        Change(9.0, 0, What.SPEED, 1.0),
    )
    played = play(replace(SMALL, disturbances=(These(changes),)), Config(policy="round_robin"), 1)
    waited = [call for call in played.calls if call.place == 0 and (3.0 < call.at_s < 4.0 or 5.0 < call.at_s < 9.0)]
    assert waited
    assert min(call.at_s + call.took_s for call in waited) > 9.0


def test_a_failing_server_fails_fast_and_ejection_is_meshlbs_own() -> None:
    """Each of its calls is an error after half a millisecond and the wire; without ejection it has a third of the calls, with it hardly any."""
    black = replace(SMALL, disturbances=(Failing(of=(0,), ratio=1.0, from_s=3.0, until_s=99.0),))
    failed = []
    for outlier in ("off", "on"):
        played = play(black, Config(policy="round_robin", outlier=outlier), 1)
        errors = [call for call in played.calls if not call.ok]
        assert {call.place for call in errors} == {0}
        assert max(call.took_s for call in errors) < 0.002
        failed.append(played.failed_ratio)
    assert failed[0] == pytest.approx(0.3, abs=0.02)
    assert failed[1] < 0.05


def test_a_call_that_nobody_can_take_fails() -> None:
    """While the only server is not listed; it is none of anybody's share."""
    gone = These((Change(4.0, 0, What.LEAVE), Change(6.0, 0, What.REPLACE, 1.0)))
    played = play(replace(SMALL, servers=1, disturbances=(gone,)), Config(), 1)
    before, during, after = by_thirds(played, 4.0, 6.0)
    assert [{(call.place, call.ok) for call in part} for part in (before, during, after)] == [
        {(0, True)},
        {(-1, False)},
        {(0, True)},
    ]
    assert played.busiest_to_mean() == 1.0
    assert played.busiest_in_windows(10) == [1.0] * ((len(before) + len(after)) // 10)
    nobody = play(replace(SMALL, servers=1, disturbances=(These((Change(1.0, 0, What.LEAVE),)),)), Config(), 1)
    assert nobody.failed_ratio == 1.0
    assert math.isnan(nobody.busiest_to_mean())


def test_a_closed_loop_has_as_many_calls_as_users() -> None:
    """Three clients with two users each, and work for all at once: each call takes its work and the wire, and is followed by the next."""
    closed = replace(SMALL, load_ratio=0.0, concurrency=2, clients=3, workers=10, work=constant(0.01))
    played = play(closed, Config(), 1)
    assert len(played.calls) == pytest.approx(3 * 2 * 10.0 / (0.01 + WIRE_S), rel=0.02)
    assert max(call.took_s for call in played.calls) < 0.013


def test_a_burst_has_more_calls_in_its_part_of_the_cycle() -> None:
    """1.8 times the rate in the first second of five."""
    bursts = replace(SMALL, burst=Burst(cycle_s=5.0, ratio=0.2, factor=1.8), length_s=60.0, load_ratio=0.5)
    times = [arrival.at_s % 5.0 for arrival in bursts.arrivals(1)]
    high = sum(at_s < 1.0 for at_s in times)
    assert high / (len(times) - high) == pytest.approx(1.8 / 4.0, rel=0.05)


def test_the_busiest_is_found_in_the_whole_and_in_windows() -> None:
    """Of two servers one gets the first thousand calls and the other the second: even in all, and never in a window."""
    calls = [Done(at / 100, 0.01, int(at >= 1000), True) for at in range(2500)]
    played = Played(replace(SMALL, servers=2), 1, calls)
    assert played.busiest_to_mean() == 1.2
    assert played.busiest_in_windows(1000) == [2.0, 2.0]


def by_thirds(played: Played, from_s: float, until_s: float) -> tuple[list[Done], list[Done], list[Done]]:
    """What began before, within and after."""
    before = [call for call in played.calls if call.at_s < from_s]
    within = [call for call in played.calls if from_s <= call.at_s < until_s]
    return before, within, [call for call in played.calls if call.at_s >= until_s]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Config(limits={"max_in_flight": 1}), r"limits={.*'max_in_flight': 1.*}: must not limit anything: the simulation has none"),
        (Config(weight="reported"), r"weight\.source='reported': must be 'static': .* the simulation has none"),
        (Config(weight="a58"), r"weight\.source='a58': must be 'static'"),
    ],
    ids=["limits", "reported", "a58"],
)
def test_what_the_simulation_does_not_have_is_refused(config: Config, why: str) -> None:
    """By both kinds of client, instead of a run that shows nothing of it."""
    with pytest.raises(ConfigError, match=why):
        play(SMALL, config, 1)
    with pytest.raises(ConfigError, match=why):
        Simulation(seed=1).add_client(config)


def test_a_clients_subset_is_its_own() -> None:
    """One client that knows two of three servers calls no other."""
    subset = Config(subset={"size": 2, "min_endpoints": 3})
    played = play(replace(SMALL, clients=1), subset, 1)
    assert len({call.place for call in played.calls}) == 2
