"""Promise 1 against a model that only remembers who said what: whatever the sources say, in whatever order and with whatever gaps,
the published set shrinks for an authoritative answer alone, and pods give way to the ClusterIP only while no pod is known. The
Service itself may change under it: its ports, its kind, its ClusterIP, its address families; and whatever happened, who tells the truth
from then on is believed."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.feed import ServiceSlices
from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import SliceRecord
from tests.unit.resolve.chain_fixtures import FORBIDDEN, UNREACHABLE, Scene, service_of, slice_of

VIP, OTHER_VIP = "10.96.0.7", "10.96.0.99"
EXTERNAL = "db.example.com"
HOSTS = [f"10.0.0.{number}" for number in range(1, 6)]
ENV = EnvService(VIP, frozenset({50051}), {"GRPC": 50051})
BY_PODS = ("kubernetes", "endpoints", "dns")

pods = st.sets(st.sampled_from(HOSTS)).map(sorted)
some = st.sets(st.sampled_from(HOSTS), min_size=1).map(sorted)
steps = st.one_of(
    st.tuples(st.just("slices"), pods),
    st.tuples(st.just("no slices"), st.none()),
    st.tuples(st.just("endpoints"), pods),
    st.tuples(st.just("full endpoints"), some),
    st.tuples(st.just("api fails"), st.sampled_from([UNREACHABLE, FORBIDDEN])),
    st.tuples(st.just("dns"), some),
    st.tuples(st.just("dns gives up"), st.none()),
    st.tuples(st.just("dns fails"), st.none()),
    st.tuples(st.just("dns denies"), st.none()),
    st.tuples(st.just("service"), st.sampled_from(["record", "forbidden", "missing", "silent"])),
    st.tuples(st.just("external"), st.sampled_from(["answers", "fails"])),
    st.tuples(st.just("port"), st.tuples(st.sampled_from(["grpc", "rpc", "main"]), st.sampled_from([8080, 8090]))),
    st.tuples(st.just("kind"), st.sampled_from(["ClusterIP", "headless", "ExternalName"])),
    st.tuples(st.just("cluster ip"), st.sampled_from([VIP, OTHER_VIP])),
    st.tuples(st.just("families"), st.sampled_from([(), ("IPv4",), ("IPv6", "IPv4")])),
    st.tuples(st.just("hint"), st.none()),
    st.tuples(st.just("nothing"), st.none()),
)
pauses_s = st.sampled_from([0.0, 0.004, 0.05, 0.2, 1.5, 12.0, 31.0, 40.0, 301.0, 700.0])
stories = st.lists(st.tuples(steps, pauses_s), min_size=8, max_size=40)  # shorter ones are found by shrinking


@dataclass
class Truth:
    """The Service as it is, whoever has heard of it; ``hosts`` by their IPv4 addresses."""

    kind: str
    several_ports: bool
    dual: bool
    vip: str = VIP
    port: tuple[str, int] = ("grpc", 8080)
    families: tuple[str, ...] = ()

    def record(self) -> ServiceRecord:
        if self.kind == "ExternalName":
            return service_of("", (), type="ExternalName", external_name=EXTERNAL)
        more = [ServicePort("admin", 8000, 9090)] if self.several_ports else []
        ports = [ServicePort(self.port[0], 50051, self.port[1]), *more]
        return service_of("" if self.kind == "headless" else self.vip, ports, ip_families=self.families)

    def slices(self, hosts: set[str]) -> tuple[SliceRecord, ...]:
        ports = [self.port, ("admin", 9090)] if self.several_ports else [self.port]
        headless = self.kind == "headless"
        four = slice_of(*sorted(hosts), ports=ports, headless=headless)
        six = [Endpoint(host=_six(host), port=0, uid=f"uid-{host}") for host in sorted(hosts)]
        return (four, slice_of(*six, ports=ports, headless=headless, name="orders-6")) if self.dual else (four,)


@dataclass
class Model:
    """``listed``: by the last authoritative answer, None before the first. ``kept``: by a whole list, before one that was cut off.

    ``by_dns``: by the DNS that is running now, None before it answered; ``together``: the last of its answers that held several.
    """

    listed: set[str] | None = None
    kept: set[str] = field(default_factory=set)
    by_dns: set[str] | None = None
    together: set[str] = field(default_factory=set)
    known_by_slices: bool = False

    def may_lose(self, host: str) -> bool:
        """Does anybody who may say so say that this pod is gone?"""
        if self.listed is not None:
            return host not in self.listed | self.kept
        return self.by_dns is not None and host not in self.by_dns

    def knows_pods(self, record: ServiceRecord | None) -> bool:
        """DNS shows pods by several in one answer; unless the Service itself, read later, has a ClusterIP."""
        by_dns = bool(self.together & (self.by_dns or set())) and (record is None or record.headless)
        return bool(self.listed or self.kept) or by_dns


class Run:
    """A chain, and the model beside it; every published set is compared with the one before as it is published."""

    def __init__(self, *, api: bool, headless: bool, env: bool, several_ports: bool, dual: bool) -> None:
        self.model = Model()
        self.truth = Truth("headless" if headless else "ClusterIP", several_ports, dual)
        self.published: EndpointSet | None = None
        self.scene = Scene(50051, env=ENV if env and not headless else None, api=api)
        self.api = api
        self.asked: object = None  # which DNS is running
        self.answers = "forbidden"
        self.scene.on_endpoints = self.on_endpoints  # type: ignore[method-assign]

    def on_endpoints(self, latest: EndpointSet, /) -> None:
        before, self.published = self.published, latest
        if latest.authority_host:
            assert EXTERNAL in self.scene.external.asked
        if before is None or before.source not in BY_PODS or before.authority_host or latest.authority_host:
            return
        had, has = _hosts(before), _hosts(latest)
        if latest.source in BY_PODS:
            lost = {host for host in had - has if not self.model.may_lose(host)}
            assert not lost, f"{sorted(lost)} lost from {sorted(had)}: {latest.source}, {self.model}"
        else:
            record = self.scene.chain._known.service  # who was read last
            assert not had or not self.model.knows_pods(record), f"pods displaced by {latest.source}: {self.model}"

    def step(self, what: str, value: object) -> None:
        scene, model = self.scene, self.model
        if what in ("slices", "no slices", "endpoints", "full endpoints") and self.api:
            hosts = set() if value is None else set(value)  # type: ignore[call-overload]
            if what == "full endpoints":
                model.kept = model.kept or (model.listed or set() if model.known_by_slices else set())
            else:
                model.kept = set()
            model.listed, model.known_by_slices = hosts, "endpoints" not in what
            records = () if what == "no slices" else self.truth.slices(hosts)
            kind, cut = "endpoints" if "endpoints" in what else "slices", what == "full endpoints"
            if scene.api.listener is not None:
                scene.api.listener.on_slices(ServiceSlices("shop", "orders", records, "1", kind, cut))
            scene.loop.run_until_idle()
        elif what == "api fails":
            scene.api.fails(value)  # type: ignore[arg-type]
        elif what in ("dns", "dns gives up"):
            hosts = set() if value is None else set(value)  # type: ignore[call-overload]
            self.say_dns(hosts)
        elif what == "dns fails":
            scene.dns.fails()
        elif what == "dns denies":
            scene.dns.denies()
        elif what == "service":
            self.answers = str(value)
        elif what == "external":
            for name in list(scene.external.running):
                scene.external.says(name, "192.0.2.1") if value == "answers" else scene.external.fails(name)
        elif what == "port":
            self.truth.port = value  # type: ignore[assignment]
        elif what == "kind":
            self.truth.kind = str(value)
        elif what == "cluster ip":
            self.truth.vip = str(value)
        elif what == "families":
            self.truth.families = value  # type: ignore[assignment]
        elif what == "hint":
            scene.chain.resolve_now()
        scene.api.answer = self.answer()
        self.look_at_dns()

    def answer(self) -> tuple[ServiceRecord | None, SourceError | None] | None:
        answers: dict[str, tuple[ServiceRecord | None, SourceError | None] | None]
        answers = {"record": (self.truth.record(), None), "forbidden": (None, FORBIDDEN), "missing": (None, None), "silent": None}
        return answers[self.answers]

    def say_dns(self, hosts: set[str]) -> None:
        """A name that never had an address is unknown, not empty."""
        scene, model, kind = self.scene, self.model, self.truth.kind
        said = hosts if kind == "headless" or not hosts else {self.truth.vip}
        if kind == "ExternalName" and hosts:
            said = {"192.0.2.1"}
        if scene.dns.running:
            model.by_dns = said if said or model.by_dns is not None else None
            model.together = said if len(said) > 1 else model.together
        if said or model.by_dns is not None:
            scene.dns.says(*sorted(said), alias=EXTERNAL if kind == "ExternalName" and said else "")

    def look_at_dns(self) -> None:
        """One that was closed is forgotten."""
        running = self.scene.dns.running[-1] if self.scene.dns.running else None
        if running is not self.asked:
            self.asked = running
            self.model.by_dns, self.model.together = None, set()

    def pass_time(self, length_s: float) -> None:
        self.scene.loop.advance(length_s)
        self.look_at_dns()

    def check_at_rest(self) -> None:
        """A list that is known is published whole, by whom it was listed; what is more comes from DNS or from before a cut."""
        self.pass_time(2.5)
        model, latest = self.model, self.published
        if model.listed and latest is not None and not self.truth.several_ports and not latest.authority_host:
            assert latest.source in ("kubernetes", "endpoints")
            assert _hosts(latest) >= model.listed | model.kept
            assert _hosts(latest) <= model.listed | model.kept | (model.by_dns or set())
            assert {_four(host) for host in latest.unverified} <= _hosts(latest)

    def check_that_the_truth_wins(self) -> None:
        """Everybody says what is so, for as long as it takes to read the Service again."""
        if not self.api:
            return
        hosts = set(HOSTS[:3])
        self.step("service", "record")
        self.step("no slices", None) if self.truth.kind == "ExternalName" else self.step("slices", hosts)
        self.pass_time(31.0)
        self.step("dns", hosts)
        self.pass_time(601.0)
        self.step("external", "answers")
        self.pass_time(31.0)
        latest = self.published
        assert latest is not None
        if self.truth.kind == "ExternalName":
            assert [endpoint.address for endpoint in latest.endpoints] == ["192.0.2.1:5432"]
            return
        hosts = {_six(host) for host in hosts} if self.truth.dual and "IPv6" in self.truth.families else hosts
        assert (latest.source, latest.authority_host) == ("kubernetes", "")
        assert {(endpoint.host, endpoint.port) for endpoint in latest.endpoints} == {(host, self.truth.port[1]) for host in hosts}
        virtual = {f"{self.truth.vip}:50051"} if self.truth.kind == "ClusterIP" else set()
        assert {endpoint.address for endpoint in latest.fallback} == virtual


def _six(host: str) -> str:
    return f"fd00::{host.rpartition('.')[2]}"


def _four(host: str) -> str:
    return f"10.0.0.{host.rpartition(':')[2]}" if ":" in host else host


def _hosts(endpoints: EndpointSet) -> set[str]:
    """Pods by their IPv4 addresses."""
    return {_four(endpoint.host) for endpoint in endpoints.endpoints}


@settings(deadline=None, max_examples=200)
@given(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), stories)
def test_a_published_set_shrinks_for_an_authoritative_answer_alone(
    api: bool, headless: bool, env: bool, several_ports: bool, dual: bool, story: list[tuple[tuple[str, object], float]]
) -> None:
    """Slices, Endpoints, errors, DNS, the Service, what it is, and time in any order; the model knows only who may say that a pod is
    gone."""
    run = Run(api=api, headless=headless, env=env, several_ports=several_ports, dual=dual)
    for (what, value), pause_s in story:
        run.step(what, value)
        run.pass_time(pause_s)
    run.check_at_rest()
    run.check_that_the_truth_wins()
    run.scene.chain.close()
    assert run.scene.loop.timers == ()
