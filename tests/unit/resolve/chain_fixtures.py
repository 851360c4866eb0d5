"""Scripted sources at the seams of the chain, and a listener that keeps what it hears."""

from __future__ import annotations

import random
from collections.abc import Iterable

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.resolver import Listener, Resolver
from meshlb.core.target import PortRef
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.chain import ServiceResolver
from meshlb.resolve.env import EnvService
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.feed import ServiceSlices, SlicesListener
from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
from meshlb.resolve.kubernetes.source import ServiceDone
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import SlicePort, SliceRecord
from meshlb.resolve.lookup import SrvEndpoint
from meshlb.resolve.place import OwnPlace, Told
from meshlb.resolve.routes import Routes
from meshlb.resolve.settings import Fallback
from meshlb.testing.loop import ManualLoop

FORBIDDEN = SourceError("forbidden", 'endpointslices is forbidden: User "system:serviceaccount:web:client" cannot list resource')
UNREACHABLE = SourceError("unreachable", "connection refused")


def slice_of(
    *hosts: str | Endpoint, ports: Iterable[tuple[str, int]] = (("grpc", 8080),), name: str = "orders-a", headless: bool = False
) -> SliceRecord:
    endpoints = tuple(host if isinstance(host, Endpoint) else Endpoint(host=host, port=0, uid=f"uid-{host}") for host in hosts)
    family = "IPv6" if endpoints and ":" in endpoints[0].host else "IPv4"
    return SliceRecord(
        name, "shop", "orders", "1", family, headless, tuple(SlicePort(port, number) for port, number in ports), endpoints
    )


def service_of(
    cluster_ip: str = "10.96.0.7", ports: Iterable[ServicePort] = (ServicePort("grpc", 50051, 8080),), **more: object
) -> ServiceRecord:
    ips = (cluster_ip,) if cluster_ip else ()
    return ServiceRecord("orders", "shop", cluster_ips=ips, ports=tuple(ports), headless=not cluster_ip, **more)  # type: ignore[arg-type]


class ScriptedApi:
    """The API server as the chain sees it: says what the test says."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.listener: SlicesListener | None = None
        self.hurried_s: float | None = None  # when it was first told that nobody else can answer
        self.reads: list[tuple[float, ServiceDone]] = []
        self.answer: tuple[ServiceRecord | None, SourceError | None] | None = (None, FORBIDDEN)

    def watch(self, namespace: str, service: str, listener: SlicesListener, /) -> ScriptedApi:
        assert (namespace, service) == ("shop", "orders")
        self.listener = listener
        return self

    def get_service(self, namespace: str, name: str, done: ServiceDone, /) -> None:
        """Answers in a callback with ``answer``, or not at all while that is None."""
        assert (namespace, name) == ("shop", "orders")
        self.reads.append((self._loop.now_s(), done))
        if self.answer is not None:
            record, error = self.answer
            self._loop.call_soon(lambda: done(record, error))

    def close(self) -> None:
        self.listener = None

    def hurry(self) -> None:
        self.hurried_s = self._loop.now_s() if self.hurried_s is None else self.hurried_s

    def says(self, *slices: SliceRecord, version: str = "1") -> None:
        if self.listener is not None:
            self.listener.on_slices(ServiceSlices("shop", "orders", slices, version))
        self._loop.run_until_idle()

    def fails(self, error: SourceError = UNREACHABLE) -> None:
        if self.listener is not None:
            self.listener.on_source_error(error)
        self._loop.run_until_idle()


class ScriptedDns:
    """DNS as the chain sees it; each ``start`` is an instance of its own, ``running`` those that are not closed."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.running: list[_Dns] = []
        self.started = 0
        self.hints = 0

    def new(self) -> _Dns:
        return _Dns(self)

    def says(
        self,
        *hosts: str,
        together: bool | None = None,
        complete: bool = True,
        unseen: Iterable[str] = (),
        records: tuple[SrvEndpoint, ...] | None = None,
        alias: str = "",
    ) -> None:
        for source in list(self.running):
            source.records, source.alias, source.answered_s = records, alias, self._loop.now_s()
            source.answer = hosts[-1:] if together is False else hosts
            if len(source.answer) > 1:
                source.companions = set(hosts)
            source.together = not source.companions.isdisjoint(source.answer)
            source.complete = complete
            assert source.listener is not None
            endpoints = [Endpoint(host=host, port=0) for host in hosts]
            source.listener.on_endpoints(EndpointSet.of(endpoints, "dns", unverified=frozenset(unseen)))
        self._loop.run_until_idle()

    def denies(self) -> None:
        self._error(ServiceNotFoundError("orders.shop.svc.cluster.local.", ["dns: NXDOMAIN from 10.96.0.10:53"]))

    def fails(self) -> None:
        self._error(ResolveError("orders.shop.svc.cluster.local.", ["dns: SERVFAIL from 10.96.0.10:53"]))

    def _error(self, error: ResolveError) -> None:
        for source in list(self.running):
            assert source.listener is not None
            source.listener.on_error(error)
        self._loop.run_until_idle()


class _Dns:
    def __init__(self, script: ScriptedDns) -> None:
        self._script = script
        self.listener: Listener | None = None
        self.together = False
        self.companions: set[str] = set()
        self.complete = True
        self.answer: tuple[str, ...] = ()
        self.answered_s: float | None = None
        self.records: tuple[SrvEndpoint, ...] | None = None
        self.alias = ""

    def start(self, listener: Listener, /) -> None:
        self.listener = listener
        self._script.running.append(self)
        self._script.started += 1

    def describe(self) -> dict[str, object]:
        return {}

    def resolve_now(self) -> None:
        self._script.hints += 1

    def close(self) -> None:
        self._script.running.remove(self)


class ScriptedExternal:
    """The resolvers of external names, each named as it was asked for; ``refuses`` is raised instead of making one."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.asked: list[str] = []
        self.running: dict[str, Listener] = {}
        self.refuses: Exception | None = None

    def new(self, name: str, service: ServiceRecord | None) -> Resolver:
        self.asked.append(name)
        if self.refuses is not None:
            raise self.refuses
        return _External(self, name)

    def says(self, name: str, *hosts: str) -> None:
        self.running[name].on_endpoints(
            EndpointSet.of([Endpoint(host=host, port=5432) for host in hosts], "dns", service_port=5432)
        )
        self._loop.run_until_idle()

    def fails(self, name: str) -> None:
        self.running[name].on_error(ResolveError(f"{name}:5432", ["dns: SERVFAIL from 10.96.0.10:53"]))
        self._loop.run_until_idle()


class _External:
    def __init__(self, script: ScriptedExternal, name: str) -> None:
        self._script = script
        self._name = name

    def start(self, listener: Listener, /) -> None:
        self._script.running[self._name] = listener

    def resolve_now(self) -> None: ...

    def close(self) -> None:
        del self._script.running[self._name]


class Scene:
    """A chain in virtual time between scripted sources."""

    def __init__(
        self,
        port: str | int | PortRef = "grpc",
        *,
        api: bool = True,
        dns: bool = True,
        env: EnvService | None = None,
        fallback: Fallback | None = None,
        pod: str = "",
        pods: bool = True,
        protocol: str = "grpc",
        own: OwnPlace | None = None,
        unroutable: Iterable[str] = (),
        seed: int = 1,
    ) -> None:
        print(f"seed {seed}")
        self.loop = ManualLoop()
        self.api = ScriptedApi(self.loop)
        self.dns = ScriptedDns(self.loop)
        self.external = ScriptedExternal(self.loop)
        self.heard: list[tuple[float, EndpointSet]] = []
        self.errors: list[tuple[float, ResolveError]] = []
        ref = port if isinstance(port, PortRef) else PortRef(number=port) if isinstance(port, int) else PortRef(name=port)
        self.chain = ServiceResolver(
            ServiceName(service="orders", namespace="shop", port=ref, protocol=protocol, pod=pod, pods=pods),
            kubernetes=self.api if api else None,
            new_dns=self.dns.new if dns else None,
            env=env,
            fallback=fallback or Fallback(),
            own=own or OwnPlace(Told()),
            routes=Routes(self.loop.now_s, lambda host: host not in unroutable),
            new_external=self.external.new,
            scheduler=self.loop,
            rng=random.Random(seed),
        )
        self.chain.start(self)
        self.loop.run_until_idle()

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.heard.append((self.loop.now_s(), endpoints))

    def on_error(self, error: ResolveError, /) -> None:
        self.errors.append((self.loop.now_s(), error))

    @property
    def latest(self) -> EndpointSet:
        return self.heard[-1][1]

    @property
    def addresses(self) -> list[str]:
        """Of the endpoints in use, each once."""
        return sorted({endpoint.address for endpoint in self.latest.endpoints})

    @property
    def fallback(self) -> list[str]:
        return [f"{endpoint.address} {endpoint.uid}" for endpoint in self.latest.fallback]

    def settle(self) -> None:
        """Long enough for everything that is held, too short for renewals."""
        self.loop.advance(1.5)
