"""Whatever the sources say, in whatever combination: what must never happen does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint
from meshlb.core.target import NO_PORT, PortRef
from meshlb.health.selection import eligible
from meshlb.resolve.env import EnvService
from meshlb.resolve.known import Known, ServiceName, Source
from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
from meshlb.resolve.kubernetes.wire import SlicePort, SliceRecord
from meshlb.resolve.ranking import decide

# Service ports, target ports, pods and ClusterIPs are told apart by their ranges, so that a mix-up shows.
SERVICE_PORTS = {"grpc": 80, "admin": 81}
TARGET_PORTS = {"grpc": 8080, "admin": 8081}
VIP = "10.96.0.7"
POD_HOSTS = st.sampled_from([f"10.0.0.{n}" for n in range(1, 5)])

endpoints = st.builds(
    lambda host, ready, terminating: Endpoint(
        host=host, port=0, uid=host, ready=ready, serving=ready or terminating, terminating=terminating
    ),
    POD_HOSTS,
    st.booleans(),
    st.booleans(),
)
slices = st.builds(
    lambda name, pods, headless: SliceRecord(
        name,
        "shop",
        "orders",
        "1",
        "IPv4",
        headless,
        tuple(SlicePort(port, number) for port, number in TARGET_PORTS.items()),
        tuple(pods),
    ),
    st.sampled_from("abc"),
    st.lists(endpoints, max_size=3),
    st.booleans(),
)
services = st.builds(
    lambda headless: ServiceRecord(
        "orders",
        "shop",
        cluster_ips=() if headless else (VIP,),
        ports=tuple(ServicePort(name, SERVICE_PORTS[name], TARGET_PORTS[name]) for name in SERVICE_PORTS),
        headless=headless,
    ),
    st.booleans(),
)
environments = st.just(
    EnvService(VIP, frozenset(SERVICE_PORTS.values()), {name.upper(): port for name, port in SERVICE_PORTS.items()})
)
knowns = st.builds(
    Known,
    slices=st.none() | st.lists(slices, max_size=3).map(tuple),
    seen=st.booleans(),
    stale=st.booleans(),
    service=st.none() | services,
    addresses=st.none() | st.just((VIP,)) | st.lists(POD_HOSTS, unique=True, max_size=3).map(tuple),
    dns_lists_pods=st.booleans(),
    env=st.none() | environments,
)
ports = st.sampled_from([NO_PORT, PortRef(name="grpc"), PortRef(number=80), PortRef(number=8080, is_target=True)])


@given(knowns, ports, st.booleans())
def test_what_must_never_happen(known: Known, port: PortRef, cluster_ip: bool) -> None:
    """No target port on the ClusterIP, no Service port on a pod that slices list, no pods displaced, no fallback for nothing."""
    verdict = decide(known, ServiceName(service="orders", namespace="shop", port=port), cluster_ip=cluster_ip)
    if verdict.virtual_ip is not None:
        assert verdict.virtual_ip[1] == 80
        assert cluster_ip
    if known.slices:
        listed = {endpoint.host for record in known.slices for endpoint in record.endpoints}
        assert all(pod.port == 8080 for pod in verdict.pods if pod.host in listed)
        unmapped = known.service is None and port == PortRef(number=80)
        assert verdict.source is Source.KUBERNETES or unmapped
    if verdict.source is Source.KUBERNETES and not eligible(verdict.pods):
        assert verdict.virtual_ip is None
        assert verdict.note
    if verdict.source is Source.NOTHING:
        assert verdict.pods == ()
        assert verdict.virtual_ip is None
    if verdict.source in (Source.CLUSTER_IP, Source.ENVIRONMENT):
        assert verdict.virtual_ip is not None
        assert verdict.pods == ()


@given(knowns, ports)
def test_one_pod_never_becomes_the_cluster_ip(known: Known, port: PortRef) -> None:
    """A target that names one pod reaches that pod or nobody."""
    verdict = decide(known, ServiceName(service="orders", namespace="shop", port=port, pod="pod-0"))
    assert verdict.virtual_ip is None
    assert verdict.source in (Source.KUBERNETES, Source.DNS, Source.NOTHING)


@given(knowns, ports)
def test_a_stale_truth_only_grows(known: Known, port: PortRef) -> None:
    """While the API server is away, DNS may add to what slices listed and removes nothing."""
    fresh = Known(
        slices=known.slices, seen=True, service=known.service, addresses=known.addresses, dns_lists_pods=True, env=known.env
    )
    stale = Known(
        slices=known.slices,
        seen=True,
        stale=True,
        service=known.service,
        addresses=known.addresses,
        dns_lists_pods=True,
        env=known.env,
    )
    want = ServiceName(service="orders", namespace="shop", port=port)
    assert set(decide(fresh, want).pods) <= set(decide(stale, want).pods)
