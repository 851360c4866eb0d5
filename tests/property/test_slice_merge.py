"""What the merged endpoints have in common, whatever the slices hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint, EndpointSet, Hints
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.wire import SlicePort, SliceRecord
from meshlb.resolve.ports import PortSelector

GRPC = PortSelector(name="grpc")


@st.composite
def endpoints(draw: st.DrawFn, family: str) -> Endpoint:
    number = draw(st.integers(1, 4))
    uid = draw(st.sampled_from(("", f"u{number}", "v")))
    ready = draw(st.booleans())
    return Endpoint(
        host=f"10.0.0.{number}" if family == "IPv4" else f"fd00::{number}",
        port=0,
        uid=uid,
        hostname=draw(st.sampled_from(("", "h"))),
        hints=draw(st.sampled_from((Hints(), Hints(("a",)), Hints(("b",), ("n",))))),
        ready=ready,
        serving=ready or draw(st.booleans()),
        terminating=not ready and draw(st.booleans()),
    )


@st.composite
def slice_sets(draw: st.DrawFn) -> list[SliceRecord]:
    found = []
    for index in range(draw(st.integers(0, 5))):
        family = draw(st.sampled_from(("IPv4", "IPv6")))
        ports = draw(st.sampled_from(((SlicePort("grpc", 9000),), (SlicePort("grpc", 9001),), (SlicePort("http", 80),), ())))
        pods = tuple(draw(st.lists(endpoints(family), max_size=5)))
        found.append(SliceRecord(f"s{index}", "shop", "orders", str(index + 1), family, False, ports, pods))
    return found


@given(slice_sets(), st.sampled_from(("", "IPv4", "IPv6")), st.data())
def test_the_order_of_the_slices_does_not_matter(slices: list[SliceRecord], family: str, data: st.DataObject) -> None:
    """Nor does anything else but their content."""
    shuffled = data.draw(st.permutations(slices))
    assert merge(shuffled, GRPC, family) == merge(slices, GRPC, family)


@given(slice_sets(), st.sampled_from(("IPv4", "IPv6")))
def test_the_result_is_sorted_unique_and_made_of_what_was_listed(slices: list[SliceRecord], family: str) -> None:
    """Sorted and unique by host, port and uid, as an EndpointSet demands; every endpoint stands in a slice with that port."""
    found = merge(slices, GRPC, family)
    assert EndpointSet.of(found, "kubernetes").endpoints == found
    listed = {
        (pod.host, GRPC.number_in(record.ports), pod.uid)
        for record in slices
        for pod in record.endpoints
        if GRPC.number_in(record.ports)
    }
    assert {(pod.host, pod.port, pod.uid) for pod in found} <= listed


@given(slice_sets(), st.sampled_from(("IPv4", "IPv6")))
def test_no_pod_is_lost_and_none_is_less_useful_than_its_best_copy(slices: list[SliceRecord], family: str) -> None:
    """Every known pod that serves the port is there, and ready if any of its copies at one of its addresses is."""
    found = merge(slices, GRPC, family)
    serving = [pod for record in slices if GRPC.number_in(record.ports) for pod in record.endpoints]
    hostnames = {pod.hostname for pod in found}
    for pod in serving:
        assert pod.uid in {other.uid for other in found} or pod.uid == ""
    for kept in found:
        copies = [
            pod
            for record in slices
            if GRPC.number_in(record.ports) == kept.port
            for pod in record.endpoints
            if pod.host == kept.host
        ]
        if any(pod.ready and pod.uid == kept.uid for pod in copies):
            assert kept.ready
    assert hostnames <= {pod.hostname for pod in serving}


@given(slice_sets(), st.sampled_from(("IPv4", "IPv6")))
def test_a_pod_is_not_counted_in_both_families(slices: list[SliceRecord], family: str) -> None:
    """Its addresses of the other family are left out."""
    for uid in {pod.uid for pod in merge(slices, GRPC, family)} - {""}:
        families = {":" in pod.host for pod in merge(slices, GRPC, family) if pod.uid == uid}
        assert len(families) == 1
