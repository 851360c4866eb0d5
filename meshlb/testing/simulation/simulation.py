"""Clients, servers and what happens to them: the one object that a scenario is written with (see the package's head).

Chance comes from one seed, in streams of its own for the arrivals and their work, for the servers and for each client's meshlb: two
runs of a seed with different policies see the same calls and the same disturbances.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from meshlb.config import Config
from meshlb.core.endpoint import NO_PLACE, Endpoint, EndpointSet, Locality, Place
from meshlb.testing.simulation.client import Client
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.link import Network
from meshlb.testing.simulation.queues import Fifo, Sharing
from meshlb.testing.simulation.record import Record
from meshlb.testing.simulation.server import Server
from meshlb.testing.simulation.work import Work

SETTLE_S = 1.0  # connections are there when the load begins


class Simulation:
    """``record`` has what happened; ``now_s`` is 0 when the first servers are announced, and load begins ``SETTLE_S`` later."""

    def __init__(self, seed: int, *, network: Network | None = None) -> None:
        self.seed = seed
        self.events = Events()
        self.record = Record()
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self._network = network if network is not None else Network()
        self._at: dict[str, Server] = {}
        self._places: list[Place] = []
        self._made = 0

    # --- who is there -----------------------------------------------------------------------------------------------------------

    def start(self, *, workers: int = 0, cores: int = 0, zone: str = "", weight: float = 1.0) -> Server:
        """A new pod at a new address; ``announce`` tells of it. FIFO with so many workers, or processor sharing over so many cores."""
        if bool(workers) == bool(cores):
            raise ValueError(f"workers={workers} cores={cores}: exactly one of the two must be given")
        self._made += 1
        number = self._made
        endpoint = Endpoint(
            host=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            port=80,
            uid=f"u{number}",
            name=f"pod-{number}",
            locality=Locality(zone=zone),
            weight=weight,
        )
        queue = Fifo(self.events, workers) if workers else Sharing(self.events, cores)
        server = Server(self.events, self._chance(f"server {number}"), endpoint, queue)
        self._at[endpoint.address] = server
        self.servers.append(server)
        return server

    def start_all(self, count: int, **kind: Any) -> list[Server]:
        """So many alike, announced at once."""
        started = [self.start(**kind) for _ in range(count)]
        self.announce()
        return started

    def add_client(self, config: Config | None = None, *, zone: str = "") -> Client:
        """A process with a pool of its own."""
        number = len(self.clients)
        client = Client(
            self.events,
            self._chance(f"client {number}"),
            number,
            config=config if config is not None else Config(),
            network=self._network,
            find=self._at.get,
            record=self.record,
        )
        self.clients.append(client)
        self._places.append(Place(zone=zone) if zone else NO_PLACE)
        if self.servers:
            client.learn(self._endpoint_set(self._places[-1]))
        return client

    def announce(self, delay_s: float = 0.0) -> None:
        """Discovery tells every client who is in ``servers`` now, so much later."""
        for client, place in zip(self.clients, self._places, strict=True):
            self.events.after(delay_s, client.learn, self._endpoint_set(place))

    def take_out(self, server: Server, *, told_after_s: float) -> None:
        """It stops now, and discovery says so later."""
        self.servers.remove(server)
        server.stop()
        self.announce(told_after_s)

    # --- what happens -----------------------------------------------------------------------------------------------------------

    def at(self, when_s: float, action: Callable[..., object], *args: Any) -> None:
        """Something happens then: ``sim.at(25.0, pod.fail, 0.5)``."""
        self.events.at(when_s, action, *args)

    def poisson(
        self, rate_per_s: float, work: Work, *, deadline_s: float | None = None, clients: Iterable[Client] | None = None
    ) -> None:
        """An open loop: so many calls a second over all of these clients (default: all that there are), at random moments, for ever."""
        chosen = list(clients) if clients is not None else list(self.clients)
        rng = self._chance("arrivals")

        def arrive() -> None:
            client = chosen[int(rng.random() * len(chosen))]
            client.call(work(rng), deadline_s)
            self.events.after(rng.expovariate(rate_per_s), arrive)

        self.events.at(SETTLE_S + rng.expovariate(rate_per_s), arrive)

    def closed_loop(self, concurrency: int, work: Work, *, think_s: float = 0.0, deadline_s: float | None = None) -> None:
        """Each client has so many users, and each of them one call at a time, with an exponential pause (0: none) in between."""
        for number, client in enumerate(self.clients):
            for user in range(concurrency):
                self._user(client, self._chance(f"user {number}.{user}"), work, think_s, deadline_s)

    def _user(self, client: Client, rng: random.Random, work: Work, think_s: float, deadline_s: float | None) -> None:
        def begin() -> None:
            client.call(work(rng), deadline_s, end)

        def end() -> None:
            self.events.after(rng.expovariate(1.0 / think_s) if think_s else 0.0, begin)

        self.events.at(SETTLE_S, end)

    def run(self, until_s: float) -> Record:
        """Let time pass until then; may be called again, for more."""
        self.events.run_until(until_s)
        return self.record

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _endpoint_set(self, place: Place) -> EndpointSet:
        return EndpointSet.of([server.endpoint for server in self.servers], "simulation", place=place)

    def _chance(self, of: str) -> random.Random:
        return random.Random(f"{self.seed} {of}")

    def __repr__(self) -> str:
        return (
            f"<Simulation seed={self.seed} now_s={self.events.now_s():g} clients={len(self.clients)} servers={len(self.servers)}>"
        )
