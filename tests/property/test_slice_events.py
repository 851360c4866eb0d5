"""Whatever way the events of several slices take, the state is the one the last list would give."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.slices import SliceReducer
from meshlb.resolve.kubernetes.versions import comparable, is_older
from meshlb.resolve.kubernetes.wire import Removal, SliceEvent, SlicePort, SliceRecord

NAMES = ("a", "b", "c")

Change = SliceEvent | Removal


def name_of(event: Change) -> str:
    return event.name if isinstance(event, Removal) else event.slice.name


def opaque_version(event: Change) -> Change:
    version = f"v{event.resource_version}"
    if isinstance(event, Removal):
        return replace(event, resource_version=version)
    return replace(event, slice=replace(event.slice, resource_version=version))


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """What an API server may send: ADDED, MODIFIED… and DELETED of each slice in turn, versions rising."""
    present: dict[str, SliceRecord] = {}
    events: list[Change] = []
    for step in range(draw(st.integers(0, 25))):
        name = draw(st.sampled_from(NAMES))
        pods = draw(st.sets(st.integers(1, 6)))
        endpoints = tuple(Endpoint(host=f"10.0.0.{n}", port=0, uid=f"u{n}") for n in sorted(pods))
        latest = SliceRecord(name, "shop", "orders", str(95 + step), "IPv4", False, (SlicePort("grpc", 9000),), endpoints)
        if name in present and draw(st.booleans()):
            del present[name]
            events.append(Removal(name, latest.resource_version))
        else:
            events.append(SliceEvent("MODIFIED" if name in present else "ADDED", latest))
            present[name] = latest
    return events


def listed(events: list[Change]) -> dict[str, SliceRecord]:
    """What a list after these events holds."""
    present: dict[str, SliceRecord] = {}
    for event in events:
        if isinstance(event, Removal):
            del present[event.name]
        else:
            present[event.slice.name] = event.slice
    return present


def version_after(events: list[Change]) -> str:
    return events[-1].resource_version if events else "94"


def state(reducer: SliceReducer) -> dict[str, SliceRecord]:
    return {record.name: record for record in reducer.slices}


@given(histories(), st.data())
def test_a_list_and_the_watch_after_it_give_what_a_later_list_would(events: list[Change], data: st.DataObject) -> None:
    """At whatever moment the list was made."""
    cut = data.draw(st.integers(0, len(events)))
    reducer = SliceReducer()
    reducer.replace(listed(events[:cut]).values(), version_after(events[:cut]))
    for event in events[cut:]:
        reducer.apply(event)
    assert state(reducer) == listed(events)


@given(histories(), st.data())
def test_events_that_come_again_change_nothing_on_the_way(events: list[Change], data: st.DataObject) -> None:
    """A watch that is opened again at an earlier place repeats a part of history; no state but the latest is ever seen."""
    cut = data.draw(st.integers(0, len(events)))
    seen = data.draw(st.integers(cut, len(events)))
    again = data.draw(st.integers(0, seen))
    reducer = SliceReducer()
    reducer.replace(listed(events[:cut]).values(), version_after(events[:cut]))
    for event in events[cut:seen]:
        reducer.apply(event)
    before = state(reducer)
    for event in events[again:seen]:
        assert not reducer.apply(event)
        assert state(reducer) == before
    for event in events[seen:]:
        reducer.apply(event)
    assert state(reducer) == listed(events)


@given(histories(), st.data())
def test_the_order_between_different_slices_does_not_matter(events: list[Change], data: st.DataObject) -> None:
    """The server keeps the order of each slice; between slices anything goes, as long as no version is compared across them."""
    opaque = [opaque_version(event) for event in events]
    queues = {name: [event for event in opaque if name_of(event) == name] for name in NAMES}
    reducer = SliceReducer()
    while any(queues.values()):
        name = data.draw(st.sampled_from([name for name in NAMES if queues[name]]))
        reducer.apply(queues[name].pop(0))
    assert state(reducer) == listed(opaque)


@given(st.integers(1), st.integers(1))
def test_decimal_versions_are_ordered_as_numbers(one: int, other: int) -> None:
    """By length, then by digits; which is the order of the numbers."""
    assert is_older(str(one), str(other)) is (one < other)


@given(st.text(), st.integers(1))
def test_what_is_no_well_formed_number_is_never_older(text: str, number: int) -> None:
    """Zeros in front, signs, other digits, nothing at all: not comparable."""
    if not comparable(text):
        assert not is_older(text, str(number))
        assert not is_older(str(number), text)
    else:
        assert text == str(int(text))
