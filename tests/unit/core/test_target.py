"""The table in the head of ``meshlb.core.target``, row by row, and every way to write a target wrongly."""

from __future__ import annotations

import pytest

from meshlb.core import target as target_module
from meshlb.core.target import PortRef, Target, TargetKey
from meshlb.errors import TargetError

SERVICE_PORT = 50051


def rows() -> list[tuple[str, ...]]:
    """The rows of the table, as they stand in the docstring."""
    assert target_module.__doc__ is not None
    _, _, table = target_module.__doc__.partition("form ")
    body = table.split("\n==", 2)[1].splitlines()[1:]
    return [tuple(line.split()) for line in body if line]


def rule_of(target: Target) -> str:
    if target.endpoints:
        return "own"
    if target.port.is_target:
        return "target"
    if target.service:
        return "name" if target.port.name else "service" if target.port.number else "choose"
    return "number" if target.port.number else "default"


def test_the_table_is_read_whole() -> None:
    """Nobody shortens the table by breaking its form."""
    assert len(rows()) >= 35
    assert {len(row) for row in rows()} == {5}


@pytest.mark.parametrize(("form", "service", "rule", "authority", "tls_name"), rows(), ids=lambda cell: str(cell))
def test_each_row_of_the_table_holds(form: str, service: str, rule: str, authority: str, tls_name: str) -> None:
    """Form, classification, port rule, :authority and TLS name are as documented, and the form is printed back unchanged."""
    target = Target.parse(form)
    is_service = target.service != ""
    assert ("yes" if target.explicit_service else "ask" if is_service else "no") == service
    assert rule_of(target) == rule
    assert target.authority(SERVICE_PORT if is_service else 0) == authority
    assert target.tls_name == tls_name
    assert str(target) == form


@pytest.mark.parametrize(
    ("text", "service", "namespace", "pod", "zone"),
    [
        ("orders", "orders", "", "", ""),
        ("Orders.SHOP:grpc", "orders", "shop", "", ""),
        ("orders.shop.SVC.Cluster.Local:1", "orders", "shop", "", "cluster.local"),
        ("orders.shop.svc:1", "orders", "shop", "", ""),
        ("pod-0.orders.shop.svc.cluster.local:1", "orders", "shop", "pod-0", "cluster.local"),
        ("k8s://shop/orders:grpc", "orders", "shop", "", ""),
        ("K8S:///orders.shop.svc.zone.test", "orders", "shop", "", "zone.test"),
        ("orders.svc:1", "orders", "svc", "", ""),
        ("orders.123:1", "orders", "123", "", ""),
        ("a.b.c.svc.cluster.local:1", "b", "c", "a", "cluster.local"),
        ("a.b.c.d.svc.cluster.local:1", "", "", "", ""),
        ("orders.shop.example.com:1", "", "", "", ""),
        ("my_service:1", "", "", "", ""),
        ("-a.b:1", "", "", "", ""),
        ("orders.:1", "", "", "", ""),
        ("localhost:1", "", "", "", ""),
        ("db.localhost:1", "", "", "", ""),
        ("10.0.0.1:1", "", "", "", ""),
    ],
)
def test_names_of_services_are_found_by_their_labels(text: str, service: str, namespace: str, pod: str, zone: str) -> None:
    """Service, namespace, pod and zone, in lower case; empty for what can only be an ordinary name."""
    target = Target.parse(text)
    assert (target.service, target.namespace, target.pod, target.zone) == (service, namespace, pod, zone)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", 0, "a target such as"),
        (" orders", 0, "no spaces"),
        ("orders:50051 ", 12, "no spaces"),
        ("orders\t:1", 6, "no spaces or control"),
        ("orders\x00:1", 6, "no spaces or control"),
        ("bücher:80", 1, "punycode"),
        ("unix:/run/b\u00fccher", 11, "percent-encode"),
        ("orders.shop:0", 12, "from 1 to 65535"),
        ("orders.shop:65536", 12, "from 1 to 65535"),
        ("orders.shop:", 12, "from 1 to 65535"),
        ("orders.shop:99999999999999999999", 12, "from 1 to 65535"),
        ("orders.shop:grpc!", 16, "a port: a number"),
        ("orders.shop:-1", 12, "a port name"),
        ("orders.shop:" + "a" * 64, 12, "at most 63"),
        ("orders:50051/path", 12, "a port: a number"),
        ("orders..shop:1", 7, "a label between two dots"),
        (".shop:1", 0, "a label before the dot"),
        ("orders.shop..:1", 12, "a label between two dots"),
        (".", 0, "a label before the dot"),
        (":50051", 0, "a host name"),
        ("a" * 64 + ".shop:1", 63, "at most 63 characters"),
        ("a." * 127 + "a:1", 253, "at most 253"),
        ("ord$ers:1", 3, "a letter, a digit"),
        ("user@orders:1", 4, "no user name"),
        ("http://user:secret@orders:1", 18, "no user name"),
        ("::1", 1, "brackets"),
        ("fd00::1:50051", 5, "brackets"),
        ("[::1", 4, "']'"),
        ("[::1]50051", 5, "':' and a port"),
        ("[::g]:1", 1, "an IPv6 address"),
        ("[10.0.0.1]:1", 1, "an IPv6 address"),
        ("1.2.3:80", 0, "an IPv4 address"),
        ("300.1.1.1:80", 0, "an IPv4 address"),
        ("50051", 0, "an IPv4 address"),
        ("localhost:grpc", 10, "only a Service's ports have names"),
        ("localhost:80?port=target", 12, "for Services only"),
        ("orders?port=target", 6, "a port number before"),
        ("orders:grpc?port=target", 11, "a port number before"),
        ("orders:80?port=service", 10, "port=target"),
        ("orders:80?port=target&port=target", 10, "port=target"),
        ("orders:80?", 10, "port=target"),
        ("foo:///orders", 0, "a known scheme"),
        ("k8s:orders", 4, "'///'"),
        ("k8s://orders", 12, "a third '/'"),
        ("k8s:///", 7, "a host name"),
        ("k8s:///a.b.c", 7, "a Service"),
        ("k8s:///10.0.0.1:1", 7, "a Service"),
        ("k8s:///localhost:1", 7, "a Service"),
        ("k8s://shop/orders.other:1", 17, "a Service name alone"),
        ("k8s://my_ns/orders:1", 6, "a namespace"),
        ("k8s:///orders:grpc/", 18, "a port: a number"),
        ("http://", 7, "a host name"),
        ("http://orders:grpc", 14, "from 1 to 65535"),
        ("dns:///", 7, "a host name"),
        ("dns://10.0.0.1", 14, "a third '/'"),
        ("dns://ns.example/orders:1", 6, "an IPv4 address"),
        ("dns://10.0.0.1:0/orders:1", 15, "from 1 to 65535"),
        ("dns:///orders:grpc", 14, "only a Service's ports"),
        ("ipv4:orders:80", 5, "an IPv4 address"),
        ("ipv4:10.0.0.1", 13, "':' and a port"),
        ("ipv4:10.0.0.1:80,", 17, "a host name"),
        ("ipv4://10.0.0.1:80", 7, "a third '/'"),
        ("ipv4:10.0.0.1:80?weight=1", 16, "weights are for static"),
        ("ipv4:[::1]:80", 6, "an IPv4 address"),
        ("ipv6:10.0.0.1:80", 5, "an IPv6 address"),
        ("ipv6:%5B::1:80", 14, "']'"),
        ("static:///orders:80", 10, "an IPv4 address"),
        ("static:///10.0.0.1:80,10.0.0.1:80", 22, "each address once"),
        ("static:///10.0.0.1:80?weight=0", 29, "a weight above 0"),
        ("static:///10.0.0.1:80?weight=-1", 29, "a weight above 0"),
        ("static:///10.0.0.1:80?weight=nan", 29, "a weight above 0"),
        ("static:///10.0.0.1:80?weight=1,2", 29, "one weight for each of the 1"),
        ("static:///10.0.0.1:80,10.0.0.2:80?weight=1", 41, "one weight for each of the 2"),
        ("static:///10.0.0.1:80?weight=1&weight=2", 29, "a weight above 0"),
        ("static:///10.0.0.1:80?w=1", 22, "weight="),
        ("unix:", 5, "a socket's path"),
        ("unix://run/x", 7, "an absolute path"),
        ("unix:a%2", 7, "two hexadecimal digits"),
        ("unix:a%00b", 6, "no NUL"),
        ("unix:%ff", 5, "UTF-8"),
        ("unix-abstract:", 14, "a socket's name"),
        ("xds:///", 4, "the xDS server"),
    ],
)
def test_what_is_wrong_is_shown_with_its_place(text: str, place: int, expected: str) -> None:
    """The error holds the target, the exact offset of the first wrong character, and what was expected there."""
    with pytest.raises(TargetError) as caught:
        Target.parse(text)
    assert caught.value.target == text
    assert expected in caught.value.expected
    assert caught.value.position == place
    assert repr(text) in str(caught.value)


def test_what_is_no_string_is_refused_by_its_type() -> None:
    """bytes and None give a TargetError, not an AttributeError from the depths."""
    with pytest.raises(TargetError, match="not bytes"):
        Target.parse(b"orders")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "near"), [("htttp://x", "http:"), ("k9s:///x", "k8s:"), ("kube:///x", "kubernetes:"), ("statc:///x", "static:")]
)
def test_an_unknown_scheme_names_the_nearest(text: str, near: str) -> None:
    """The nearest valid schemes stand in the message."""
    with pytest.raises(TargetError, match=near):
        Target.parse(text)


def test_a_host_may_be_called_like_a_scheme() -> None:
    """``kubernetes:443`` is a Service and a port, as it is for stock gRPC."""
    target = Target.parse("kubernetes:https")
    assert (target.service, target.port, target.scheme) == ("kubernetes", PortRef(name="https"), "")


def test_schemes_ignore_case() -> None:
    """``DNS:///`` is ``dns:///``, as for stock gRPC."""
    assert Target.parse("DNS:///Orders:1").scheme == "dns"
    assert Target.parse("IPV4:10.0.0.1:80").endpoints[0].address == "10.0.0.1:80"


def test_a_dns_server_gets_its_port() -> None:
    """The server of ``dns://`` is an address with a port, 53 by default."""
    assert Target.parse("dns://10.0.0.10/orders:1").dns_server == "10.0.0.10:53"
    assert Target.parse("dns://10.0.0.10:5353/orders:1").dns_server == "10.0.0.10:5353"
    assert Target.parse("dns://[fd00::a]:5353/orders:1").dns_server == "[fd00::a]:5353"
    assert Target.parse("dns:///orders:1").dns_server == ""


def test_weights_belong_to_their_addresses() -> None:
    """``weight=`` is one number per address, in order; without it all are 1."""
    weighted = Target.parse("static:///10.0.0.1:80,[fd00::1]:81?weight=1,2.5").endpoints
    assert [(endpoint.address, endpoint.weight) for endpoint in weighted] == [("10.0.0.1:80", 1.0), ("[fd00::1]:81", 2.5)]
    assert {endpoint.weight for endpoint in Target.parse("static:10.0.0.1:80,10.0.0.2:80").endpoints} == {1.0}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:run/a.sock", "unix:run/a.sock"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:///run/a%20b", "unix:/run/a b"),
        ("unix-abstract:a%62", "unix-abstract:ab"),
        ("ipv6:[fd00:0:0::1]:80", "[fd00::1]:80"),
        ("ipv6:%5bfe80::1%25lo%5d:80", "[fe80::1%lo]:80"),
    ],
)
def test_addresses_lose_their_encoding(text: str, address: str) -> None:
    """What is dialled is the decoded, canonical address."""
    assert [endpoint.address for endpoint in Target.parse(text).endpoints] == [address]


@pytest.mark.parametrize(
    ("text", "port", "stock"),
    [
        ("orders.shop:50051", 50051, "orders.shop:50051"),
        ("orders.shop:grpc", 50051, "dns:///orders.shop:50051"),
        ("orders.shop", 50051, "dns:///orders.shop:50051"),
        ("orders.shop:8080?port=target", 50051, "dns:///orders.shop:8080"),
        ("k8s://shop/orders:grpc", 50051, "dns:///orders.shop:50051"),
        ("http://orders.shop.svc:8080/x", 8080, "dns:///orders.shop.svc:8080"),
        ("http://orders.shop.svc", 0, "dns:///orders.shop.svc:80"),
        ("https://api.example.com", 0, "dns:///api.example.com:443"),
        ("dns://10.0.0.10/orders:1", 0, "dns://10.0.0.10:53/orders:1"),
        ("dns:///orders:1", 0, "dns:///orders:1"),
        ("LocalHost:1", 0, "LocalHost:1"),
        ("[::1]:1", 0, "[::1]:1"),
        ("unix:/run/x", 0, "unix:/run/x"),
        ("xds:///orders", 0, "xds:///orders"),
        ("static:///10.0.0.1:80,10.0.0.2:80?weight=1,2", 0, "ipv4:10.0.0.1:80,10.0.0.2:80"),
        ("static:///10.0.0.1:80,[fd00::1]:80", 0, "ipv6:[::ffff:10.0.0.1]:80,[fd00::1]:80"),
    ],
)
def test_stock_grpc_gets_the_same_place(text: str, port: int, stock: str) -> None:
    """What stock gRPC is given when meshlb is switched off leads to the same host and port."""
    assert Target.parse(text).stock(port) == stock


def test_a_named_port_without_its_number_leaves_the_authority_without_one() -> None:
    """A Service's authority never holds a port's name; an ordinary name is sent as written."""
    assert Target.parse("orders.shop:grpc").authority(0) == "orders.shop"
    assert Target.parse("localhost:https").authority(0) == "localhost:https"


def test_protocol_and_default_port_come_from_the_form() -> None:
    """What fits when no port is named, and what an ordinary name is dialled at."""
    assert [Target.parse(text).protocol for text in ("orders", "k8s:///orders", "http://orders", "https://orders")] == [
        "grpc",
        "grpc",
        "http",
        "https",
    ]
    assert [Target.parse(text).default_port for text in ("localhost", "localhost:http", "localhost:8", "http://a.b.c")] == [
        443,
        80,
        8,
        80,
    ]


def test_keys_of_ordinary_names_ignore_case_and_keep_apart_what_differs() -> None:
    """The same place has one key: case and default port make no difference, a DNS server does."""
    key = Target.parse("LocalHost:443").ordinary_key
    assert key == Target.parse("localhost").ordinary_key == TargetKey("", "", "localhost", "443")
    assert Target.parse("dns:///localhost").ordinary_key == key
    assert Target.parse("dns://10.0.0.1/localhost").ordinary_key != key
    assert Target.parse("ipv4:10.0.0.1:80").ordinary_key != Target.parse("ipv4:10.0.0.1:81").ordinary_key
    assert str(TargetKey("c", "shop", "orders", "grpc", "pod-0")) == "pod-0.orders.shop:grpc"
