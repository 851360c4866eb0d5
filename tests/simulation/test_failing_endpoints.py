"""What fails fast never draws more than its fair share, and is back soon after it works again: virtual time, the real pickers."""

from __future__ import annotations

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.load.in_flight import HELD_TURNS, STANDING_OUT_S
from tests.picking import seeded
from tests.simulation.fleet import Fleet, percentile_s, share_of

LOOKING_AT_LOAD = [P2C(), LeastRequest(), LeastRequest(full_scan_limit=0, choice_count=3)]
CALLS, WARM_UP = 5_000, 1_000


@pytest.fixture(params=LOOKING_AT_LOAD, ids=str)
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return request.param


def _black_hole(server: int, now_s: float) -> float:
    return 1.0 if server == 0 else 0.0


def _brown_out(server: int, now_s: float) -> float:
    return 0.5 if server == 0 else 0.0


@pytest.mark.parametrize("failing", [_black_hole, _brown_out])
@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("mean_load", [0.01, 3.0, 30.0], ids=["idle", "busy", "very busy"])
@pytest.mark.parametrize("service_s", [0.001, 30.0], ids=["at a high rate", "at a low rate"])
def test_who_fails_fast_gets_less_than_a_fair_share(
    config: PolicyConfig, failing: object, n: int, mean_load: float, service_s: float
) -> None:
    """All or half of its calls, among 2, 3 and 10; a penalty in seconds alone gives it up to everything at the low rates."""
    fleet = Fleet(config=config, weights=[1.0] * n, mean_load=mean_load, service_s=service_s, failing=failing)  # type: ignore[arg-type]
    assert share_of(0, fleet.run(CALLS, seeded())[WARM_UP:]) < 1 / n


@pytest.mark.parametrize("weights", [[0.2, 1.0, 1.0, 1.0], [5.0, 1.0, 1.0, 1.0], [1.0, 5.0, 5.0, 0.5]], ids=str)
@pytest.mark.parametrize("mean_load", [0.05, 30.0], ids=["idle", "very busy"])
def test_a_fair_share_is_one_by_weight(config: PolicyConfig, weights: list[float], mean_load: float) -> None:
    """A light black hole has a small share and a heavy one a large one, and neither gets more."""
    fleet = Fleet(config=config, weights=weights, mean_load=mean_load, service_s=30.0, failing=_black_hole)
    assert share_of(0, fleet.run(CALLS, seeded())[WARM_UP:]) < weights[0] / sum(weights)


@pytest.mark.parametrize("mean_load", [1.0, 100.0])
def test_streams_that_fail_at_once_get_less_than_a_fair_share(config: PolicyConfig, mean_load: float) -> None:
    """Streams of an hour, an endpoint with none of them and a new one every few seconds: the failed ones would all go there."""
    fleet = Fleet(config=config, weights=[1.0] * 4, mean_load=mean_load, service_s=3600.0, failing=_black_hole, streams=True)
    assert share_of(0, fleet.run(CALLS, seeded())[WARM_UP:]) < 1 / 4


@pytest.mark.parametrize("n", [2, 3, 10])
def test_round_robin_gives_a_black_hole_exactly_its_share(n: int) -> None:
    """It does not look."""
    fleet = Fleet(config=RoundRobin(), weights=[1.0] * n, mean_load=3.0, service_s=0.01, failing=_black_hole)
    assert share_of(0, fleet.run(900 * n, seeded())) == pytest.approx(1 / n)


@pytest.mark.parametrize(("n", "service_s", "mean_load"), [(3, 0.01, 3.0), (10, 0.01, 0.1), (3, 1.0, 0.1)])
def test_a_recovered_endpoint_is_back_in_time(config: PolicyConfig, n: int, service_s: float, mean_load: float) -> None:
    """Fails until about the thousandth call; 5 s and a few turns later (arrivals are random) it has its share again."""
    fleet = Fleet(config=config, weights=[1.0] * n, mean_load=mean_load, service_s=service_s, failing=lambda *_: 0.0)
    recovers_s = 1000 / fleet.rate
    back_s = recovers_s + STANDING_OUT_S + 3 * HELD_TURNS * n / fleet.rate
    recovering = Fleet(
        config=config,
        weights=[1.0] * n,
        mean_load=mean_load,
        service_s=service_s,
        failing=lambda server, now_s: 1.0 if server == 0 and now_s < recovers_s else 0.0,
    )
    log = recovering.run(int(back_s * fleet.rate) + 4_000, seeded())
    assert share_of(0, [call for call in log if call.at_s < recovers_s]) < 0.5 / n
    after = [call for call in log if call.at_s > back_s]
    assert share_of(0, after) == pytest.approx(1 / n, rel=0.2)


@pytest.mark.parametrize("failing", [1.0, 0.2])
def test_where_all_fail_alike_all_are_alike(config: PolicyConfig, failing: float) -> None:
    """Relative scores vanish: nobody is preferred for having failed less lately."""
    n = 5
    fleet = Fleet(config=config, weights=[1.0] * n, mean_load=3.0, service_s=0.02, failing=lambda *_: failing)
    log = fleet.run(8_000, seeded())
    assert [share_of(server, log) for server in range(n)] == pytest.approx([1 / n] * n, rel=0.12)


@pytest.mark.parametrize("failing", [0.01, 0.2])
def test_failures_that_strike_everybody_do_not_spoil_the_balance(config: PolicyConfig, failing: float) -> None:
    """10 servers of two workers at 70 %: the 99th percentile with failures is at most 1.1 of the one without (median of 3 runs)."""
    rng = seeded()

    def p99_s(share: float) -> float:
        fleet = Fleet(config=config, weights=[1.0] * 10, mean_load=2 * 0.7, service_s=0.01, failing=lambda *_: share, workers=2)
        return sorted(percentile_s(0.99, fleet.run(6_000, rng)[500:]) for _ in range(3))[1]

    assert p99_s(failing) <= 1.1 * p99_s(0.0)
