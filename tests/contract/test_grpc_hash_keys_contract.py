"""Which pod a call with a key, or with somebody to avoid, goes to: the same from threads and asyncio, by every kind of call, over real
loopback servers."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.core.clock import Rng
from meshlb.core.hints import hints
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.core.xxhash import xxh64
from meshlb.load.in_flight import LiveOnly
from tests.support import aio
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, bench, echo_servers, eventually, request
from tests.support.flaky import CALLERS, caller, failing, flaky_servers

PODS = 5
SYNC = ("call", "with_call", "future", "Watch", "Collect", "Chat")
AIO = ("Get", "Watch", "Collect", "Chat")
WORLDS = ("threads", "asyncio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Modulo(PolicyConfig):
    """A policy of a user's own, in a few lines; without a key the first one is picked. It writes down what it was told."""

    name: ClassVar[str] = "modulo"
    hashes: ClassVar[bool] = True
    told: ClassVar[list[PickInfo]] = []

    def build(self, rng: Rng) -> Modulo:
        return self

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        return ModuloPicker(subchannels)


class ModuloPicker:
    def __init__(self, subchannels: Sequence[Subchannel]) -> None:
        self._subchannels = tuple(subchannels)

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        Modulo.told.append(info)
        left = [sub for sub in self._subchannels if sub not in info.exclude] or self._subchannels
        return left[(info.hash or 0) % len(left)]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(PODS) as served:
        yield served


@pytest.fixture(autouse=True)
def _told_afresh() -> None:
    Modulo.told.clear()


class Threads:
    """Calls from this thread; each gives the pod that answered."""

    ways = SYNC

    def __init__(self, binding: LooseBinding, pods: Sequence[EchoServer]) -> None:
        self._bench = bench(*pods, binding=binding)
        self._ready = len(pods)

    def __enter__(self) -> Threads:
        self._channel = self._bench.__enter__()
        if self._ready:
            self._channel.ready(self._ready)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._bench.__exit__(*exc)

    def begin(self, way: str, **arguments: Any) -> Callable[[], str]:
        """Invoke a call here and now; its pod can be asked for later, but not of blocking ones."""
        stub = self._channel.stub
        arguments.setdefault("timeout", PATIENCE_S)
        if way == "call":
            pod = stub.Get(request(), **arguments).pod
            return lambda: pod
        if way == "with_call":
            reply, _ = stub.Get.with_call(request(), **arguments)
            return lambda: reply.pod
        if way == "future":
            future = stub.Get.future(request(), **arguments)
            return lambda: future.result(PATIENCE_S).pod
        if way == "Collect":
            future = stub.Collect.future(iter([request()]), **arguments)
            return lambda: future.result(PATIENCE_S).pod
        stream = getattr(stub, way)(request(count=1) if way == "Watch" else iter([request()]), **arguments)
        return lambda: next(reply.pod for reply in list(stream))

    def pod(self, way: str, **arguments: Any) -> str:
        return self.begin(way, **arguments)()


class Tasks:
    """The same from a loop, whose tasks take over the hints of whoever asks."""

    ways = AIO

    def __init__(self, binding: LooseBinding, pods: Sequence[EchoServer]) -> None:
        self._runner = asyncio.Runner()
        self._bench = aio.bench(*pods, binding=binding)
        self._ready = len(pods)

    def __enter__(self) -> Tasks:
        self._channel = self._run(self._bench.__aenter__())
        if self._ready:
            self._run(self._channel.ready(self._ready))
        return self

    def __exit__(self, *exc: Any) -> None:
        self._run(self._bench.__aexit__(*exc))
        self._runner.close()

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(asyncio.wait_for(coroutine, 2 * PATIENCE_S), context=contextvars.copy_context())

    def begin(self, way: str, **arguments: Any) -> Callable[[], str]:
        stub = self._channel.stub
        arguments.setdefault("timeout", PATIENCE_S)

        async def invoked() -> Any:
            return getattr(stub, way)(request(count=1) if way in ("Get", "Watch") else iter([request()]), **arguments)

        call = self._run(invoked())

        async def ended() -> str:
            if way in ("Get", "Collect"):
                return str((await call).pod)
            (pod,) = [reply.pod async for reply in call]
            return str(pod)

        return lambda: str(self._run(ended()))

    def pod(self, way: str, **arguments: Any) -> str:
        return self.begin(way, **arguments)()


def world_of(world: str, binding: LooseBinding, pods: Sequence[EchoServer] = ()) -> Any:
    return (Threads if world == "threads" else Tasks)(binding, pods)


POLICIES = [Modulo(), "ring_hash", "maglev", "session"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_key_goes_to_one_pod_by_every_kind_of_call(policy: Any, world: str, servers: list[EchoServer]) -> None:
    """200 calls and more of five keys, in turns; and other keys go elsewhere."""
    with world_of(world, LooseBinding(policy=policy), servers) as calls:
        seen: dict[str, set[str]] = {}
        for number in range(208):
            key = f"user-{number % 5}"
            with hints(hash_key=key):
                seen.setdefault(key, set()).add(calls.pod(calls.ways[number % len(calls.ways)]))
        assert [len(pods) for pods in seen.values()] == [1] * 5
        used = set()
        for number in range(40):
            with hints(hash_key=number):
                used.add(calls.pod(calls.ways[0]))
        assert len(used) >= 3


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_threads_and_asyncio_send_a_key_to_the_same_pod(policy: str, servers: list[EchoServer]) -> None:
    """As two processes do: the tables are functions of the members alone."""
    found = []
    for world in WORLDS:
        with world_of(world, LooseBinding(policy=policy, hash_keys="metadata:user"), servers) as calls:
            found.append([calls.pod(calls.ways[0], metadata=[("user", f"u{number}")]) for number in range(20)])
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


@pytest.mark.parametrize("world", WORLDS)
def test_the_key_is_put_together_as_the_config_says(world: str, servers: list[EchoServer]) -> None:
    """From metadata by Envoy's rule; a hint that is not listed comes first; and per method."""
    sources = {
        "sources": ["metadata:user", {"metadata": "shop", "terminal": True}],
        "methods": {"/meshlb.testing.v1.Echo/Chat": {"sources": []}},
    }
    user, shop = xxh64(b"u"), xxh64(b"s")
    both = ((user << 1 | user >> 63) & 2**64 - 1) ^ shop
    with world_of(world, LooseBinding(policy=Modulo(), hash_keys=sources), servers) as calls:
        for way in calls.ways:
            Modulo.told.clear()
            calls.pod(way, metadata=(("user", "u"), ("shop", "s")))
            calls.pod(way, metadata=(("other", "x"), ("shop", "s")))
            calls.pod(way, metadata=grpc.aio.Metadata(("user", "u")) if world == "asyncio" else [("user", "u")])
            calls.pod(way)
            with hints(hash_key=7):
                calls.pod(way, metadata=(("user", "u"),))
            expected = [both, shop, user, None, xxh64(b"7")] if way != "Chat" else [None] * 5
            assert [told.hash for told in Modulo.told] == expected, way


@pytest.mark.parametrize("world", WORLDS)
def test_a_policy_that_looks_at_no_keys_is_told_none(world: str, servers: list[EchoServer]) -> None:
    """And every call is told the very same."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Blind(Modulo):
        name: ClassVar[str] = "blind"
        hashes: ClassVar[bool] = False

    with world_of(world, LooseBinding(policy=Blind(), hash_keys="metadata:user"), servers) as calls:
        with hints(hash_key=7):
            for _ in range(3):
                calls.pod(calls.ways[0], metadata=(("user", "u"),))
        assert [told.hash for told in Modulo.told] == [None] * 3
        assert len(set(map(id, Modulo.told))) == 1


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("policy", ["p2c", "round_robin", "least_request", "maglev", "session"])
def test_whom_a_hint_excludes_gets_no_call_while_another_is_there(policy: str, world: str, servers: list[EchoServer]) -> None:
    """By its endpoint or its address; and if all are excluded, calls are served nonetheless."""
    endpoints = [server.endpoint for server in servers]
    with world_of(world, LooseBinding(policy=policy), servers) as calls:
        for number in range(10 * len(calls.ways)):
            with hints(hash_key=number, exclude=[endpoints[0], endpoints[1].address]):
                assert calls.pod(calls.ways[number % len(calls.ways)]) in {"pod-2", "pod-3", "pod-4"}
        with hints(exclude=endpoints):
            assert calls.pod(calls.ways[0]).startswith("pod-")


@pytest.mark.parametrize("world", WORLDS)
def test_a_call_that_waits_keeps_the_hints_that_held_when_it_was_made(world: str, servers: list[EchoServer]) -> None:
    """It is sent from another thread, or by the loop, long after its block was left."""
    binding = LooseBinding(policy=Modulo())
    with world_of(world, binding) as calls:
        with hints(hash_key="early"):
            begun = [calls.begin(way) for way in calls.ways if way not in ("call", "with_call")]
        binding.update(servers)
        for pod in begun:
            pod()
        hashes = [told.hash for told in Modulo.told]
        assert set(hashes) == {xxh64(b"early")}
        assert len(hashes) >= len(begun)


@pytest.mark.parametrize("kind", CALLERS)
def test_further_attempts_keep_the_key_and_go_elsewhere(kind: str) -> None:
    """The key decides about the second pod as well as about the first."""
    binding_of = {"policy": Modulo(), "retry": {"idempotent": ["*"], "base_s": 0.001}, "hash_keys": "metadata:user"}
    with flaky_servers(3, failing(2)) as (pods, log), caller(kind, pods, **binding_of) as channel:
        assert channel.call(metadata=(("user", "u"),)).code is grpc.StatusCode.OK
    assert len(set(log.pods)) == 3
    sent = Modulo.told[-3:]
    assert [told.hash for told in sent] == [xxh64(b"u")] * 3
    assert [len(told.exclude) for told in sent] == [0, 1, 2]


def test_a_session_outlives_its_connection() -> None:
    """A pod whose connections are cut serves its sessions again as soon as it is connected."""
    binding = LooseBinding(policy="session", retry={"idempotent": ["*"]})
    with echo_servers(3) as pods, Threads(binding, pods) as calls, hints(hash_key="user"):
        name = calls.pod("call")
        (pod,) = [one for one in pods if one.name == name]
        pod.stop()
        assert calls.pod("call") != name  # a stand-in
        pod.start()
        eventually(lambda: calls.pod("call") == name, "its pod serves it again", patience_s=4.0)
