"""What the picks of a call are told: a key only where the policy looks at keys, whom to avoid by any of an endpoint's names."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.hash_key import HashKeys
from meshlb.balance.registry import policy_of
from meshlb.balance.round_robin import RoundRobinPolicy
from meshlb.call.infos import Infos
from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.hints import hints
from meshlb.core.policy import PickInfo
from meshlb.core.xxhash import xxh64
from meshlb.pool.pool import Pool
from meshlb.pool.view import View
from meshlb.testing.clock import ManualClock

PLAIN = PickInfo("/shop.Orders/Get", replays=True, judged=False)
ENDPOINTS = [
    Endpoint(host="10.0.0.1", port=80, uid="a"),
    Endpoint(host="10.0.0.1", port=81, uid="a"),
    Endpoint(host="10.0.0.2", port=80),
    Endpoint(host="fd00::1", port=80, uid="b"),
]


class Listener:
    def on_change(self) -> None:
        """Nobody looks."""


class HashingPolicy(RoundRobinPolicy):
    hashes = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashing(PolicyConfig):
    name: ClassVar[str] = "hashing"

    def build(self, rng: Rng) -> HashingPolicy:
        return HashingPolicy(rng)


def view_of(policy: str | PolicyConfig, endpoints: Sequence[Endpoint] = ENDPOINTS) -> View:
    rng = random.Random(1)
    pool = Pool("orders", policy_of(policy).build(rng), clock=ManualClock(), rng=rng, new_lock=threading.Lock)
    pool.update(EndpointSet.of(endpoints, "test"))
    return pool.view(Listener())


def infos(hash_keys: object = "on") -> Infos:
    return Infos(PLAIN, HashKeys.of(hash_keys).for_method(PLAIN.method))  # type: ignore[arg-type]


def test_a_call_of_which_nothing_is_said_is_told_what_all_are() -> None:
    """The very same object; and from then on nobody need ask."""
    asked = infos("metadata:user")
    assert asked.varies
    assert asked.of(view_of("p2c"), [("user", "7")]) is PLAIN
    assert not asked.varies


def test_the_key_is_hashed_only_where_the_policy_looks_at_it() -> None:
    """Whatever the source; the rest is as for every call of the method."""
    asked, hashing = infos("metadata:user"), view_of(Hashing())
    told = asked.of(hashing, [("user", "7")])
    assert (told.hash, told.method, told.replays, told.judged) == (xxh64(b"7"), PLAIN.method, True, False)
    assert asked.varies
    with hints(hash_key=7):
        assert asked.of(hashing, ()).hash == xxh64(b"7")
        assert asked.of(view_of("p2c"), ()) is PLAIN
    assert asked.of(hashing, ()) is PLAIN


def test_with_hash_off_there_is_no_key() -> None:
    """And nobody need ask."""
    asked = infos("off")
    with hints(hash_key=7):
        assert asked.of(view_of(Hashing())) is PLAIN
    assert not asked.varies


def test_a_key_that_is_given_beats_the_hint() -> None:
    """It was said for this one call."""
    with hints(hash_key="hint"):
        assert infos().of(view_of(Hashing()), key=5).hash == 5


def excluded(view: View, written: object) -> set[str]:
    with hints(exclude=written):  # type: ignore[arg-type]
        return {f"{sub.endpoint.address} {sub.endpoint.uid}" for sub in infos().of(view).exclude}


def test_endpoints_are_found_by_themselves_and_by_their_address() -> None:
    """Under every policy; strangers are nobody."""
    view = view_of("p2c")
    assert excluded(view, ENDPOINTS[0]) == {"10.0.0.1:80 a"}
    assert excluded(view, "10.0.0.1:80") == {"10.0.0.1:80 a"}
    assert excluded(view, ["[fd00::1]:80", ENDPOINTS[1], "10.9.9.9:80"]) == {"[fd00::1]:80 b", "10.0.0.1:81 a"}
    with hints(exclude="10.9.9.9:80"):
        assert infos().of(view) is PLAIN


def test_another_pod_at_the_address_is_not_meant() -> None:
    """Two known uids are two endpoints; an unknown one may be any."""
    view = view_of("p2c")
    assert excluded(view, Endpoint(host="10.0.0.1", port=80, uid="before")) == set()
    assert excluded(view, Endpoint(host="10.0.0.2", port=80, uid="before")) == {"10.0.0.2:80 "}
    assert excluded(view, Endpoint(host="10.0.0.1", port=80)) == {"10.0.0.1:80 a"}


def test_before_anything_is_known_nobody_is_to_be_avoided() -> None:
    """The call waits; by then it may meet whom it was to avoid, where no other is there."""
    rng = random.Random(1)
    pool = Pool("orders", policy_of("p2c").build(rng), clock=ManualClock(), rng=rng, new_lock=threading.Lock)
    with hints(exclude="10.0.0.1:80"):
        assert infos().of(pool.view(Listener())) is PLAIN


def test_calls_without_a_key_are_counted_where_the_policy_wants_one() -> None:
    """``status()`` shows who forgot it."""
    view = view_of(Hashing())
    for metadata in (None, [], [("other", "7")], [("user", "7")]):
        infos("metadata:user").of(view, metadata)
    assert view.pool.describe()["keyless"] == 3
    assert "keyless" not in view_of("p2c").pool.describe()
