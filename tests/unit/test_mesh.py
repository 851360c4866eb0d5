"""The composition root: who shares what, what starts when, and what an operator can overrule."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

import meshlb
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.resolver import Listener
from meshlb.mesh import Mesh, default_mesh
from meshlb.resolution import Resolution

STATIC = "static:///10.0.0.1:80,10.0.0.2:80"


class Quiet:
    def on_change(self) -> None:
        """A listener that needs nothing."""


def test_nothing_starts_before_the_first_view() -> None:
    """Making a mesh and binding a target start no thread."""
    before = threading.active_count()
    with Mesh(environ={}) as mesh:
        mesh.bind(STATIC)
        assert threading.active_count() == before
        assert mesh.status()["pools"] == {}
        assert mesh.status()["loop"]["state"] == "not started"


def test_one_pool_a_target_and_balancing_configuration() -> None:
    """Timeouts do not split a pool, a policy does."""
    with Mesh(environ={}) as mesh:
        one = mesh.bind(STATIC)
        same = mesh.bind(STATIC, meshlb.Config(connect_timeout_s=1))
        other = mesh.bind(STATIC, meshlb.Config(policy="round_robin"))
        assert one.pool is same.pool
        assert one.pool is not other.pool


def test_a_split_by_configuration_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two pools of one target do not see each other's load; that is seldom meant."""
    with Mesh(environ={}) as mesh, caplog.at_level(logging.WARNING, "meshlb.mesh"):
        pools = [mesh.bind(STATIC, meshlb.Config(policy=policy)).pool for policy in ("p2c", "round_robin", "least_request")]
        assert len(set(pools)) == 3
        assert len([record for record in caplog.records if "two balancing configurations" in record.message]) == 1


def test_two_configurations_of_one_target_share_its_discovery() -> None:
    """Discovery is shared wider than pools."""
    with Mesh(environ={}) as mesh:
        pools = [mesh.bind(STATIC, meshlb.Config(policy=policy)).pool for policy in ("p2c", "round_robin")]
        assert len(mesh._resolutions) == 1
        assert len(set(pools)) == 2


def test_the_operator_overrules_the_code_and_the_environment_only_fills_gaps() -> None:
    """MESHLB_FORCE_* > arguments > MESHLB_* > defaults."""
    with Mesh(environ={"MESHLB_POLICY": "round_robin"}) as mesh:
        assert mesh.bind(STATIC).config.policy.name == "round_robin"
        assert mesh.bind(STATIC, meshlb.Config(policy="least_request")).config.policy.name == "least_request"
        assert mesh.bind(STATIC, asked={"policy": "p2c"}).config.policy.name == "p2c"
    with Mesh(environ={"MESHLB_FORCE_POLICY": "round_robin"}) as mesh:
        assert mesh.bind(STATIC, meshlb.Config(policy="least_request"), asked={"policy": "p2c"}).config.policy.name == "round_robin"


def test_mode_off_is_told_by_the_binding_for_all_or_for_some_targets() -> None:
    """And names what stock would be given."""
    with Mesh(environ={"MESHLB_MODE": "off"}) as mesh:
        assert mesh.bind("orders.shop:50051").off
        assert mesh.bind("orders.shop:50051").stock_target == "orders.shop:50051"
    with Mesh(environ={"MESHLB_MODE": "off:orders.shop"}) as mesh:
        assert mesh.bind("orders.shop:50051").off
        assert not mesh.bind("users.shop:50051").off


def test_xds_is_left_to_stock_grpc() -> None:
    """A control plane knows better."""
    with Mesh(environ={}) as mesh:
        assert mesh.bind("xds:///orders").off
        assert mesh.bind("xds:///orders").stock_target == "xds:///orders"


def test_a_closed_mesh_says_so_and_ends_its_threads() -> None:
    """Close is idempotent, quick and final."""
    mesh = Mesh(environ={})
    mesh.bind(STATIC).view(Quiet())
    mesh.close()
    mesh.close()
    assert mesh.status()["loop"]["state"] == "stopped"
    with pytest.raises(meshlb.ClosedError, match="mesh is closed"):
        mesh.bind(STATIC).view(Quiet())


def test_closing_a_mesh_that_never_started_starts_nothing() -> None:
    """No thread is made only to be ended."""
    before = threading.active_count()
    Mesh(environ={}).close()
    assert threading.active_count() == before


def test_internal_errors_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours is visible, and does not flood the log."""
    with Mesh(environ={}) as mesh, caplog.at_level(logging.ERROR, "meshlb.mesh"):
        binding = mesh.bind(STATIC)
        for _ in range(3):
            binding.count_internal_error(RuntimeError("a bug"))
        assert list(mesh.status()["internal_errors"].values()) == [3]
        assert len(caplog.records) == 1
        assert STATIC in caplog.text


def test_the_default_mesh_is_one_and_status_reads_it() -> None:
    """``meshlb.status()`` is the process's view."""
    assert default_mesh() is default_mesh()
    assert set(meshlb.status()) == {"pools", "loop", "internal_errors", "passed_through"}


def test_the_authority_is_the_host_as_written_with_the_port() -> None:
    """What stock gRPC would send for the same string."""
    with Mesh(environ={}) as mesh:
        assert mesh.bind("orders.shop:50051").authority == "orders.shop:50051"
        assert mesh.bind("orders.shop:50051").tls_name == "orders.shop"


def test_a_channel_that_outlives_its_mesh_may_still_lose_its_pods() -> None:
    """Nobody ticks its pool any more, and a report of its connections does not fail for that."""
    mesh = Mesh(environ={})
    pool = mesh.bind(STATIC).pool
    view = pool.view(Quiet())
    spare = [Endpoint(host="10.96.0.1", port=80, uid="clusterip/0.0")]
    pool.update(EndpointSet.of([Endpoint(host="10.0.0.1", port=80)], "static", fallback=spare))
    view.set_states([(view.wanted()[0], Connectivity.READY)])
    mesh.close()
    view.set_states([(view.wanted()[0], Connectivity.TRANSIENT_FAILURE)])
    assert [sub.endpoint.host for sub in view.wanted()] == ["10.0.0.1", "10.96.0.1"]


def test_a_listener_that_raises_is_counted_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """One transport's bug reaches neither the other transports nor discovery."""

    class Broken:
        def on_change(self) -> None:
            raise LookupError("a bug")

    with Mesh(environ={}) as mesh, caplog.at_level(logging.ERROR, "meshlb.mesh"):
        pool = mesh.bind(STATIC).pool
        views = [pool.view(Broken()), pool.view(Quiet())]
        for number in range(3):
            pool.update(EndpointSet.of([Endpoint(host=f"10.0.0.{number}", port=80)], "static"))
        assert all(view.known for view in views)
        errors = mesh.status()["internal_errors"]
    assert {count for kind, count in errors.items() if "a bug" in kind} <= {3, 4}  # discovery may have answered meanwhile
    assert errors
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_closing_the_mesh_ends_the_waiting_of_who_has_nothing_to_pick() -> None:
    """Nothing will come any more: an error at once, not a wait until the deadline."""
    mesh = Mesh(environ={})
    handle = mesh.pool("nowhere.invalid:80")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            with handle.pick(timeout_s=60):
                pass
        except meshlb.MeshError as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    mesh.close()
    waiter.join(10)
    assert not waiter.is_alive()
    assert isinstance(raised[0], (meshlb.ClosedError, meshlb.ResolveError))


def test_off_works_whatever_else_is_wrong() -> None:
    """The person on call wins over a bad variable and a target that we cannot read."""
    with Mesh(environ={"MESHLB_MODE": "off", "MESHLB_POLICY": "nonsense"}) as mesh:
        assert mesh.bind("vsock:1:2").off
        assert mesh.bind("vsock:1:2").stock_target == "vsock:1:2"
        assert mesh.bind("orders.shop:50051").stock_target == "orders.shop:50051"


def test_status_keeps_pools_apart_that_differ_by_configuration_only() -> None:
    """Three pools of one target are three entries."""
    with Mesh(environ={}) as mesh:
        policies = [{"name": "least_request", "choice_count": count} for count in (2, 3, 4)]
        pools = [mesh.bind(STATIC, meshlb.Config(policy=policy)).pool for policy in policies]
        assert len(mesh.status()["pools"]) == len(pools) == 3


def test_a_failed_connect_asks_the_sources_again_at_most_once_a_second() -> None:
    """A hint reaches the resolver, by way of the discovery thread."""
    asked: list[float] = []
    with Mesh(environ={}) as mesh:
        view = mesh.bind(STATIC).view(Quiet())
        resolution = next(iter(mesh._resolutions.values()))
        seen = threading.Event()

        class Asked:
            def __getattr__(self, name: str) -> object:
                return getattr(resolver, name)

            def resolve_now(self) -> None:
                asked.append(mesh.clock.now_s())
                seen.set()

        resolver, resolution.resolver = resolution.resolver, Asked()
        deadline_s = mesh.clock.now_s() + 10
        while not view.wanted():
            assert mesh.clock.now_s() < deadline_s
        for state in (Connectivity.TRANSIENT_FAILURE, Connectivity.READY, Connectivity.TRANSIENT_FAILURE):
            view.set_states([(sub, state) for sub in view.wanted()])
        assert seen.wait(10)
    assert len(asked) == 1


# --- a sidecar, and crashes ---------------------------------------------------------------------------------------------------------


ISTIO = "".join(f"   {n}: 00000000:{port:04X} 00000000:0000 0A 0\n" for n, port in enumerate((15001, 15006, 15021)))
IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}


@pytest.fixture
def beside_istio(tmp_path: Path) -> str:
    """The kernel's tables in a pod with a sidecar."""
    (tmp_path / "tcp").write_text("head\n" + ISTIO)
    return str(tmp_path)


def test_beside_a_sidecar_services_get_the_transports_own_channel(beside_istio: str, caplog: pytest.LogCaptureFixture) -> None:
    """To the Service's name; one line however many there are; ``status()`` lists them."""
    with Mesh(environ=IN_CLUSTER, proc_net=beside_istio) as mesh, caplog.at_level(logging.WARNING, "meshlb.mesh"):
        bindings = [mesh.bind(target) for target in ("orders.shop.svc:50051", "k8s:///users.shop:80")]
        assert [(binding.off, binding.stock_target) for binding in bindings] == [
            (True, "orders.shop.svc:50051"),
            (True, "dns:///users.shop:80"),
        ]
        assert not mesh.bind(STATIC).off
        assert not mesh.bind("db.example.com:5432").off
        assert set(mesh.status()["passed_through"]) == {"orders.shop.svc:50051", "k8s:///users.shop:80"}
        assert "Istio" in mesh.status()["passed_through"]["orders.shop.svc:50051"]
    assert len(caplog.records) == 1
    assert "discovery.sidecar=ignore" in caplog.text


def test_a_port_that_must_be_looked_up_leads_to_the_cluster_ip(beside_istio: str) -> None:
    """The transport's own channel would not know its number; ours finds it and dials no pod."""
    with Mesh(environ=IN_CLUSTER, proc_net=beside_istio) as mesh:
        binding = mesh.bind("orders.shop.svc:grpc")
        assert not binding.off
        assert mesh._classifier(binding.config).wanted(binding.target).pods is False


@pytest.mark.parametrize("how", ["code", "deployment", "operator"])
def test_a_sidecar_can_be_ignored(beside_istio: str, how: str) -> None:
    """By whom ever it is said; MESHLB_MODE=off is stronger still, and then nobody is warned."""
    variables = {
        "code": {},
        "deployment": {"MESHLB_DISCOVERY_SIDECAR": "ignore"},
        "operator": {"MESHLB_FORCE_DISCOVERY_SIDECAR": "ignore"},
    }
    config = meshlb.Config(discovery={"sidecar": "ignore"}) if how == "code" else None
    with Mesh(config, environ={**IN_CLUSTER, **variables[how]}, proc_net=beside_istio) as mesh:
        assert not mesh.bind("orders.shop.svc:50051").off
        assert mesh.status()["passed_through"] == {}
    with Mesh(config, environ={**IN_CLUSTER, **variables[how], "MESHLB_MODE": "off:orders"}, proc_net=beside_istio) as mesh:
        assert mesh.bind("orders.shop.svc:50051").off


class Scripted:
    """A resolver that raises at its start, or gives one endpoint."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def start(self, listener: Listener, /) -> None:
        if self._error is not None:
            raise self._error
        listener.on_endpoints(EndpointSet.of([Endpoint(host="10.0.0.1", port=80)], "scripted"))

    def resolve_now(self) -> None: ...

    def close(self) -> None: ...


def eventually(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.002)


@pytest.mark.parametrize("error", [ValueError("boom"), MemoryError(), RecursionError()])
def test_a_crash_in_one_targets_resolver_is_told_there_and_touches_no_other(error: Exception) -> None:
    """Its callers hear what happened at once; the other target works; the thread goes on."""
    with Mesh(environ={}) as mesh:
        resolutions = [Resolution(Scripted(error)), Resolution(Scripted())]
        pools = [mesh.bind(f"static:///10.0.0.{n}:80").pool for n in (8, 9)]
        for resolution, pool in zip(resolutions, pools, strict=True):
            mesh.scheduler.call_soon(functools.partial(resolution.attach, pool))
        eventually(lambda: pools[0].snapshot.error is not None and pools[1].snapshot.source == "scripted")
        assert "its discovery cannot start" in str(pools[0].snapshot.error)
        assert mesh.status()["loop"]["state"] == "running"
        assert sum(mesh.status()["loop"]["errors"].values()) == 1


def test_a_pool_that_raises_keeps_no_other_from_hearing() -> None:
    """Two balancing configurations of one target: a policy of the user's own is broken in the first."""

    class Broken:
        target = "orders"

        def update(self, endpoints: EndpointSet) -> None:
            raise ValueError("a policy of the user's own")

    heard: list[EndpointSet] = []

    class Sound(Broken):
        def update(self, endpoints: EndpointSet) -> None:
            heard.append(endpoints)

    pools = [Broken(), Sound()]
    resolution = Resolution(Scripted())
    resolution._pools = [weakref.ref(pool) for pool in pools]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="user's own"):
        resolution.on_endpoints(EndpointSet((), "scripted"))
    assert len(heard) == 1


def test_channels_of_a_pool_that_agree_share_one_retry_budget_and_status_tells_it() -> None:
    """Of a target's further attempts; calls are counted where they went, and the pool is not kept alive by that."""
    with Mesh(environ={}) as mesh:
        one, same = mesh.bind(STATIC), mesh.bind(STATIC, meshlb.Config(retry={"idempotent": ["*"], "max_attempts": 2}))
        other = mesh.bind(STATIC, meshlb.Config(retry={"budget_ratio": 0.5}))
        assert one.limits.budget is same.limits.budget is not other.limits.budget
        assert one.limits.budget.withdraw()
        (pool,) = mesh.status()["pools"].values()
        assert pool["retries"] == [
            {"ratio": 0.2, "min_per_s": 10.0, "ttl_s": 10.0, "budget": 99.0, "granted": 1, "refused": 0},
            {"ratio": 0.5, "min_per_s": 10.0, "ttl_s": 10.0, "budget": 100.0, "granted": 0, "refused": 0},
        ]
        alive = weakref.ref(one.pool)
        del one, same, other, pool
        gc.collect()
        assert alive() is None


def test_channels_of_a_pool_that_are_limited_alike_share_their_places_and_status_tells_them() -> None:
    """One set a pool and ``Limits``; without any there is nothing to pass. The pool is not kept alive by it."""
    with Mesh(environ={}) as mesh:
        limits = {"max_in_flight": 5, "methods": {"/shop.Orders/*": {"max_in_flight": 2}}}
        one, same = (mesh.bind(STATIC, meshlb.Config(limits=limits)) for _ in range(2))
        other, none = mesh.bind(STATIC, meshlb.Config(limits={"max_in_flight": 6})), mesh.bind(STATIC)
        assert one.limits.gates is same.limits.gates is not other.limits.gates
        assert none.limits.gates is None
        assert one.pool is other.pool is none.pool
        (pool,) = mesh.status()["pools"].values()
        nothing = {"in_flight": 0, "waiting": 0, "rejected": 0}
        assert pool["limits"] == [
            {"limit": "limits.methods /shop.Orders/*.max_in_flight", "value": 2, **nothing},
            {"limit": "limits.max_in_flight", "value": 5, **nothing},
            {"limit": "limits.max_in_flight", "value": 6, **nothing},
        ]
        alive = weakref.ref(one.pool)
        del one, same, other, none, pool
        gc.collect()
        assert alive() is None


def test_a_limit_of_endpoints_is_the_pools_and_its_views_tell_who_stands_in_line() -> None:
    """Channels with another limit have another pool: one that counted for both would keep neither."""
    with Mesh(environ={}) as mesh:
        limited = mesh.bind(STATIC, meshlb.Config(limits={"max_in_flight_per_endpoint": 2}))
        assert limited.pool is not mesh.bind(STATIC).pool
        off = {"max_in_flight_per_endpoint": 2, "enabled": False}
        assert mesh.bind(STATIC, meshlb.Config(limits=off)).pool is not limited.pool
        with mesh.pool(STATIC, meshlb.Config(limits={"max_in_flight_per_endpoint": 2})).pick(timeout_s=5):
            (said,) = [view["limit"] for pool in mesh.status()["pools"].values() for view in pool["views"] if "limit" in view]
            assert said == {"max_in_flight_per_endpoint": 2, "waiting": 0, "rejected": 0}


def test_the_own_service_is_looked_for_as_long_as_a_pool_needs_it() -> None:
    """Its discovery ends with the pool that asked for it, though no channel leads there."""
    config = meshlb.Config(locality={"mode": "prefer", "own_service": "static:///10.0.0.9:80"})
    with Mesh(environ={}) as mesh:
        pools = [mesh.bind(STATIC, config).pool]
        eventually(lambda: pools[0].snapshot.latest is not None)
        assert len(mesh._resolutions) == 2
        pools.clear()
        gc.collect()
        eventually(lambda: not mesh._resolutions)
