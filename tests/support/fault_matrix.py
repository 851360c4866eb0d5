"""A fault matrix: what a row says, the world in which it happens, and how it is judged. The tables are in the tests.

A row is one source, one fault and when it begins; a world is a FakeCluster with one Service and one Mesh, over real sockets, without
processes or connections. Everybody's back-off is the real one, but for refusals, whose half minute is made one to three seconds, so most of a row
is waiting: rows run side by side, sixteen at a time, each in a world of its own.

A row is played as follows. The fault begins, before the program starts or under it. What the Service has is changed (``BEFORE`` to
``AFTER``), and the fault lasts until it was met ``Fault.met``. Meanwhile the pool holds what the row says, and nothing else at any
moment: every change is seen through a view's listener. The fault ends; ``AFTER`` must be there, by the usual source, in time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import meshlb
from meshlb.mesh import Mesh
from meshlb.resolve.kubernetes.backoff import Waits, exponential
from meshlb.testing import FakeCluster, Rule
from tests.support.channels import eventually

if TYPE_CHECKING:
    import pytest

BEFORE = frozenset(f"127.9.0.{number}:8080" for number in (1, 2, 3, 4))
AFTER = frozenset(f"127.9.0.{number}:8080" for number in (3, 4, 5))
TOGETHER = 16
PATIENCE_S = 30.0
STARTED_S = 5.0  # imports, on a busy machine

RANKS = ("none", "environment", "clusterip", "dns", "endpoints", "kubernetes")

State = tuple[str, frozenset[str]]  # a source, and the eligible addresses


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a program lives: what the Service is like, what the program may ask, and which source it uses when all is well."""

    target: str = "orders.shop.svc:grpc"
    usual: str = "kubernetes"
    cluster: Mapping[str, Any] = field(default_factory=dict)
    service: Mapping[str, Any] = field(default_factory=dict)
    discovery: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = (Rule(),)
    environ: bool = False  # the kubelet's variables
    account: bool = False  # a service account in place of a kubeconfig; needs TLS and the variables


class World:
    """One cluster, its Service, and one program."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.scratch = Path(tempfile.mkdtemp(prefix="meshlb-fault-matrix-"))
        self.cluster = FakeCluster(**{"namespace": "shop", "dns_ttl_s": 1, "single_address": False, **setting.cluster})
        self.cluster.permit(*setting.rules)
        settings: dict[str, Any] = {"ports": {"grpc": 50051}, "endpoints": sorted(BEFORE), **setting.service}
        self.service = self.cluster.service("orders", **settings)
        self.resolv_conf = self._copy(self.cluster.resolv_conf)
        self.kubeconfig = self._copy(self.cluster.kubeconfig)
        self.mesh: Mesh | None = None
        self.states: list[State] = []

    def start(self) -> None:
        found: dict[str, Any] = {
            "kubeconfig": self.kubeconfig,
            "nameservers": [self.cluster.nameserver],
            "resolv_conf": self.resolv_conf,
            "service_account_dir": "/nonexistent",
            **self.setting.discovery,
        }
        if self.setting.account:
            found |= {"service_account_dir": self.cluster.service_account_dir, "kubeconfig": None}
        environ = self.cluster.environ("shop") if self.setting.environ else {}
        config = meshlb.Config(discovery={name: value for name, value in found.items() if value is not None})
        self.mesh = Mesh(config, environ=environ)
        self._view = self.mesh.bind(self.setting.target).view(self)
        self.on_change()

    def on_change(self) -> None:
        """A ViewListener's."""
        view = getattr(self, "_view", None)
        if view is not None:
            snapshot = view.pool.snapshot
            state = snapshot.source, frozenset(sub.endpoint.address for sub in snapshot.eligible)
            if not self.states or self.states[-1] != state:
                self.states.append(state)

    @property
    def state(self) -> State:
        return self.states[-1] if self.states else ("none", frozenset())

    @property
    def cluster_ip(self) -> frozenset[str]:
        return frozenset([f"{self.service.cluster_ip}:{self.service.port}"])

    @property
    def said(self) -> dict[str, str]:
        """What each source of the chain said last, for people."""
        assert self.mesh is not None
        (pool,) = self.mesh.status()["pools"].values()
        return {name: str(source["said"]) for name, source in pool["discovery"]["sources"].items()}

    def asked(self) -> int:
        return len(self.cluster.api.requests)

    def heal(self) -> None:
        self.cluster.api.start()
        self.cluster.api.recover()
        self.cluster.dns.start()
        self.cluster.dns.recover()
        self.cluster.permit(*self.setting.rules)
        shutil.copy(self.cluster.kubeconfig, self.kubeconfig)
        shutil.copy(self.cluster.resolv_conf, self.resolv_conf)

    def close(self) -> None:
        if self.mesh is not None:
            assert self.mesh.status()["internal_errors"] == {}
            self.mesh.close()
        self.cluster.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _copy(self, path: str) -> str:
        return shutil.copy(path, self.scratch)


def refused_twice(world: World) -> bool:
    """It asked, heard the answer, and came back: the setting's own resource, or slices where that was not asked for yet.

    And a second is over since, in which a loop without a pause would show.
    """
    requests = world.cluster.api.requests
    own = world.setting.usual == "endpoints" and any(request.resource == "endpoints" for request in requests)
    wanted = ("endpoints" if own else "endpointslices", None)  # None: 401 comes before the path is looked at
    times = [request.time_s for request in requests if request.resource in wanted and request.status is not None]
    return len(times) >= 2 and time.monotonic() - times[0] > 1.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``met``: the program has run into it, often enough to judge how often it asks. ``end`` is ``World.heal`` unless said."""

    begin: Callable[[World], object]
    end: Callable[[World], object] = World.heal
    met: Callable[[World], bool] = refused_twice


@dataclass(frozen=True, kw_only=True)
class Row:
    """``holds`` and ``by``: what the pool holds during the fault, and which source serves it.

    ``kept``: what there was before, though the Service has changed; ``live``: what the Service has, changes included; ``grown``: what
    there was before, and what came; ``cluster IP``; ``nothing``. ``a_second``: how many requests (to the API server, and to DNS) fall into one second at most. ``back_s``: by when
    after the fault's end all is well.
    """

    source: str
    fault: str
    when: str
    holds: str
    by: str
    a_second: int
    back_s: float

    def __str__(self) -> str:
        return f"{self.source}: {self.fault}, {self.when}"


def rows(source: str, faults: Iterable[str], when: str, holds: str, by: str, a_second: int, back_s: float) -> list[Row]:
    """One line of a table: faults that have the same effect."""
    return [Row(source=source, fault=one, when=when, holds=holds, by=by, a_second=a_second, back_s=back_s) for one in faults]


def play(row: Row, setting: Setting, fault: Fault) -> None:
    """Judge one row. Raises AssertionError."""
    world = World(setting)
    try:
        if row.when == "later":
            world.start()
            usual = world.cluster_ip if setting.usual == "clusterip" else BEFORE
            _await(world, (setting.usual, usual), STARTED_S)
        _play(row, world, fault)
    finally:
        world.close()


def _play(row: Row, world: World, fault: Fault) -> None:
    usual, held = world.setting.usual, world.state
    world.cluster.api.clear_requests()
    world.cluster.dns.clear_queries()
    since = len(world.states)
    fault.begin(world)
    began_s = time.monotonic()
    if row.when == "start":
        world.start()
    held = {
        "kept": held,
        "grown": held,
        "live": (row.by, BEFORE),
        "cluster IP": (row.by, world.cluster_ip),
        "nothing": ("none", frozenset[str]()),
    }[row.holds]
    if row.when == "start":
        _await(world, held, STARTED_S)
    world.service.set_endpoints(sorted(AFTER))
    if row.holds == "live":
        _await(world, (row.by, AFTER), row.back_s)
        held = (row.by, AFTER)
    eventually(lambda: fault.met(world), "the fault is met", PATIENCE_S)
    assert world.state == held or (row.holds == "grown" and world.state[1] == BEFORE | AFTER), world.states
    assert held[0] == row.by, f"{row}: served by {held[0]}"
    during, most = world.states[since:], _most_a_second(_times(world))
    fault.end(world)
    ended_s = time.monotonic()
    final = world.cluster_ip if usual == "clusterip" else AFTER
    # On a busy machine a fault lasts longer than it should, and back-off doubles with it.
    _await(world, (usual, final), max(row.back_s, 3.0 * (ended_s - began_s)))
    print(f"{row}: at most {most} requests a second, back after {time.monotonic() - ended_s:.2f} s, {world.states}")
    assert most <= row.a_second, f"{most} requests in one second"
    _judge(row, world, during, world.states[since:], held)


def _judge(row: Row, world: World, during: list[State], every: list[State], held: State) -> None:
    """No moment at which the pool held less than it had, or anything that was never true."""
    known = [addresses for _, addresses in every if addresses]
    assert [addresses for _, addresses in every if not addresses] == [frozenset()] * (len(every) - len(known))
    if row.when == "later":
        assert len(known) == len(every), f"emptied: {every}"
    else:
        first = next(index for index, (_, addresses) in enumerate(every) if addresses)
        assert all(addresses for _, addresses in every[first:]), f"emptied: {every}"
    whole = (BEFORE, AFTER, BEFORE | AFTER, world.cluster_ip)
    assert [addresses for addresses in known if addresses not in whole] == [], f"shrank: {every}"
    if row.holds not in ("live", "grown"):
        assert [state for state in during if state not in (held, ("none", frozenset()))] == [], f"changed: {during}"
    ranks = [RANKS.index(source) for source, _ in every]
    if row.when == "start":
        assert ranks == sorted(ranks), f"a worse source took over: {every}"
    else:
        assert {source for source, _ in every} <= {row.by, world.setting.usual, "endpoints"}, every


def _await(world: World, state: State, within_s: float) -> None:
    try:
        eventually(lambda: world.state == state, f"{state}", within_s)
    except AssertionError as error:
        raise AssertionError(f"{error}; but {world.states}, {world.mesh and world.said}") from None


def _times(world: World) -> list[float]:
    api = [request.time_s for request in world.cluster.api.requests]
    return sorted([*api, *(query.time_s for query in world.cluster.dns.queries)])


def _most_a_second(times: list[float]) -> int:
    return max((sum(start_s <= at_s < start_s + 1.0 for at_s in times) for start_s in times), default=0)


def outcomes(
    request: pytest.FixtureRequest, settings: Mapping[str, Setting], faults: Mapping[str, Fault], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mapping[Row, Future[None]]]:
    """Play all rows of a module that are to be run, side by side; for a fixture of module scope."""
    impatient = Waits(failure=exponential(0.8, 30.0), refusal=exponential(1.1, 1.5))
    monkeypatch.setattr(Waits, "load", classmethod(lambda cls: impatient))
    wanted: list[Row] = [
        item.callspec.params["row"]  # type: ignore[attr-defined]
        for item in request.session.items
        if item.path == request.path and "row" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    with ThreadPoolExecutor(TOGETHER, thread_name_prefix="test-row") as pool:
        yield {row: pool.submit(play, row, settings[row.source], faults[row.fault]) for row in wanted}
        pool.shutdown(cancel_futures=True)
