"""The composition root: who shares what, what starts when, and what an operator can overrule."""

from __future__ import annotations

import logging
import threading

import pytest

import meshlb
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.mesh import Mesh, default_mesh

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
        assert mesh.bind(STATIC, policy="p2c").config.policy.name == "p2c"
    with Mesh(environ={"MESHLB_FORCE_POLICY": "round_robin"}) as mesh:
        assert mesh.bind(STATIC, meshlb.Config(policy="least_request"), policy="p2c").config.policy.name == "round_robin"


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
    assert set(meshlb.status()) == {"pools", "loop", "internal_errors"}


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
