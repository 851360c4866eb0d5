"""Selection against a second statement of kube-proxy's rules, written as the original is: flag by flag, in one pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint, Hints, Place
from meshlb.health.selection import any_eligible, eligible

NODES, ZONES = ("", "n1", "n2"), ("", "a", "b")
hints = st.builds(
    Hints,
    st.lists(st.sampled_from(ZONES[1:]), max_size=2).map(tuple),
    st.lists(st.sampled_from(NODES[1:]), max_size=2).map(tuple),
)
endpoints = st.builds(
    lambda number, hint, node, ready, serving, terminating: Endpoint(
        host=f"10.0.0.{number}", port=80, hints=hint, node=node, ready=ready, serving=serving, terminating=terminating
    ),
    st.integers(1, 9),
    hints,
    st.sampled_from(NODES),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
lists = st.lists(endpoints, max_size=7)
places = st.builds(Place, st.sampled_from(NODES), st.sampled_from(ZONES))


def mode_of(listed: list[Endpoint], place: Place) -> str:
    every_node = every_zone = True
    some_node = some_zone = False
    for endpoint in listed:
        if not endpoint.ready:
            continue
        every_node = every_node and len(endpoint.hints.nodes) > 0
        every_zone = every_zone and len(endpoint.hints.zones) > 0
        some_node = some_node or place.node in endpoint.hints.nodes
        some_zone = some_zone or place.zone in endpoint.hints.zones
    if every_node and some_node:
        return "node"
    return "zone" if every_zone and some_zone else ""


def model(listed: list[Endpoint], place: Place, local_only: bool) -> tuple[Endpoint, ...]:
    if local_only:
        here = [endpoint for endpoint in listed if endpoint.node != "" and endpoint.node == place.node]
        ready = [endpoint for endpoint in here if endpoint.ready]
        return tuple(ready or [endpoint for endpoint in here if endpoint.serving and endpoint.terminating])
    mode = mode_of(listed, place)
    cluster = []
    for endpoint in listed:
        hinted = {"node": place.node in endpoint.hints.nodes, "zone": place.zone in endpoint.hints.zones, "": True}[mode]
        if endpoint.ready and hinted:
            cluster.append(endpoint)
    return tuple(cluster or [endpoint for endpoint in listed if endpoint.serving and endpoint.terminating])


@given(lists, places, st.booleans())
def test_the_selection_is_the_models(listed: list[Endpoint], place: Place, local_only: bool) -> None:
    """For any conditions, hints, nodes and places; and whether it is empty can be told without it."""
    assert eligible(iter(listed), place, local_only) == model(listed, place, local_only)
    assert any_eligible(iter(listed), place, local_only) == bool(model(listed, place, local_only))


@given(lists, places)
def test_hints_never_leave_a_caller_without_an_endpoint(listed: list[Endpoint], place: Place) -> None:
    """They narrow the choice; only the Local policy may leave none."""
    assert bool(eligible(listed, place)) == bool(eligible(listed))


@given(lists, places, st.booleans(), st.data())
def test_the_order_decides_nothing(listed: list[Endpoint], place: Place, local_only: bool, data: st.DataObject) -> None:
    """Only who is listed does."""
    shuffled = data.draw(st.permutations(listed))
    assert sorted(map(repr, eligible(shuffled, place, local_only))) == sorted(map(repr, eligible(listed, place, local_only)))
