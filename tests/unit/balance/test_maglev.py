"""Maglev's table against the rule as it is written, its shares, and what a change moves. (That it is Envoy's: tests/integration.)"""

from __future__ import annotations

from collections import Counter
from itertools import count, islice
from typing import Any

import pytest

from meshlb.balance.maglev import Maglev, MaglevTable, filled
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError
from tests.picking import know, seeded, subchannels_of


def _keys(n: int) -> list[bytes]:
    return [b"10.0.%d.%d:80" % (at >> 8, at & 255) for at in range(n)]


def _as_written(keys: list[bytes], weights: list[float], size: int) -> list[int]:
    """The rule word for word: round after round, entry after entry."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shares = [weights[at] / sum(weights) for at in order]
    steps = [(xxh64(keys[at]) % size, xxh64(keys[at], 1) % (size - 1) + 1) for at in order]
    nexts, targets, owners = [0] * len(keys), [0.0] * len(keys), [-1] * size
    left = size
    for number in count(1):
        for at, (offset, skip) in enumerate(steps):
            if not left:
                return owners
            if number * shares[at] < targets[at]:
                continue
            targets[at] += max(shares)
            while owners[(offset + skip * nexts[at]) % size] >= 0:
                nexts[at] += 1
            owners[(offset + skip * nexts[at]) % size] = order[at]
            left -= 1
    raise AssertionError


@pytest.mark.parametrize("size", [2, 3, 5, 101, 1009])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 50, 300])
def test_the_table_is_that_of_the_rule_as_written(n: int, size: int) -> None:
    """Equal, simple, odd and very unequal weights; more hosts than entries, too."""
    rng = seeded()
    for weights in (
        [1.0] * n,
        [1.0 + at % 3 for at in range(n)],
        [rng.uniform(0.001, 10.0) for _ in range(n)],
        [1.0] * (n - 1) + [1000.0],
    ):
        assert filled(_keys(n), weights, size) == _as_written(_keys(n), weights, size)


@pytest.mark.parametrize("weights", [[1.0] * 10, [1.0, 2.0, 3.0, 4.0], [1.0] + [100.0] * 9], ids=str)
def test_everybody_has_their_share_of_the_entries_to_one_or_two(weights: list[float]) -> None:
    """Which is what it has over a ring."""
    counts = Counter(filled(_keys(len(weights)), weights, 65537))
    for at, weight in enumerate(weights):
        assert counts[at] == pytest.approx(65537 * weight / sum(weights), abs=2.0)


def test_the_order_of_hosts_does_not_matter() -> None:
    """Two processes that learn of the pods in different orders agree."""
    keys = _keys(20)
    forth, back = filled(keys, [1.0] * 20, 1009), filled(keys[::-1], [1.0] * 20, 1009)
    assert [keys[at] for at in forth] == [keys[::-1][at] for at in back]


def test_few_keys_of_others_move_when_one_leaves() -> None:
    """A hundredth is the leaver's; of the rest no more than two in a hundred get another owner."""
    keys = _keys(100)
    before = filled(keys, [1.0] * 100, 65537)
    after = filled(keys[:-1], [1.0] * 99, 65537)
    others = sum(1 for old, new in zip(before, after, strict=True) if old not in (new, 99))
    assert 0 < others < 0.02 * 65537


def test_further_attempts_are_envoys() -> None:
    """The k-th looks at the hash xor 2^64 - k."""
    table = MaglevTable([0, 1, 2, 3, 4, 5, 6])
    digest = xxh64(b"any key")
    assert table.first(digest) == digest % 7
    assert list(islice(table.others(digest), 5)) == [(digest ^ 2**64 - attempt) % 7 for attempt in range(1, 6)]


def test_a_table_with_fewer_entries_than_endpoints_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Some get no key at all; and a table that is large enough needs no word."""
    rng = seeded()
    policy = Maglev(table_size=251).build(rng)
    for n in (251, 1000, 1001):
        subs = subchannels_of(policy, [1.0] * n)
        know(policy, subs)
        policy.new_picker(subs, rng)
    assert [record.getMessage() for record in caplog.records] == [
        "maglev: table_size=251 for 1000 endpoints: at least 749 get no key"
    ]
    assert caplog.records[0].name == "meshlb.balance"


@pytest.mark.parametrize("size", [2, 3, 65537, 5000011])
def test_primes_are_sizes(size: int) -> None:
    """Up to Envoy's limit."""
    assert Maglev(table_size=size).table_size == size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table_size": 65536}, "policy.table_size=65536: must be a prime number"),
        ({"table_size": 65539 * 3}, "policy.table_size=196617: must be a prime number"),
        ({"table_size": 9}, "policy.table_size=9: must be a prime number"),
        ({"table_size": 1}, "policy.table_size=1: must be from 2 to 5000011"),
        ({"table_size": 5000077}, "policy.table_size=5000077: must be from 2 to 5000011"),
        ({"table_size": "65537"}, "policy.table_size='65537': must be a whole number"),
        ({"hash_balance_factor": 50}, "policy.hash_balance_factor=50: must be 0 (off) or >= 100"),
        ({"use_hostname_for_hashing": "yes"}, "policy.use_hostname_for_hashing='yes': must be true or false"),
    ],
)
def test_what_makes_no_table_is_refused(fields: dict[str, Any], message: str) -> None:
    """With the field, its value and the rule."""
    with pytest.raises(ConfigError) as caught:
        Maglev(**fields)
    assert str(caught.value) == message
