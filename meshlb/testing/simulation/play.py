"""A scenario is played: its clients with one configuration, its load and its disturbances, from the first call to the end of the last."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshlb.config import Config
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.testing.simulation.answer import Answer
from meshlb.testing.simulation.changes import Change, What
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.queues import Fifo, Sharing
from meshlb.testing.simulation.record import percentile
from meshlb.testing.simulation.scenario import NETWORK, Arrival, Scenario
from meshlb.testing.simulation.server import Server
from meshlb.testing.simulation.standing import Ask, Standing

PATIENCE_S = 3600.0  # after the end of the load
IDLE_S = 0.001  # a user whom nobody serves looks around
NOBODY = -1  # the place of a call that could not be sent


class Done(NamedTuple):
    """A call that began after the warm-up: when, how long it took, which place in the fleet it was sent to, whether it succeeded."""

    at_s: float
    took_s: float
    place: int
    ok: bool


class Played:
    """What happened, streams left out."""

    def __init__(self, scenario: Scenario, seed: int, calls: Sequence[Done]) -> None:
        self.scenario = scenario
        self.seed = seed
        self.calls = calls
        self._took_s = sorted([call.took_s for call in calls if call.ok])

    def latency_s(self, ratio: float) -> float:
        """The percentile (0.99) of how long successful calls took; NaN if there are none."""
        return percentile(self._took_s, ratio)

    @property
    def failed_ratio(self) -> float:
        return 1.0 - len(self._took_s) / len(self.calls) if self.calls else 0.0

    def busiest_to_mean(self) -> float:
        """How much more than its share the busiest server got of the calls that were sent: 1 is even; NaN if there are none."""
        return _busiest([call.place for call in self.calls if call.place != NOBODY], self.scenario.servers)

    def busiest_in_windows(self, calls: int = 1000) -> list[float]:
        """The same, for each so many calls that were sent one after the other."""
        places = [call.place for call in sorted(self.calls) if call.place != NOBODY]
        ends = range(calls, len(places) + 1, calls)
        return [_busiest(places[end - calls : end], self.scenario.servers) for end in ends]

    def __repr__(self) -> str:
        return f"<Played {self.scenario.name} seed={self.seed} calls={len(self.calls)} failed={self.failed_ratio:.4%}>"


def _busiest(places: Sequence[int], servers: int) -> float:
    return max(Counter(places).values()) * servers / len(places) if places else math.nan


def play(scenario: Scenario, config: Config, seed: int) -> Played:
    """One run, to its end; the same for the same arguments."""
    return _Play(scenario, config, seed).run()


class _Play:
    def __init__(self, scenario: Scenario, config: Config, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.events = Events()
        self.done: list[Done] = []
        self.under_way = 0
        self.places: dict[Server, int] = {}
        self.at: dict[str, Server] = {}
        self.fleet = [self._start(place) for place in range(scenario.servers)]
        self.failing = [0.0] * scenario.servers
        self.listed = set(range(scenario.servers))
        self.clients = [self._client(number, config) for number in range(scenario.clients)]
        self._announce()
        for client in self.clients:
            client.connect()

    def run(self) -> Played:
        scenario = self.scenario
        for change in scenario.changes(self.seed):
            self.events.at(change.at_s, self._change, change)
        if scenario.concurrency:
            self._closed_loop()
        else:
            self._next(scenario.arrivals(self.seed))
        self.events.run_until(scenario.length_s)
        while self.under_way:
            if self.events.now_s() > scenario.length_s + PATIENCE_S or not self.events.step():
                raise RuntimeError(f"{scenario.name}: {self.under_way} calls do not end; does a server stand still for ever?")
        return Played(scenario, self.seed, self.done)

    # --- load -------------------------------------------------------------------------------------------------------------------

    def _next(self, arrivals: Iterator[Arrival]) -> None:
        arrival = next(arrivals, None)
        if arrival is not None:
            self.events.at(arrival.at_s, self._arrive, arrival, arrivals)

    def _arrive(self, arrival: Arrival, arrivals: Iterator[Arrival]) -> None:
        ask = Ask()
        ask.at_s, client, ask.work_s, ask.stream, out_s, ask.back_s = arrival
        ask.client = self.clients[client]
        ask.then = None
        self.under_way += 1
        ask.client.call(ask, out_s)
        self._next(arrivals)

    def _closed_loop(self) -> None:
        for number in range(self.scenario.clients):
            for user in range(self.scenario.concurrency):
                self.events.at(0.0, self._begin, number, self.scenario.chance(self.seed, f"user {number}.{user}"))

    def _begin(self, client: int, rng: random.Random) -> None:
        """A user of a closed loop calls, and calls again when it has its answer."""
        ask = Ask()
        ask.at_s, ask.work_s, ask.stream, ask.back_s = self.events.now_s(), self.scenario.work(rng), False, NETWORK.delay_s(rng)
        ask.client = self.clients[client]
        ask.then = (self._begin, client, rng)
        self.under_way += 1
        ask.client.call(ask, NETWORK.delay_s(rng))

    def _ended(self, ask: Ask, answer: Answer | None) -> None:
        self.under_way -= 1
        if ask.then is not None and self.events.now_s() < self.scenario.length_s:
            self.events.after(IDLE_S if answer is None else 0.0, *ask.then)
        if ask.at_s >= self.scenario.warm_up_s and not ask.stream:
            place = self.places[ask.server] if answer is not None else NOBODY
            ok = answer is not None and answer.ok
            self.done.append(Done(ask.at_s, self.events.now_s() - ask.at_s, place, ok))

    # --- the fleet --------------------------------------------------------------------------------------------------------------

    def _start(self, place: int) -> Server:
        scenario, number = self.scenario, len(self.at) + 1
        endpoint = Endpoint(host=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", port=80, uid=f"u{number}")
        queue = Sharing(self.events, scenario.workers) if scenario.sharing else Fifo(self.events, scenario.workers)
        server = Server(self.events, scenario.chance(self.seed, f"server {number}"), endpoint, queue)
        self.at[endpoint.address] = server
        self.places[server] = place
        return server

    def _client(self, number: int, config: Config) -> Standing:
        rng = self.scenario.chance(self.seed, f"client {number}")
        return Standing(self.events, rng, config=config, find=self.at.__getitem__, ended=self._ended)

    def _announce(self) -> None:
        latest = EndpointSet.of([self.fleet[place].endpoint for place in sorted(self.listed)], "simulation")
        for client in self.clients:
            client.learn(latest)

    def _change(self, change: Change) -> None:
        place, what = change.server, change.what
        if what is What.SPEED:
            self.fleet[place].set_speed(change.value)
        elif what is What.FAILING:
            self.failing[place] = change.value
            self.fleet[place].fail(change.value)
        elif what is What.LEAVE:
            self.listed.discard(place)
            self._announce()
        else:
            if what is What.REPLACE:
                self.fleet[place] = self._start(place)
                self.fleet[place].set_speed(change.value)
                self.fleet[place].fail(self.failing[place])
            self.listed.add(place)
            self._announce()
