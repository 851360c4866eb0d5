"""``mesh.pool(target).pick()``: borrowing endpoints from threads and from event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest

import meshlb
from meshlb.core.hints import hints
from meshlb.load.in_flight import LiveOnly
from meshlb.mesh import Mesh
from meshlb.picks import TargetPool
from tests.support.aio import eventually

TARGET = "static:///10.0.0.1:80,10.0.0.2:80,10.0.0.3:80"


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with Mesh(environ={}) as one:
        yield one


def in_flight(mesh: Mesh) -> int:
    return sum(one["in_flight"] + one["streams"] for pool in mesh.status()["pools"].values() for one in pool["endpoints"])


def test_picks_are_spread_and_come_back(mesh: Mesh) -> None:
    """Every endpoint is lent out, and nothing stays in flight."""
    pool = mesh.pool(TARGET)
    seen: Counter[str] = Counter()
    for _ in range(300):
        with pool.pick(timeout_s=5) as endpoint:
            assert in_flight(mesh) == 1
            seen[endpoint.address] += 1
    assert set(seen) == {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}
    assert in_flight(mesh) == 0


async def test_asyncio_picks_share_the_pool_with_sync_ones(mesh: Mesh) -> None:
    """What a thread holds, a task sees: with two of three busy the third is chosen."""
    pool = mesh.pool(TARGET, meshlb.Config(policy="least_request"))
    with pool.pick(timeout_s=5) as first:
        async with pool.pick(timeout_s=5) as second, pool.pick(timeout_s=5) as third:
            assert len({first.address, second.address, third.address}) == 3
            assert in_flight(mesh) == 3
    assert in_flight(mesh) == 0


def test_several_event_loops_use_one_handle(mesh: Mesh) -> None:
    """Each loop waits for the first answer in its own way."""
    pool = mesh.pool(TARGET)

    async def borrow() -> str:
        async with pool.pick(timeout_s=5) as endpoint:
            return endpoint.address

    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(borrow()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert in_flight(mesh) == 0


def test_a_failure_in_the_block_is_blamed_on_the_endpoint_and_passes_through(mesh: Mesh) -> None:
    """The caller's exception is the caller's; the pool counts it."""
    pool = mesh.pool(TARGET)
    with pytest.raises(ValueError, match="broken"), pool.pick(timeout_s=5):
        raise ValueError("broken")
    assert in_flight(mesh) == 0
    assert sum(one["failed"] for one in mesh.status()["pools"][TARGET_KEY(mesh)]["endpoints"]) == 1


def TARGET_KEY(mesh: Mesh) -> str:
    return next(iter(mesh.status()["pools"]))


def test_a_refused_connection_puts_the_endpoint_aside_while_another_is_there(mesh: Mesh) -> None:
    """The next picks go elsewhere."""
    pool = mesh.pool(TARGET)
    with pytest.raises(ConnectionRefusedError), pool.pick(timeout_s=5) as dead:
        raise ConnectionRefusedError
    for _ in range(50):
        with pool.pick(timeout_s=5) as endpoint:
            assert endpoint.address != dead.address


def test_when_all_are_refused_one_is_still_lent(mesh: Mesh) -> None:
    """Better one try than none."""
    pool = mesh.pool("static:///10.0.0.1:80")
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError), pool.pick(timeout_s=5):
            raise ConnectionRefusedError


def test_an_endpoint_that_was_put_aside_comes_back(mesh: Mesh) -> None:
    """After about a second it may be lent again."""
    pool = mesh.pool("static:///10.0.0.1:80,10.0.0.2:80")
    with pytest.raises(ConnectionRefusedError), pool.pick(timeout_s=5) as dead:
        raise ConnectionRefusedError
    deadline_s = time.monotonic() + 10
    while True:
        with pool.pick(timeout_s=5) as endpoint:
            if endpoint.address == dead.address:
                break
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


async def test_a_cancelled_wait_leaves_nothing_behind(mesh: Mesh) -> None:
    """A task that gives up while nothing is known holds no endpoint and no place in the queue."""
    pool = mesh.pool("nowhere.invalid:80")

    async def borrow() -> None:
        async with pool.pick():
            raise AssertionError("there is nothing to borrow")

    task = asyncio.ensure_future(borrow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, meshlb.ResolveError)):
        await task
    assert not pool._waiting
    assert in_flight(mesh) == 0


def test_nothing_known_is_an_error_that_names_what_was_asked(mesh: Mesh) -> None:
    """Not a hang, and not a bare timeout."""
    with pytest.raises(meshlb.MeshError, match=r"nowhere\.invalid"), mesh.pool("nowhere.invalid:80").pick(timeout_s=5):
        pass


def test_closing_the_handle_wakes_who_waits_and_ends_new_picks(mesh: Mesh) -> None:
    """No hang, and a clear error."""
    pool = mesh.pool(TARGET)
    with pool.pick(timeout_s=5):
        pool.close()
    with pytest.raises(meshlb.ClosedError, match="closed"), pool.pick():
        pass
    assert in_flight(mesh) == 0


def test_a_bad_timeout_is_a_clear_error(mesh: Mesh) -> None:
    """Field, value, rule."""
    with pytest.raises(meshlb.ConfigError, match="timeout_s=0"):
        mesh.pool(TARGET).pick(timeout_s=0)


def test_a_forgotten_pool_is_freed_and_its_discovery_ends(mesh: Mesh) -> None:
    """The mesh holds pools weakly."""
    handle = mesh.pool("localhost:1")
    with pytest.raises(ConnectionRefusedError), handle.pick(timeout_s=5):
        raise ConnectionRefusedError
    pool = weakref.ref(handle.binding.pool)
    del handle
    deadline_s = time.monotonic() + 10
    while pool() is not None or mesh._resolutions:
        gc.collect()
        assert time.monotonic() < deadline_s, (pool(), mesh._resolutions)
        threading.Event().wait(0.01)
    assert mesh.status()["pools"] == {}


def test_a_refused_connection_after_the_mesh_was_closed_is_the_users_error_and_comes_back() -> None:
    """Nobody is left to bring an endpoint back that was put aside, so it is not."""
    mesh = Mesh(environ={})
    pool = mesh.pool(TARGET)
    with pool.pick(timeout_s=5):
        mesh.close()
    with pytest.raises(ConnectionRefusedError), pool.pick(timeout_s=5):
        raise ConnectionRefusedError
    assert in_flight(mesh) == 0
    with pool.pick(timeout_s=5) as endpoint:
        assert endpoint.port == 80


# --- limits ---------------------------------------------------------------------------------------------------------------


def limited(mesh: Mesh, **limits: object) -> TargetPool:
    return mesh.pool(TARGET, meshlb.Config(limits=limits))


def told(mesh: Mesh) -> list[tuple[int, int, int]]:
    (pool,) = mesh.status()["pools"].values()
    return [(said["in_flight"], said["waiting"], said["rejected"]) for said in pool["limits"]]


@pytest.mark.parametrize("limits", [{"max_in_flight": 3}, {"max_in_flight_per_endpoint": 1}])
async def test_picks_over_the_limit_wait_for_their_turn_from_threads_and_tasks_alike(mesh: Mesh, limits: dict[str, int]) -> None:
    """One leaves, one enters; however its block ended."""
    pool = limited(mesh, **limits)
    with pool.pick(timeout_s=5), pool.pick(timeout_s=5):
        first = pool.pick(timeout_s=5)
        first.__enter__()
        got: list[str] = []

        async def task(name: str) -> None:
            with contextlib.suppress(ZeroDivisionError):
                async with pool.pick(timeout_s=5):
                    got.append(name)
                    raise ZeroDivisionError

        def thread() -> None:
            with pool.pick(timeout_s=5):
                got.append("thread")

        begun = asyncio.gather(task("one"), task("two"))
        worker = asyncio.to_thread(thread)
        waits = asyncio.ensure_future(worker)
        await eventually(lambda: len(pool._waiting) == 3, "all of them wait")
        assert got == []
        first.__exit__(None, None, None)
        await asyncio.wait_for(asyncio.gather(begun, waits), 5)
        assert sorted(got) == ["one", "thread", "two"]
    assert in_flight(mesh) == 0
    assert all(counts[:2] == (0, 0) for counts in told(mesh))


async def test_a_pick_that_is_rejected_cancelled_or_too_late_leaves_the_others_their_turn(mesh: Mesh) -> None:
    """And says which limit it was."""
    pool = limited(mesh, max_in_flight=1, max_waiting=2)
    async with pool.pick():
        cancelled = asyncio.ensure_future(pool.pick().__aenter__())
        await eventually(lambda: told(mesh) == [(1, 1, 0)], "it waits")
        with pytest.raises(meshlb.DeadlineExceededError, match=r"its turn, with limits\.max_in_flight=1"):
            async with pool.pick(timeout_s=0.01):
                pass
        cancelled.cancel()
        await asyncio.wait([cancelled])
        waiting = [asyncio.ensure_future(pool.pick().__aenter__()) for _ in range(2)]
        await eventually(lambda: told(mesh) == [(1, 2, 0)], "two wait")
        with pytest.raises(meshlb.OverLimitError, match=r"limits\.max_in_flight=1: 1 calls are in flight, and 2 wait"):
            pool.pick().__enter__()
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
    assert told(mesh) == [(0, 0, 1)]


def test_a_picks_method_has_its_own_limit(mesh: Mesh) -> None:
    """As a call's has."""
    pool = limited(mesh, max_waiting=0, methods={"/shop.Orders/Report": {"max_in_flight": 1}})
    refused = pytest.raises(meshlb.OverLimitError, match=r"limits\.methods /shop\.Orders/Report\.max_in_flight=1")
    with pool.pick(method="/shop.Orders/Report"), pool.pick(method="/shop.Orders/Get"), refused:
        pool.pick(method="/shop.Orders/Report").__enter__()


@pytest.mark.parametrize("method", ["/shop.Orders/Report", "/shop.Orders/Get"])
def test_picks_for_a_method_that_ejection_ignores_do_not_count(mesh: Mesh, method: str) -> None:
    """``outlier.ignore_methods``, for those who name their method; whatever fails, nobody is put out for it."""
    config = meshlb.Config(outlier={"ignore_methods": ["/shop.Orders/Report"]})
    pool = mesh.pool(TARGET, config)
    for _ in range(6):
        with contextlib.suppress(RuntimeError), pool.pick(timeout_s=5, method=method):
            raise RuntimeError
    (described,) = mesh.status()["pools"].values()
    assert sum(one["failed"] for one in described["endpoints"]) == (0 if method == "/shop.Orders/Report" else 6)


@pytest.mark.parametrize("policy", ["ring_hash", "session"])
async def test_picks_with_one_key_get_one_endpoint(mesh: Mesh, policy: str) -> None:
    """From threads and from tasks, whether the pick is given the key or a hint is; and the pick's own word counts."""
    pool = mesh.pool(TARGET, meshlb.Config(policy=policy))

    def own(key: str | int | bytes) -> str:
        with pool.pick(timeout_s=5, hash_key=key) as endpoint:
            return endpoint.address

    placed = {key: own(key) for key in ("a", "b", "c", "d", "e", "f", "g", "h", "7")}
    assert len(set(placed.values())) > 1
    assert own(7) == own(b"7") == placed["7"]
    for key, address in placed.items():
        with hints(hash_key=key):
            async with pool.pick(timeout_s=5) as endpoint:
                assert endpoint.address == address
            assert own("a") == placed["a"]


def test_a_pick_avoids_whom_a_hint_excludes(mesh: Mesh) -> None:
    """While another is there."""
    pool = mesh.pool(TARGET)
    with hints(exclude=["10.0.0.1:80", "10.0.0.2:80"]):
        for _ in range(20):
            with pool.pick(timeout_s=5) as endpoint:
                assert endpoint.address == "10.0.0.3:80"


def test_a_key_of_another_type_is_refused_before_the_block(mesh: Mesh) -> None:
    """By name."""
    with pytest.raises(TypeError, match=r"pick: hash_key=1\.5: must be str, bytes or int"):
        mesh.pool(TARGET).pick(hash_key=1.5)  # type: ignore[arg-type]


def test_a_users_metric_that_raises_at_the_end_costs_no_pick(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block goes on, its place of a limit comes back, and what went wrong is counted."""
    pool = limited(mesh, max_in_flight=1)
    with pool.pick(timeout_s=5):
        pass
    for sub in pool.binding.pool.snapshot.listed:

        def on_end(*given: object) -> None:
            raise RuntimeError("a bug of the user's")

        metric = LiveOnly()
        monkeypatch.setattr(type(metric), "on_end", on_end)
        sub.metric = metric
    for _ in range(3):
        with pool.pick(timeout_s=1):
            pass
    assert told(mesh) == [(0, 0, 0)]
    assert in_flight(mesh) == 0
    assert mesh.status()["internal_errors"]
