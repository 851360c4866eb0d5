"""A ClusterIP as k connections: told apart, renewed one at a time, never fewer than k listed."""

from __future__ import annotations

import itertools
import random

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.settings import Fallback
from meshlb.resolve.virtual_ip import VirtualIp
from meshlb.testing.loop import ManualLoop


class Watched:
    """A VirtualIp in virtual time, with every state it went through."""

    def __init__(self, fallback: Fallback, seed: int = 1) -> None:
        print(f"seed {seed}")
        self.loop = ManualLoop()
        self.states: list[tuple[float, tuple[Endpoint, ...]]] = []
        self.ip = VirtualIp("10.96.0.7", 50051, fallback, scheduler=self.loop, rng=random.Random(seed), on_change=self._changed)

    def _changed(self) -> None:
        self.states.append((self.loop.now_s(), self.ip.endpoints))

    @property
    def uids(self) -> list[str]:
        return [endpoint.uid for endpoint in self.ip.endpoints]


def test_k_connections_differ_by_uid_alone() -> None:
    """One address, k identities: each is a connection of its own."""
    watched = Watched(Fallback(connections=3))
    assert watched.uids == ["clusterip/0.0", "clusterip/1.0", "clusterip/2.0"]
    assert {endpoint.address for endpoint in watched.ip.endpoints} == {"10.96.0.7:50051"}


def test_nothing_is_renewed_while_not_in_use() -> None:
    """A fallback that nobody dials has no timer."""
    watched = Watched(Fallback())
    watched.loop.advance(3600)
    assert watched.states == []
    assert watched.loop.timers == ()


def test_a_renewal_adds_before_it_removes() -> None:
    """The successor is listed first; its predecessor leaves after the overlap; then there are k again."""
    watched = Watched(Fallback(connections=4, max_age_s=60))
    watched.ip.start()
    watched.loop.advance(20)
    (start_s, during), (end_s, after) = watched.states[:2]
    assert [endpoint.uid for endpoint in during] == [
        "clusterip/0.1",
        "clusterip/1.0",
        "clusterip/2.0",
        "clusterip/3.0",
        "clusterip/0.0",
    ]
    assert [endpoint.uid for endpoint in after] == ["clusterip/0.1", "clusterip/1.0", "clusterip/2.0", "clusterip/3.0"]
    assert end_s - start_s == pytest.approx(5.0)


@pytest.mark.parametrize(("connections", "max_age_s"), [(4, 60.0), (1, 5.0), (64, 5.0), (3, 600.0)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_renewals_never_overlap_and_every_connection_gets_its_turn(connections: int, max_age_s: float, seed: int) -> None:
    """At any moment k or k + 1 are listed, at most one of them new and one old; nobody is forgotten."""
    watched = Watched(Fallback(connections=connections, max_age_s=max_age_s), seed)
    watched.ip.start()
    watched.loop.advance(20 * max_age_s)
    previous = {f"clusterip/{slot}.0" for slot in range(connections)}
    for _, state in watched.states:
        uids = {endpoint.uid for endpoint in state}
        assert len(uids) == len(state)
        assert connections <= len(uids) <= connections + 1
        assert len(uids - previous) + len(previous - uids) == 1
        previous = uids
    generations = [int(uid.rpartition(".")[2]) for uid in watched.uids]
    assert min(generations) >= 1
    assert max(generations) - min(generations) <= 8


def test_ages_are_jittered_by_a_fifth() -> None:
    """A connection lives for 0.8 to 1.2 of max_age_s, and not always equally long."""
    watched = Watched(Fallback(connections=1, max_age_s=100))
    watched.ip.start()
    watched.loop.advance(5000)
    starts = [at_s for at_s, state in watched.states if len(state) == 2]
    ages = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(80 <= age <= 120 for age in ages)
    assert max(ages) - min(ages) > 10


def test_pausing_in_the_middle_of_a_renewal_leaves_k() -> None:
    """What was leaving is gone, nothing else changes, and a new start goes on from there."""
    watched = Watched(Fallback(connections=2, max_age_s=60))
    watched.ip.start()
    while not watched.states:
        watched.loop.advance(1)
    watched.ip.pause()
    assert watched.uids == ["clusterip/0.1", "clusterip/1.0"]
    assert watched.loop.timers == ()
    watched.ip.start()
    watched.ip.start()
    assert len(watched.loop.timers) == 1
