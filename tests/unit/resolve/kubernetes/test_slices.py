"""The union of a Service's slices: duplicates, families, ports, and events of the past."""

from __future__ import annotations

from typing import Any

from meshlb.core.endpoint import Endpoint, Hints, Locality
from meshlb.resolve.kubernetes.slices import SliceReducer, merge
from meshlb.resolve.kubernetes.wire import Removal, SliceEvent, SlicePort, SliceRecord
from meshlb.resolve.ports import PortSelector

GRPC = PortSelector(name="grpc")


def pod(number: int, **fields: Any) -> Endpoint:
    return Endpoint(**{"host": f"10.0.0.{number}", "port": 0, "uid": f"u{number}", **fields})


def record(name: str, *endpoints: Endpoint, version: str = "1", family: str = "IPv4", grpc: int = 9000) -> SliceRecord:
    return SliceRecord(name, "shop", "orders", version, family, False, (SlicePort("grpc", grpc),), endpoints)


def event(kind: str, name: str, *endpoints: Endpoint, version: str) -> SliceEvent | Removal:
    if kind == "DELETED":
        return Removal(name, version)
    return SliceEvent(kind, record(name, *endpoints, version=version))


def hosts(endpoints: tuple[Endpoint, ...]) -> list[str]:
    return [endpoint.host for endpoint in endpoints]


def test_all_slices_count() -> None:
    """The classic mistake is to take the last one for the whole."""
    assert hosts(merge([record("a", pod(1), pod(2)), record("b", pod(3))], GRPC)) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_each_slice_has_its_own_number_for_a_named_port() -> None:
    """A roll-over to another container port puts old and new pods into different slices."""
    found = merge([record("a", pod(1), grpc=9000), record("b", pod(2), grpc=9001)], GRPC)
    assert [pod.address for pod in found] == ["10.0.0.1:9000", "10.0.0.2:9001"]


def test_a_pod_with_one_named_port_in_two_slices_is_reached_at_both() -> None:
    """Two addresses are two endpoints; the pod is the same."""
    found = merge([record("a", pod(1), grpc=9000), record("b", pod(1), grpc=9001)], GRPC)
    assert [(pod.address, pod.uid) for pod in found] == [("10.0.0.1:9000", "u1"), ("10.0.0.1:9001", "u1")]


def test_a_slice_without_the_port_adds_nothing() -> None:
    """Its pods do not serve it."""
    assert merge([record("a", pod(1))], PortSelector(name="http")) == ()


def test_a_target_port_is_dialled_whether_or_not_it_is_listed() -> None:
    """?port=target says so outright."""
    assert [pod.port for pod in merge([record("a", pod(1))], PortSelector(number=7777))] == [7777]


def test_of_two_copies_the_more_useful_one_counts_with_the_hints_of_both() -> None:
    """Ready, then serving while terminating, then neither, in whatever slice they stand."""
    dead = pod(1, ready=False, serving=False)
    dying = pod(1, ready=False, terminating=True, hints=Hints(("b",), ("n2",)))
    ready = pod(1, locality=Locality(zone="z"), hints=Hints(("a",), ("n1",)))
    for slices in (
        [record("a", dead), record("b", dying), record("c", ready)],
        [record("a", ready), record("b", dying), record("c", dead)],
    ):
        (found,) = merge(slices, GRPC)
        assert (found.ready, found.locality.zone) == (True, "z")
        assert found.hints == Hints(("a", "b"), ("n1", "n2"))
    (found,) = merge([record("a", dead), record("b", dying)], GRPC)
    assert found.terminating


def test_of_two_equally_useful_copies_that_of_the_first_slice_by_name_counts() -> None:
    """Whatever the order they came in."""
    first, second = record("a", pod(1, node="n1")), record("b", pod(1, node="n2"))
    for slices in ([first, second], [second, first]):
        assert [found.node for found in merge(slices, GRPC)] == ["n1"]


def test_an_endpoint_stays_until_the_last_slice_drops_it() -> None:
    """A pod that moves between slices is never gone."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1), pod(2)), record("b", pod(2))], "10")
    assert reducer.apply(event("MODIFIED", "a", pod(1), version="11"))
    assert hosts(merge(reducer.slices, GRPC)) == ["10.0.0.1", "10.0.0.2"]
    assert reducer.apply(event("DELETED", "b", pod(2), version="12"))
    assert hosts(merge(reducer.slices, GRPC)) == ["10.0.0.1"]


def test_a_copy_without_a_uid_belongs_to_the_pod_that_another_copy_names() -> None:
    """A mirrored or hand-made slice does not double the pod."""
    (found,) = merge([record("a", pod(1, uid="", name="")), record("b", pod(1, uid="u1", name="orders-1"))], GRPC)
    assert (found.uid, found.name) == ("u1", "orders-1")


def test_a_better_copy_without_a_uid_lends_its_conditions() -> None:
    """The pod keeps its name and is ready."""
    (found,) = merge([record("a", pod(1, uid="")), record("b", pod(1, ready=False, name="orders-1"))], GRPC)
    assert (found.uid, found.name, found.ready) == ("u1", "orders-1", True)


def test_two_pods_at_one_address_are_two_endpoints() -> None:
    """An address that was reused: the old pod's record and the new one's."""
    found = merge([record("a", pod(1, uid="old", ready=False, terminating=True)), record("b", pod(1, uid="new"))], GRPC)
    assert [(pod.uid, pod.ready) for pod in found] == [("new", True), ("old", False)]


def test_a_dual_stack_pod_counts_once_in_the_preferred_family() -> None:
    """Else it would get twice the traffic of a pod that has one address."""
    slices = [
        record("a", pod(1), pod(2)),
        record("b", pod(1, host="fd00::1"), pod(3, host="fd00::3"), family="IPv6"),
    ]
    assert hosts(merge(slices, GRPC)) == ["10.0.0.1", "10.0.0.2", "fd00::3"]
    assert hosts(merge(slices, GRPC, "IPv4")) == ["10.0.0.1", "10.0.0.2", "fd00::3"]
    assert hosts(merge(slices, GRPC, "IPv6")) == ["10.0.0.2", "fd00::1", "fd00::3"]


def test_dual_stack_pods_without_a_uid_are_known_by_hostname_and_node() -> None:
    """Where nothing names them, those of the preferred family stand for all: one cannot tell, and twice the calls would be worse."""
    four, six = (
        {"uid": "", "hostname": "orders-0", "node": "n1"},
        {"uid": "", "hostname": "orders-0", "node": "n1", "host": "fd00::1"},
    )
    assert hosts(merge([record("a", pod(1, **four)), record("b", pod(1, **six), family="IPv6")], GRPC)) == ["10.0.0.1"]
    nameless = [record("a", pod(1, uid="")), record("b", pod(1, uid="", host="fd00::1"), family="IPv6")]
    assert hosts(merge(nameless, GRPC)) == ["10.0.0.1"]
    assert hosts(merge(nameless, GRPC, "IPv6")) == ["fd00::1"]
    assert hosts(merge(nameless[1:], GRPC, "IPv4")) == ["fd00::1"]


def test_every_endpoint_keeps_its_conditions() -> None:
    """Who may be used is decided over the union, elsewhere."""
    found = merge([record("a", pod(1, ready=False, serving=False), pod(2, ready=False, terminating=True), pod(3))], GRPC)
    assert [(pod.ready, pod.serving, pod.terminating) for pod in found] == [
        (False, False, False),
        (False, True, True),
        (True, True, False),
    ]


def test_a_list_replaces_everything() -> None:
    """What it lacks was deleted while nobody watched."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1)), record("b", pod(2))], "10")
    assert reducer.replace([record("b", pod(2))], "20")
    assert [found.name for found in reducer.slices] == ["b"]
    assert not reducer.replace([record("b", pod(2), version="5")], "21")


def test_a_slice_that_a_list_could_not_read_stays_as_it_was() -> None:
    """It is there; only its latest state is not known. One that was never read cannot be kept."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1)), record("b", pod(2))], "10")
    assert not reducer.replace([record("b", pod(2))], "20", unreadable=["a", "z"])
    assert [found.name for found in reducer.slices] == ["a", "b"]


def test_events_that_a_list_already_holds_change_nothing() -> None:
    """A watch that begins before the list repeats them: modifications, deletions, and what was added and deleted in between."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1), version="15")], "20")
    for past in (
        event("MODIFIED", "a", pod(9), version="12"),
        event("DELETED", "a", pod(9), version="14"),
        event("ADDED", "a", pod(1), version="15"),
        event("ADDED", "z", pod(8), version="16"),
        event("DELETED", "z", pod(8), version="17"),
    ):
        assert not reducer.apply(past)
    assert hosts(merge(reducer.slices, GRPC)) == ["10.0.0.1"]


def test_events_repeated_after_a_reconnect_change_nothing() -> None:
    """A slice that was added and deleted again does not come back when its addition is repeated."""
    reducer = SliceReducer()
    reducer.replace([], "10")
    first = [event("ADDED", "a", pod(1), version="11"), event("DELETED", "a", pod(1), version="12")]
    assert [reducer.apply(found) for found in first] == [True, True]
    assert [reducer.apply(found) for found in first] == [False, False]
    assert reducer.slices == ()


def test_versions_that_cannot_be_compared_are_taken_in_the_order_they_come() -> None:
    """Opaque versions never make an event look old."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1), version="zz")], "zz")
    assert reducer.apply(event("MODIFIED", "a", pod(2), version="aa"))
    assert hosts(merge(reducer.slices, GRPC)) == ["10.0.0.2"]


def test_a_new_version_with_the_same_content_is_no_change() -> None:
    """Annotations and managed fields change all the time."""
    reducer = SliceReducer()
    reducer.replace([record("a", pod(1))], "10")
    assert not reducer.apply(event("MODIFIED", "a", pod(1), version="11"))


def test_deleting_what_is_not_known_is_no_change() -> None:
    """A slice that came and went between two lists."""
    assert not SliceReducer().apply(event("DELETED", "a", version="11"))
