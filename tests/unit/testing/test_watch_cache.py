"""Resource versions, watches and their history: the rules of the API, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshlb.testing.resources import ENDPOINT_SLICES
from meshlb.testing.selectors import parse_field_selector, parse_label_selector
from meshlb.testing.status import StatusError
from meshlb.testing.watch_cache import Revision, Selection, WatchCache, Watcher


def select(labels: str = "", fields: str = "", namespace: str | None = "shop") -> Selection:
    return Selection(namespace=namespace, labels=parse_label_selector(labels), fields=parse_field_selector(fields))


def obj(name: str, *, namespace: str = "shop", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}}


@pytest.fixture
def cache() -> WatchCache:
    return WatchCache(ENDPOINT_SLICES, Revision())


def watch(cache: WatchCache, version: int | None, selection: Selection | None = None, **options: bool) -> Watcher:
    return cache.watch(selection or select(), lambda: None, version=version, **options)


def heard(watcher: Watcher) -> list[tuple[str, str | None, str]]:
    """Take what the watcher has to send: event type, object name, resourceVersion."""
    events = [json.loads(line) for line in watcher.pending]
    watcher.pending.clear()
    metadata = [event["object"].get("metadata", {}) for event in events]
    return [(e["type"], m.get("name"), m["resourceVersion"]) for e, m in zip(events, metadata, strict=True)]


def names(listed: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


def test_every_write_of_any_kind_takes_the_next_version() -> None:
    """All kinds share one counter, as all of a cluster's objects share one etcd."""
    revision = Revision()
    slices, others = WatchCache(ENDPOINT_SLICES, revision), WatchCache(ENDPOINT_SLICES, revision)
    slices.put(obj("a"))
    others.put(obj("b"))
    assert slices.put(obj("c"))["metadata"]["resourceVersion"] == "3"
    assert slices.list(select())["metadata"]["resourceVersion"] == "3"


def test_a_watch_hears_what_comes_after_its_version(cache: WatchCache) -> None:
    """Strictly after: not the state at it, but everything since, whether it happened before or after the watch began."""
    cache.put(obj("a"))
    cache.put(obj("b"))
    watcher = watch(cache, 1)
    cache.put(obj("b"))
    cache.delete("shop", "a")
    assert heard(watcher) == [("ADDED", "b", "2"), ("MODIFIED", "b", "3"), ("DELETED", "a", "4")]


def test_a_watch_without_a_version_begins_with_the_present_as_added(cache: WatchCache) -> None:
    """Synthetic ADDED events, in the order of names and not of versions."""
    cache.put(obj("b"))
    cache.put(obj("a"))
    cache.put(obj("gone"))
    cache.delete("shop", "gone")
    watcher = watch(cache, None)
    cache.put(obj("c"))
    assert heard(watcher) == [("ADDED", "a", "2"), ("ADDED", "b", "1"), ("ADDED", "c", "5")]


def test_a_streaming_list_ends_its_initial_events_with_a_marked_bookmark(cache: WatchCache) -> None:
    """The mark is what a client waits for to know that it is in sync."""
    cache.put(obj("a"))
    watcher = watch(cache, None, bookmark=True)
    last = json.loads(watcher.pending[-1])
    assert last["type"] == "BOOKMARK"
    assert last["object"]["metadata"] == {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}


def test_an_object_that_stops_matching_is_deleted_for_the_watcher(cache: WatchCache) -> None:
    """And one that starts is added; the DELETED event has the last matching state and the newer version."""
    watcher = watch(cache, 0, select("app=orders"))
    cache.put(obj("a", app="orders"))
    cache.put(obj("a", app="billing"))
    cache.put(obj("a", app="billing"))
    cache.put(obj("a", app="orders"))
    events = [json.loads(line) for line in watcher.pending]
    assert [(e["type"], e["object"]["metadata"]["resourceVersion"]) for e in events] == [
        ("ADDED", "1"),
        ("DELETED", "2"),
        ("ADDED", "4"),
    ]
    assert events[1]["object"]["metadata"]["labels"] == {"app": "orders"}


def test_a_deleted_event_has_a_newer_version_than_the_object(cache: WatchCache) -> None:
    """Otherwise a client that compares versions would ignore it."""
    cache.put(obj("a"))
    watcher = watch(cache, 1)
    cache.delete("shop", "a")
    assert heard(watcher) == [("DELETED", "a", "2")]


def test_other_namespaces_are_not_heard(cache: WatchCache) -> None:
    """None is the cluster scope, which hears them all."""
    shop, everything = watch(cache, 0), watch(cache, 0, select(namespace=None))
    cache.put(obj("a", namespace="other"))
    assert heard(shop) == []
    assert heard(everything) == [("ADDED", "a", "1")]


def test_a_closed_watch_hears_nothing(cache: WatchCache) -> None:
    """Nor does the cache keep it."""
    watcher = watch(cache, 0)
    watcher.close()
    cache.put(obj("a"))
    assert heard(watcher) == []
    assert not cache.watchers


def test_a_watch_from_the_future_is_silent_until_then(cache: WatchCache) -> None:
    """A real server accepts it too."""
    watcher = watch(cache, 2)
    for _ in range(3):
        cache.put(obj("a"))
    assert heard(watcher) == [("MODIFIED", "a", "3")]


def test_a_version_before_the_history_is_expired() -> None:
    """The history is bounded; the newest version that is gone can still be resumed from, the one before it cannot."""
    cache = WatchCache(ENDPOINT_SLICES, Revision(), history_events=2)
    for _ in range(5):
        cache.put(obj("a"))
    assert heard(watch(cache, 3)) == [("MODIFIED", "a", "4"), ("MODIFIED", "a", "5")]
    with pytest.raises(StatusError, match=r"410 Expired: too old resource version: 2 \(3\)"):
        watch(cache, 2)


def test_a_compaction_expires_watches_and_exact_lists_but_no_others(cache: WatchCache) -> None:
    """A list "not older than" an ancient version is answered with the present."""
    cache.put(obj("a"))
    cache.put(obj("b"))
    cache.compact()
    with pytest.raises(StatusError, match="410 Expired"):
        watch(cache, 1)
    with pytest.raises(StatusError, match="410 Expired"):
        cache.list(select(), version=1, exact=True)
    assert names(cache.list(select(), version=1)) == ["a", "b"]
    assert heard(watch(cache, 2)) == []


def test_a_restart_expires_watches_and_leaves_exact_lists(cache: WatchCache) -> None:
    """The watch cache is the server's, the history is etcd's."""
    cache.put(obj("a"))
    cache.put(obj("b"))
    cache.restart()
    with pytest.raises(StatusError, match="410 Expired"):
        watch(cache, 1)
    assert names(cache.list(select(), version=1, exact=True)) == ["a"]


def test_an_exact_list_is_the_state_at_that_version(cache: WatchCache) -> None:
    """Creations, changes and deletions since are undone."""
    cache.put(obj("a", app="old"))
    cache.put(obj("b"))
    cache.put(obj("a", app="new"))
    cache.delete("shop", "b")
    cache.put(obj("c"))
    past = cache.list(select(), version=2, exact=True)
    assert (names(past), past["metadata"]["resourceVersion"]) == (["a", "b"], "2")
    assert past["items"][0]["metadata"]["labels"] == {"app": "old"}
    assert names(cache.list(select())) == ["a", "c"]


def test_a_list_from_the_future_times_out(cache: WatchCache) -> None:
    """504 with the cause that clients look for."""
    with pytest.raises(StatusError) as refused:
        cache.list(select(), version=7)
    assert refused.value.code == 504
    assert refused.value.status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert refused.value.retry_after_s == 1


def test_pages_are_of_one_version_and_complete(cache: WatchCache) -> None:
    """Every object once, though one is added in between."""
    for name in "abcde":
        cache.put(obj(name))
    page = cache.list(select(), limit=2)
    cache.put(obj("bb"))
    seen = names(page)
    while token := page["metadata"].get("continue"):
        page = cache.list(select(), limit=2, continue_token=token)
        assert page["metadata"]["resourceVersion"] == "5"
        seen += names(page)
    assert seen == list("abcde")


def test_a_broken_continue_token_is_a_400(cache: WatchCache) -> None:
    """No traceback for what a client sends."""
    with pytest.raises(StatusError, match="400 BadRequest: continue key is not valid"):
        cache.list(select(), continue_token="!!")
