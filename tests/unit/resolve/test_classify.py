"""Service or ordinary name: the table in the head of ``meshlb.resolve.classify``, and where zone and namespace come from."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from meshlb.core.target import Target, TargetKey
from meshlb.errors import TargetError
from meshlb.resolve.asked import AskedResolver
from meshlb.resolve.chain import ServiceResolver
from meshlb.resolve.classify import Classifier
from meshlb.resolve.dns import DnsResolver
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.resolve.static import StaticResolver
from meshlb.resolve.system import SystemResolver
from meshlb.testing.loop import ManualLoop

POD_RESOLV_CONF = "nameserver 10.96.0.10\nsearch web.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Place:
    """A host or pod: its files and its environment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ: dict[str, str] = {}
        self.discovery: dict[str, Any] = {"resolv_conf": str(path / "resolv.conf"), "service_account_dir": str(path)}
        self.resolv_conf("nameserver 192.0.2.53\nsearch example.com\n")

    def resolv_conf(self, text: str) -> None:
        (self.path / "resolv.conf").write_text(text)

    def classifier(self, **discovery: Any) -> Classifier:
        return Classifier(
            Discovery(**self.discovery | discovery), Fallback(), scheduler=ManualLoop(), rng=random.Random(1), environ=self.environ
        )


@pytest.fixture
def outside(tmp_path: Path) -> Place:
    """A laptop."""
    return Place(tmp_path)


@pytest.fixture
def pod(tmp_path: Path) -> Place:
    """A pod of namespace ``web``, without a service account's token."""
    place = Place(tmp_path)
    place.resolv_conf(POD_RESOLV_CONF)
    place.environ = dict(ENVIRON)
    return place


SERVICE, ASKED, ORDINARY, STATIC, DNS = ServiceResolver, AskedResolver, SystemResolver, StaticResolver, DnsResolver


@pytest.mark.parametrize(
    ("text", "inside", "elsewhere"),
    [
        ("k8s:///orders.shop:grpc", SERVICE, SERVICE),
        ("orders.shop.svc:50051", SERVICE, ORDINARY),
        ("orders.shop.svc.cluster.local:50051", SERVICE, ORDINARY),
        ("orders.shop.svc.cluster.local.:50051", SERVICE, ORDINARY),
        ("orders.shop.svc.other.zone:50051", ORDINARY, ORDINARY),
        ("pod-0.orders.shop.svc.cluster.local:50051", SERVICE, ORDINARY),
        ("http://orders.shop.svc:8080", SERVICE, ORDINARY),
        ("orders:50051", ASKED, ORDINARY),
        ("http://orders:8080", ASKED, ORDINARY),
        ("orders.shop:50051", ASKED, ORDINARY),
        ("http://orders.shop:8080", ASKED, ORDINARY),
        ("example.com:443", ASKED, ORDINARY),
        ("localhost:50051", ORDINARY, ORDINARY),
        ("orders.shop.:50051", ORDINARY, ORDINARY),
        ("api.example.com:443", ORDINARY, ORDINARY),
        ("dns:///orders.shop:50051", ORDINARY, ORDINARY),
        ("dns://10.0.0.10/orders.shop:50051", DNS, DNS),
        ("[::1]:50051", STATIC, STATIC),
        ("static:///10.0.0.1:80", STATIC, STATIC),
        ("ipv4:10.0.0.1:80", STATIC, STATIC),
        ("unix:/run/orders.sock", STATIC, STATIC),
    ],
)
def test_each_form_is_classified(tmp_path: Path, text: str, inside: type, elsewhere: type) -> None:
    """Inside a cluster and outside one, row by row."""
    for there, expected in ((True, inside), (False, elsewhere)):
        place = Place(tmp_path)
        if there:
            place.resolv_conf(POD_RESOLV_CONF)
        classifier = place.classifier()
        target = Target.parse(text)
        assert type(classifier.resolver(target)) is expected
        assert (classifier.key(target).cluster != "") == (expected in (SERVICE, ASKED))


@pytest.mark.parametrize("sign", ["environment", "resolv.conf", "kubeconfig", "nameservers"])
def test_each_sign_of_a_cluster_suffices(outside: Place, sign: str) -> None:
    """The API server's variable, a ``svc.`` entry, a kubeconfig or nameservers in the configuration."""
    configured: dict[str, Any] = {}
    if sign == "environment":
        outside.environ = dict(ENVIRON)
    elif sign == "resolv.conf":
        outside.resolv_conf("search svc.k8s.test\n")
    elif sign == "kubeconfig":
        configured["kubeconfig"] = str(outside.path / "kubeconfig")
    else:
        configured["nameservers"] = ["127.0.0.1:5353"]
    assert not outside.path.joinpath("namespace").exists()
    assert outside.classifier(**configured).own.is_there
    assert not Place(outside.path).classifier().own.is_there


def test_an_ordinary_name_causes_no_request_to_an_api_server(outside: Place) -> None:
    """Not even where a kubeconfig is configured: no API source is made for it, nor for a name that is still asked."""
    classifier = outside.classifier(kubeconfig=str(outside.path / "kubeconfig"))
    for text in ("api.example.com:443", "example.com:443", "localhost:1", "dns:///orders:1", "10.0.0.1:1"):
        resolver = classifier.resolver(Target.parse(text))
        assert not isinstance(resolver, ServiceResolver)
    assert classifier._kubernetes is None


def test_the_zone_is_configured_else_of_resolv_conf_else_cluster_local(outside: Place) -> None:
    """In this order."""
    assert outside.classifier().own.zone == "cluster.local"
    outside.resolv_conf("search web.svc.k8s.test svc.k8s.test\n")
    assert outside.classifier().own.zone == "k8s.test"
    assert outside.classifier(cluster_domain="other.test").own.zone == "other.test"
    key = outside.classifier().key
    assert key(Target.parse("orders.shop.svc.k8s.test:1")).namespace == "shop"
    assert key(Target.parse("orders.shop.svc.cluster.local:1")).namespace == ""


def test_the_namespace_is_configured_else_of_the_service_account_else_of_resolv_conf(pod: Place) -> None:
    """In this order, and ``default`` where nobody says."""
    bare = Target.parse("k8s:///orders")
    assert pod.classifier().key(bare).namespace == "web"
    (pod.path / "namespace").write_text("shop\n")
    assert pod.classifier().key(bare).namespace == "shop"
    assert pod.classifier(namespace="billing").key(bare).namespace == "billing"
    (pod.path / "namespace").write_text("no/namespace")
    pod.resolv_conf("")
    assert pod.classifier().key(bare).namespace == "default"


def test_spellings_of_one_service_share_a_key(pod: Place) -> None:
    """After defaults the same Service and port are one place; another port, pod, protocol or cluster is another."""
    key = pod.classifier().key
    forms = [
        "orders:grpc",
        "orders.web:grpc",
        "Orders.WEB:GRPC",
        "orders.web.svc:grpc",
        "k8s://web/orders:grpc",
        "orders.web.svc.cluster.local.:grpc",
    ]
    assert {key(Target.parse(form)) for form in forms} == {TargetKey("cluster.local", "web", "orders", "grpc")}
    others = ["orders.shop:grpc", "orders:50051", "orders", "http://orders", "orders:8080?port=target", "pod-0.orders.web.svc:grpc"]
    assert len({key(Target.parse(form)) for form in others}) == len(others)
    elsewhere = pod.classifier(kubeconfig="/k", context="prod").key
    assert elsewhere(Target.parse("orders:grpc")).cluster != key(Target.parse("orders:grpc")).cluster


def test_a_service_of_the_own_namespace_in_the_environment_needs_no_question(pod: Place) -> None:
    """What the kubelet wrote is a Service at once, also while DNS is away; another namespace's is not what it wrote about."""
    pod.environ |= {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "50051"}
    classifier = pod.classifier()
    assert isinstance(classifier.resolver(Target.parse("orders:50051")), ServiceResolver)
    assert isinstance(classifier.resolver(Target.parse("orders.web:50051")), ServiceResolver)
    assert isinstance(classifier.resolver(Target.parse("orders.shop:50051")), AskedResolver)
    own = classifier.resolver(Target.parse("orders.web.svc:50051")).describe()  # type: ignore[attr-defined]
    other = classifier.resolver(Target.parse("orders.shop.svc:50051")).describe()  # type: ignore[attr-defined]
    assert own["sources"]["environment"] == {"said": "ClusterIP 10.96.0.7"}
    assert other["sources"]["environment"] == {"said": "does not know it"}


def test_a_configured_namespace_does_not_lend_its_names_to_the_environment(pod: Place) -> None:
    """The environment speaks of the pod's own namespace, whatever bare names mean by configuration."""
    pod.environ |= {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "50051"}
    classifier = pod.classifier(namespace="shop")
    assert isinstance(classifier.resolver(Target.parse("orders:50051")), AskedResolver)


@pytest.mark.parametrize("text", ["orders.shop:grpc", "orders:grpc", "orders.shop:8080?port=target"])
def test_a_port_that_only_a_service_can_have_needs_no_question(pod: Place, text: str) -> None:
    """While DNS is away the API server is asked all the same, and a headless Service without a ready pod is found."""
    assert isinstance(pod.classifier().resolver(Target.parse(text)), ServiceResolver)


def test_without_dns_only_what_is_written_as_a_service_is_one(pod: Place) -> None:
    """Nobody can be asked what ``example.com:443`` is, and listing in namespace ``com`` is no way to find out."""
    classifier = pod.classifier(sources=("kubernetes",))
    for text in ("k8s:///orders.shop:50051", "orders.shop.svc:50051", "orders.shop:grpc"):
        resolver = classifier.resolver(Target.parse(text))
        assert isinstance(resolver, ServiceResolver)
        assert resolver.describe()["sources"]["dns"] == {"said": "not used"}
        assert classifier.key(Target.parse(text)).namespace == "shop"
    for text in ("example.com:443", "example.com:https", "orders.shop:50051", "orders:50051"):
        assert isinstance(classifier.resolver(Target.parse(text)), SystemResolver)
        assert classifier.key(Target.parse(text)).namespace == ""
    pod.environ |= {"ORDERS_SERVICE_HOST": "10.96.0.7", "ORDERS_SERVICE_PORT": "50051"}
    assert isinstance(pod.classifier(sources=("kubernetes",)).resolver(Target.parse("orders:50051")), ServiceResolver)


def test_an_applications_own_host_variable_makes_no_service(pod: Place) -> None:
    """``MYSQL_SERVICE_HOST`` without the kubelet's port is the application's own."""
    pod.environ["MYSQL_SERVICE_HOST"] = "192.0.2.7"
    assert isinstance(pod.classifier().resolver(Target.parse("mysql:50051")), AskedResolver)


def test_the_api_is_used_where_credentials_are(pod: Place) -> None:
    """A token in the service account's folder, or a kubeconfig; all Services of a configuration share one source."""
    said = {"said": "not used"}
    target = Target.parse("orders.shop.svc:50051")
    assert pod.classifier().resolver(target).describe()["sources"]["kubernetes"] == said  # type: ignore[attr-defined]
    (pod.path / "token").write_text("t")
    classifier = pod.classifier()
    assert classifier.resolver(target).describe()["sources"]["kubernetes"] != said  # type: ignore[attr-defined]
    source = classifier._kubernetes
    classifier.resolver(Target.parse("carts.shop.svc:50051"))
    assert classifier._kubernetes is source
    classifier.close()
    assert pod.classifier(sources=("dns",)).resolver(target).describe()["sources"]["kubernetes"] == said  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("orders.shop.svc.other.zone:grpc", 27, "zone other.zone, this cluster's is cluster.local"),
        ("orders.shop.svc.other.zone:80?port=target", 27, "zone other.zone"),
    ],
)
def test_a_ports_name_in_another_zone_is_an_error_with_its_place(pod: Place, text: str, place: int, message: str) -> None:
    """Only a Service's ports have names, and another cluster's Services are not ours."""
    for ask in (pod.classifier().key, pod.classifier().resolver):
        with pytest.raises(TargetError, match=message) as caught:
            ask(Target.parse(text))
        assert caught.value.position == place


def test_a_ports_name_outside_a_cluster_is_an_error_with_its_place(outside: Place) -> None:
    """The message says why it is no Service."""
    with pytest.raises(TargetError, match=r"orders\.shop is outside a cluster") as caught:
        outside.classifier().key(Target.parse("orders.shop:grpc"))
    assert caught.value.position == 12
    assert outside.classifier().key(Target.parse("orders.shop:https")).port == "443"


# --- files that are not what they should be -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "not a namespace!", "web\nshop", "\0" * 10_000, "w\u00e9b"])
def test_a_namespace_file_that_holds_none_is_said_once(pod: Place, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """resolv.conf's is used, and every target works."""
    (pod.path / "namespace").write_text(text, encoding="utf-8")
    classifier = pod.classifier()
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        keys = [classifier.key(Target.parse(name)) for name in ("orders:80", "users:80")]
    assert [key.namespace for key in keys] == ["web", "web"]
    assert len(caplog.records) == 1
    assert "holds no namespace" in caplog.text
    assert len(caplog.text) < 500


@pytest.mark.parametrize("text", [None, "", "\0\xff nonsense", "search example.com\n", "search svc\n"])
def test_a_resolv_conf_that_says_nothing_of_the_cluster_is_said_once(
    pod: Place, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing, empty or nonsense: the usual domain and namespace, one line for each, and discovery goes on."""
    path = pod.path / "resolv.conf"
    path.unlink() if text is None else path.write_bytes(text.encode("latin-1"))
    classifier = pod.classifier()
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        keys = [classifier.key(Target.parse(name)) for name in ("orders:80", "users:80")]
        assert isinstance(classifier.resolver(Target.parse("orders.shop.svc:80")), ServiceResolver)
    assert [(key.cluster, key.namespace) for key in keys] == [("cluster.local", "default")] * 2
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["the", "this"]
    assert "taken to be cluster.local" in caplog.text


def test_outside_a_cluster_nothing_is_said(outside: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A laptop's resolv.conf knows no cluster, and need not."""
    with caplog.at_level(logging.WARNING, "meshlb.resolve"):
        outside.classifier().key(Target.parse("orders:80"))
    assert caplog.records == []
