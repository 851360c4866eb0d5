"""Calls at their limits, in the same cases for threads and asyncio and for every kind of call, over real loopback servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlb
from meshlb.testing.pod_server import EchoService
from tests.contract.grpc_aio_driver import AioDriver
from tests.contract.grpc_driver import KINDS, Result, SyncDriver
from tests.support.aio import channel_of
from tests.support.channels import PATIENCE_S, Bench, EchoServer, LooseBinding, eventually, request

Code = grpc.StatusCode
GET = "/meshlb.testing.v1.Echo/Get"


class Held(EchoService):
    """Holds every call until it is let go; knows the order in which they came, and how many there were at once."""

    def __init__(self, pod: str, log: Log) -> None:
        super().__init__(pod=pod, version="v1")
        self._log = log

    @contextlib.contextmanager
    def _inside(self, context: grpc.ServicerContext) -> Iterator[None]:
        over = threading.Event()
        context.add_callback(over.set)
        log = self._log
        with log.lock:
            log.inside[self._pod] = log.inside.get(self._pod, 0) + 1
            log.most = max(log.most, sum(log.inside.values()))
            log.most_on_one = max(log.most_on_one, *log.inside.values())
            log.came += 1
        try:
            while not over.is_set() and not log.go.acquire(timeout=0.005):
                pass
            yield
        finally:
            with log.lock:
                log.inside[self._pod] -= 1

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._inside(context):
            self._log.order.append(request.payload)
            return super().Get(request, context)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._inside(context):
            self._log.order.append(request.payload)
            yield from super().Watch(request, context)

    def Collect(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self._inside(context):
            reply = super().Collect(requests, context)
            self._log.order.append(reply.payload)
            return reply

    def Chat(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self._inside(context):
            for reply in super().Chat(requests, context):
                if not reply.sequence:
                    self._log.order.append(reply.payload)
                yield reply


class Log:
    """What all pods saw together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.go = threading.Semaphore(0)
        self.inside: dict[str, int] = {}
        self.most = self.most_on_one = self.came = 0
        self.order: list[str] = []

    def let_go(self, count: int) -> None:
        for _ in range(count):
            self.go.release()


class HeldServer(EchoServer):
    def __init__(self, name: str, log: Log) -> None:
        self._log = log
        super().__init__(name)

    def start(self) -> None:
        self.service = Held(self.name, self._log)
        super().start()


BLOCKING = ("blocking", "call")


class Blocked:
    """A blocking call in a thread of its own."""

    def __init__(self, driver: SyncDriver, kind: str, requests: Any, arguments: dict[str, Any]) -> None:
        self._result: Result | None = None

        def run() -> None:
            self._result = driver.call(kind, requests, **arguments)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> Result:
        self._thread.join(2 * PATIENCE_S)
        assert self._result is not None, "it never came back"
        return self._result


class Shop:
    """Pods that hold calls, and a channel with limits."""

    def __init__(self, via: str, kind: str, binding: LooseBinding, driver: Any, log: Log) -> None:
        self.via, self.kind, self.binding, self.driver, self.log = via, kind, binding, driver, log

    def start(self, number: int, **arguments: Any) -> Any:
        one = request(str(number), **({"count": 1} if self.kind == "unary_stream" else {}))
        requests: Any = [one] if self.kind.startswith("stream_") else one
        arguments.setdefault("timeout", 3 * PATIENCE_S)
        if self.via in BLOCKING:
            return Blocked(self.driver, self.kind, requests, arguments)
        return self.driver.start(self.kind, requests, **arguments)

    def start_in_order(self, count: int) -> list[Any]:
        """Each stands in its queue, or is at a pod, before the next begins."""
        begun = []
        for number in range(count):
            begun.append(self.start(number))
            eventually(lambda number=number: self.accounted_for == number + 1, f"{number} was begun")  # type: ignore[misc]
        return begun

    @property
    def waiting(self) -> int:
        """At the gates, and in line for an endpoint; who is the first there counts as waiting, too."""
        gates: int = sum(said["waiting"] for said in self.binding.gates.describe())  # type: ignore[union-attr]
        lines = [line for view in self.binding.pool._live_views() if (line := getattr(view, "line", None)) is not None]
        return gates + sum(line.in_flight + line.waiting for line in lines)

    @property
    def accounted_for(self) -> int:
        return self.log.came + self.waiting


@contextlib.contextmanager
def shop(via: str, kind: str, *, pods: int = 1, retry: Any = "on", **limits: Any) -> Iterator[Shop]:
    log = Log()
    servers = [HeldServer(f"pod-{number}", log) for number in range(pods)]
    binding = LooseBinding(limits=limits, retry=retry)
    binding.update(servers)
    driver: Any
    if via == "aio":
        driver = AioDriver(lambda: channel_of(binding), asyncio.new_event_loop, binding=binding)
    else:
        bench = Bench(binding)
        driver = SyncDriver(lambda: bench.channel, via=via, bench=bench)
    made = Shop(via, kind, binding, driver, log)
    try:
        driver.ready()
        eventually(lambda: binding.pool.describe()["views"][0]["picking_from"] == pods, "all are ready")
        yield made
        log.let_go(1000)
        driver.idle()
        eventually(lambda: made.waiting == 0, "nobody waits")
        gates = binding.gates.describe() if binding.gates is not None else []
        eventually(lambda: all(said["in_flight"] == 0 for said in binding.gates.describe()), f"no place is left over: {gates}")  # type: ignore[union-attr]
        assert binding.internal_errors == []
    finally:
        log.let_go(1000)
        driver.close()
        if via == "aio":
            driver.loop.stop()
        for server in servers:
            server.stop()
        binding.scheduler.stop(1.0)


WAYS = [
    *((via, kind) for via in BLOCKING for kind in ("unary_unary", "stream_unary")),
    *(("future", kind) for kind in KINDS),
    *(("aio", kind) for kind in KINDS),
]
LATER = [way for way in WAYS if way[0] not in BLOCKING]


@pytest.mark.parametrize(("via", "kind"), WAYS)
def test_calls_over_the_limit_wait_and_are_served_in_the_order_they_came(via: str, kind: str) -> None:
    """One at a time here, so that the pod sees the order."""
    with shop(via, kind, max_in_flight=1) as orders:
        begun = orders.start_in_order(5)
        assert (orders.log.came, orders.waiting) == (1, 4)
        orders.log.let_go(5)
        assert [call.result().error for call in begun] == [None] * 5
        assert orders.log.order == ["0", "1", "2", "3", "4"]
        assert orders.log.most == 1


@pytest.mark.parametrize(("via", "kind"), WAYS)
def test_each_endpoint_gets_as_many_as_it_may_and_the_others_stand_in_line(via: str, kind: str) -> None:
    """Two pods with two each; whichever has room takes the next."""
    with shop(via, kind, pods=2, max_in_flight_per_endpoint=2) as orders:
        begun = orders.start_in_order(8)
        assert (orders.log.came, orders.waiting, orders.log.inside) == (4, 4, {"pod-0": 2, "pod-1": 2})
        orders.log.let_go(8)
        assert [call.result().error for call in begun] == [None] * 8
        assert (orders.log.most, orders.log.most_on_one) == (4, 2)


@pytest.mark.parametrize(("via", "kind"), WAYS)
def test_a_call_that_is_rejected_says_by_which_limit_and_is_grpcs_error_and_ours(via: str, kind: str) -> None:
    """RESOURCE_EXHAUSTED at once; no endpoint has heard of it, none is blamed, and nothing is sent again for it."""
    with shop(via, kind, max_in_flight=1, max_waiting=1, retry={"codes": ["RESOURCE_EXHAUSTED"]}) as orders:
        begun = orders.start_in_order(2)
        ended = orders.start(2).result()
        orders.log.let_go(2)
        for call in begun:
            assert call.result().error is None
        assert ended.code is Code.RESOURCE_EXHAUSTED
        said = "orders.shop:50051: limits.max_in_flight=1: 1 calls are in flight, and 1 wait, which is all that may"
        assert ended.details == said
        assert isinstance(ended.error, grpc.RpcError)
        assert isinstance(ended.error, meshlb.errors.OverLimitError)
        assert (ended.error.limit, ended.error.value) == ("limits.max_in_flight", 1)
        assert [(sub.started, sub.failed) for sub in orders.binding.subchannels] == [(2, 0)]
        (described,) = orders.binding.gates.describe()  # type: ignore[union-attr]
        assert described["rejected"] == 1


@pytest.mark.parametrize(("via", "kind"), WAYS)
@pytest.mark.parametrize("limits", [{"max_in_flight": 1}, {"max_in_flight_per_endpoint": 1}])
def test_a_wait_ends_at_its_limit_and_at_the_calls_deadline(via: str, kind: str, limits: dict[str, Any]) -> None:
    """Whichever is first; who waits behind gets the turn."""
    with shop(via, kind, max_wait_s=0.3, **limits) as orders:
        first = orders.start_in_order(1)[0]
        patient, hurried = orders.start(1), orders.start(2, timeout=0.1)
        ends = hurried.result(), patient.result()
        assert [ended.code for ended in ends] == [Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED]
        assert "no turn within max_wait_s=0.3" in str(ends[1].details)
        last = orders.start(3)
        orders.log.let_go(2)
        assert first.result().error is None
        assert last.result().error is None
        assert orders.log.order == ["0", "3"]


@pytest.mark.parametrize(("via", "kind"), LATER)
@pytest.mark.parametrize("limits", [{"max_in_flight": 1}, {"max_in_flight_per_endpoint": 1}])
def test_who_is_cancelled_while_he_waits_costs_nobody_his_turn(via: str, kind: str, limits: dict[str, Any]) -> None:
    """The first of the queue, or one in its middle; and a call that runs gives its place back when it is cancelled."""
    with shop(via, kind, **limits) as orders:
        begun = orders.start_in_order(5)
        for number in (1, 3, 0):
            begun[number].cancel()
        orders.log.let_go(5)
        assert [begun[number].result().error for number in (2, 4)] == [None, None]
        assert {"1", "3"}.isdisjoint(orders.log.order)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
@pytest.mark.parametrize("limits", [{"max_in_flight": 1}, {"max_in_flight_per_endpoint": 1}])
def test_a_stream_that_is_dropped_gives_up_its_turn_or_its_place(kind: str, limits: dict[str, Any]) -> None:
    """Threads: nobody holds it, so nobody waits for it. It may be waiting, or in the middle of its messages."""
    with shop("future", kind, **limits) as orders:
        begun = orders.start_in_order(4)
        begun[1] = None
        gc.collect()
        orders.log.let_go(1)
        begun[0].read()
        begun[0] = None
        gc.collect()
        orders.log.let_go(5)
        assert [begun[number].result().error for number in (2, 3)] == [None, None]
        assert "1" not in orders.log.order


@pytest.mark.parametrize(("via", "kind"), WAYS)
def test_a_channel_that_is_closed_ends_who_waits_and_keeps_no_place(via: str, kind: str) -> None:
    """Other channels to the target go on with all places."""
    with shop(via, kind, max_in_flight=1) as orders:
        begun = orders.start_in_order(3)
        orders.driver.close()
        for call in begun:
            ended = call.result()
            assert ended.code is Code.CANCELLED or ended.error is not None
        eventually(lambda: orders.binding.gates.describe()[0]["in_flight"] == 0, "all places are back")  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
@pytest.mark.parametrize("via", [*BLOCKING, "future", "aio"])
def test_an_attempt_that_follows_another_does_not_wait_again(via: str, kind: str) -> None:
    """It has its place; with one place for all, waiting for it would be for ever."""
    if via in BLOCKING and kind == "unary_stream":
        pytest.skip("streams do not block")
    retry = {"idempotent": ["*"], "base_s": 0.001}
    with shop(via, kind, pods=2, max_in_flight=1, retry=retry) as orders:
        one = request("0", fail_code=Code.UNAVAILABLE.value[0], **({"count": 0} if kind == "unary_stream" else {}))
        orders.log.let_go(10)
        ended = orders.driver.call(kind, one, timeout=PATIENCE_S)
        assert (ended.code, orders.log.came) == (Code.UNAVAILABLE, 3)


@pytest.mark.parametrize("via", [*BLOCKING, "future", "aio"])
def test_a_methods_own_limit_leaves_the_other_methods_alone(via: str) -> None:
    """``limits.methods``; its path is in the words of who is rejected."""
    with shop(via, "unary_unary", methods={GET: {"max_in_flight": 1, "max_waiting": 0}}) as orders:
        first = orders.start_in_order(1)[0]
        refused = orders.start(1).result()
        assert refused.code is Code.RESOURCE_EXHAUSTED
        assert f"limits.methods {GET}.max_in_flight=1: 1 calls are in flight, and none may wait" in str(refused.details)
        orders.log.let_go(2)
        other = orders.driver.call("unary_stream", request("2", count=1), timeout=PATIENCE_S)
        assert other.error is None
        assert first.result().error is None


def test_a_loop_that_is_closed_gives_back_what_its_calls_held() -> None:
    """Their places and their turns, with the next change of the view: those in another loop are served."""
    with shop("aio", "unary_unary", pods=2, max_in_flight=1) as orders:

        async def leave_behind() -> list[Any]:
            channel = channel_of(orders.binding)
            await channel.channel_ready()
            get = channel.unary_unary(GET, request_serializer=lambda message: message.SerializeToString())
            calls = [get(request("left behind")) for _ in range(2)]
            assert (orders.binding.gates.describe()[0]["in_flight"], orders.waiting) == (1, 1)  # type: ignore[union-attr]
            return calls

        loop = asyncio.new_event_loop()
        left = loop.run_until_complete(leave_behind())
        loop.close()
        waits = orders.start(7)
        orders.binding.update(orders.binding.endpoints[:1])
        orders.log.let_go(9)
        assert waits.result().error is None
        del left
