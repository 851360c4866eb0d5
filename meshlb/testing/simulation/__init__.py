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

Checked against closed forms (M/M/1, M/M/c, M/G/1-PS) in the tests.
"""

from __future__ import annotations

from meshlb.testing.simulation.answer import INTERNAL, NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE, Answer
from meshlb.testing.simulation.client import Client
from meshlb.testing.simulation.link import Network
from meshlb.testing.simulation.record import Record
from meshlb.testing.simulation.server import Server
from meshlb.testing.simulation.simulation import SETTLE_S, Simulation
from meshlb.testing.simulation.work import Work, constant, exponential, lognormal, mixed

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
]
