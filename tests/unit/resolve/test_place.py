"""Where this process runs: variables, slices, and which of them is believed."""

from __future__ import annotations

import pytest

from meshlb.core.endpoint import NO_PLACE, Endpoint, Locality, Place
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.place import (
    IP_VARIABLES,
    NODE_VARIABLES,
    POD_VARIABLES,
    UID_VARIABLES,
    ZONE_VARIABLES,
    Learnt,
    OwnPlace,
    Told,
    infer,
)


def pod(number: int, node: str, zone: str = "", *, name: str = "", uid: str = "") -> Endpoint:
    return Endpoint(host=f"10.0.0.{number}", port=0, node=node, locality=Locality(zone=zone), name=name, uid=uid)


def slice_of(*endpoints: Endpoint, namespace: str = "shop") -> SliceRecord:
    return SliceRecord("a", namespace, "orders", "1", "IPv4", False, (), endpoints)


def place_of(environ: dict[str, str], *slices: SliceRecord, node: str | None = None, zone: str | None = None) -> Place:
    own = OwnPlace(Told.of(environ, node=node, zone=zone, namespace="shop"))
    own.learn(slices)
    return own.place


def test_nothing_told_is_nowhere() -> None:
    """Outside a cluster, or with an empty environment, nothing matches."""
    assert place_of({}, slice_of(pod(1, "n1", "z1"))) == NO_PLACE
    assert place_of({"NODE_NAME": "", "ZONE": "  ", "POD_IP": "", "HOSTNAME": ""}, slice_of(pod(1, "n1", "z1"))) == NO_PLACE


def test_what_is_configured_wins_over_meshlbs_own_variables_and_these_over_everything_else() -> None:
    """For node and zone apart."""
    slices = slice_of(pod(1, "n-slices", "z-slices", uid="u1"), pod(2, "n-other", "z-other"))
    environ = {"POD_UID": "u1", "NODE_NAME": "n-other", "ZONE": "z-var"}
    assert place_of(environ, slices) == Place("n-slices", "z-slices")
    environ |= {"MESHLB_NODE_NAME": "n-own", "MESHLB_ZONE": "z-own"}
    assert place_of(environ, slices) == Place("n-own", "z-own")
    assert place_of(environ, slices, node="n-conf") == Place("n-conf", "z-own")
    assert place_of(environ, slices, zone="z-conf") == Place("n-own", "z-conf")


@pytest.mark.parametrize("variable", NODE_VARIABLES)
def test_a_variable_with_the_node_counts_once_a_slice_calls_a_node_so(variable: str) -> None:
    """Another program's variable may hold anything; then it matches nothing, and Local is not measured by it."""
    assert place_of({variable: "n1"}) == NO_PLACE
    assert place_of({variable: "built-in"}, slice_of(pod(1, "n1", "z1"))) == NO_PLACE
    assert place_of({variable: "n1"}, slice_of(pod(1, "n2", "z2"), pod(2, "n1", "z1"))) == Place("n1", "z1")


def test_of_several_variables_the_one_that_is_a_node_counts() -> None:
    """A build server's NODE_NAME does not hide the other."""
    environ = {"NODE_NAME": "built-in", "MY_NODE_NAME": "n1"}
    assert place_of(environ, slice_of(pod(1, "n1", "z1"))) == Place("n1", "z1")


@pytest.mark.parametrize("variable", ZONE_VARIABLES)
def test_a_variable_with_the_zone_counts_while_the_slices_do_not_say_better(variable: str) -> None:
    """ZONE may be a DNS zone."""
    environ = {variable: "z-var", "NODE_NAME": "n1"}
    assert place_of(environ) == Place("", "z-var")
    assert place_of(environ, slice_of(pod(1, "n1"))) == Place("n1", "z-var")
    assert place_of(environ, slice_of(pod(1, "n1", "z1"))) == Place("n1", "z1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *((variable, "u1") for variable in UID_VARIABLES),
        *((variable, "orders-1") for variable in POD_VARIABLES),
        *((variable, "10.0.0.1") for variable in IP_VARIABLES),
        ("POD_IPS", "fd00::1, 10.0.0.1"),
    ],
)
def test_our_own_pod_among_the_endpoints_gives_node_and_zone(variable: str, value: str) -> None:
    """By uid, by IP or by name; no right to read pods or nodes is needed."""
    own = pod(1, "n1", "z1", name="orders-1", uid="u1")
    assert place_of({variable: value}, slice_of(pod(2, "n2", "z2", name="orders-2", uid="u2"), own)) == Place("n1", "z1")


def test_names_and_addresses_count_in_our_namespace_alone() -> None:
    """Another namespace may have a pod of the same name; a uid is unique."""
    own = slice_of(pod(1, "n1", "z1", name="orders-1", uid="u1"), namespace="other")
    assert place_of({"HOSTNAME": "orders-1", "POD_IP": "10.0.0.1"}, own) == NO_PLACE
    assert place_of({"POD_UID": "u1"}, own) == Place("n1", "z1")


def test_our_own_pod_is_believed_before_another_programs_variable() -> None:
    """Also when the variable was a node's name, and seen first."""
    own = OwnPlace(Told.of({"NODE_NAME": "n2", "POD_UID": "u1"}, namespace="shop"))
    own.learn([slice_of(pod(2, "n2", "z2"))])
    assert own.place == Place("n2", "z2")
    own.learn([slice_of(pod(1, "n1", uid="u1"))])
    assert own.place == Place("n1", "")
    own.learn([slice_of(pod(2, "n2", "z2"), pod(3, "n1", "z1"))])
    assert own.place == Place("n1", "z1")


def test_any_endpoint_on_our_node_gives_our_zone() -> None:
    """Whatever Service it belongs to, also when the node was configured."""
    assert place_of({}, slice_of(pod(1, "n2", "z2"), pod(2, "n1"), pod(3, "n1", "z1")), node="n1") == Place("n1", "z1")


def test_what_was_learnt_stays_when_its_endpoint_goes() -> None:
    """A process does not move."""
    told = Told.of({"POD_UID": "u1"}, namespace="shop")
    learnt = infer(told, Learnt(), [slice_of(pod(1, "n1", "z1", uid="u1"))])
    assert infer(told, learnt, [slice_of(pod(2, "n2", "z2"))]) == learnt


def test_who_listens_hears_of_a_change_once() -> None:
    """And not after it unsubscribed."""
    own = OwnPlace(Told.of({"POD_UID": "u1"}, namespace="shop"))
    heard: list[Place] = []
    unsubscribe = own.subscribe(lambda: heard.append(own.place))
    own.learn([slice_of(pod(2, "n2", "z2"))])
    own.learn([slice_of(pod(1, "n1", uid="u1"))])
    own.learn([slice_of(pod(1, "n1", uid="u1"))])
    assert heard == [Place("n1", "")]
    unsubscribe()
    unsubscribe()
    own.learn([slice_of(pod(1, "n1", "z1", uid="u1"))])
    assert own.place == Place("n1", "z1")
    assert len(heard) == 1


def test_a_variable_that_the_kubelet_could_not_expand_is_none() -> None:
    """$(NODE_NAME) is no name, nor is what has blanks in it."""
    assert Told.of({"MESHLB_NODE_NAME": "$(NODE_NAME)", "MESHLB_ZONE": "zone a"}) == Told()
