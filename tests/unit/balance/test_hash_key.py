"""Keys of calls: Envoy's combination rule, and clear errors for sources that are none."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.balance.hash_key import HashKeys, Source
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

FOO, BAR, EMPTY = 3728699739546630719, 5234164152756840025, 17241709254077376921  # XXH64 of these words, seed 0
CALL = "/shop.Orders/Get"


def rotl1(number: int) -> int:
    """By its bits, not by shifts."""
    bits = f"{number:064b}"
    return int(bits[1:] + bits[0], 2)


def hash_of(sources: Any, hint: bytes | None = None, metadata: Any = ()) -> int | None:
    return HashKeys.of(sources).for_method(CALL).hash_of(None if hint is None else xxh64(hint), metadata)


def test_one_value_is_hashed_plainly() -> None:
    """XXH64 with seed 0."""
    assert hash_of("hint", b"foo") == FOO
    assert hash_of("metadata:k", metadata=[("k", "foo")]) == FOO
    assert hash_of("metadata:k", metadata=[("k", b"foo"), ("other", "x")]) == FOO
    assert hash_of("metadata:k", metadata=[("k", "")]) == EMPTY


def test_a_later_hash_is_mixed_with_the_earlier_one_rotated() -> None:
    """rotl64(old, 1) ^ new, in the order of the list, and only for sources that have a value."""
    both = [("a", "foo"), ("b", "bar")]
    assert hash_of(["metadata:a", "metadata:b"], metadata=both) == rotl1(FOO) ^ BAR
    assert hash_of(["metadata:b", "metadata:a"], metadata=both) == rotl1(BAR) ^ FOO
    assert hash_of(["metadata:a", "metadata:none", "metadata:b"], metadata=both) == rotl1(FOO) ^ BAR
    assert hash_of(["metadata:a", "metadata:b"], metadata=both[1:]) == BAR
    assert hash_of(["metadata:a", "hint"], b"bar", both) == rotl1(FOO) ^ BAR


def test_the_same_source_twice_does_not_cancel_out() -> None:
    """That is what the rotation is for; and the highest bit comes round."""
    assert hash_of(["metadata:a", "metadata:a"], metadata=[("a", "foo")]) == rotl1(FOO) ^ FOO != 0
    assert EMPTY >> 63 == 1
    assert hash_of(["metadata:a", "metadata:b"], metadata=[("a", ""), ("b", "foo")]) == rotl1(EMPTY) ^ FOO


def test_a_terminal_source_ends_the_list_once_there_is_some_hash() -> None:
    """Its own or an earlier one; without any, the list goes on."""
    sources = ["metadata:a", {"metadata": "b", "terminal": True}, "metadata:c"]
    assert hash_of(sources, metadata=[("b", "foo"), ("c", "bar")]) == FOO
    assert hash_of(sources, metadata=[("a", "foo"), ("c", "bar")]) == FOO
    assert hash_of(sources, metadata=[("c", "bar")]) == BAR


def test_several_values_are_sorted_and_chained() -> None:
    """The hash of each is the seed of the next one's, whatever their order in the metadata."""
    chained = xxh64(b"foo", xxh64(b"bar"))
    assert hash_of("metadata:k", metadata=[("k", "foo"), ("x", "y"), ("k", "bar")]) == chained
    assert hash_of("metadata:k", metadata=[("k", "bar"), ("k", b"foo")]) == chained
    assert chained not in (FOO, BAR)


def test_without_any_value_there_is_no_key() -> None:
    """The policy draws at random then."""
    assert hash_of("on") is None
    assert hash_of(["metadata:k", "hint"], metadata=[("K2", "foo")]) is None
    assert hash_of("metadata:k", metadata=None) is None


def test_a_hint_that_is_not_listed_beats_the_metadata() -> None:
    """Listed, it is a source like the others."""
    metadata = [("k", "foo")]
    assert hash_of("metadata:k", b"bar", metadata) == BAR
    assert hash_of("metadata:k", None, metadata) == FOO
    assert hash_of("metadata:k,hint", b"bar", metadata) == rotl1(FOO) ^ BAR


def test_off_is_no_key_whatever_is_said() -> None:
    """A switch for whoever wants random picks."""
    assert hash_of("off", b"foo", [("k", "foo")]) is None
    assert not HashKeys.of("off").for_method(CALL).any


@pytest.mark.parametrize("metadata", [iter([("k", "foo")]), 5, ["k"], [("k", 5)], [("k", "a", "b")], [("k", "a"), ("k", None)]])
def test_metadata_that_is_none_has_no_key_and_raises_nothing(metadata: Any) -> None:
    """The transport says what is wrong with it; an iterator is left to it unread."""
    assert hash_of("metadata:k", metadata=metadata) is None
    if hasattr(metadata, "__next__"):
        assert list(metadata) == [("k", "foo")]


def test_the_most_specific_pattern_has_its_own_sources() -> None:
    """In place of the others, none included."""
    keys = HashKeys.of(
        {
            "sources": ["metadata:all"],
            "methods": {"/shop.Orders/*": {"sources": "metadata:order"}, CALL: {"sources": []}},
        }
    )
    metadata = [("all", "foo"), ("order", "bar")]
    assert keys.for_method(CALL).hash_of(FOO, metadata) is None
    assert keys.for_method("/shop.Orders/Put").hash_of(None, metadata) == BAR
    assert keys.for_method("/shop.Carts/Get").hash_of(None, metadata) == FOO


def test_all_forms_mean_the_same_and_can_be_printed() -> None:
    """Words, dicts, header for metadata, upper case; and back from plain data."""
    meant = HashKeys(sources=(Source(metadata="x-user"), Source(terminal=True)))
    for written in (
        ["metadata:X-User", {"hint": True, "terminal": True}],
        [{"header": "x-user"}, {"hint": True, "terminal": True}],
        {"sources": ["header:x-user", Source(terminal=True)]},
        meant,
        meant.to_dict(),
    ):
        assert HashKeys.of(written) == meant
    assert HashKeys.of("metadata:x-user, hint") == HashKeys.of(["metadata:x-user", "hint"])
    assert HashKeys.of("on") == HashKeys() == HashKeys.of("hint")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("hnt", "hash='hnt': must be one of hint, metadata:<name>.*did you mean 'hint'"),
        ("metadta:x", "did you mean 'metadata'"),
        (["cookie:session"], "a cookie cannot be a source yet"),
        ([{"cookie": "session", "ttl": 5}], "a cookie cannot be a source yet"),
        ("metadata:", "the name of a metadata key"),
        (["metadata:x y"], "the name of a metadata key"),
        ([{"metadata": 5}], "the name of a metadata key"),
        ("hint:x", "a hint has no name"),
        ([{"hint": False}], "a hint has no name"),
        ([{"metadata": "x", "terminal": 1}], "terminal must be true or false"),
        ([{"metadata": "x", "header": "y"}], "must be one of"),
        ([{}], "must be one of"),
        ([5], "a source must be"),
        (5, "must be on, off, a list of sources"),
        ({"source": ["hint"]}, "hash.source: unknown key; did you mean 'sources'"),
        ({"sources": 5}, "hash.sources=5: must be a list of sources"),
        ({"methods": {"*": {"sources": []}}}, "hash.methods='\\*'"),
        ({"methods": {CALL: {"sources": ["x"]}}}, "hash.methods /shop.Orders/Get.sources"),
    ],
)
def test_what_is_no_source_is_refused_with_field_value_and_rule(written: Any, message: str) -> None:
    """At configuration."""
    with pytest.raises(ConfigError, match=message):
        HashKeys.of(written)
