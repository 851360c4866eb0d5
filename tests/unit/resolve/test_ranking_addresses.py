"""A Service by DNS alone: pods or ClusterIP, and which number is dialled."""

from __future__ import annotations

import pytest

from meshlb.core.target import NO_PORT, PortRef
from meshlb.resolve.known import Concern, Known, ServiceName, Source, Verdict
from meshlb.resolve.lookup import SrvEndpoint
from meshlb.resolve.ports import PortChoiceError
from meshlb.resolve.ranking_addresses import by_dns, by_virtual_ip
from tests.unit.resolve.chain_fixtures import FORBIDDEN, Scene, service_of


def pod(host: str, port: int, name: str = "", hostname: str = "orders-0") -> SrvEndpoint:
    return SrvEndpoint(host=host, port=port, port_name=name, hostname=hostname, of_pod=True)


def virtual(port: int, name: str = "") -> SrvEndpoint:
    return SrvEndpoint(host="10.96.0.7", port=port, port_name=name)


def want(port: PortRef, protocol: str = "grpc", pod: str = "") -> ServiceName:
    return ServiceName(service="orders", namespace="shop", port=port, protocol=protocol, pod=pod)


def dialled(verdict: Verdict | None) -> list[str]:
    assert verdict is not None
    return [endpoint.address for endpoint in verdict.pods]


def known(*records: SrvEndpoint, more: tuple[str, ...] = ()) -> Known:
    addresses = tuple(dict.fromkeys([record.host for record in records] + list(more)))
    return Known(addresses=addresses, answer=addresses, records=records)


@pytest.mark.parametrize("port", [PortRef(name="grpc"), PortRef(number=50051), PortRef(number=20051), NO_PORT])
def test_one_pod_of_a_headless_service_is_dialled_on_its_own_port(port: PortRef) -> None:
    """Whatever was written leads to the only port that the pod has; nobody has to be warned, and it is no ClusterIP."""
    facts = known(pod("10.1.0.1", 20051, port.name))
    verdict = by_dns(facts, want(port), True)
    assert dialled(verdict) == ["10.1.0.1:20051"]
    assert verdict is not None
    assert (verdict.pods[0].hostname, verdict.concerns) == ("orders-0", frozenset())
    assert by_virtual_ip(facts, want(port)) is None


@pytest.mark.parametrize("port", [PortRef(name="grpc"), PortRef(number=50051), NO_PORT])
def test_a_cluster_ip_is_dialled_on_the_services_port(port: PortRef) -> None:
    """Also by the port's name, and with no port at all."""
    facts = known(virtual(50051, port.name))
    assert by_dns(facts, want(port), True) is None
    verdict = by_virtual_ip(facts, want(port))
    assert verdict is not None
    assert (verdict.source, verdict.virtual_ip) == (Source.CLUSTER_IP, ("10.96.0.7", 50051))


def test_a_target_number_goes_to_a_cluster_ip_only_through_its_only_port() -> None:
    """One port leads to whatever is meant; of two nobody knows which."""
    target = PortRef(number=20051, is_target=True)
    verdict = by_virtual_ip(known(virtual(50051)), want(target))
    assert verdict is not None
    assert verdict.virtual_ip == ("10.96.0.7", 50051)
    with pytest.raises(PortChoiceError, match="not known"):
        by_virtual_ip(known(virtual(50051), virtual(9090)), want(target))


def test_a_target_number_is_dialled_on_pods_as_it_is() -> None:
    """It says so outright."""
    assert dialled(by_dns(known(pod("10.1.0.1", 9)), want(PortRef(number=8080, is_target=True)), True)) == ["10.1.0.1:8080"]


def test_named_target_ports_may_differ_by_pod() -> None:
    """Each pod has its own number, and on a node's network one address may have two pods."""
    facts = known(pod("10.1.0.1", 1, "grpc"), pod("10.1.0.2", 2, "grpc"), pod("10.1.0.2", 3, "grpc", "orders-1"))
    assert dialled(by_dns(facts, want(PortRef(name="grpc")), True)) == ["10.1.0.1:1", "10.1.0.2:2", "10.1.0.2:3"]


def test_of_several_ports_the_written_number_is_taken_where_a_pod_has_it() -> None:
    """Whoever dials a headless Service by DNS writes the pods' number; one that no pod has is dialled as written, with a warning."""
    facts = known(pod("10.1.0.1", 20051), pod("10.1.0.1", 9090))
    verdict = by_dns(facts, want(PortRef(number=9090)), True)
    assert verdict is not None
    assert (dialled(verdict), verdict.concerns) == (["10.1.0.1:9090"], frozenset())
    guess = by_dns(facts, want(PortRef(number=50051)), True)
    assert guess is not None
    assert (dialled(guess), guess.concerns) == (["10.1.0.1:50051"], frozenset([Concern.DNS_PORT]))


def test_of_several_ports_and_none_written_the_error_lists_them() -> None:
    """Unless a URL's scheme says which."""
    facts = known(pod("10.1.0.1", 20051), pod("10.1.0.1", 80))
    with pytest.raises(PortChoiceError, match="80, 20051"):
        by_dns(facts, want(NO_PORT), True)
    assert dialled(by_dns(facts, want(NO_PORT, "http"), True)) == ["10.1.0.1:80"]


def test_an_address_without_a_record_has_the_port_of_the_others() -> None:
    """A new pod that came by A while SRV failed; without any record the written number is dialled, with a warning."""
    facts = known(pod("10.1.0.1", 20051), more=("10.1.0.2",))
    verdict = by_dns(facts, want(PortRef(number=50051)), True)
    assert verdict is not None
    assert (dialled(verdict), verdict.concerns) == (["10.1.0.1:20051", "10.1.0.2:20051"], frozenset())
    bare = Known(addresses=("10.1.0.1", "10.1.0.2"), dns_lists_pods=True)
    guess = by_dns(bare, want(PortRef(number=50051)), True)
    assert guess is not None
    assert (dialled(guess), guess.concerns) == (["10.1.0.1:50051", "10.1.0.2:50051"], frozenset([Concern.DNS_PORT]))


def test_a_name_without_srv_says_what_is_missing() -> None:
    """An unnamed port: no record, so no number."""
    with pytest.raises(PortChoiceError, match="write the number"):
        by_dns(Known(addresses=("10.1.0.1", "10.1.0.2"), dns_lists_pods=True, records=()), want(PortRef(name="grpc")), True)


def test_the_service_itself_is_believed_before_srv() -> None:
    """Its target number holds; where that is a name, SRV has the pods' numbers."""
    facts = known(pod("10.1.0.1", 1, "grpc"))
    read = Known(addresses=facts.addresses, records=facts.records, service=service_of(""))
    assert dialled(by_dns(read, want(PortRef(name="grpc")), True)) == ["10.1.0.1:8080"]


def test_dns_alone_serves_a_port_name_of_a_headless_service() -> None:
    """No API at all: SRV has what A lacks."""
    scene = Scene("grpc", api=False)
    scene.dns.says("10.1.0.1", records=(pod("10.1.0.1", 20051, "grpc"),))
    assert (scene.latest.source, scene.addresses) == ("dns", ["10.1.0.1:20051"])
    scene.dns.says("10.1.0.1", "10.1.0.2", records=(pod("10.1.0.1", 20051, "grpc"), pod("10.1.0.2", 20051, "grpc")))
    scene.settle()
    assert scene.addresses == ["10.1.0.1:20051", "10.1.0.2:20051"]


def test_without_permission_srv_spares_the_guess_of_a_port() -> None:
    """Neither the API's patience is waited for nor anything dialled that SRV does not say."""
    scene = Scene(50051)
    scene.dns.says("10.1.0.1", records=(pod("10.1.0.1", 20051),))
    assert (scene.latest.source, scene.addresses) == ("dns", ["10.1.0.1:20051"])
    scene.api.fails(FORBIDDEN)
    scene.settle()
    assert scene.addresses == ["10.1.0.1:20051"]
