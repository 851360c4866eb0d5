"""What kube-proxy decides for a caller, through the chain: place, policy and address family reach whoever selects."""

from __future__ import annotations

from meshlb.core.endpoint import NO_PLACE, Endpoint, Hints, Locality, Place
from meshlb.health.selection import eligible_of
from meshlb.resolve.kubernetes.service_wire import ServicePort
from meshlb.resolve.place import OwnPlace, Told
from meshlb.resolve.settings import Fallback
from tests.unit.resolve.chain_fixtures import FORBIDDEN, Scene, service_of, slice_of

HERE = OwnPlace(Told(place=Place("n1", "a")))
LOCAL = service_of(internal_traffic_policy="Local")


def pod(number: int, node: str, zone: str, *, hinted: bool = False, uid: str = "") -> Endpoint:
    hints = Hints((zone,)) if hinted else Hints()
    name = uid or f"u{number}"
    return Endpoint(host=f"10.0.0.{number}", port=0, uid=name, node=node, locality=Locality(zone=zone), hints=hints)


NODES = slice_of(pod(1, "n1", "a"), pod(2, "n2", "b"), pod(3, "n3", "a"))


def used(scene: Scene) -> list[str]:
    return [endpoint.host for endpoint in eligible_of(scene.latest)]


def test_hints_choose_among_the_pods_and_none_is_taken_from_the_list() -> None:
    """Who is not hinted for us stays known, with its connection and its record."""
    scene = Scene("grpc", own=HERE)
    scene.api.says(slice_of(pod(1, "n1", "a", hinted=True), pod(2, "n2", "b", hinted=True)))
    scene.settle()
    assert used(scene) == ["10.0.0.1"]
    assert scene.addresses == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_local_uses_the_pods_on_our_node_alone() -> None:
    """Known by the Service."""
    scene = Scene("grpc", own=HERE)
    scene.api.answer = (LOCAL, None)
    scene.api.says(NODES)
    scene.settle()
    assert (used(scene), scene.latest.local_only) == (["10.0.0.1"], True)
    assert len(scene.addresses) == 3


def test_local_without_a_pod_on_our_node_is_empty_and_says_why() -> None:
    """kube-proxy drops the packets, so the ClusterIP would only cost the connect timeout."""
    scene = Scene("grpc", own=OwnPlace(Told(place=Place("n9"))))
    scene.api.answer = (LOCAL, None)
    scene.api.says(NODES)
    scene.settle()
    assert (used(scene), scene.fallback) == ([], [])
    assert scene.latest.note == "3 endpoints, none ready on node n9 (internalTrafficPolicy: Local)"


def test_a_policy_that_leaves_no_pod_is_kept_at_once() -> None:
    """The hold for emptiness is about readiness that flaps; a Service that is read after its slices must not be disobeyed for it."""
    scene = Scene(50051, own=OwnPlace(Told(place=Place("n9"))), dns=False)
    scene.api.answer = None
    scene.api.says(NODES)
    assert len(used(scene)) == 3
    scene.api.reads[-1][1](LOCAL, None)
    scene.loop.advance(0.01)
    assert used(scene) == []


def test_local_without_our_node_is_left_to_the_cluster_ip() -> None:
    """Its kernel knows; the pods of other nodes would break the policy, and no pod at all would be worse than without us."""
    scene = Scene("grpc")
    scene.api.answer = (LOCAL, None)
    scene.api.says(NODES)
    scene.settle()
    assert (scene.latest.source, scene.addresses, scene.latest.local_only) == ("clusterip", ["10.96.0.7:50051"], False)
    assert "this client's node is not known" in scene.latest.note


def test_local_without_our_node_and_without_the_fallback_says_what_is_missing() -> None:
    """The ClusterIP was forbidden."""
    scene = Scene("grpc", fallback=Fallback(enabled=False))
    scene.api.answer = (LOCAL, None)
    scene.api.says(NODES)
    scene.settle()
    assert used(scene) == []
    assert "this node, whose name is not known" in scene.latest.note


def test_local_without_our_node_and_without_ready_pods_is_empty() -> None:
    """Then the ClusterIP refuses as well."""
    scene = Scene("grpc")
    scene.api.answer = (LOCAL, None)
    scene.api.says(slice_of(Endpoint(host="10.0.0.1", port=0, ready=False, serving=False)))
    scene.settle()
    assert (scene.latest.source, scene.latest.note) == ("kubernetes", "1 endpoint, none ready")


def test_who_may_not_read_the_service_does_not_know_its_policy_and_says_so() -> None:
    """Every pod is used then."""
    scene = Scene("grpc", own=HERE)
    scene.api.answer = (None, FORBIDDEN)
    scene.api.says(NODES)
    scene.settle()
    assert len(used(scene)) == 3
    assert "not known" in scene.chain.describe()["policies"]["internal_traffic_policy"]


def test_describe_shows_place_and_policies() -> None:
    """For people who wonder why a pod gets no calls."""
    scene = Scene("grpc", own=HERE)
    scene.api.answer = (service_of(internal_traffic_policy="Local", session_affinity="ClientIP", affinity_timeout_s=60), None)
    scene.api.says(NODES)
    scene.settle()
    described = scene.chain.describe()
    assert described["place"] == {"node": "n1", "zone": "a"}
    assert described["policies"] == {"internal_traffic_policy": "Local", "session_affinity": "ClientIP", "affinity_timeout_s": 60}


def test_the_services_affinity_comes_with_its_pods() -> None:
    """For the policy that keeps it; a Service without it, or without a ClusterIP, has none."""
    for service, affinity_s in (
        (service_of(session_affinity="ClientIP", affinity_timeout_s=60), 60.0),
        (service_of(session_affinity="None", affinity_timeout_s=60), 0.0),
        (service_of("", session_affinity="ClientIP", affinity_timeout_s=60), 0.0),
    ):
        scene = Scene("grpc", own=HERE)
        scene.api.answer = (service, None)
        scene.api.says(NODES)
        scene.settle()
        assert (scene.latest.source, scene.latest.affinity_s) == ("kubernetes", affinity_s)


def test_a_place_that_is_learnt_later_is_used_at_once_by_every_target() -> None:
    """Another Service's slices show our own pod."""
    own = OwnPlace(Told(uids=frozenset(["me"])))
    scene = Scene("grpc", own=own)
    scene.api.says(slice_of(pod(1, "n1", "a", hinted=True), pod(2, "n2", "b", hinted=True)))
    scene.settle()
    assert (used(scene), scene.latest.place) == (["10.0.0.1", "10.0.0.2"], NO_PLACE)
    own.learn([slice_of(pod(9, "n2", "b", uid="me"))])
    scene.settle()
    assert (used(scene), scene.latest.place) == (["10.0.0.2"], Place("n2", "b"))


def test_our_own_pod_among_the_targets_pods_tells_the_place() -> None:
    """No other Service is needed for that."""
    scene = Scene("grpc", own=OwnPlace(Told(uids=frozenset(["me"]))))
    scene.api.says(slice_of(pod(1, "n1", "a", hinted=True), pod(2, "n2", "b", hinted=True, uid="me")))
    scene.settle()
    assert (used(scene), scene.latest.place) == (["10.0.0.2"], Place("n2", "b"))


def test_one_pod_by_its_name_is_reached_wherever_it_runs() -> None:
    """Neither hints nor Local are about that."""
    scene = Scene("grpc", own=HERE, pod="pod-2")
    scene.api.answer = (LOCAL, None)
    far = Endpoint(host="10.0.0.2", port=0, uid="u2", node="n2", hostname="pod-2", hints=Hints(("b",)))
    scene.api.says(slice_of(pod(1, "n1", "a", hinted=True), far))
    scene.settle()
    assert used(scene) == ["10.0.0.2"]


def dual(*, first: str, unroutable: tuple[str, ...] = ()) -> Scene:
    scene = Scene("grpc", unroutable=unroutable)
    families = (first, "IPv6" if first == "IPv4" else "IPv4")
    ips = {"IPv4": "10.96.0.7", "IPv6": "fd00:96::7"}
    service = service_of(ips[first], (ServicePort("grpc", 50051, 8080),), ip_families=families)
    both = tuple(ips[family] for family in families)
    scene.api.answer = (type(service)(service.name, service.namespace, service.type, both, families, service.ports), None)
    four = slice_of(pod(1, "n1", "a"))
    six = slice_of(Endpoint(host="fd00::1", port=0, uid="u1"), name="orders-b")
    scene.api.says(four, six)
    scene.settle()
    return scene


def test_a_dual_stack_service_is_used_in_its_first_family() -> None:
    """Its pods and its ClusterIP, each once."""
    assert dual(first="IPv4").addresses == ["10.0.0.1:8080"]
    scene = dual(first="IPv6")
    assert scene.addresses == ["[fd00::1]:8080"]
    assert {address.split(" ")[0] for address in scene.fallback} == {"[fd00:96::7]:50051"}


def test_a_family_that_this_host_cannot_route_is_not_used_while_there_is_another() -> None:
    """An IPv4-only client of a Service that is IPv6 first, and the other way round."""
    scene = dual(first="IPv6", unroutable=("fd00::1", "fd00:96::7"))
    assert scene.addresses == ["10.0.0.1:8080"]
    assert {address.split(" ")[0] for address in scene.fallback} == {"10.96.0.7:50051"}
    assert dual(first="IPv4", unroutable=("10.0.0.1", "10.96.0.7")).addresses == ["[fd00::1]:8080"]
