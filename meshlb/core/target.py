"""What a caller wrote to say where calls go: parsed here and nowhere else, printed back unchanged.

``Service?`` is for the classifier: *yes* is a Service by its form, *ask* is one if the cluster's DNS knows it, *no* is an
ordinary name or an address. The port rules: *service* (a Service's port number), *name* (a Service port's name), *target* (the
pods' number), *choose* (the single or the fitting port), *number* (dialled as it stands), *default* (443, or the URL's) and *own*
(in the address). ``:authority`` is shown for a Service whose port is 50051. The tests read this table, row by row:

=========================================  ========  =======  ====================================  =============================
form                                       Service?  port     :authority                            TLS name
=========================================  ========  =======  ====================================  =============================
orders                                     ask       choose   orders:50051                          orders
orders.shop                                ask       choose   orders.shop:50051                     orders.shop
Orders.Shop                                ask       choose   Orders.Shop:50051                     Orders.Shop
orders.shop:grpc                           ask       name     orders.shop:50051                     orders.shop
orders.shop:50051                          ask       service  orders.shop:50051                     orders.shop
orders.shop:8080?port=target               ask       target   orders.shop:8080                      orders.shop
kubernetes:443                             ask       service  kubernetes:443                        kubernetes
orders.shop.svc:50051                      yes       service  orders.shop.svc:50051                 orders.shop.svc
orders.shop.svc.cluster.local:50051        yes       service  orders.shop.svc.cluster.local:50051   orders.shop.svc.cluster.local
orders.shop.svc.cluster.local.:50051       yes       service  orders.shop.svc.cluster.local.:50051  orders.shop.svc.cluster.local
pod-0.orders.shop.svc:grpc                 yes       name     pod-0.orders.shop.svc:50051           pod-0.orders.shop.svc
http://orders.shop.svc:8080                yes       service  orders.shop.svc:8080                  orders.shop.svc
https://orders.shop.svc:8443/v1?x=1        yes       service  orders.shop.svc:8443                  orders.shop.svc
http://orders.shop.svc                     yes       choose   orders.shop.svc:50051                 orders.shop.svc
k8s:///orders                              yes       choose   orders:50051                          orders
k8s:///orders.shop:grpc                    yes       name     orders.shop:50051                     orders.shop
kubernetes:///orders.shop:grpc             yes       name     orders.shop:50051                     orders.shop
k8s://shop/orders:grpc                     yes       name     orders.shop:50051                     orders.shop
dns:///orders.shop:50051                   no        number   orders.shop:50051                     orders.shop
dns:orders.shop:50051                      no        number   orders.shop:50051                     orders.shop
dns:///orders.shop                         no        default  orders.shop                           orders.shop
dns://10.0.0.10/orders.shop:50051          no        number   orders.shop:50051                     orders.shop
localhost:50051                            no        number   localhost:50051                       localhost
localhost                                  no        default  localhost                             localhost
localhost:https                            no        default  localhost:https                       localhost
orders.shop.:50051                         no        number   orders.shop.:50051                    orders.shop
my_service:50051                           no        number   my_service:50051                      my_service
api.example.com:443                        no        number   api.example.com:443                   api.example.com
10.0.0.1:50051                             no        number   10.0.0.1:50051                        10.0.0.1
[::1]:50051                                no        number   [::1]:50051                           ::1
ipv4:10.0.0.1:80,10.0.0.2:80               no        own      10.0.0.1:80,10.0.0.2:80               10.0.0.1
ipv6:[fd00::1]:80                          no        own      [fd00::1]:80                          fd00::1
ipv6:%5Bfd00::1%5D:80                      no        own      [fd00::1]:80                          fd00::1
static:///10.0.0.1:80,[::1]:80?weight=1,3  no        own      10.0.0.1:80                           10.0.0.1
unix:run/orders.sock                       no        own      run%2Forders.sock                     run%2Forders.sock
unix:///run/orders.sock                    no        own      run%2Forders.sock                     run%2Forders.sock
unix-abstract:orders                       no        own      orders                                orders
=========================================  ========  =======  ====================================  =============================

``weight=`` gives one weight per address, in their order; without it all are 1. ``xds:`` targets are recognised and left to stock
gRPC. A URL's path, query and fragment are no part of where it goes. ``k8s:`` needs its slashes, ``kubernetes:443`` is the Service
of that name, as for stock gRPC. ``.svc.<zone>`` is a Service only in the cluster whose zone it names: the classifier compares.

``:authority`` and the TLS name are what stock grpcio 1.85 sends for the same string (a loopback test compares them): the host as
written and the port. Two differences, both where stock has no form of its own or none that works: the TLS name loses a trailing dot
and, of several addresses, is the first.

Spec: grpc/doc/naming.md; Kubernetes DNS-based service discovery 1.1.0.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from meshlb.core import target_syntax as syntax
from meshlb.core.endpoint import Endpoint
from meshlb.core.target_syntax import Piece
from meshlb.errors import TargetError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# What people write before "://"; gRPC's own also stand without slashes.
_SCHEMES = ("k8s", "kubernetes", "dns", "static", "ipv4", "ipv6", "unix", "unix-abstract", "http", "https", "xds")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_GRPC_DEFAULT_PORT = 443  # grpc/doc/naming.md


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRef:
    """A port as the caller wrote it: a name, a number, or neither. ``is_target``: the number is the pods', not the Service's."""

    name: str = ""
    number: int = 0
    is_target: bool = False

    def __str__(self) -> str:
        return f"{self.number}?port=target" if self.is_target else self.name or str(self.number or "")

    def __bool__(self) -> bool:
        return bool(self.name or self.number)


NO_PORT = PortRef()


@dataclass(frozen=True, slots=True)
class TargetKey:
    """What two targets must have in common to share a pool, after defaults; an ordinary name has no cluster and no namespace.

    ``port`` is text (``grpc``, ``50051``, ``8080?port=target``) and empty where none was written; ``pod`` narrows to one pod.
    """

    cluster: str
    namespace: str
    service: str
    port: str
    pod: str = ""

    def __str__(self) -> str:
        name = ".".join(part for part in (self.pod, self.service, self.namespace) if part)
        return f"{name}:{self.port}" if self.port else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parsed target. ``host`` is as written, without brackets; the names of cluster things are lower-case.

    ``service`` and ``namespace`` are filled for whatever may be a Service, ``explicit_service`` for what is one by its form;
    ``zone`` is the cluster domain where written. ``endpoints`` are the addresses of forms that hold some. ``scheme`` is ``""`` for
    bare forms and never an alias (``k8s``, ``unix``).
    """

    text: str
    scheme: str = ""
    host: str = ""
    service: str = ""
    namespace: str = ""
    zone: str = ""
    pod: str = ""
    explicit_service: bool = False
    port: PortRef = NO_PORT
    dns_server: str = ""
    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises TargetError with the place of the first thing that is wrong."""
        if not isinstance(text, str):
            raise TargetError(str(text), 0, f"a string, not {type(text).__name__}")
        whole = Piece(text, text)
        if not text:
            whole.fail("a target such as orders.shop:50051")
        match = _SCHEME.match(text)
        scheme = match.group(1).lower() if match else ""
        rest = whole.part(match.end()) if match else whole
        syntax.printable_ascii(whole, escaped=scheme.startswith("unix"))
        parser = _PARSERS.get(scheme)
        if parser is not None and (rest.text.startswith("//") or scheme not in _NEED_SLASHES):
            return parser(text, scheme, rest)
        if rest.text.startswith("//") and match:
            near = difflib.get_close_matches(scheme, _SCHEMES, n=3, cutoff=0.4) or _SCHEMES
            whole.fail(f"a known scheme, {scheme!r} is none; nearest: {', '.join(f'{name}:' for name in near)}")
        if scheme == "k8s":
            rest.fail("'///' after k8s:, as in k8s:///orders.shop:grpc")
        return _bare(text, "", whole)

    def __str__(self) -> str:
        return self.text

    @property
    def protocol(self) -> str:
        """``http``, ``https`` or ``grpc``: which of several ports fits when none is named."""
        return self.scheme if self.scheme in _DEFAULT_PORTS else "grpc"

    @property
    def default_port(self) -> int:
        """The port of an ordinary name: the one written, that of ``http`` or ``https``, else gRPC's 443."""
        if self.port.number:
            return self.port.number
        return _DEFAULT_PORTS.get(self.port.name or self.scheme, _GRPC_DEFAULT_PORT)

    @property
    def tls_name(self) -> str:
        """The name that a server's certificate must carry; callers may set another with ``grpc.ssl_target_name_override``."""
        if self.scheme == "unix":
            return self.authority()
        return self.endpoints[0].host if self.endpoints else self.host.removesuffix(".")

    def authority(self, port: int = 0) -> str:
        """The ``:authority`` to send. ``port``: the Service's own number where known; an ordinary name (0) is sent as written."""
        if self.scheme in ("unix", "ipv4", "ipv6"):
            path = unquote(self.text.partition(":")[2]).removeprefix("//").removeprefix("/")
            return quote(path, safe="-._~!$&'()*+,;=:@") if self.scheme == "unix" else path
        if self.endpoints or self.scheme == "xds":
            return self.endpoints[0].address if self.endpoints else ""
        written = str(self.port.number or port or "")
        if not written and not self.service:
            written = self.port.name
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{written}" if written else host

    def stock(self, port: int = 0) -> str:
        """What stock gRPC is given for the same thing. ``port``: the Service's own number where it is known, for named ports.

        A mix of IPv4 and IPv6 in ``static:`` becomes an ``ipv6:`` list with mapped addresses; weights have no stock form.
        """
        if self.scheme == "static":
            if all(":" not in endpoint.host for endpoint in self.endpoints):
                return "ipv4:" + ",".join(endpoint.address for endpoint in self.endpoints)
            hosts = ((e.host if ":" in e.host else f"::ffff:{e.host}", e.port) for e in self.endpoints)
            return "ipv6:" + ",".join(f"[{host}]:{number}" for host, number in hosts)
        if self.dns_server:
            return f"dns://{self.dns_server}/{self.authority()}"  # stock wants the server's port
        as_written = not self.service or (self.port.number and not self.port.is_target)
        if self.scheme in ("dns", "ipv4", "ipv6", "unix", "xds") or (not self.scheme and as_written):
            return self.text
        if self.scheme in _DEFAULT_PORTS:
            port = port or self.default_port
        return f"dns:///{self.authority(port)}"

    @property
    def ordinary_key(self) -> TargetKey:
        """The key of what is no Service."""
        if self.endpoints or self.scheme == "xds":
            return TargetKey("", "", self.text, "")
        host = self.host.lower()
        return TargetKey("", "", f"dns://{self.dns_server}/{host}" if self.dns_server else host, str(self.default_port))


def _bare(text: str, scheme: str, piece: Piece) -> Target:
    address, query = piece.cut("?")
    host, port = syntax.host_and_port(address)
    return _named(text, scheme, host, _port(port, query), port)


def _k8s(text: str, scheme: str, rest: Piece) -> Target:
    namespace, path = rest.part(2).cut("/")
    if path is None:
        namespace.fail("a third '/', as in k8s:///orders.shop:grpc or k8s://shop/orders:grpc", len(namespace.text))
    address, query = path.cut("?")
    host, port = syntax.host_and_port(address)
    if namespace.text and not syntax.is_service_label(namespace.text):
        namespace.fail("a namespace, or nothing, between '//' and '/'")
    if namespace.text and "." in host.text:
        host.fail("a Service name alone, its namespace stands before it", host.text.index("."))
    name = Piece(text, f"{host.text}.{namespace.text}", host.at) if namespace.text else host
    target = _named(text, "k8s", name, _port(port, query), port)
    if not target.service:
        host.fail("a Service: orders, orders.shop, orders.shop.svc or orders.shop.svc.<zone>")
    return target


def _url(text: str, scheme: str, rest: Piece) -> Target:
    end = re.search(r"[/?#]|$", rest.text[2:])
    host, port = syntax.host_and_port(rest.part(2, 2 + end.start() if end else None))
    return _named(text, scheme, host, PortRef(number=syntax.port_number(port)) if port else NO_PORT, port)


def _named(text: str, scheme: str, host: Piece, port: PortRef, place: Piece | None) -> Target:
    """A host that may be a Service, by the labels it consists of."""
    labels = host.text.removesuffix(".").lower().split(".")
    pod = service = namespace = zone = ""
    explicit = scheme == "k8s"
    if "svc" in labels[2:4]:
        at = labels.index("svc", 2)
        pod, service, namespace = ("", *labels[:at])[-3:]
        zone, explicit = ".".join(labels[at + 1 :]), True
    elif len(labels) <= 2 and not host.text.endswith(".") and labels[-1] != "localhost":
        service, namespace = (*labels, "")[:2]
    names = [name for name in (pod, service, namespace) if name]
    if not names or not all(syntax.is_service_label(name) for name in names):
        pod = service = namespace = zone = ""
        explicit = False
    if not service:
        _ordinary_port(port, place)
    return Target(
        text=text,
        scheme=scheme,
        host=host.text,
        service=service,
        namespace=namespace,
        zone=zone,
        pod=pod,
        explicit_service=explicit,
        port=port,
    )


def _dns(text: str, scheme: str, rest: Piece) -> Target:
    server, path = "", rest
    if rest.text.startswith("//"):
        authority, found = rest.part(2).cut("/")
        if found is None:
            authority.fail("a third '/', as in dns:///host:50051", len(authority.text))
        path = found
        server = _dns_server(authority) if authority.text else ""
    host, place = syntax.host_and_port(path)
    port = _port(place, None)
    _ordinary_port(port, place)
    return Target(text=text, scheme=scheme, host=host.text, port=port, dns_server=server)


def _dns_server(piece: Piece) -> str:
    host, port = syntax.host_and_port(piece)
    version = 6 if ":" in host.text else 4
    address = syntax.ip_address(host, version=version)
    return Endpoint(host=address, port=syntax.port_number(port) if port else 53).address


def _addresses(text: str, scheme: str, rest: Piece) -> Target:
    path, query = rest.cut("?")
    if path.text.startswith("//"):
        if not path.text.startswith("///"):
            path.fail(f"a third '/', as in {scheme}:///{'[fd00::1]:80' if scheme == 'ipv6' else '10.0.0.1:80'}", 2)
        path = path.part(3)
    pieces = path.split(",")
    weights = _weights(query, len(pieces)) if scheme == "static" else (1.0,) * len(pieces)
    if scheme != "static" and query is not None:
        query.fail("nothing after the addresses; weights are for static:", -1)
    seen: dict[tuple[str, int], Endpoint] = {}
    for piece, weight in zip(pieces, weights, strict=True):
        host, port = syntax.host_and_port(piece)
        version = int(scheme[-1]) if scheme != "static" else 6 if ":" in host.text else 4
        address = syntax.ip_address(host, version=version)
        if port is None:
            piece.fail("':' and a port", len(piece.text))
        number = syntax.port_number(port)
        if (address, number) in seen and scheme == "static":
            piece.fail("each address once; use weight= to give one more calls")
        seen.setdefault((address, number), Endpoint(host=address, port=number, weight=weight))
    return Target(text=text, scheme=scheme, endpoints=tuple(seen.values()))


def _weights(query: Piece | None, count: int) -> tuple[float, ...]:
    if query is None:
        return (1.0,) * count
    key, value = query.cut("=")
    if key.text != "weight" or value is None:
        query.fail("weight= and one number per address")
    weights = []
    for piece in value.split(","):
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", piece.text) or not 0 < float(piece.text) <= 1e6:
            piece.fail("a weight above 0, at most 1000000, such as 1 or 2.5")
        weights.append(float(piece.text))
    if len(weights) != count:
        value.fail(f"one weight for each of the {count} addresses, not {len(weights)}")
    return tuple(weights)


def _unix(text: str, scheme: str, rest: Piece) -> Target:
    path = rest
    if scheme == "unix" and rest.text.startswith("//"):
        if not rest.text.startswith("///"):
            rest.fail("an absolute path after 'unix://'", 2)
        path = rest.part(2)
    if not path.text:
        path.fail("a socket's path" if scheme == "unix" else "a socket's name")
    return Target(text=text, scheme="unix", endpoints=(Endpoint(host=f"{scheme}:{syntax.unescaped(path)}", port=0),))


def _xds(text: str, scheme: str, rest: Piece) -> Target:
    if not rest.text.lstrip("/"):
        rest.fail("what to ask the xDS server for, as in xds:///orders")
    return Target(text=text, scheme=scheme)


def _port(piece: Piece | None, query: Piece | None) -> PortRef:
    port = NO_PORT
    if piece is not None:
        is_number = piece.text.isdigit() or not piece.text
        port = PortRef(number=syntax.port_number(piece)) if is_number else PortRef(name=syntax.port_name(piece))
    if query is None:
        return port
    if query.text != "port=target":
        query.fail("port=target, or nothing")
    if not port.number:
        query.fail("a port number before ?port=target", -1)
    return PortRef(number=port.number, is_target=True)


def _ordinary_port(port: PortRef, place: Piece | None) -> None:
    if place is not None and port.name and port.name not in _DEFAULT_PORTS:
        place.fail("a port number: only a Service's ports have names")
    if place is not None and port.is_target:
        place.fail("no ?port=target: it is for Services only", len(place.text))


_PARSERS = {
    "k8s": _k8s,
    "kubernetes": _k8s,
    "http": _url,
    "https": _url,
    "dns": _dns,
    "static": _addresses,
    "ipv4": _addresses,
    "ipv6": _addresses,
    "unix": _unix,
    "unix-abstract": _unix,
    "xds": _xds,
}
_NEED_SLASHES = ("k8s", "kubernetes", "http", "https")
