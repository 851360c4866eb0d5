"""Whatever changes in whatever steps, the patched result is the one that merging everything anew gives."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint, EndpointSet, OrderedEndpoints, unshared
from meshlb.resolve.kubernetes.merging import Merger
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.wire import SlicePort, SliceRecord
from meshlb.resolve.ports import PortSelector

HOSTS = [f"10.0.0.{number}" for number in range(8)]
endpoints = st.builds(
    Endpoint,
    host=st.sampled_from([*HOSTS, "fd00::1", "fd00::2"]),
    port=st.just(0),
    uid=st.sampled_from(["", "u1", "u2", "u3"]),
    ready=st.booleans(),
    terminating=st.booleans(),
)
PODS = [Endpoint(host=host, port=0, uid=f"uid-{host}") for host in HOSTS]  # that did not change are the very same objects
plain = st.lists(st.sampled_from(PODS), max_size=4, unique=True)


@st.composite
def records(draw: st.DrawFn) -> SliceRecord:
    """Mostly of the simple kind that is patched."""
    listed = draw(plain) if draw(st.integers(0, 3)) else draw(st.lists(endpoints, max_size=4))
    ports = draw(st.sampled_from([(SlicePort("grpc", 9000),), (SlicePort("grpc", 9001),), (SlicePort("http", 80),), ()]))
    return SliceRecord(draw(st.sampled_from("abcd")), "shop", "orders", "1", "IPv4", False, ports, tuple(listed))


steps = st.lists(st.one_of(records(), st.sampled_from("abcd")), min_size=1, max_size=20)
named = PortSelector(name="grpc")


@settings(max_examples=500, deadline=None)
@given(steps, st.sampled_from(["", "IPv6"]))
def test_a_patched_result_is_the_merged_one(steps: list[SliceRecord | str], family: str) -> None:
    """Slices that come, change, and go (their names), one after the other; duplicates, moves, both families, ports that change."""
    merger, slices = Merger(), dict[str, SliceRecord]()
    for step in steps:
        if isinstance(step, str):
            slices.pop(step, None)
        else:
            slices[step.name] = step
        ordered = tuple(slices[name] for name in sorted(slices))
        result = merger.merge(ordered, named, family)
        assert result == merge(ordered, named, family)
        assert EndpointSet.of(result, "k") == EndpointSet.of(list(result), "k")


@given(st.lists(records(), min_size=1, max_size=6))
def test_another_question_is_another_answer(listed: list[SliceRecord]) -> None:
    """The port or the family may change between two merges; a name may come twice."""
    merger = Merger()
    for port in (named, PortSelector(name="http"), named):
        for family in ("", "IPv6", ""):
            assert merger.merge(listed, port, family) == merge(listed, port, family)


def test_two_pods_at_one_address_are_never_patched() -> None:
    """Both go when their slice drops them: a pod that is gone must not stay because another one had its address."""
    port = (SlicePort("grpc", 9000),)
    pair = tuple(Endpoint(host="10.0.0.1", port=0, uid=uid) for uid in ("u1", "u2"))
    record = SliceRecord("a", "shop", "orders", "1", "IPv4", False, port, pair)
    merger = Merger()
    assert len(merger.merge((record,), named)) == 2
    assert merger.merge((replace(record, endpoints=()),), named) == ()


def test_what_did_not_change_is_the_same_object() -> None:
    """So that two sets of ten thousand are compared by their pointers; a pod that moves between slices did not change."""
    port = (SlicePort("grpc", 9000),)
    pods = [Endpoint(host=host, port=0, uid=f"uid-{host}") for host in HOSTS]
    one = SliceRecord("a", "shop", "orders", "1", "IPv4", False, port, tuple(pods[:4]))
    two = SliceRecord("b", "shop", "orders", "1", "IPv4", False, port, tuple(pods[4:]))
    merger = Merger()
    first = merger.merge((one, two), named)
    again = merger.merge((replace(one, resource_version="2"), two), named)
    assert again is first
    moved = merger.merge((replace(one, endpoints=tuple(pods[:3])), replace(two, endpoints=tuple(pods[3:]))), named)
    assert moved is first
    unready = replace(one, endpoints=(replace(pods[0], ready=False), *pods[1:4]))
    changed = merger.merge((unready, two), named)
    assert [new is old for new, old in zip(changed, first, strict=True)] == [False, *[True] * 7]


sets = st.lists(st.integers(0, 12), unique=True).map(
    lambda numbers: OrderedEndpoints(Endpoint(host=f"10.0.0.{number:02d}", port=1) for number in sorted(numbers))
)


@given(sets, sets, st.integers(0, 3))
def test_what_two_sets_do_not_share_is_found_between_their_common_ends(
    one: OrderedEndpoints, other: OrderedEndpoints, far: int
) -> None:
    """Nothing that differs is left out; a beginning of any length may be common."""
    common = tuple(Endpoint(host=f"1.{far}.{n // 200}.{n % 200}", port=1) for n in range(far * 200))
    left = unshared(common + one, common + other)
    assert set(one) - set(other) <= set(left) <= set(one) | set(common)
    if one == other:
        assert left == ()


@given(sets, st.integers(0, 12))
def test_an_address_is_listed_whichever_pod_is_there(listed: OrderedEndpoints, number: int) -> None:
    """By host and port alone, among endpoints and fallback."""
    wanted = Endpoint(host=f"10.0.0.{number:02d}", port=1, uid="other")
    there = any(endpoint.host == wanted.host for endpoint in listed)
    assert EndpointSet.of(listed, "k").lists(wanted) is there
    assert EndpointSet.of((), "k", fallback=listed).lists(wanted) is there
