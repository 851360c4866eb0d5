"""Random subsets of large fleets: gRFC A68's choice, and what surrounds it."""

from __future__ import annotations

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError
from meshlb.health.subset import Subset, Subsetting
from meshlb.load.in_flight import LiveOnly
from tests.picking import seeded

ON = Subset.of("on")


def fleet(n: int) -> list[Subchannel]:
    return [Subchannel(Endpoint(host=f"10.0.{at >> 8}.{at & 255}", port=80, uid=f"u{at}"), LiveOnly()) for at in range(n)]


def test_it_is_off_unless_asked_for() -> None:
    """A lone client would leave pods idle."""
    subs = fleet(500)
    assert Subset() == Subset.of("off") == Subset.of({})
    assert Subsetting(Subset(), 1).choose(subs) == tuple(subs)
    assert (ON.size, ON.min_endpoints) == (20, 100)


def test_the_lowest_hashes_of_addresses_are_kept_in_the_order_given() -> None:
    """A68: XXH64 of "host:port" with the process' seed."""
    subs, seed = fleet(200), 0xDEADBEEF
    lowest = sorted(subs, key=lambda sub: xxh64(f"{sub.endpoint.host}:80".encode(), seed))[:20]
    assert Subsetting(ON, seed).choose(subs) == tuple(sub for sub in subs if sub in lowest)


def test_small_fleets_are_left_whole() -> None:
    """Up to one less than ``min_endpoints``."""
    subs = fleet(100)
    assert len(Subsetting(ON, 1).choose(subs[:99])) == 99
    assert len(Subsetting(ON, 1).choose(subs)) == 20
    assert Subsetting(ON, 1).choose([]) == ()
    assert len(Subsetting(Subset(size=5, min_endpoints=5), 1).choose(subs[:5])) == 5


def test_a_roll_out_about_the_limit_changes_little() -> None:
    """Who takes a subset goes on with it down to three quarters of the limit, and begins again at the limit."""
    subs, subsetting = fleet(101), Subsetting(ON, 1)
    sizes = [len(subsetting.choose(subs[:n])) for n in (99, 100, 99, 75, 74, 75, 99, 100)]
    assert sizes == [99, 20, 20, 20, 74, 75, 99, 20]


def test_processes_choose_differently_and_together_cover_the_fleet() -> None:
    """The seed decides; with many callers each endpoint has about its share: binomial, within 5 sigma."""
    rng, subs, callers = seeded(), fleet(200), 500
    counts = dict.fromkeys(subs, 0)
    for _ in range(callers):
        for sub in Subsetting(ON, rng.getrandbits(64)).choose(subs):
            counts[sub] += 1
    mean, sigma = callers * 0.1, (callers * 0.1 * 0.9) ** 0.5
    assert all(abs(count - mean) < 5 * sigma for count in counts.values())
    assert sum(counts.values()) == callers * 20


def test_a_pod_that_takes_over_an_address_takes_over_its_place() -> None:
    """The choice is by address."""
    before, after = fleet(200), fleet(200)
    subsetting = Subsetting(ON, 7)
    assert [sub.endpoint.host for sub in subsetting.choose(before)] == [sub.endpoint.host for sub in subsetting.choose(after)]


def test_who_is_known_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates of a large fleet cost a look, not ten thousand hashes; and who is gone is forgotten."""
    hashed: list[bytes] = []

    def counted(data: bytes, seed: int = 0) -> int:
        hashed.append(data)
        return xxh64(data, seed)

    monkeypatch.setattr("meshlb.health.subset.xxh64", counted)
    subs, subsetting = fleet(201), Subsetting(ON, 1)
    subsetting.choose(subs[:200])
    assert len(hashed) == 200
    subsetting.choose(subs[1:])
    assert len(hashed) == 201
    subsetting.choose(subs)
    assert len(hashed) == 202


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("some", "subset='some': must be one of off, on"),
        (20, "subset=20: must be on, off, a dict or a Subset"),
        ({"sizes": 20}, "subset.sizes: unknown key; did you mean 'size'"),
        ({"size": -1}, "subset.size=-1: must be >= 0"),
        ({"size": 2.5}, "subset.size=2.5: must be a whole number"),
        ({"size": 200}, "subset.min_endpoints=100: must be >= size=200"),
        ({"size": 20, "min_endpoints": 0}, "subset.min_endpoints=0: must be >= 1"),
        ({"min_endpoints": 50}, "subset.size: must be said for min_endpoints to mean something"),
    ],
)
def test_bad_settings_are_refused(written: object, message: str) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError, match=message):
        Subset.of(written)  # type: ignore[arg-type]
