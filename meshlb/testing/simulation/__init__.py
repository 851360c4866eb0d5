"""Calls through the real meshlb in virtual time: many clients, many pods, and everything that happens to pods.

::

    from meshlb import Config
    from meshlb.testing.simulation import Simulation, lognormal

    sim = Simulation(seed=7)
    pods = sim.start_all(10, workers=4)
    for _ in range(5):
        sim.add_client(Config(retry={"idempotent": "*"}))
    sim.poisson(1000.0, lognormal(0.010), deadline_s=1.0)
    sim.at(5.0, pods[3].fail, 0.6)
    sim.at(15.0, pods[3].heal)
    record = sim.run(30.0)
    during = record.between(6.0, 15.0)
    print(during.failed, during.extra_ratio, during.share(pods[3].endpoint.address), during.latency_s(0.99))

Pool, views, pickers, ejection, calls, retries and their budget are meshlb's own, one set a client. Simulated are the network, the
pods, the users and time: a minute takes seconds, and a seed gives the same run again. What it does not know: CPU time of clients,
bandwidth, packet loss short of all, TLS, HTTP/2's limits of streams.

Policies are compared over millions of calls, of one attempt each, by clients whose connections stand (standing.py; 7 to 10 µs a call and
the policy's own time, a tenth of a whole call's)::

    python -m meshlb.testing.simulation --policies p2c,round_robin --scenarios main --seeds 101-105 --jobs 2

    from meshlb.testing.simulation import Episodes, Scenario, compare, play
    mine = Scenario(name="mine", load_ratio=0.6, servers=20, disturbances=(Episodes(gap_s=10.0, episode_s=1.0, slower=(2, 4)),))
    for compared in compare([mine], {"p2c": Config(), "own": Config(policy=OwnPolicy())}, seeds=[1, 2, 3]):
        print(compared.scores["own"].latency_ratios, compared.scores["own"].failed_ratio)
    print(play(mine, Config(policy=OwnPolicy()), seed=1).latency_s(0.99))

A figure is a ratio to what is possible at all (bounds.py), run by run with the same seed, which gives all policies the same arrivals,
sizes and disturbances. Ejection is meshlb's default, with every policy, unless the Config says otherwise.

Checked against closed forms (M/M/1, M/M/c, M/G/1-PS) in the tests.
"""

from __future__ import annotations

from meshlb.testing.simulation.answer import INTERNAL, NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE, Answer
from meshlb.testing.simulation.changes import Blips, Change, Disturbance, Episodes, Failing, Flapping, Rolling, Speeds, What
from meshlb.testing.simulation.client import Client
from meshlb.testing.simulation.compare import Compared, Score, compare, geo_mean
from meshlb.testing.simulation.link import Network
from meshlb.testing.simulation.play import Done, Played, play
from meshlb.testing.simulation.record import Record
from meshlb.testing.simulation.references import reference_s
from meshlb.testing.simulation.scenario import Burst, Scenario
from meshlb.testing.simulation.scenarios import SCENARIOS
from meshlb.testing.simulation.server import Server
from meshlb.testing.simulation.simulation import SETTLE_S, Simulation
from meshlb.testing.simulation.work import Work, constant, exponential, lognormal, mixed, pareto

__all__ = [
    "Simulation",
    "Client",
    "Server",
    "Network",
    "Record",
    "Answer",
    "INTERNAL",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "SETTLE_S",
    "Work",
    "constant",
    "exponential",
    "lognormal",
    "mixed",
    "pareto",
    "Scenario",
    "SCENARIOS",
    "Burst",
    "Disturbance",
    "Change",
    "What",
    "Speeds",
    "Episodes",
    "Blips",
    "Failing",
    "Rolling",
    "Flapping",
    "play",
    "Played",
    "Done",
    "compare",
    "Compared",
    "Score",
    "geo_mean",
    "reference_s",
]
