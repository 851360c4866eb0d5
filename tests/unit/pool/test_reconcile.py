"""Who survives an update, who is new and who drains."""

from __future__ import annotations

from dataclasses import replace

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.pool.reconcile import Plan, reconcile
from tests.unit.pool.bench import pod, terminating


def sub(endpoint: Endpoint, created_s: float = 0.0) -> Subchannel:
    return Subchannel(endpoint, LiveOnly(), created_s)


def survivors(plan: Plan) -> list[Subchannel | None]:
    return list(plan.survivors)


def placed(plan: Plan) -> list[tuple[Endpoint, Subchannel | None]]:
    """Each description with who survives as it, once the plan is carried out."""
    both = []
    for position, survivor in enumerate(plan.survivors):
        endpoint = plan.described.get(position) or (survivor.endpoint if survivor is not None else None)
        assert endpoint is not None
        both.append((endpoint, survivor))
    return both


def test_survivors_keep_their_record_new_ones_get_none_and_the_rest_drains() -> None:
    """In the order of the endpoints given."""
    one, two = sub(pod(1)), sub(pod(2))
    plan = reconcile([one, two], [pod(2), pod(3)])
    assert survivors(plan) == [two, None]
    assert [endpoint for endpoint, _ in placed(plan)] == [pod(2), pod(3)]
    assert plan.removed == (one,)


def test_nothing_is_changed_by_planning() -> None:
    """The pool carries the plan out, under its lock."""
    one = sub(pod(1))
    reconcile([one], [terminating(1)])
    assert one.endpoint == pod(1)
    assert not one.removed


def test_a_survivor_is_described_anew() -> None:
    """Conditions, weight and name are the latest ones."""
    one = sub(pod(1))
    assert placed(reconcile([one], [terminating(1)])) == [(terminating(1), one)]


def test_another_pod_at_the_same_address_starts_afresh() -> None:
    """Health and load of a pod do not pass to the one that took over its IP."""
    old = sub(pod(1, "first"))
    plan = reconcile([old], [pod(1, "second")])
    assert survivors(plan) == [None]
    assert plan.removed == (old,)


def test_a_source_that_knows_no_uids_keeps_the_records_and_learns_the_uids() -> None:
    """From slices to DNS: the record survives, its uid and name are kept, everything else is as DNS says."""
    known = sub(pod(1, weight=5.0))
    plan = reconcile([known], [replace(pod(1), uid="", name="", weight=1.0)])
    assert placed(plan) == [(pod(1, weight=1.0), known)]
    assert plan.removed == ()


def test_a_source_that_knows_uids_teaches_them_to_the_records() -> None:
    """From DNS to slices."""
    unknown = sub(pod(1, ""))
    assert placed(reconcile([unknown], [pod(1)])) == [(pod(1), unknown)]


def test_an_unknown_uid_never_takes_the_record_of_a_pod_that_is_listed_by_its_own() -> None:
    """Whatever the order in which the two are listed."""
    known = sub(pod(1, "u1"))
    for endpoints in ([pod(1, ""), pod(1, "u1")], [pod(1, "u1"), pod(1, "")]):
        plan = reconcile([known], endpoints)
        assert [survivor for endpoint, survivor in placed(plan) if endpoint.uid == "u1"] == [known]
        assert [survivor for endpoint, survivor in placed(plan) if endpoint.uid == ""] == [None]


def test_of_several_records_at_an_address_an_unknown_uid_adopts_the_youngest() -> None:
    """That pod holds the address now."""
    old, young = sub(pod(1, "z"), 10.0), sub(pod(1, "a"), 20.0)
    for current in ([old, young], [young, old]):
        plan = reconcile(current, [pod(1, "")])
        assert survivors(plan) == [young]
        assert plan.removed == (old,)


def test_one_record_is_adopted_once() -> None:
    """Two uids that become known at one address: one of them was it, the other is new."""
    unknown = sub(pod(1, ""))
    plan = reconcile([unknown], [pod(1, "a"), pod(1, "b")])
    assert survivors(plan) == [unknown, None]
    assert plan.removed == ()


def test_ports_tell_endpoints_apart() -> None:
    """One host may serve twice."""
    here = sub(Endpoint(host="127.0.0.1", port=80))
    assert survivors(reconcile([here], [Endpoint(host="127.0.0.1", port=81), Endpoint(host="127.0.0.1", port=80)])) == [None, here]


def test_what_is_the_very_same_object_is_not_described_anew() -> None:
    """A source that changed one endpoint of 10,000 costs one comparison by identity."""
    same, changed, gone = pod(1), pod(2), pod(3)
    one, two, three = sub(same), sub(changed), sub(gone)
    plan = reconcile([one, two, three], [same, terminating(2), pod(4)])
    assert plan == Plan([one, two, None], {1: terminating(2), 2: pod(4)}, (three,))
    assert reconcile([one], [same]) == Plan([one], {}, ())


def test_repetitions_lose_no_record() -> None:
    """A set made without ``EndpointSet.of`` may repeat an endpoint; then each record is still either placed or removed."""
    twins = [sub(pod(1)), sub(pod(1))]
    plan = reconcile(twins, [pod(1)])
    assert {*survivors(plan), *plan.removed} == set(twins)
    assert survivors(reconcile(twins[:1], [pod(1), pod(1)])) == [twins[0], None]
    assert survivors(reconcile(twins[:1], [twins[0].endpoint] * 2)) == [twins[0], None]


def test_from_nothing_everything_is_new_and_to_nothing_everything_drains() -> None:
    """The first answer, and an authoritative empty one."""
    assert survivors(reconcile([], [pod(1), pod(2)])) == [None, None]
    one = sub(pod(1))
    assert reconcile([one], []) == Plan([], {}, (one,))
