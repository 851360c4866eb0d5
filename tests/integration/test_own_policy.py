"""A policy of a user's own over real channels: by name, in 30 lines; and whatever it does wrong, no call fails for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import meshlb.grpc
import meshlb.grpc.aio
from meshlb import Config, Mesh
from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.balance.registry import register_policy
from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from tests.support.channels import EchoServer, eventually
from tests.support.policies import ByMethod, MineConfig, Policy, registry_as_before  # noqa: F401 - a fixture

REQUEST = echo_pb2.EchoRequest(count=2)
STRANGER = Subchannel(Endpoint(host="127.0.0.1", port=1), LiveOnly())


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    servers = [EchoServer(f"pod-{number}") for number in range(3)]
    yield "static:///" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    for server in servers:
        server.stop()


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with Mesh() as mesh:
        yield mesh


@pytest.mark.usefixtures("registry_as_before")
def test_a_policy_of_thirty_lines_decides_over_a_real_channel(target: str, mesh: Mesh) -> None:
    """Registered, written by its name, and seen in ``status()``."""
    register_policy(ByMethod)
    with meshlb.grpc.insecure_channel(target, config=Config(policy="by_method"), mesh=mesh) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        stub.Get(REQUEST, timeout=5)
        eventually(lambda: len(_ready(mesh)) == 3, "all three are connected")
        unary = Counter(stub.Get(REQUEST, timeout=5).pod for _ in range(10))
        streams = Counter(reply.pod for _ in range(10) for reply in stub.Watch(REQUEST, timeout=5))
        (pool,) = mesh.status()["pools"].values()
    assert len(unary) == len(streams) == 1
    assert pool["policy"] == "by_method"
    assert mesh.status()["internal_errors"] == {}


def _ready(mesh: Mesh) -> list[Any]:
    (pool,) = mesh.status()["pools"].values()
    return [view for view in pool["views"] for _ in range(view["picking_from"])]


# --- broken ones ----------------------------------------------------------------------------------------------------------------


def _raise(*given: object) -> Any:
    raise RuntimeError("a bug of the user's")


class Raises(LiveOnly):
    on_start = on_end = load = _raise  # type: ignore[assignment]


def _own(**parts: Any) -> Callable[[], Policy]:
    def build() -> Policy:
        policy = Policy()
        for name, part in parts.items():
            setattr(policy, name, part)
        return policy

    return build


def _picks(pick: Callable[..., Any]) -> Callable[[], Policy]:
    return _own(picker=lambda subchannels: SimpleNamespace(pick=pick))


BROKEN: dict[str, Callable[[], Policy]] = {
    "build": _raise,
    "pick": _picks(_raise),
    "picks a stranger": _picks(lambda info, now_s: STRANGER),
    "picks a word": _picks(lambda info, now_s: "127.0.0.1:80"),
    "picks nobody": _picks(lambda info, now_s: None),
    "new_picker": _own(picker=_raise),
    "new_picker gives nothing": _own(picker=lambda subchannels: None),
    "new_metric": _own(new_metric=_raise),
    "new_metric gives nothing": _own(new_metric=lambda now_s: None),
    "metrics": _own(new_metric=lambda now_s: Raises()),
    "know": _own(know=_raise),
    "on_endpoints": _own(on_endpoints=_raise),
    "tick": _own(tick=_raise, due_s=lambda: 0.0),
    "due_s": _own(tick=lambda now_s: True, due_s=_raise),
}


def _config(build: Callable[[], Policy]) -> Config:
    class Broken(MineConfig):
        name = "broken"

        def build(self, rng: Rng) -> Policy:
            return build()

    return Config(policy=Broken())


@pytest.mark.parametrize("build", BROKEN.values(), ids=BROKEN.keys())
def test_no_call_fails_for_what_a_policy_does_wrong(build: Callable[[], Policy], target: str, mesh: Mesh) -> None:
    """Threads: unary and streams get their answers at once, and what went wrong is counted."""
    with meshlb.grpc.insecure_channel(target, config=_config(build), mesh=mesh) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        for _ in range(3):
            assert stub.Get(REQUEST, timeout=5).pod
            assert stub.Get.future(REQUEST, timeout=5).result().pod
            assert len(list(stub.Watch(REQUEST, timeout=5))) == 2
    assert mesh.status()["internal_errors"]


@pytest.mark.parametrize("build", BROKEN.values(), ids=BROKEN.keys())
def test_nor_in_asyncio(build: Callable[[], Policy], target: str, mesh: Mesh) -> None:
    """The same with ``await``."""

    async def case() -> None:
        async with meshlb.grpc.aio.insecure_channel(target, config=_config(build), mesh=mesh) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            for _ in range(3):
                assert (await stub.Get(REQUEST, timeout=5)).pod
                assert len([reply async for reply in stub.Watch(REQUEST, timeout=5)]) == 2

    asyncio.run(case())
    assert mesh.status()["internal_errors"]


@pytest.mark.usefixtures("registry_as_before")
def test_nor_where_it_places_the_sessions_of_another_policy(target: str, mesh: Mesh) -> None:
    """``session`` asks it first, and goes on without it."""

    class Broken(MineConfig):
        name = "broken"

        def build(self, rng: Rng) -> Policy:
            return BROKEN["pick"]()

    register_policy(Broken)
    config = Config(policy={"name": "session", "first": "broken"})
    with meshlb.grpc.insecure_channel(target, config=config, mesh=mesh) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        assert len({stub.Get(REQUEST, timeout=5).pod for _ in range(20)}) == 1
    assert mesh.status()["internal_errors"]


def test_nor_does_a_pick_where_the_policy_cannot_even_be_built(target: str, mesh: Mesh) -> None:
    """It is balanced by ``random``, and what went wrong is counted."""
    with mesh.pool(target, _config(_raise)).pick(timeout_s=5):
        pass
    (pool,) = mesh.status()["pools"].values()
    assert pool["policy"] == "random"
    assert mesh.status()["internal_errors"]
